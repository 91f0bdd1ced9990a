//! Frames of every link layer, with the packets that they carry.

use mirror_packet::{Decoded, Layer, LinkType};

pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(([link, missing], frame)) = bytes.split_first_chunk() else { return };
    let Some(link) = LinkType::from_number(u32::from(*link)) else { return };
    let mut next = Some(Layer::frame(link, frame, frame.len() + usize::from(*missing)));
    while let Some(layer) = next.take() {
        if let Ok(Decoded::Packet(packet)) = mirror_packet::decode(layer) {
            next = packet.tunnelled;
        }
    }
}
