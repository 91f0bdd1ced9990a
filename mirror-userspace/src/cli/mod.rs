//! The command line: a file a subcommand.

mod read;
mod run;
mod source;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Captures AWS VPC Traffic Mirroring sessions with XDP, keeps flows, writes EVE JSON.
#[derive(Debug, Parser)]
#[command(name = "mirror-xdp", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Read(read::Args),
    Source(source::Args),
}

/// Parses the command line and runs the subcommand.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(args),
        Command::Read(args) => read::main(args),
        Command::Source(args) => source::main(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mirror-xdp: {error:#}");
            ExitCode::FAILURE
        }
    }
}
