//! A long time of full load, which reveals memory that grows and counters that are wrong once in a million
//! times. `cargo xtask soak` runs it; `cargo test` alone does not.
//!
//! Two captures run side by side, each in namespaces of its own. One runs from the beginning to the end,
//! under the full load of a generator, with ever new flows and a table that is always full; its rules are
//! replaced every second. Its memory must not grow. The other is stopped or killed, and started again every
//! few seconds under traffic. Each account of both must be exact.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mirror_xdp_tests::appliance::{Appliance, Bed, PATIENCE, Report};
use mirror_xdp_tests::bench::traffic::{mixed, write_pcap};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use nix::sys::signal::Signal;

/// The duration in seconds if `MIRROR_XDP_SOAK` is not set.
const SECONDS: u64 = 600;
/// The size of the flow table, which is full within a second or two, and stays full.
const FLOWS: &str = "100000";
/// The rate for the capture that is restarted; the other one gets the generator's full rate.
const MODEST: &str = "100kpps";
/// The time between restarts of the second capture.
const LIFE: Duration = Duration::from_secs(5);
/// The interval between reloads, and between samples of the memory.
const TICK: Duration = Duration::from_secs(1);
/// The largest log in bytes, before it is emptied.
const MAX_RECORDS: u64 = 256 << 20;
/// The largest growth of memory between the second fifth and the end: the allocator does not release all
/// memory at once. One byte leaked for each frame would exceed it many times after a minute.
const GROWTH: f64 = 0.02;

/// Starts a generator that sends the mix endlessly at this rate.
fn generate(bed: &Bed, frames: &Path, rate: &str) -> Process {
    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--interface", "source0", "--to-mac", "02:00:00:00:00:01", "--to", "10.99.0.1"]);
    command.args(["--source", "10.99.0.2-10.99.0.200", "--vni", "1-16", "--new-flows", "yes"]);
    command.args(["--rate", rate, "--duration", "24h"]).arg(frames);
    let mut generator = Process::spawn(&mut command).unwrap();
    generator.wait_for_line("sending by", PATIENCE).unwrap();
    generator
}

/// The totals of one or more captures.
#[derive(Default)]
struct Account {
    seen: u64,
    analysed: u64,
    /// Frames kept from the workers, by a rule or for another reason.
    kept_out: u64,
    lost: u64,
}

impl Account {
    /// Adds the counters of a capture after checking that its account is exact.
    fn add(&mut self, report: &Report) {
        report.assert_conserved();
        self.seen += report.seen();
        self.analysed += report.analysed();
        self.kept_out += report.reasons().iter().map(|(_, count)| count).sum::<u64>();
        self.lost += report.lost();
    }

    fn text(&self, seconds: f64) -> String {
        let millions = |count| count as f64 / 1e6;
        format!(
            "{:.1} M frames seen, {:.0} thousand a second: {:.1} M analysed, {:.1} M rejected by rules, {:.1} M \
             lost in full rings, 0 unaccounted for",
            millions(self.seen),
            millions(self.seen) * 1e3 / seconds,
            millions(self.analysed),
            millions(self.kept_out),
            millions(self.lost)
        )
    }
}

/// The capture that runs all the time.
struct Steady {
    bed: Bed,
    appliance: Appliance,
    rules: [String; 2],
    reloads: u64,
    /// Resident bytes, one sample a second.
    memory: Vec<u64>,
}

impl Steady {
    fn start() -> Self {
        let bed = Bed::new(2).unwrap();
        let rule = |vni| {
            format!(
                "[[filter.sets]]\nname = \"soak\"\nvnis = [{vni}]\n\n[[filter.sets.rules]]\nnumber = 1\n\
                 action = \"reject\"\nprotocol = \"udp\"\nsource = \"0.0.0.0/0\"\ndestination = \"0.0.0.0/0\"\n"
            )
        };
        let rules = [rule(1), rule(2)];
        fs::write(Self::config(&bed), &rules[0]).unwrap();
        let config = Self::config(&bed);
        let appliance = bed.start(&["--max-flows", FLOWS, "--config", config.to_str().unwrap()]);
        Self { bed, appliance, rules, reloads: 0, memory: Vec::new() }
    }

    fn config(bed: &Bed) -> std::path::PathBuf {
        bed.log_dir().join("config.toml")
    }

    /// Replaces the rules, and samples the memory.
    fn second(&mut self) {
        self.reloads += 1;
        fs::write(Self::config(&self.bed), &self.rules[self.reloads as usize % 2]).unwrap();
        self.appliance.signal(Signal::SIGHUP);
        let said = self.appliance.wait_for_line("mirror-xdp: ");
        assert!(said.contains("read again"), "{said}");
        self.memory.push(resident(self.appliance.id()));
        throw_away_records(&self.bed);
    }

    /// Returns the memory after the beginning and at the end, as medians over a fifth of the time.
    fn memory(&self) -> (f64, f64) {
        let median = |samples: &[u64]| {
            let mut samples = samples.to_vec();
            samples.sort_unstable();
            samples[samples.len() / 2] as f64
        };
        let fifth = (self.memory.len() / 5).max(1);
        (median(&self.memory[fifth..2 * fifth]), median(&self.memory[self.memory.len() - fifth..]))
    }
}

/// Returns the resident bytes of a process.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
}

/// Empties a log that has become large. The capture appends to it, so truncating it is enough.
fn throw_away_records(bed: &Bed) {
    let path = bed.log_dir().join("eve.json");
    if fs::metadata(&path).is_ok_and(|log| log.len() > MAX_RECORDS) {
        OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    }
}

/// The capture that is restarted.
struct Restarted {
    bed: Bed,
    appliance: Option<Appliance>,
    since: Instant,
    account: Account,
    seconds: f64,
    lives: u64,
}

impl Restarted {
    fn start() -> Self {
        let bed = Bed::new(2).unwrap();
        let appliance = Some(bed.start(&[]));
        let (account, since) = (Account::default(), Instant::now());
        Self { bed, appliance, since, account, seconds: 0.0, lives: 1 }
    }

    /// Ends the capture, each time in another way.
    fn end(&mut self) {
        let appliance = self.appliance.take().unwrap();
        let ways = [Some(Signal::SIGINT), Some(Signal::SIGTERM), None];
        match ways[self.lives as usize % ways.len()] {
            Some(signal) => {
                let report = appliance.stop_by(signal);
                self.seconds += report.seconds();
                self.account.add(&report);
            }
            // A killed process leaves no account.
            None => assert!(!appliance.kill().success()),
        }
    }

    fn second(&mut self) {
        if self.since.elapsed() < LIFE {
            return;
        }
        self.end();
        throw_away_records(&self.bed);
        self.appliance = Some(self.bed.start(&[]));
        self.since = Instant::now();
        self.lives += 1;
    }
}

/// Returns the duration of the test.
fn duration() -> Duration {
    let seconds = std::env::var("MIRROR_XDP_SOAK").ok();
    Duration::from_secs(seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds")))
}

#[test]
#[ignore = "takes ten minutes: `cargo xtask soak` runs it"]
fn memory_stays_flat_and_accounts_exact_under_full_load_reloads_and_restarts() {
    if !require::privileges() || require::binary().is_none() {
        return;
    }
    let duration = duration();
    let directory = tempfile::tempdir().unwrap();
    let frames = directory.path().join("frames.pcap");
    write_pcap(&frames, &mixed()).unwrap();
    let (mut steady, mut restarted) = (Steady::start(), Restarted::start());
    let generators = [generate(&steady.bed, &frames, "max"), generate(&restarted.bed, &frames, MODEST)];

    let begun = Instant::now();
    let mut said = begun;
    let mut received = steady.bed.received();
    while begun.elapsed() < duration {
        // The work of a second may take longer than one if the generator leaves no time.
        std::thread::sleep(TICK);
        steady.second();
        restarted.second();
        let since = said.elapsed();
        if since >= Duration::from_secs(10) {
            let now = steady.bed.received();
            eprintln!(
                "{:>5} s of {}: {:>5.0} thousand frames a second, {:>6.1} MiB resident, {} reloads, {} lives",
                begun.elapsed().as_secs(),
                duration.as_secs(),
                (now - received) as f64 / since.as_secs_f64() / 1e3,
                *steady.memory.last().unwrap() as f64 / f64::from(1 << 20),
                steady.reloads,
                restarted.lives,
            );
            (said, received) = (Instant::now(), now);
        }
    }
    restarted.end();
    let (before, after) = steady.memory();
    let peak = steady.memory.iter().max().copied().unwrap_or_default() as f64;
    let report = steady.appliance.stop();
    for generator in generators {
        generator.interrupt(PATIENCE).unwrap();
    }
    let mut account = Account::default();
    account.add(&report);
    let written: u64 = report.json()["records"]["written"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();

    let mebibytes = |bytes| bytes / f64::from(1 << 20);
    let growth = after / before - 1.0;
    let mut out = std::io::stdout();
    writeln!(out, "lasting:   {}", account.text(report.seconds())).unwrap();
    writeln!(out, "           {} reloads, {written} records written", steady.reloads).unwrap();
    writeln!(out, "restarted: {}", restarted.account.text(restarted.seconds)).unwrap();
    writeln!(
        out,
        "           {} lives, every third ended by kill -9, which leaves no account",
        restarted.lives
    )
    .unwrap();
    writeln!(
        out,
        "memory:    {:.1} MiB resident after the first fifth, {:.1} at the end ({:+.2} %), {:.1} at most",
        mebibytes(before),
        mebibytes(after),
        growth * 100.0,
        mebibytes(peak)
    )
    .unwrap();
    assert!(account.analysed > 0 && restarted.account.analysed > 0);
    assert!(growth <= GROWTH, "memory has grown by {:.1} %", growth * 100.0);
}
