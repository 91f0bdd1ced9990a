//! The program on the mirrored interface: selects the frames to mirror, and copies them into the veth pair.

use mirror_xdp_common::Address;
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::inner::{InnerHeaders, Network};
use mirror_xdp_common::source::{MARK, SourceCounter};
use mirror_xdp_common::wire::{EtherType, ethertype, protocol};

use crate::skb::Skb;

/// The parameters that are fixed while the source runs: four words, as user space writes them.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Config {
    /// Outer destination address.
    target: Address,
    /// Index of the near end of the veth pair.
    pair: u64,
    /// UDP port of VXLAN.
    port: u64,
}

impl Config {
    pub(crate) const EMPTY: Self = Self { target: Address::from_words(0, 0), pair: 0, port: 0 };
}

/// Ports of DHCP and DHCPv6, server and client.
const DHCP_PORTS: [u16; 4] = [67, 68, 546, 547];

/// Copies a frame into the pair, or returns the counter of the reason why not.
#[inline(always)]
pub(crate) fn mirror(skb: &mut Skb, config: &Config) -> SourceCounter {
    if skb.mark() == MARK {
        return SourceCounter::MirrorTraffic;
    }
    let headers = InnerHeaders::parse(skb, 0);
    if matches!(headers.network, Network::Other) {
        // The EtherType after the tags in the frame itself; the kernel keeps the outermost tag beside the
        // frame.
        let kind = skb.header::<EtherType>(headers.network_offset.saturating_sub(2));
        if kind.is_some_and(|kind| kind.get() == ethertype::ARP) {
            return SourceCounter::Arp;
        }
    }
    if headers.protocol == protocol::UDP {
        if DHCP_PORTS.contains(&headers.source_port) && DHCP_PORTS.contains(&headers.destination_port) {
            return SourceCounter::Dhcp;
        }
        // Mirror traffic of a source on another host, or in another namespace, has lost its mark.
        if u64::from(headers.destination_port) == config.port && headers.destination == config.target {
            return SourceCounter::MirrorTraffic;
        }
    }
    // The copy inherits the mark; the frame itself gets its own back.
    let mark = skb.mark();
    skb.set_mark(MARK);
    let sent = skb.send_copy(config.pair as u32);
    skb.set_mark(mark);
    match sent {
        Ok(()) => SourceCounter::Copied,
        Err(()) => SourceCounter::CopyFailed,
    }
}
