//! `cargo xtask soak`: runs minutes of full load with reloads and restarts. Afterwards memory must not have
//! grown and every account must be exact. The test itself is `tests/tests/e2e/soak.rs`.

use std::process::ExitCode;

use anyhow::Result;

use crate::test;

const EXAMPLES: &str = "\
Examples:
  cargo xtask soak                    ten minutes
  cargo xtask soak --duration 8h      a night

Every ten seconds it prints the progress and the resident memory, and at the end the figures. It uses the
whole machine.";

/// Build, then capture for a long time under full load, with reloads and restarts
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Duration, such as 90s, 10min or 8h; at least 10s
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = seconds)]
    duration: u64,
}

/// Parses a duration into whole seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let seconds = humantime::parse_duration(text).map_err(|error| error.to_string())?.as_secs();
    if seconds < 10 { Err("must be at least 10s".to_owned()) } else { Ok(seconds) }
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let arguments = ["--test", "e2e", "--", "soak::", "--ignored", "--nocapture"];
    test::run(&arguments.map(Into::into), &[("MIRROR_XDP_SOAK", args.duration.to_string())])
}
