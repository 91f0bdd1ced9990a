//! The program of each package: it contains all targets of the package, so that they are linked once.
#![no_main]

use std::env;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

include!(concat!(env!("OUT_DIR"), "/targets.rs"));

/// The environment variable that names the target to run. libFuzzer starts itself again for some of its modes,
/// with the same environment.
const SELECTED: &str = "MIRROR_XDP_FUZZ_TARGET";

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn select() -> fn(&[u8]) {
    let name = env::var(SELECTED).unwrap_or_default();
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.unwrap_or_else(|| panic!("{SELECTED} names no target of this program: `{name}`")).1
}

fuzz_target!(init: { TARGET.get_or_init(select); }, |bytes: &[u8]| {
    TARGET.get_or_init(select)(bytes);
});
