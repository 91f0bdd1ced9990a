//! Prints the number of instructions that the verifier processes for the XDP program; `cargo xtask bench`
//! gates it.

use mirror_userspace::device::xdp::program::{CaptureProgram, Options};

fn main() {
    // `cargo test --all-targets` runs benchmarks as if they were tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let program =
        CaptureProgram::load(&Options::default()).expect("needs root, and a build by `cargo xtask build`");
    let instructions = program.verified_instructions().expect("the kernel tells of its programs");
    println!("{}", instructions.unwrap_or_default());
}
