//! Messages for people, on stderr: warnings by default, other things as `RUST_LOG` asks for them.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::datapath::program::{LogLevel, PROGRAM_NAME};

/// Sets the logger up. `bpf` says what the XDP program is going to tell.
pub(super) fn init(bpf: LogLevel) {
    let level = match bpf {
        LogLevel::Off => "off",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let mut filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    if let Ok(directive) = format!("{PROGRAM_NAME}={level}").parse() {
        filter = filter.add_directive(directive);
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}
