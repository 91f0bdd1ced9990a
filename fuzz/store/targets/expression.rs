//! Filter expressions, applied to frames if they are valid. Words that libpcap could take for host names,
//! which it would resolve, are removed.

use mirror_packet::{FrameInfo, MirrorSession};
use mirror_store::expression::Expression;
use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_common::{Address, Vni};

/// The longest expression, in bytes: libpcap takes longer for longer ones.
const MAX: usize = 200;
/// Words with letters that are allowed in an expression.
const WORDS: [&str; 34] = [
    "and",
    "or",
    "not",
    "host",
    "net",
    "port",
    "portrange",
    "src",
    "dst",
    "ether",
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "sctp",
    "proto",
    "less",
    "greater",
    "len",
    "broadcast",
    "multicast",
    "vlan",
    "mask",
    "gateway",
    "vni",
    "outer",
    "community-id",
    "fd31::1",
    "fd31::/16",
    "tcp[0]",
    "ip[6:2]",
    "ff:ff:ff:ff:ff:ff",
];

/// A frame with a UDP datagram, cut off at the end of the UDP header.
const FRAME: [u8; 42] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 172, 31, 0, 1, 172,
    31, 0, 2, 0x9c, 0x40, 0, 53, 0, 8, 0, 0,
];

pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_safe = |word: &&str| {
        let bare = word.trim_matches(['(', ')', '!']);
        WORDS.contains(&bare) || !bare.contains(char::is_alphabetic) || bare.starts_with("1:")
    };
    let words: Vec<_> = text.split(' ').filter(is_safe).collect();
    let text = words.join(" ");
    if text.len() > MAX {
        return;
    }
    let Ok(expression) = Expression::parse(&text) else { return };
    let info = FrameInfo {
        time: 0,
        original_len: 1000,
        flow_hash: FlowHash(7),
        mirror: Vni::new(7).map(|vni| MirrorSession {
            vni,
            outer_source: Address::from_v4(0x0a00_0111),
            outer_destination: Address::from_v4(0x0a00_0905),
            endpoint: 0,
        }),
        side: None,
    };
    for len in 0..=FRAME.len() {
        let matches = expression.matches(&info, &FRAME[..len]);
        assert!(!(matches && expression.matches_nothing()), "{text}");
    }
    let _ = expression.required().count();
}
