//! The protocols that have everything in a folder of their own, by the rows of their table: signatures, analyzers,
//! events. The first byte selects the protocol.

pub(crate) fn fuzz(bytes: &[u8]) {
    mirror_protocols::fuzz_any(bytes);
}
