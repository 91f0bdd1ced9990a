//! Defects of mirrored frames, of which one is chosen for each malformed frame.

use mirror_xdp_common::wire::{ETHERNET_LEN, UDP_LEN, VXLAN_LEN};

use super::encapsulation::Enveloped;
use super::random::Random;

type Break = fn(&mut Enveloped, &mut Random);

/// Defects of the encapsulation.
const IN_ENVELOPE: [Break; 5] = [ip_length, udp_length, vxlan_truncated, no_vni, inner_too_short];
/// Defects of any frame.
const ANYWHERE: [Break; 2] = [cut, noise];

/// Makes a frame malformed.
pub(super) fn malform(frame: &mut Enveloped, random: &mut Random) {
    let ways = if frame.inner == 0 { 0 } else { IN_ENVELOPE.len() };
    let way = random.below(ways + ANYWHERE.len());
    let way = IN_ENVELOPE.get(..ways).unwrap_or_default().iter().chain(&ANYWHERE).nth(way);
    if let Some(way) = way {
        way(frame, random);
    }
}

fn put(frame: &mut Enveloped, offset: usize, value: u16) {
    if let Some(place) = frame.bytes.get_mut(offset..offset + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// The outer IP length is longer than the frame.
fn ip_length(frame: &mut Enveloped, _: &mut Random) {
    let ipv4 = frame.bytes.get(12..14) == Some(&[0x08, 0x00]);
    put(frame, ETHERNET_LEN + if ipv4 { 2 } else { 4 }, u16::MAX);
}

/// The outer UDP length is shorter than the UDP header.
fn udp_length(frame: &mut Enveloped, random: &mut Random) {
    let length = random.below(UDP_LEN) as u16;
    put(frame, frame.udp + 4, length);
}

/// The datagram ends within the VXLAN header.
fn vxlan_truncated(frame: &mut Enveloped, random: &mut Random) {
    let length = (UDP_LEN + random.below(VXLAN_LEN)) as u16;
    put(frame, frame.udp + 4, length);
}

/// The VXLAN header's I flag is not set.
fn no_vni(frame: &mut Enveloped, _: &mut Random) {
    put(frame, frame.udp + UDP_LEN, 0);
}

/// The datagram ends within the inner Ethernet header.
fn inner_too_short(frame: &mut Enveloped, random: &mut Random) {
    let length = (UDP_LEN + VXLAN_LEN + random.below(ETHERNET_LEN)) as u16;
    put(frame, frame.udp + 4, length);
}

/// The frame ends early.
fn cut(frame: &mut Enveloped, random: &mut Random) {
    let room = frame.bytes.len().saturating_sub(ETHERNET_LEN);
    frame.bytes.truncate(ETHERNET_LEN + random.below(room));
}

/// Some bytes of the packet are overwritten.
fn noise(frame: &mut Enveloped, random: &mut Random) {
    let start = frame.inner + ETHERNET_LEN;
    let room = frame.bytes.len().saturating_sub(start);
    for _ in 0..=random.below(8) {
        // Headers matter more than the payload.
        let offset = start + random.below(room.min(64));
        if let Some(byte) = frame.bytes.get_mut(offset) {
            *byte = random.next() as u8;
        }
    }
}
