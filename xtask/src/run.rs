//! `cargo xtask run`: runs the product as root.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::build::build;
use crate::command::{as_root, display};

/// Build, then run `mirror-xdp ARGUMENTS` as root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments for mirror-xdp
    #[arg(last = true, value_name = "MIRROR-XDP ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub(crate) fn main(args: Args) -> Result<ExitCode> {
    let binary = build(true)?;
    let mut command = as_root(binary, "loading an XDP program")?;
    command.args(args.arguments);
    let status = command.status().with_context(|| format!("cannot start `{}`", display(&command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
