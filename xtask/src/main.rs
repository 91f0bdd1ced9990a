//! `cargo xtask`: every command that a developer types. Each command has a file of its own; they all start
//! other programs through [`command`].
#![forbid(unsafe_code)]

mod bench;
mod build;
mod check;
mod command;
mod dist;
mod fuzz;
mod generate;
mod objects;
mod run;
mod setup;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask run                                show the product at work, in a network of namespaces
  cargo xtask run -- run --interface eth1        build, then run `mirror-xdp run --interface eth1` as root
  cargo xtask build --release                    target/release/mirror-xdp, the one file to deploy
  cargo xtask test                               all tests
  cargo xtask test -- start_stop                 the tests of one module; arguments go to `cargo test`
  cargo xtask fuzz --seconds 60 worker           feed arbitrary frames to the worker for a minute
  cargo xtask pktgen -- --interface eth1 day.pcap  build, then replay a capture as mirror traffic
  cargo xtask dist                               target/dist: a Debian package and a tarball
  cargo xtask bench --quick                      measure its speed, and that of other programs
  cargo xtask vm test                            capture in virtual machines, on NICs with zero-copy
  cargo xtask soak                               ten minutes of full load, to detect growth of memory
  cargo xtask generate                           rewrite the example configuration and its documentation
  cargo xtask check                              formatting, lints, documentation, generated files

The first run, build or test sets the machine up; `cargo xtask setup` does only that.";

/// Sets up, builds, runs, tests and checks mirror-xdp
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find and install everything that is missing to build, run and test
    Setup,
    /// Build the eBPF programs and the mirror-xdp binary that carries them
    Build(build::Args),
    Run(run::Args),
    /// Build, then run all tests; those that need root run under sudo unless this is root
    Test(test::Args),
    /// Run each fuzz target for a while: one for each parser, and one for the whole worker
    Fuzz(fuzz::Args),
    Bench(bench::Args),
    /// Build, then make the packages to deploy: a Debian package and a tarball
    Dist(dist::Args),
    /// Build, then send mirror traffic: `mirror-xdp pktgen ARGUMENTS` as root
    Pktgen(run::PktgenArgs),
    Vm(vm::Args),
    Soak(soak::Args),
    Generate(generate::Args),
    /// Check formatting, lints, documentation and generated files; warnings are errors
    Check,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::main(),
        Command::Build(args) => build::main(&args),
        Command::Run(args) => run::main(args),
        Command::Test(args) => test::main(&args),
        Command::Fuzz(args) => fuzz::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Pktgen(args) => run::pktgen(args),
        Command::Vm(args) => vm::main(&args),
        Command::Soak(args) => soak::main(&args),
        Command::Generate(args) => generate::main(&args),
        Command::Check => check::main(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
