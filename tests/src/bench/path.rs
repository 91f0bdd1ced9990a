//! The level `path`: from the interface to the program that captures. It uses two namespaces and a cable
//! between them. One core runs the generator, and with it the kernel's reception; another runs the subject's
//! worker. Alternatively it uses a real interface and a generator on another machine.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::search::{Effort, Trial, search};
use super::subject::Subject;
use super::traffic::{mixed, write_pcap};
use crate::netns::Namespace;
use crate::process::{Process, run};

/// The time limit for a program to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames before each trial, to touch memory and warm caches; they count like the others.
const WARM_UP: [&str; 4] = ["--rate", "20kpps", "--duration", "200ms"];
/// The time in which a subject empties its buffers after the generator ends.
const DRAIN: Duration = Duration::from_millis(700);
/// The share of frames that may be lost at the rate with a little loss.
const PARTIAL: f64 = 0.005;

const NEAR: &str = "near0";
const FAR: &str = "far0";

/// Options of the measurement.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `mirror-xdp` that captures and generates.
    pub binary: PathBuf,
    /// The programs to measure.
    pub subjects: Vec<Subject>,
    /// A directory on the disk to measure, for the files of the trials. Without it they go to the system's
    /// temporary directory.
    pub directory: Option<PathBuf>,
    /// The real interface, and the command that generates on another machine.
    pub remote: Option<Remote>,
    /// The duration of a trial.
    pub trial: Duration,
    /// The duration of the trial that confirms the rate without loss, if there is one.
    pub confirm: Option<Duration>,
    /// The time limit of the search for one subject.
    pub budget: Duration,
    /// The precision of the search, see [`Effort::precision`].
    pub precision: f64,
}

/// A real interface instead of a cable between namespaces.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The interface of this machine on which the frames arrive.
    pub interface: String,
    /// The shell command that generates: `ssh host mirror-xdp pktgen …`; rate, duration and `--json` are
    /// added.
    pub generator: String,
}

/// The results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// A description of the path of the frames.
    pub path: String,
    /// Mean length of the frames given to the interface, in bytes.
    pub frame_bytes: f64,
    /// The results of each subject.
    pub subjects: Vec<Found>,
    /// The subjects that could not be measured on this machine.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// A subject that could not be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// The end of its error message.
    pub why: String,
}

/// The results of one subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// The highest rate without loss, in frames a second.
    pub ndr_pps: f64,
    /// The highest rate with at most half a percent of loss.
    pub pdr_pps: f64,
    /// True if no trial at the generator's highest rate lost frames.
    pub generator_bound: bool,
    /// All trials.
    pub trials: Vec<Trial>,
}

/// Progress of the measurement.
#[derive(Debug)]
pub enum Event<'a> {
    /// A trial is over.
    Trial(&'a Trial),
    /// The subject cannot be measured on this machine, and is left out.
    LeftOut(&'a str),
}

/// Measures all subjects, and calls `tell` after each trial. A subject other than mirror-xdp that fails is
/// left out.
pub fn measure(options: &Options, mut tell: impl FnMut(Subject, Event<'_>)) -> io::Result<Report> {
    let rig = Rig::new(options)?;
    let mut frame_bytes = 0.0;
    let mut subjects = Vec::new();
    let mut left_out = Vec::new();
    for &subject in &options.subjects {
        let mut trial = |asked: Option<f64>, duration| -> io::Result<Trial> {
            let (trial, bytes) = rig.trial(subject, asked, duration)?;
            frame_bytes = bytes;
            tell(subject, Event::Trial(&trial));
            Ok(trial)
        };
        match find(options, subject, &mut trial) {
            Ok(found) => subjects.push(found),
            Err(error) if subject.is_ours() => return Err(error),
            Err(error) => {
                // Such programs print much before the reason.
                let said = error.to_string();
                let why: String =
                    said.chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect();
                tell(subject, Event::LeftOut(&why));
                left_out.push(LeftOut { name: subject.name().to_owned(), why });
            }
        }
    }
    Ok(Report { path: rig.path(), frame_bytes, subjects, left_out })
}

/// Searches the rates of one subject.
fn find(
    options: &Options,
    subject: Subject,
    trial: &mut impl FnMut(Option<f64>, Duration) -> io::Result<Trial>,
) -> io::Result<Found> {
    let mut trials = Vec::new();
    let start = Instant::now();
    // The rate with a little loss comes first: it is an upper bound of the rate without loss.
    let effort =
        |share: u32| Effort { precision: options.precision, deadline: start + options.budget * share / 10 };
    search(PARTIAL, effort(5), &mut trials, |asked| trial(asked, options.trial))?;
    let mut ndr = search(0.0, effort(10), &mut trials, |asked| trial(asked, options.trial))?;
    if let Some(confirm) = options.confirm {
        // A longer trial may lose frames although the short one did not.
        let last = effort(15);
        while ndr > 0.0 {
            let tried = trials.iter().find(|trial| trial.pps.total_cmp(&ndr).is_eq()).copied();
            let confirmed = trial(tried.and_then(|trial| trial.asked_pps), confirm)?;
            // The result of the longer trial counts.
            trials.retain(|trial| Some(trial) != tried.as_ref());
            trials.push(confirmed);
            if confirmed.loss() <= 0.0 {
                ndr = confirmed.pps;
                break;
            }
            ndr = search(0.0, last, &mut trials, |asked| trial(asked, options.trial))?;
            if Instant::now() >= last.deadline {
                break;
            }
        }
    }
    let partly = trials.iter().filter(|trial| trial.loss() <= PARTIAL).map(|trial| trial.pps);
    let pdr = partly.fold(ndr, f64::max);
    let generator_bound = trials.iter().all(|trial| trial.asked_pps.is_some() || trial.loss() <= 0.0);
    Ok(Found {
        name: subject.name().to_owned(),
        ndr_pps: ndr.round(),
        pdr_pps: pdr.round(),
        generator_bound,
        trials,
    })
}

/// Returns the cores of the generator and of the worker.
fn cores() -> io::Result<(usize, usize)> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let mut cores = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false));
    let first = cores.next().unwrap_or_default();
    Ok((first, cores.next().unwrap_or(first)))
}

struct Rig<'a> {
    options: &'a Options,
    cable: Option<Cable>,
    cores: (usize, usize),
    directory: tempfile::TempDir,
}

/// Two namespaces with a cable between them.
struct Cable {
    near: Namespace,
    far: Namespace,
}

impl<'a> Rig<'a> {
    fn new(options: &'a Options) -> io::Result<Self> {
        let cable = if options.remote.is_some() {
            None
        } else {
            let cable = Cable { near: Namespace::new()?, far: Namespace::new()? };
            cable.near.veth(NEAR, &cable.far, FAR, 1)?;
            for (namespace, interface) in [(&cable.near, NEAR), (&cable.far, FAR)] {
                namespace.ip(&format!("link set {interface} mtu 3498 up"))?;
            }
            // Without GRO, the interface accepts redirected frames only while a program is attached.
            run(cable.near.command("ethtool").args(["-K", NEAR, "gro", "on"]))?;
            Some(cable)
        };
        let directory = match &options.directory {
            Some(directory) => tempfile::tempdir_in(directory)?,
            None => tempfile::tempdir()?,
        };
        write_pcap(&directory.path().join("mixed.pcap"), &mixed())?;
        Ok(Self { options, cable, cores: cores()?, directory })
    }

    fn path(&self) -> String {
        let (generator, worker) = self.cores;
        match &self.options.remote {
            None => format!("veth; generator and reception on core {generator}, subject on core {worker}"),
            Some(remote) => format!("{}; subject on core {worker}", remote.interface),
        }
    }

    /// Returns a command on the subject's side, pinned to its core.
    fn near(&self, words: &[String]) -> Command {
        let core = self.cores.1.to_string();
        let mut command = match &self.cable {
            Some(cable) => cable.near.command("taskset"),
            None => Command::new("taskset"),
        };
        command.args(["-c", &core]).args(words);
        command
    }

    /// Runs the generator and returns the report that it prints at its end.
    fn generate(&self, arguments: &[&str]) -> io::Result<Value> {
        let mut command = if let (None, Some(remote)) = (&self.cable, &self.options.remote) {
            let mut command = Command::new("sh");
            let arguments = arguments.join(" ");
            command.args(["-c", &format!("{} --json {arguments}", remote.generator)]);
            command
        } else {
            let cable = self.cable.as_ref().ok_or_else(|| io::Error::other("there is no cable"))?;
            let mut command = cable.far.command("taskset");
            command.args(["-c", &self.cores.0.to_string()]).arg(&self.options.binary);
            command.args(["pktgen", "--interface", FAR, "--json", "--vni", "1-16"]);
            command.arg(self.directory.path().join("mixed.pcap")).args(arguments);
            command
        };
        Ok(serde_json::from_str(&run(&mut command)?)?)
    }

    /// Runs one trial; returns it with the mean length of its frames.
    fn trial(&self, subject: Subject, asked: Option<f64>, duration: Duration) -> io::Result<(Trial, f64)> {
        let interface = self.options.remote.as_ref().map_or(NEAR, |remote| &remote.interface);
        let directory = tempfile::tempdir_in(self.directory.path())?;
        if self.options.directory.is_some() {
            // Data of the trial before that still has to be written must not slow this one down.
            nix::unistd::sync();
        }
        let words = subject.command(&self.options.binary, interface, directory.path())?;
        let mut process = Process::spawn(&mut merged(self.near(&words), subject))?;
        process.wait_for_line(subject.ready(), PATIENCE)?;
        let warm_up = self.generate(&WARM_UP)?;
        let duration = format!("{}ms", duration.as_millis());
        let rate = asked.map_or_else(|| "max".to_owned(), |pps| format!("{pps:.0}pps"));
        let main = self.generate(&["--rate", &rate, "--duration", &duration])?;
        std::thread::sleep(DRAIN);
        let output = process.interrupt(PATIENCE)?;
        let received = subject.received(&output, directory.path())?;
        let count = |value: &Value, name: &str| value[name].as_u64().unwrap_or_default();
        let given = |value: &Value| count(value, "sent") + count(value, "refused");
        let seconds = main["seconds"].as_f64().unwrap_or_default().max(f64::EPSILON);
        let bytes = count(&main, "bytes") as f64 / (count(&main, "sent").max(1) as f64);
        let trial = Trial {
            asked_pps: asked,
            pps: given(&main) as f64 / seconds,
            given: given(&warm_up) + given(&main),
            received,
        };
        Ok((trial, bytes))
    }
}

/// Redirects standard output to standard error, where Suricata's messages are expected; mirror-xdp's standard
/// output is the account.
fn merged(command: Command, subject: Subject) -> Command {
    if subject.is_ours() {
        return command;
    }
    let mut merged = Command::new("sh");
    merged.args(["-c", "exec \"$@\" 1>&2", "sh"]).arg(command.get_program()).args(command.get_args());
    merged
}
