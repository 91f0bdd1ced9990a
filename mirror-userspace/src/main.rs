//! The `mirror-xdp` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror_userspace::cli::main()
}
