//! The program at the far end of the veth pair: encapsulates the copies and sends them to the target.

use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::source::{SourceCounter, Template, V4_ENVELOPE_LEN, V6_ENVELOPE_LEN, source_port};
use mirror_xdp_common::wire::VLAN_LEN;

use crate::skb::Skb;

/// Bytes of the two hardware addresses, which precede the first VLAN tag.
const MACS_LEN: usize = 12;

/// The source ports of mirror traffic are not secret.
const HASH_KEY: FlowHashKey = FlowHashKey::new(0);

/// The result of sending a frame.
pub(crate) struct Sealed {
    /// Bytes of the inner frame.
    pub(crate) bytes: u32,
    /// `true` if the inner frame had more bytes.
    pub(crate) truncated: bool,
}

/// Truncates the frame to the packet length, puts the outer headers in front, and sends it.
#[inline(always)]
pub(crate) fn encapsulate(skb: &mut Skb, template: &Template) -> Result<Sealed, SourceCounter> {
    let hash = InnerHeaders::parse(skb, 0).flow_hash(&HASH_KEY);
    let source_port = source_port(hash);
    // The kernel's own hash differs between the directions of a flow, which would then take different queues,
    // here and at a peer that is connected queue by queue.
    skb.set_hash(hash);
    // Tags belong into the inner frame; otherwise the kernel would put them into the outer one.
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
    // A copy instead of a plain redirect, because only the former reports whether the interface accepted the
    // frame.
    skb.send_copy(template.interface).map_err(|()| SourceCounter::NotSent)?;
    Ok(Sealed { bytes, truncated: bytes < whole })
}

/// Removes the VLAN tags, outermost first.
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

/// Inserts the tags between the hardware addresses, which are moved to `start`, and the rest.
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
