//! `mirror-xdp source`.

use std::process::ExitCode;

/// Mirror an interface of this host to a capture appliance, as AWS does
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn main(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
