//! A worker that panics ends the capture in an orderly way: the process names the worker and fails, and the
//! other workers lose nothing. A capture never continues with part of its workers.
//!
//! Nothing makes the product panic, so this test runs the product with an analyzer that panics. This file is
//! both that program and the test that starts it, and therefore uses no test harness.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::env;
use std::process::ExitCode;

use mirror_userspace::engine::analyzer::{Analyzer, Analyzers, Consumed, Context, Event, Filter, TooMany};
use mirror_userspace::packet::Direction;
use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::Process;

/// The environment variable that makes this file the program; its value does not matter.
const AS_PROGRAM: &str = "MIRROR_XDP_PANICS";

/// The destination port that makes the worker panic.
const FATAL: u16 = 666;

struct Panics;

impl Analyzer for Panics {
    type Flow = ();

    fn data(&mut self, (): &mut (), _: Direction, _: Event<'_>, _: &mut Context<'_>) -> Consumed {
        panic!("as it was told")
    }
}

fn register(analyzers: &mut Analyzers) -> Result<(), TooMany> {
    analyzers.register(Panics, Filter::all().port(FATAL))
}

fn main() -> ExitCode {
    if env::var_os(AS_PROGRAM).is_some() {
        return mirror_userspace::cli::main_with(register);
    }
    a_worker_that_panics_ends_the_process_with_an_error_that_names_it();
    println!("test a_worker_that_panics_ends_the_process_with_an_error_that_names_it ... ok");
    ExitCode::SUCCESS
}

fn a_worker_that_panics_ends_the_process_with_an_error_that_names_it() {
    // This also requires the product's binary, though it does not run it.
    let Some(bed) = Bed::new(2) else { return };
    let this = env::current_exe().unwrap();
    let mut command = bed.appliance.command(&this.to_string_lossy());
    command.args(["run", "--json", "--interface", INTERFACE, "--stats-interval", "50ms", "--log-dir"]);
    command.arg(bed.log_dir()).env(AS_PROGRAM, "yes").env("RUST_BACKTRACE", "0");
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();

    // Sessions for all queues and flows for all workers: each worker has some before one of them ends.
    let frame = |port| mirrored(1).source_port(port).carrying(&Flow::v4(port, 9).udp(b"hello"));
    let frames: Vec<_> = (40_000..40_200).map(frame).collect();
    bed.send(&frames);
    wait_until("all frames are analysed", || {
        let text = std::fs::read_to_string(bed.log_dir().join("eve.json")).unwrap_or_default();
        // The last line may still be incomplete, so only whole lines are parsed.
        let whole = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let analysed = |stats: serde_json::Value| {
            let workers = stats["stats"]["workers"].as_array().cloned().unwrap_or_default();
            workers.iter().filter_map(|worker| worker["analysed"].as_u64()).sum::<u64>()
        };
        whole.map(analysed).any(|analysed| analysed == frames.len() as u64)
    });
    bed.send(&[mirrored(1).carrying(&Flow::v4(30_000, FATAL).udp(b"die"))]);

    let output = process.wait(PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1), "{:?}", output.stderr);
    assert_eq!(output.stdout, "", "an account that cannot be exact");
    let last = output.stderr.last().unwrap();
    for word in ["mirror-xdp: worker ", INTERFACE, "queue ", "panicked", "as it was told"] {
        assert!(last.contains(word), "{word} is missing: {last}");
    }
    let program = bed.appliance.ip(&format!("link show {INTERFACE}")).unwrap();
    assert!(!program.contains("xdp"), "the program is left behind: {program}");

    // The flows of the worker that panicked are lost with it; those of the others are recorded.
    let records = bed.records();
    let recorded = of_type(&records, "flow").len();
    assert!((1..frames.len()).contains(&recorded), "{recorded} flows on record");
}
