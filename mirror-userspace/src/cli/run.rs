//! `mirror-xdp run`.

use std::process::ExitCode;

/// Capture mirrored traffic from network interfaces
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn main(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
