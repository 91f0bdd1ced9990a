//! Sequence numbers of TCP, which wrap around (RFC 9293, section 3.4).

/// Returns true if sequence number `a` is before `b`.
pub(crate) const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}
