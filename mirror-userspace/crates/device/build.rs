//! Embeds the eBPF objects that `cargo xtask build` puts into `target/ebpf`: the stored ones of the directory `ebpf`, or
//! others where the sources of the programs were changed. A plain `cargo build` without them takes the stored ones.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The programs' names: object `target/ebpf/NAME.o`, embedded as `NAME.o` from `OUT_DIR`.
const PROGRAMS: [&str; 3] = ["capture", "pktgen", "source"];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let provided = manifest.ancestors().nth(3).unwrap_or(Path::new("/")).join("target/ebpf");
    for program in PROGRAMS {
        let [provided, stored] =
            [provided.clone(), manifest.join("ebpf")].map(|objects| objects.join(format!("{program}.o")));
        for object in [&provided, &stored] {
            println!("cargo::rerun-if-changed={}", object.display());
        }
        let bytes =
            fs::read(&provided).or_else(|_| fs::read(&stored)).expect("the objects are in the repository");
        fs::write(out.join(format!("{program}.o")), bytes).expect("OUT_DIR is writable");
    }
}
