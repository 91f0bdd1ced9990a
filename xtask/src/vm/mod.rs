//! `cargo xtask vm test`: runs the appliance on drivers for which this machine has no hardware.
//!
//! QEMU emulates NICs whose Linux drivers support zero-copy mode for `AF_XDP` sockets, and NICs whose drivers
//! refuse it, each in a different way. A guest is a stock Debian kernel and an initramfs that contains the
//! binary under test. Guests do not touch this machine's network: a hub within QEMU joins the NICs of a
//! guest. The tests measure whether a capture works, never how fast it is.
//!
//! * [`packages`] gets QEMU and kernels;
//! * [`image`] makes the initramfs;
//! * [`guest`] boots it and parses its output;
//! * [`scenarios`] lists the cases and their expected results.

mod guest;
mod image;
mod packages;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};

use self::guest::Outcome;
use self::image::Image;
use self::packages::Kernel;
use self::scenarios::{GUESTS, Guest};
use crate::build::{Profile, build};
use crate::command::{cpus, side_by_side, step, workspace};

/// Guests that run at the same time: while one waits for its carrier or its timers, another computes.
const AT_ONCE: usize = 2;

const EXAMPLES: &str = "\
Examples:
  cargo xtask vm test           all guests, two at a time
  cargo xtask vm test igb       one of them
";

/// Run the appliance in virtual machines, on NICs with zero-copy and on NICs without
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Boot each guest, capture there, and list the mode requested and the mode obtained
    Test {
        /// Guests to boot; all by default
        #[arg(value_name = "GUEST")]
        guests: Vec<String>,
    },
}

/// Returns the directory of the guests' packages, kernels and logs.
fn directory() -> PathBuf {
    workspace().join("target/vm")
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let Command::Test { guests: names } = &args.command;
    let guests = chosen(names)?;
    let Some(packages) = packages::get()? else {
        // A developer may work without guests; the checks of the main branch may not.
        let required = std::env::var_os("CI").is_some();
        return Ok(if required { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    };
    let binary = build(Profile::Dev)?;
    let mut failed = 0;
    let mut outcomes = Vec::new();
    let start = Instant::now();
    let mut prepared = Vec::new();
    for (number, guest) in guests.into_iter().enumerate() {
        let kernel = packages.kernel(guest.kernel)?;
        let image = Image::make(guest, &kernel, &binary)?;
        prepared.push((number, guest, kernel, image));
    }
    let run = |(number, guest, kernel, image): &(usize, &Guest, Kernel, Image)| {
        step(&format!("Guest {}: {}", guest.name, guest.what));
        (*number, guest::run(guest, &packages.qemu, kernel, image))
    };
    let mut done = side_by_side(&prepared, AT_ONCE.min(cpus()), run);
    done.sort_by_key(|(number, _)| *number);
    for (_, results) in done {
        for outcome in results? {
            failed += usize::from(outcome.failure.is_some());
            outcomes.push(outcome);
        }
    }
    summary(&outcomes);
    println!(
        "\nvm test: {}. {} passed; {failed} failed; {} s",
        if failed == 0 { "ok" } else { "FAILED" },
        outcomes.len() - failed,
        start.elapsed().as_secs()
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the guests of these names, or all if there are no names.
fn chosen(names: &[String]) -> Result<Vec<&'static Guest>> {
    for name in names {
        ensure!(
            GUESTS.iter().any(|guest| guest.name == name),
            "there is no guest `{name}`; the guests are {}",
            GUESTS.iter().map(|guest| guest.name).collect::<Vec<_>>().join(", ")
        );
    }
    let wanted = |guest: &&Guest| names.is_empty() || names.iter().any(|name| guest.name == name);
    Ok(GUESTS.iter().filter(wanted).collect())
}

/// Prints one line for each case, in columns.
fn summary(outcomes: &[Outcome]) {
    println!("\n{:<9} {:<14} {:<30} {:<26} {:<26} frames", "kernel", "device", "case", "asked", "got");
    for outcome in outcomes {
        let Outcome { kernel, device, case, asked, got, frames, failure } = outcome;
        println!("{kernel:<9} {device:<14} {case:<30} {asked:<26} {got:<26} {frames}");
        if let Some(failure) = failure {
            println!("    FAILED: {failure}");
        }
    }
}
