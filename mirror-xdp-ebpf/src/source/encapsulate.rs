//! At the far end of the veth pair: the envelope around a copy, and its way to the target.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::source::{SourceCounter, Template, V4_ENVELOPE_LEN, V6_ENVELOPE_LEN, source_port};
use mirror_xdp_common::wire::VLAN_LEN;

use crate::skb::Skb;

/// Bytes of the two hardware addresses, behind which the first VLAN tag stands.
const MACS_LEN: usize = 12;

/// The source ports of mirror traffic are no secret.
const HASH_KEY: FlowHashKey = FlowHashKey::new(0);

/// What was sent.
pub(crate) struct Sealed {
    /// Bytes of the inner frame.
    pub(crate) bytes: u32,
    /// Whether there were more.
    pub(crate) truncated: bool,
}

/// Cuts the frame to the packet length, puts the envelope in front, and sends it.
#[inline(always)]
pub(crate) fn encapsulate(skb: &mut Skb, template: &Template) -> Result<Sealed, SourceCounter> {
    let hash = InnerHeaders::parse(skb, 0).flow_hash(&HASH_KEY);
    let source_port = source_port(hash);
    // What the kernel has there differs between the directions of a flow, which would then take different
    // queues, here and where a cable goes from queue to queue.
    skb.set_hash(hash);
    // Tags belong into the inner frame; left where they are, the kernel would put them into the outer.
    let tags = pop_tags(skb)?;
    let tags_len = match tags {
        [None, _] => 0,
        [Some(_), None] => VLAN_LEN,
        [Some(_), Some(_)] => 2 * VLAN_LEN,
    };
    let whole = (skb.len() + tags_len) as u32;
    let bytes = if whole < template.inner_max { whole } else { template.inner_max };
    if bytes < whole {
        skb.truncate(bytes.saturating_sub(tags_len as u32)).map_err(|()| SourceCounter::CannotTruncate)?;
    }
    if template.is_ipv6() {
        skb.grow_front((V6_ENVELOPE_LEN + tags_len) as u32).map_err(|()| SourceCounter::NoHeadroom)?;
        put_tags(skb, V6_ENVELOPE_LEN, tags)?;
        skb.store(0, &template.v6(source_port, bytes as u16)).map_err(|()| SourceCounter::NoHeadroom)?;
    } else {
        skb.grow_front((V4_ENVELOPE_LEN + tags_len) as u32).map_err(|()| SourceCounter::NoHeadroom)?;
        put_tags(skb, V4_ENVELOPE_LEN, tags)?;
        skb.store(0, &template.v4(source_port, bytes as u16)).map_err(|()| SourceCounter::NoHeadroom)?;
    }
    // A copy, and not a plain redirect: only that says whether the interface took the frame.
    skb.send_copy(template.interface).map_err(|()| SourceCounter::NotSent)?;
    Ok(Sealed { bytes, truncated: bytes < whole })
}

/// Takes the VLAN tags off, outermost first.
#[inline(always)]
fn pop_tags(skb: &mut Skb) -> Result<[Option<[u8; 4]>; 2], SourceCounter> {
    let failed = |()| SourceCounter::VlanTags;
    let Some(outer) = skb.pop_vlan().map_err(failed)? else { return Ok([None, None]) };
    let Some(inner) = skb.pop_vlan().map_err(failed)? else { return Ok([Some(outer), None]) };
    if skb.vlan().is_some() {
        return Err(SourceCounter::VlanTags);
    }
    Ok([Some(outer), Some(inner)])
}

/// Puts the tags back between the hardware addresses, which are moved to `start`, and the rest.
#[inline(always)]
fn put_tags(skb: &mut Skb, start: usize, tags: [Option<[u8; 4]>; 2]) -> Result<(), SourceCounter> {
    let failed = |()| SourceCounter::NoHeadroom;
    let [Some(outer), inner] = tags else { return Ok(()) };
    let tags_len = if inner.is_some() { 2 * VLAN_LEN } else { VLAN_LEN };
    let macs: [u8; MACS_LEN] = skb.header(start + tags_len).ok_or(SourceCounter::NoHeadroom)?;
    skb.store(start, &macs).map_err(failed)?;
    skb.store(start + MACS_LEN, &outer).map_err(failed)?;
    if let Some(inner) = inner {
        skb.store(start + MACS_LEN + VLAN_LEN, &inner).map_err(failed)?;
    }
    Ok(())
}
