//! `mirror-xdp read`.

use std::process::ExitCode;

/// Analyse capture files as if their frames had been captured
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn main(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
