//! The protocols that have everything in a folder of their own, by the rows of their table: signatures, analyzers,
//! events. The first byte selects the protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror_userspace::protocols;

fuzz_target!(|bytes: &[u8]| protocols::fuzz_any(bytes));
