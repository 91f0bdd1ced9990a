//! The levels `worker`, `memory` and `growth`: they run the bench target of `mirror-control` by itself and
//! under callgrind, and compare mirror-xdp with Suricata.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mirror_xdp_tests::bench::corpus;
use mirror_xdp_tests::bench::traffic::{Timed, each_microsecond, mixed_anew, write_timed};
use mirror_xdp_tests::frames::mirrored;
use mirror_xdp_tests::require;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::Value;

use super::median;
use super::report::{Growth, Handoff, Memory, Peers, Stage};
use crate::command::{cargo, display, find_program, output, run, workspace};

/// The stages of the bench target.
pub(super) const STAGES: [&str; 11] = [
    "headers",
    "view",
    "known-flows",
    "dns",
    "new-flows",
    "mixed",
    "mixed-tail",
    "mixed-tap",
    "hand-over",
    "kept",
    "waiting-for-alerts",
];
/// Passes over a stage's frames that callgrind counts. Stages of a single frame pass it more often.
const PASSES: u64 = 20;
/// Frames of the capture for the comparison with Suricata.
const PEER_FRAMES: usize = 600_000;
const PEER_FRAMES_QUICK: usize = 300_000;
/// The number of rounds of the corpus in the capture.
const CORPUS_ROUNDS: u64 = 10;
const CORPUS_ROUNDS_QUICK: u64 = 5;

/// The compiled bench target.
pub(super) struct Target {
    program: PathBuf,
}

impl Target {
    /// Compiles the bench target.
    pub(super) fn build() -> Result<Self> {
        let mut command = cargo();
        command.args(["bench", "--package", "mirror-bench", "--bench", "worker", "--no-run"]);
        command.args(["--message-format", "json"]);
        let built = command.output().with_context(|| format!("cannot start `{}`", display(&command)))?;
        if !built.status.success() {
            eprint!("{}", String::from_utf8_lossy(&built.stderr));
            bail!("`{}` failed", display(&command));
        }
        let messages = String::from_utf8_lossy(&built.stdout);
        let program = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(
            |message| {
                let is_it = message["target"]["name"] == "worker" && message["target"]["kind"][0] == "bench";
                is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
            },
        );
        Ok(Self { program: program.context("cargo did not print the path of the bench target")? })
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        output(command.args(arguments)).with_context(|| format!("`{}` failed", display(&command)))
    }

    /// Returns the median nanoseconds a packet of each stage, measured by criterion.
    fn times(&self, quick: bool) -> Result<Vec<Option<f64>>> {
        let home = workspace().join("target/criterion");
        let mut command = Command::new(&self.program);
        command.arg("--bench").env("CRITERION_HOME", &home).current_dir(workspace());
        if quick {
            command.args(["--warm-up-time", "0.1", "--measurement-time", "0.5", "--sample-size", "10"]);
        }
        // Its output is for people; the figures come from the files that it writes.
        command.stdout(std::process::Stdio::null());
        run(&mut command)?;
        let time = |stage: &&str| {
            let read = |file: &str| -> Option<Value> {
                let text = fs::read_to_string(home.join("worker").join(stage).join("new").join(file)).ok()?;
                serde_json::from_str(&text).ok()
            };
            let median = read("estimates.json")?["median"]["point_estimate"].as_f64()?;
            let frames = read("benchmark.json")?["throughput"]["Elements"].as_f64()?;
            Some(median / frames)
        };
        Ok(STAGES.iter().map(time).collect())
    }

    /// Returns the instructions a packet of a stage, counted by callgrind.
    pub(super) fn instructions(&self, stage: &str) -> Result<f64> {
        ensure!(
            find_program("valgrind").is_some(),
            "there is no valgrind: install it with `cargo xtask setup`"
        );
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("callgrind.out");
        let passes = if stage == "new-flows" { PASSES * 500 } else { PASSES };
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured*", "--quiet"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(&self.program)
            .args(["instructions", stage, &passes.to_string()]);
        let packets = output(&mut command).with_context(|| format!("`{}` failed", display(&command)))?;
        let packets: f64 =
            packets.trim().parse().context("the bench target did not print its number of packets")?;
        let counted = fs::read_to_string(&file)?;
        let total =
            counted.lines().find_map(|line| line.strip_prefix("summary:").or(line.strip_prefix("totals:")));
        let total: f64 =
            total.and_then(|total| total.trim().parse().ok()).context("callgrind counted nothing")?;
        ensure!(total > 0.0, "callgrind did not find the measured function in {}", self.program.display());
        Ok(total / packets)
    }

    /// Returns times and instructions of the stages.
    pub(super) fn stages(&self, quick: bool) -> Result<Vec<Stage>> {
        let times = self.times(quick)?;
        let mut stages = Vec::new();
        for (name, ns) in STAGES.into_iter().zip(times) {
            // Each stage takes a second or two; with `--quick` the whole worker is enough.
            let wanted = find_program("valgrind").is_some() && (!quick || name == "mixed");
            let instructions = if wanted { Some(self.instructions(name)?) } else { None };
            stages.push(Stage { name: name.to_owned(), ns, instructions });
        }
        Ok(stages)
    }

    /// Measures the memory that flows need.
    pub(super) fn memory(&self) -> Result<Vec<Memory>> {
        let of = |flows: u64| {
            let resident_bytes = self.ask(&["memory", &flows.to_string()])?.trim().parse()?;
            let longest_pause_us = self.ask(&["pause", &flows.to_string()])?.trim().parse()?;
            Ok(Memory { flows, resident_bytes, longest_pause_us })
        };
        [10_000, 100_000, 1_000_000].into_iter().map(of).collect()
    }

    /// Measures the cost of a packet by the number of flows, VNIs and workers.
    pub(super) fn growth(&self) -> Result<Vec<Growth>> {
        const SWEEPS: [(&str, &[u64]); 3] = [
            ("flows", &[100, 1_000, 10_000, 100_000, 1_000_000]),
            ("VNIs", &[1, 10, 100, 1_000, 10_000]),
            ("workers", &[1, 2, 4, 8]),
        ];
        let counts = SWEEPS.into_iter().flat_map(|(of, counts)| counts.iter().map(move |&count| (of, count)));
        let measured = counts.map(|(of, count)| {
            let ns = self.ask(&["growth", of, &count.to_string()])?.trim().parse()?;
            Ok(Growth { of: of.to_owned(), count, ns })
        });
        measured.collect()
    }

    /// Measures the cost of a packet by the share of packets handed to the other worker, as medians.
    pub(super) fn hand_over(&self) -> Result<Vec<Handoff>> {
        const ROUNDS: usize = 5;
        let of = |percent: u64| {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                rounds.push(self.ask(&["handed-over", &percent.to_string()])?.trim().parse()?);
            }
            Ok(Handoff { percent, ns: median(rounds).unwrap_or_default() })
        };
        [0, 50, 100].into_iter().map(of).collect()
    }
}

/// Returns the rules for the comparison: the given ones, or those beside the corpus, which are unpacked.
fn rules(given: Option<&Path>, directory: &Path) -> Result<Option<PathBuf>> {
    if let Some(given) = given {
        return Ok(Some(given.to_owned()));
    }
    let Some(packed) = require::rules().map(|rules| rules.join("et-open.rules.xz")) else { return Ok(None) };
    let unpacked = directory.join("et-open.rules");
    let mut command = Command::new("xz");
    command.args(["--decompress", "--stdout"]).arg(packed).stdout(fs::File::create(&unpacked)?);
    run(&mut command)?;
    Ok(Some(unpacked))
}

/// Reads captures with mirror-xdp and, if installed, with Suricata.
pub(super) fn peers(binary: &Path, with: Option<&Path>, quick: bool) -> Result<Vec<Peers>> {
    let directory = tempfile::tempdir()?;
    let mut peers = Vec::new();
    let session = mirrored(1);
    let frames = if quick { PEER_FRAMES_QUICK } else { PEER_FRAMES };
    let capture = directory.path().join("mixed.pcap");
    let mixed = mixed_anew().take(frames).map(|inner| session.carrying(&inner));
    let packets = write_timed(&capture, each_microsecond(mixed))?;
    peers.push(beside_suricata(binary, "mixed", &capture, packets, None, quick)?);
    if let Some(corpus) = require::corpus() {
        let rounds = if quick { CORPUS_ROUNDS_QUICK } else { CORPUS_ROUNDS };
        let frames = corpus::merged(&corpus).context("cannot read the corpus")?;
        let plain = || corpus::rounds(&frames, rounds);
        let packets = write_timed(&capture, plain())?;
        peers.push(beside_suricata(binary, "corpus", &capture, packets, None, quick)?);
        if let Some(rules) = rules(with, directory.path())? {
            let rules = Some(&*rules);
            peers.push(beside_suricata(binary, "corpus, with rules", &capture, packets, rules, quick)?);
        }
        let carried = |frame: Timed| Timed { frame: session.carrying(&frame.frame), ..frame };
        let packets = write_timed(&capture, plain().map(carried))?;
        peers.push(beside_suricata(binary, "corpus, mirrored", &capture, packets, None, quick)?);
    }
    Ok(peers)
}

/// Reads one capture with both programs in turn. The figures are medians, less the time for a capture of a
/// single frame.
fn beside_suricata(
    binary: &Path,
    capture: &str,
    file: &Path,
    packets: u64,
    rules: Option<&Path>,
    quick: bool,
) -> Result<Peers> {
    let directory = tempfile::tempdir()?;
    let (logs, empty) = (directory.path().join("logs"), directory.path().join("one.pcap"));
    write_timed(
        &empty,
        each_microsecond(std::iter::once(mirrored(1).carrying(&mixed_anew().next().unwrap_or_default()))),
    )?;
    let fresh = || -> Result<()> {
        let _ = fs::remove_dir_all(&logs);
        Ok(fs::create_dir_all(&logs)?)
    };
    let mirror_xdp = |file: &Path| -> Result<Duration> {
        fresh()?;
        let mut command = Command::new(binary);
        // The record types that Suricata has no counterpart of are left out.
        command.args(["read", "--json", "--eve-types", "alert,flow,dns,http,tls,quic,ssh,stats"]).arg(file);
        match rules {
            // One worker applies them.
            Some(rules) => command.arg("--rules").arg(rules),
            None => command.args(["--workers", "1"]),
        };
        cpu_time(command.arg("--log-dir").arg(&logs))
    };
    let suricata = |program: &Path, file: &Path| -> Result<Duration> {
        fresh()?;
        let configuration = logs.join("suricata.yaml");
        fs::write(&configuration, mirror_xdp_tests::bench::subject::suricata("lo"))?;
        let mut command = Command::new(program);
        // Neither program verifies checksums.
        command.arg("-c").arg(configuration).arg("-S").arg(rules.unwrap_or(Path::new("/dev/null")));
        command.args(["-k", "none", "--runmode=single", "-l"]);
        cpu_time(command.arg(&logs).arg("-r").arg(file))
    };
    let peer = find_program("suricata");
    let rounds = if quick { 3 } else { 5 };
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        let [ours, ours_empty, theirs, theirs_empty] = &mut times;
        ours.push(mirror_xdp(file)?);
        ours_empty.push(mirror_xdp(&empty)?);
        if let Some(peer) = &peer {
            theirs.push(suricata(peer, file)?);
            theirs_empty.push(suricata(peer, &empty)?);
        }
    }
    let [ours, ours_empty, theirs, theirs_empty] = times.map(|times| median(times).unwrap_or_default());
    let rate = |time: Duration, empty: Duration| {
        packets as f64 / time.saturating_sub(empty).as_secs_f64().max(f64::EPSILON)
    };
    Ok(Peers {
        capture: capture.to_owned(),
        packets,
        mirror_xdp_pps: rate(ours, ours_empty),
        suricata_pps: peer.map(|_| rate(theirs, theirs_empty)),
    })
}

/// Runs a command to its end and returns its CPU time in user space.
pub(super) fn cpu_time(command: &mut Command) -> Result<Duration> {
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?.user_time();
    output(command).with_context(|| format!("`{}` failed", display(command)))?;
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?.user_time();
    Ok(Duration::from_micros(u64::try_from((after - before).num_microseconds())?))
}
