//! Conditions: requirements that are not about the bytes of a buffer.

use mirror_xdp_common::wire::protocol;

use super::memory::Parts;
use crate::facts::{Facts, PacketView, TransactionFact};
use crate::number::Compare;
use crate::rule::{Condition, IpOption, Side};

/// The subject of a condition.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) facts: &'a Facts,
    /// The packet, for rules of packets.
    pub(super) packet: Option<&'a PacketView<'a>>,
    /// The transaction, for rules of transactions.
    pub(super) parts: Option<&'a Parts>,
}

/// Returns true if a condition holds. One about something that is not there does not.
pub(super) fn holds(condition: &Condition, about: &About<'_>) -> bool {
    let About { facts, packet, parts } = *about;
    let number = |value: Option<u64>, compare: Compare| value.is_some_and(|value| compare.matches(value));
    let ipv4 = || packet.filter(|_| !facts.ipv6);
    let tcp = || packet.filter(|_| facts.transport == protocol::TCP);
    let icmp = || packet.filter(|_| matches!(facts.transport, protocol::ICMP | protocol::ICMPV6));
    let network = |at: usize| packet.and_then(|packet| packet.network_byte(at));
    match condition {
        Condition::PayloadSize(compare) => number(packet.map(|packet| packet.payload_len as u64), *compare),
        Condition::Ttl(compare) => number(network(if facts.ipv6 { 7 } else { 8 }).map(u64::from), *compare),
        Condition::Tos(compare) => number(tos(about).map(u64::from), *compare),
        Condition::IpId(compare) => {
            number(ipv4().and_then(|packet| PacketView::short(packet.network, 4)).map(u64::from), *compare)
        }
        Condition::IpProtocol(compare) => compare.matches(u64::from(facts.transport)),
        Condition::FragmentBits(bits) => ipv4()
            .and_then(|packet| packet.network_byte(6))
            // Reserved, do not fragment, more fragments: as the parser numbers them.
            .is_some_and(|byte| bits.matches(byte >> 5)),
        Condition::FragmentOffset(compare) => {
            let offset = ipv4().and_then(|packet| PacketView::short(packet.network, 6));
            number(offset.map(|word| u64::from(word & 0x1fff)), *compare)
        }
        Condition::IpOption(option) => ipv4().is_some_and(|packet| has_option(packet.network, *option)),
        Condition::SameAddress => facts.ends[0].0 == facts.ends[1].0,
        Condition::TcpFlags(bits) => {
            tcp().and_then(|packet| packet.transport.get(13)).is_some_and(|flags| bits.matches(*flags))
        }
        Condition::TcpSequence(compare) => {
            number(tcp().and_then(|packet| PacketView::word(packet.transport, 4)).map(u64::from), *compare)
        }
        Condition::TcpAcknowledgement(compare) => {
            number(tcp().and_then(|packet| PacketView::word(packet.transport, 8)).map(u64::from), *compare)
        }
        Condition::TcpWindow(compare) => {
            number(tcp().and_then(|packet| PacketView::short(packet.transport, 14)).map(u64::from), *compare)
        }
        Condition::TcpMss(compare) => {
            number(tcp().and_then(|packet| segment_size(packet.transport)).map(u64::from), *compare)
        }
        Condition::IcmpType(compare) => {
            number(icmp().and_then(|packet| packet.transport.first()).map(|it| u64::from(*it)), *compare)
        }
        Condition::IcmpCode(compare) => {
            number(icmp().and_then(|packet| packet.transport.get(1)).map(|it| u64::from(*it)), *compare)
        }
        Condition::IcmpId(compare) => {
            number(icmp().and_then(|packet| PacketView::short(packet.transport, 4)).map(u64::from), *compare)
        }
        Condition::IcmpSequence(compare) => {
            number(icmp().and_then(|packet| PacketView::short(packet.transport, 6)).map(u64::from), *compare)
        }
        Condition::StreamSize(side, compare) => {
            facts.transport == protocol::TCP && of_side(*side, facts.sent, *compare)
        }
        Condition::FlowAge(compare) => compare.matches(facts.age()),
        Condition::FlowPackets(side, compare) => of_side(*side, facts.packets, *compare),
        Condition::FlowBytes(side, compare) => of_side(*side, facts.bytes, *compare),
        Condition::Application { application, negated } => {
            // Of a flow that was not recognised, nothing is said but that.
            let is_decided = facts.application.is_some() || facts.is_unknown && application.is_none();
            let is_this = match application {
                None => facts.is_unknown,
                Some(application) => [facts.application, facts.original]
                    .into_iter()
                    .flatten()
                    .any(|found| application.fits(found)),
            };
            is_decided && is_this != *negated
        }
        Condition::DnsOpcode(compare) => of_transaction(parts, |fact| match fact {
            TransactionFact::DnsOpcode(value) => Some(u64::from(value)),
            _ => None,
        })
        .any(|value| compare.matches(value)),
        Condition::DnsRcode(compare) => of_transaction(parts, |fact| match fact {
            TransactionFact::DnsRcode(value) => Some(u64::from(value)),
            _ => None,
        })
        .any(|value| compare.matches(value)),
        Condition::DnsType(compare) => of_transaction(parts, |fact| match fact {
            TransactionFact::DnsType(value) => Some(u64::from(value)),
            _ => None,
        })
        .any(|value| compare.matches(value)),
        Condition::TlsVersion { versions, negated } => of_transaction(parts, |fact| match fact {
            TransactionFact::TlsVersion(value) => Some(u64::from(value)),
            _ => None,
        })
        .any(|value| versions.iter().any(|version| u64::from(*version) == value) != *negated),
        Condition::Http2(of, compare) => of_transaction(parts, |fact| match fact {
            TransactionFact::Http2(found, value) if found == *of => Some(u64::from(value)),
            _ => None,
        })
        .any(|value| compare.matches(value)),
        // Rules with it are refused.
        Condition::Reputation { .. } => false,
        Condition::Vni { ranges, negated } => facts.vni.is_some_and(|vni| {
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&vni)) != *negated
        }),
        Condition::Session(session) => {
            facts.session == Some(session.source) && (session.vni.is_none() || session.vni == facts.vni)
        }
    }
}

fn of_transaction(
    parts: Option<&Parts>,
    value: impl Fn(TransactionFact) -> Option<u64>,
) -> impl Iterator<Item = u64> {
    parts.into_iter().flat_map(|parts| &parts.facts).filter_map(move |fact| value(*fact))
}

fn of_side(side: Side, [client, server]: [u64; 2], compare: Compare) -> bool {
    match side {
        Side::Server => compare.matches(server),
        Side::Client => compare.matches(client),
        Side::Both => compare.matches(client) && compare.matches(server),
        Side::Either => compare.matches(client) || compare.matches(server),
    }
}

/// Returns the type of service, or the traffic class of IPv6.
fn tos(about: &About<'_>) -> Option<u8> {
    let packet = about.packet?;
    if about.facts.ipv6 {
        PacketView::short(packet.network, 0).map(|word| (word >> 4) as u8)
    } else {
        packet.network_byte(1)
    }
}

/// Returns true if an IPv4 header has an option.
fn has_option(network: &[u8], option: IpOption) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let len = network.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    let mut rest = network.get(20..len).unwrap_or_default();
    let is_it = |kind: u8| match option {
        IpOption::Any => true,
        IpOption::Type(wanted) => kind == wanted,
    };
    while let Some(kind) = rest.first().copied() {
        if is_it(kind) {
            return true;
        }
        let skipped = match kind {
            END => return false,
            NO_OPERATION => 1,
            _ => usize::from(rest.get(1).copied().unwrap_or(2).max(2)),
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    false
}

/// Returns the maximum segment size among the options of a TCP header.
fn segment_size(transport: &[u8]) -> Option<u16> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const SEGMENT_SIZE: u8 = 2;
    let len = usize::from(*transport.get(12)? >> 4) * 4;
    let mut rest = transport.get(20..len)?;
    loop {
        rest = match rest {
            [] | [END, ..] | [_] => return None,
            [NO_OPERATION, rest @ ..] => rest,
            [SEGMENT_SIZE, 4, high, low, ..] => return Some(u16::from_be_bytes([*high, *low])),
            [_, len, ..] => rest.get(usize::from((*len).max(2))..)?,
        };
    }
}
