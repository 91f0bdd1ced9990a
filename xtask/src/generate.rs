//! `cargo xtask generate`: writes the committed files that come from tables in the code.

use std::process::ExitCode;

use anyhow::Result;

use crate::command::{cargo, run};

/// Write the files that are generated from the code: the example configuration and pages of the documentation
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing, and fail if a file is stale
    #[arg(long)]
    check: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    generate(args.check)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the files, or checks them. The list of files is in the crate `mirror-control`.
pub(crate) fn generate(check: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "mirror-control", "--example", "generate", "--"]);
    command.args(check.then_some("--check"));
    run(&mut command)
}
