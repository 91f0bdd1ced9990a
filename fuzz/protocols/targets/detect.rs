//! Protocol detection by the first bytes of a conversation.

use mirror_packet::Direction;
use mirror_protocols::detect::{Detector, Endpoints, Transport};

pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(([kind, high, low, cut], bytes)) = bytes.split_first_chunk() else { return };
    let transport = if kind & 1 == 0 { Transport::Tcp } else { Transport::Udp };
    let direction = if kind & 2 == 0 { Direction::ToServer } else { Direction::ToClient };
    let server_port = u16::from_be_bytes([*high, *low]);
    let endpoints = Endpoints { transport, client_port: 40_000, server_port };
    let mut detector = Detector::default();
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let _ = detector.feed(endpoints, direction, first);
    let _ = detector.feed(endpoints, direction, second);
}
