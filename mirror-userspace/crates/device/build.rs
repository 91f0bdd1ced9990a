//! Embeds the eBPF objects that `cargo xtask build` puts into `target/ebpf`.
//!
//! Where they are missing (a plain `cargo check` on a machine without the eBPF toolchain), empty files
//! stand in, and the binary says so when it is asked to load a program.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The programs' names: object `target/ebpf/NAME.o`, embedded as `NAME.o` from `OUT_DIR`.
const PROGRAMS: [&str; 3] = ["capture", "pktgen", "source"];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let objects = manifest.ancestors().nth(3).unwrap_or(Path::new("/")).join("target/ebpf");
    for program in PROGRAMS {
        let object = objects.join(format!("{program}.o"));
        println!("cargo::rerun-if-changed={}", object.display());
        let bytes = fs::read(&object).unwrap_or_default();
        fs::write(out.join(format!("{program}.o")), bytes).expect("OUT_DIR is writable");
    }
}
