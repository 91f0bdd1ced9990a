//! `cargo xtask bench`: measures how fast mirror-xdp and other programs are on this machine. Each level has a
//! file, which describes the source of its figures. Code that is expensive to compile is in bench targets of
//! other packages, which this command runs.

mod baseline;
mod chart;
mod disk;
mod machine;
mod peers;
mod read;
mod report;
mod worker;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use mirror_xdp_tests::bench::path::{self, Remote};
use mirror_xdp_tests::bench::subject::Subject;
use mirror_xdp_tests::bench::traffic;
use serde_json::json;

use self::chart::Series;
use self::machine::Machine;
use self::report::{Growth, Program, Report};
use crate::build::{Profile, build};
use crate::command::{as_root, cargo, display, find_program, root_prefix, step, workspace};
use crate::objects;

/// The smallest share worse than before that is reported. Less is noise on a shared machine.
const NOTABLE: f64 = 0.1;

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                   everything; takes twenty minutes
  cargo xtask bench --quick                           everything, in two minutes
  cargo xtask bench path --json                       {\"subjects\":[{\"name\":…,\"ndr_pps\":…,\"pdr_pps\":…},…]}
  cargo xtask bench --compare old/report.json         report regressions
  cargo xtask bench --write-frames mixed.pcap         for a generator on another machine:
  cargo xtask bench path --interface ens6 --generator \\
      'ssh other sudo mirror-xdp pktgen --interface ens6 --to 10.0.9.5 mixed.pcap'
  cargo xtask bench --gate                            as CI does: compare instructions with those stored

The report goes into target/bench: report.json, report.md and charts.";

/// A level of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Level {
    /// Nanoseconds a packet in the XDP program, compared with a program that counts and drops
    Program,
    /// Nanoseconds and instructions a packet in a worker, and a comparison with Suricata
    Worker,
    /// Seconds to read a capture, by the number of workers
    Read,
    /// The highest rates without loss and with little loss, compared with other programs
    Path,
    /// Bytes a second to the disk without loss, with a packet store
    Disk,
    /// Resident bytes by the number of flows
    Memory,
    /// The cost of a packet by the number of flows, VNIs and workers
    Growth,
}

const ALL: [Level; 7] =
    [Level::Program, Level::Worker, Level::Read, Level::Path, Level::Disk, Level::Memory, Level::Growth];

/// Measure how fast mirror-xdp and other programs are
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(crate) struct Args {
    /// Levels to measure; all by default
    #[arg(value_enum)]
    levels: Vec<Level>,

    /// Few and short trials
    #[arg(long)]
    quick: bool,

    /// Compare with this earlier report and list what is worse; the exit code is then 1
    #[arg(long, value_name = "REPORT.JSON")]
    compare: Option<PathBuf>,

    /// Install the programs to measure beside mirror-xdp: tcpdump, netsniff-ng, Suricata
    #[arg(long)]
    install_peers: bool,

    /// Measure `path` on this interface, which another machine sends to
    #[arg(long, value_name = "IF", requires = "generator")]
    interface: Option<String>,

    /// Command that sends there: `mirror-xdp pktgen` on the other machine, with interface, target and frames;
    /// rate and duration are added
    #[arg(long, value_name = "COMMAND", requires = "interface")]
    generator: Option<String>,

    /// Write the frames that the path level sends to this file, for a generator on another machine
    #[arg(long, value_name = "FILE.PCAP", conflicts_with_all = ["levels", "quick", "compare", "gate", "update_baseline"])]
    write_frames: Option<PathBuf>,

    /// Rules for the comparison with Suricata with rules; those beside the corpus by default
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Print the figures on stdout
    #[arg(long)]
    json: bool,

    /// Compare the instructions with those stored in the repository; fail if 5 % more
    #[arg(long, conflicts_with_all = ["levels", "update_baseline"])]
    gate: bool,

    /// Store the present numbers of instructions
    #[arg(long, conflicts_with = "levels")]
    update_baseline: bool,

    /// Measure the path of this binary; this program starts itself as root with this flag
    #[arg(long, hide = true, value_name = "BINARY")]
    measure_path: Option<PathBuf>,

    /// Write packets to this directory while measuring the path
    #[arg(long, hide = true, value_name = "DIR", requires = "measure_path")]
    to_disk: Option<PathBuf>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if let Some(binary) = &args.measure_path {
        let report = measure_path(args, binary)?;
        println!("{}", serde_json::to_string(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.write_frames {
        traffic::write_pcap(file, &traffic::mixed())
            .with_context(|| format!("cannot write {}", file.display()))?;
        step(&format!("The frames are in {}", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    if args.install_peers {
        peers::install()?;
        if args.levels.is_empty() && !args.quick {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let earlier = args.compare.as_deref().map(earlier).transpose()?;
    if args.gate || args.update_baseline {
        // These need no binary.
        objects::provide()?;
        return if args.gate { baseline::check() } else { baseline::update() };
    }
    let binary = build(Profile::Release)?;
    let report = measure(args, &binary)?;
    let directory = workspace().join("target/bench");
    write(&report, &directory)?;
    step(&format!("The report is in {}", directory.join("report.md").display()));
    if args.json {
        println!("{}", figures(args, &report)?);
    } else {
        println!("{}", report.markdown(&[]));
    }
    let worse = earlier.map(|earlier| report.worse_than(&earlier, NOTABLE)).unwrap_or_default();
    for line in &worse {
        eprintln!("worse: {line}");
    }
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the median, if there are values.
fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    values.get(values.len() / 2).copied()
}

/// Reads the report of an earlier run.
fn earlier(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of `cargo xtask bench`", path.display()))
}

/// Returns the output of `--json`: the rates for the path alone, the rows for the program alone, otherwise
/// the report.
fn figures(args: &Args, report: &Report) -> Result<String> {
    match (&args.levels[..], &report.path) {
        ([Level::Path], Some(path)) => {
            let subject = |found: &path::Found| json!({ "name": found.name, "ndr_pps": found.ndr_pps, "pdr_pps": found.pdr_pps });
            let subjects: Vec<_> = path.subjects.iter().map(subject).collect();
            Ok(json!({ "subjects": subjects }).to_string())
        }
        ([Level::Program], _) if report.program.is_some() => Ok(serde_json::to_string(&report.program)?),
        _ => Ok(serde_json::to_string(report)?),
    }
}

fn measure(args: &Args, binary: &Path) -> Result<Report> {
    let levels = if args.levels.is_empty() { &ALL[..] } else { &args.levels };
    let wanted = |level| levels.contains(&level);
    let mut report = Report { machine: Machine::this(), quick: args.quick, ..Report::default() };
    if wanted(Level::Worker) || wanted(Level::Path) {
        report.missing = peers::missing();
        if !report.missing.is_empty() {
            step(&format!(
                "NOT MEASURED, not installed: {}. `cargo xtask bench --install-peers` installs them",
                report.missing.join(", ")
            ));
        }
    }
    if wanted(Level::Program) {
        step("program: nanoseconds a packet in the kernel");
        report.program = program(args.quick)?;
    }
    if wanted(Level::Worker) || wanted(Level::Memory) || wanted(Level::Growth) {
        step("Building the worker's benchmark");
        let target = worker::Target::build()?;
        if wanted(Level::Worker) {
            step("worker: nanoseconds and instructions a packet");
            let stages = target.stages(args.quick)?;
            step("worker: reading captures, compared with Suricata");
            let captures = worker::peers(binary, args.rules.as_deref(), args.quick)?;
            report.worker = Some(report::Worker { stages, captures });
        }
        if wanted(Level::Memory) {
            step("memory: resident bytes by the number of flows");
            report.memory = Some(target.memory()?);
        }
        if wanted(Level::Growth) {
            step("growth: the cost of a packet by the number of flows, VNIs and workers, and by handoffs");
            report.growth = Some(target.growth()?);
            report.hand_over = Some(target.hand_over()?);
        }
    }
    if wanted(Level::Read) {
        report.read = Some(read::measure(binary, args.quick)?);
    }
    if wanted(Level::Path) {
        step("path: the highest rates without loss, and with little loss");
        report.path = Some(path_as_root(args, binary, None)?);
    }
    if wanted(Level::Disk) {
        step("disk: bytes a second without loss");
        report.disk = Some(disk::measure(args, binary)?);
    }
    Ok(report)
}

/// Runs the bench target that measures the XDP program; returns `None` if there is no such target.
fn program(quick: bool) -> Result<Option<Program>> {
    if !workspace().join("tests/benches/program.rs").is_file() {
        return Ok(None);
    }
    let mut command = cargo();
    // The test profile builds sooner, and the kernel runs the code that is measured.
    command.args(["test", "--quiet", "--package", "mirror-xdp-tests", "--bench", "program"]);
    let runner = root_prefix("loading the XDP program, to measure it,")?;
    if !runner.is_empty() {
        let words: Vec<_> = runner.iter().map(|word| format!("{:?}", word.to_string_lossy())).collect();
        command.arg("--config").arg(format!("target.'cfg(all())'.runner=[{}]", words.join(",")));
    }
    command.args(["--", "--bench", "--json"]);
    if quick {
        command.arg("--quick");
    }
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", display(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", display(&command), output.status);
    }
    Ok(Some(
        serde_json::from_slice(&output.stdout)
            .context("cannot parse the figures of the program's benchmark")?,
    ))
}

/// Measures the path in a process of its own, which runs as root.
fn path_as_root(args: &Args, binary: &Path, to_disk: Option<&Path>) -> Result<path::Report> {
    let this = env::current_exe().context("cannot find the path of this program")?;
    let mut command = as_root(this, "making network namespaces, and loading eBPF programs into them,")?;
    command.arg("bench").arg("--measure-path").arg(binary);
    if let Some(directory) = to_disk {
        command.arg("--to-disk").arg(directory);
    }
    if args.quick {
        command.arg("--quick");
    }
    if let (Some(interface), Some(generator)) = (&args.interface, &args.generator) {
        command.args(["--interface", interface, "--generator", generator]);
    }
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", display(&command)))?;
    if !output.status.success() {
        bail!("measuring the path failed ({})", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn measure_path(args: &Args, binary: &Path) -> Result<path::Report> {
    let installed = |subject: &Subject| subject.is_ours() || find_program(subject.program()).is_some();
    let subjects = if args.to_disk.is_some() { &Subject::TO_DISK[..] } else { &Subject::ALL };
    let remote = args.interface.clone().zip(args.generator.clone());
    let seconds = Duration::from_secs;
    let options = path::Options {
        binary: binary.to_owned(),
        subjects: subjects.iter().copied().filter(installed).collect(),
        directory: args.to_disk.clone(),
        remote: remote.map(|(interface, generator)| Remote { interface, generator }),
        trial: if args.quick { seconds(1) } else { seconds(3) },
        confirm: (!args.quick).then(|| seconds(10)),
        budget: if args.quick { seconds(16) } else { seconds(75) },
        precision: if args.quick { 0.1 } else { 0.02 },
    };
    let report = path::measure(&options, |subject, event| match event {
        path::Event::Trial(trial) => eprintln!(
            "    {:<20} {:>9} frames/s, {:.3} % lost",
            subject.name(),
            report::short(trial.pps),
            trial.loss() * 100.0
        ),
        path::Event::LeftOut(why) => eprintln!("    {:<20} left out: {why}", subject.name()),
    });
    report.context("cannot measure the path")
}

/// Writes the report as JSON and as Markdown, with its charts.
fn write(report: &Report, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let charts = charts(report)?;
    let mut files = Vec::new();
    for (level, svg) in &charts {
        let file = format!("{level}.svg");
        fs::write(directory.join(&file), svg)?;
        files.push((*level, file));
    }
    let files: Vec<_> = files.iter().map(|(level, file)| (*level, file.as_str())).collect();
    fs::write(directory.join("report.md"), report.markdown(&files))?;
    fs::write(directory.join("report.json"), serde_json::to_string_pretty(report)? + "\n")?;
    Ok(())
}

/// Draws a chart for each level that was measured.
fn charts(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let mut charts = Vec::new();
    if let Some(program) = &report.program {
        let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for row in &program.rows {
            let name = format!("{}, {}, {} VNIs, {}", row.outer, row.encap, row.vnis, row.flow);
            // A logarithmic axis has no zero.
            series.entry(name).or_default().push((row.rules.max(1) as f64, row.ns / program.floor_ns));
        }
        // A line needs two points at least.
        let series = series.into_iter().filter(|(_, values)| values.len() > 1);
        let series: Vec<_> = series.map(|(name, values)| Series { name, values }).collect();
        let title = "XDP program: a packet, against counting and dropping it";
        charts.push(("program", chart::lines(title, ("rules", "× floor"), &series)?));
    }
    if let Some(worker) = &report.worker {
        let (labels, values) = worker
            .stages
            .iter()
            .map(|stage| (stage.name.clone(), stage.ns.unwrap_or_default()))
            .unzip::<_, _, Vec<_>, _>();
        let series = Series { name: "ns".to_owned(), values };
        charts.push(("worker", chart::bars("Worker: a packet, by stage", "ns", &labels, &[series])?));
    }
    if let Some(path) = &report.path {
        let labels: Vec<_> = path.subjects.iter().map(|found| found.name.clone()).collect();
        let rates = |name: &str, rate: fn(&path::Found) -> f64| Series {
            name: name.to_owned(),
            values: path.subjects.iter().map(rate).collect(),
        };
        let series = [rates("no loss", |found| found.ndr_pps), rates("≤ 0.5 % loss", |found| found.pdr_pps)];
        charts.push(("path", chart::bars("Path: highest rates", "frames/s", &labels, &series)?));
    }
    if let Some(disk) = &report.disk {
        let (labels, values) = disk.rows().into_iter().unzip::<_, _, Vec<_>, _>();
        let series = Series { name: "bytes".to_owned(), values };
        charts.push(("disk", chart::bars("Disk: nothing lost", "bytes/s", &labels, &[series])?));
    }
    if let Some(memory) = &report.memory {
        let each = memory
            .iter()
            .map(|memory| (memory.flows as f64, memory.resident_bytes as f64 / memory.flows as f64));
        let series = Series { name: "bytes".to_owned(), values: each.collect() };
        charts.push(("memory", chart::lines("Memory: resident, a flow", ("flows", "bytes"), &[series])?));
    }
    if let Some(growth) = &report.growth {
        let mut series: Vec<Series<(f64, f64)>> = Vec::new();
        for Growth { of, count, ns } in growth {
            let point = (*count as f64, *ns);
            match series.iter_mut().find(|series| series.name == *of) {
                Some(series) => series.values.push(point),
                None => series.push(Series { name: of.clone(), values: vec![point] }),
            }
        }
        let title = "Worker: a packet of a known flow";
        charts.push(("growth", chart::lines(title, ("so many", "ns"), &series)?));
    }
    Ok(charts)
}
