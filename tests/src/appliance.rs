//! Runs mirror-xdp for a test, on the near end of a virtual cable. The test sends from the far end.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::frames::{APPLIANCE_V4, APPLIANCE_V6, SOURCE_V4, SOURCE_V6};
use crate::inject::Injector;
use crate::netns::Namespace;
use crate::process::{Output, Process};
use crate::require;

/// The time limit for events that ought to happen at once; generous, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The appliance's interface in a [`Bed`].
pub const INTERFACE: &str = "mirror0";

/// The far end of its cable, from which the test sends frames.
const FAR_INTERFACE: &str = "source0";

/// Two namespaces and a cable between them: the appliance on one end, the sender of mirrored frames on the
/// other. Only the test sends on the cable, because the ends have no addresses; see [`Bed::addressed`].
#[derive(Debug)]
pub struct Bed {
    binary: PathBuf,
    /// The namespace in which mirror-xdp runs.
    pub appliance: Namespace,
    /// The namespace from which frames come.
    pub far: Namespace,
    log_dir: TempDir,
    run_dir: TempDir,
}

impl Bed {
    /// Makes a cable with `queues` queues; `None` if such tests cannot run, see [`require`].
    #[must_use]
    pub fn new(queues: usize) -> Option<Self> {
        Self::of(require::binary, queues)
    }

    /// As [`Bed::new`], for another program with mirror-xdp's command line.
    #[must_use]
    pub fn of(binary: impl FnOnce() -> Option<PathBuf>, queues: usize) -> Option<Self> {
        if !require::privileges() {
            return None;
        }
        Some(Self::make(binary()?, queues).expect("namespaces and cables can be made"))
    }

    fn make(binary: PathBuf, queues: usize) -> io::Result<Self> {
        let (appliance, far) = (Namespace::new()?, Namespace::new()?);
        appliance.veth(INTERFACE, &far, FAR_INTERFACE, queues)?;
        for (namespace, interface) in [(&appliance, INTERFACE), (&far, FAR_INTERFACE)] {
            // As on EC2: room for the encapsulation of frames of the usual size.
            namespace.ip(&format!("link set {interface} mtu 3498"))?;
            namespace.up(interface)?;
        }
        Ok(Self { binary, appliance, far, log_dir: tempfile::tempdir()?, run_dir: tempfile::tempdir()? })
    }

    /// Gives both ends the addresses that built frames carry, so that the hosts can communicate. They then
    /// also send on their own: ARP and neighbour discovery.
    pub fn addressed(self) -> io::Result<Self> {
        let ends = [
            (&self.appliance, INTERFACE, APPLIANCE_V4, APPLIANCE_V6),
            (&self.far, FAR_INTERFACE, SOURCE_V4, SOURCE_V6),
        ];
        for (namespace, interface, v4, v6) in ends {
            namespace.address(interface, v4.into(), 24)?;
            namespace.address(interface, v6.into(), 64)?;
        }
        Ok(self)
    }

    /// Returns the directory of the records.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        self.log_dir.path()
    }

    /// Returns the control socket of an appliance started by [`Bed::start`].
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.run_dir.path().join("control.sock")
    }

    /// Returns an injector that sends frames into the appliance's interface.
    #[must_use]
    pub fn injector(&self) -> Injector {
        Injector::new(&self.far, FAR_INTERFACE).expect("the far end is there")
    }

    /// Returns the command `mirror-xdp ARGUMENTS` in the appliance's namespace.
    #[must_use]
    pub fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = self.appliance.command(&self.binary.to_string_lossy());
        command.args(arguments);
        command
    }

    /// Returns the command that [`Bed::start`] starts: `mirror-xdp run` with additional arguments.
    #[must_use]
    pub fn run_command(&self, interfaces: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.command(&["run", "--json"]);
        for interface in interfaces {
            command.args(["--interface", interface]);
        }
        command.arg("--log-dir").arg(self.log_dir()).arg("--control").arg(self.control()).args(arguments);
        command
    }

    /// Starts a capture on the cable, and waits until it runs.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Appliance {
        self.start_on(&[INTERFACE], arguments)
    }

    /// Starts a capture on several interfaces, and waits until it runs.
    #[must_use]
    pub fn start_on(&self, interfaces: &[&str], arguments: &[&str]) -> Appliance {
        let mut process =
            Process::spawn(&mut self.run_command(interfaces, arguments)).expect("mirror-xdp starts");
        let announced = interfaces
            .iter()
            .map(|_| {
                process.wait_for_line("capturing on", PATIENCE).unwrap_or_else(|error| panic!("{error}"))
            })
            .collect();
        Appliance { process, announced }
    }

    /// Runs a mirror-xdp command that is expected to end at once by itself.
    #[must_use]
    pub fn run_to_end(&self, mut command: Command) -> Output {
        let process = Process::spawn(&mut command).expect("mirror-xdp starts");
        process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Captures `frames`, and stops when all of them have gone through the program.
    #[must_use]
    pub fn capture(&self, frames: &[Vec<u8>], arguments: &[&str]) -> Report {
        let appliance = self.start(arguments);
        self.send(frames);
        appliance.stop()
    }

    /// Sends frames, and returns when the appliance's interface has received all of them.
    pub fn send(&self, frames: &[Vec<u8>]) {
        let before = self.received();
        let injector = self.injector();
        for frame in frames {
            injector.send(frame).expect("the cable takes the frame");
        }
        self.wait_until_received(before + frames.len() as u64);
    }

    /// Returns the packets received by the appliance's interface, including those that the XDP program
    /// dropped.
    #[must_use]
    pub fn received(&self) -> u64 {
        received(&self.appliance, INTERFACE)
    }

    /// Waits until [`Bed::received`] is at least `packets`.
    pub fn wait_until_received(&self, packets: u64) {
        wait_until("frames are received", || self.received() >= packets);
    }

    /// Returns the records in the appliance's `eve.json`. A line that is being written is left out.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        records_of(self.log_dir(), |line| line.ends_with('\n'))
    }
}

/// Returns the packets received by an interface, as counted by the kernel.
#[must_use]
pub fn received(namespace: &Namespace, interface: &str) -> u64 {
    let statistics = namespace
        .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))
        .and_then(|read| read)
        .expect("the kernel has statistics");
    // "  NAME: BYTES PACKETS …"
    statistics
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix(interface)?.strip_prefix(':')?.split_whitespace().nth(1)?.parse().ok()
        })
        .expect("the interface is there")
}

/// Polls for a condition that no event announces.
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Appliance {
    process: Process,
    /// Its start-up messages, one line for each interface.
    pub announced: Vec<String>,
}

impl Appliance {
    /// Stops it as Ctrl-C does, and returns its counters.
    #[must_use]
    pub fn stop(self) -> Report {
        self.stop_by(Signal::SIGINT)
    }

    /// Stops it by a signal, and returns its counters.
    #[must_use]
    pub fn stop_by(mut self, signal: Signal) -> Report {
        self.process.signal(signal).expect("the process can be signalled");
        self.wait()
    }

    /// Waits until it stops by itself, and returns its counters.
    #[must_use]
    pub fn wait(self) -> Report {
        let output = self.process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        assert!(output.status.success(), "ended with {}: {:?}", output.status, output.stderr);
        Report::parse(&output)
    }

    /// Waits for a line on standard error that begins with `prefix`, and returns it.
    pub fn wait_for_line(&mut self, prefix: &str) -> String {
        self.process.wait_for_line(prefix, PATIENCE).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits for a line on standard error that contains `words`, and returns it.
    pub fn wait_for_line_with(&mut self, words: &str) -> String {
        self.process.wait_for_line_with(words, PATIENCE).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal that does not end the process.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).expect("the process can be signalled");
    }

    /// Kills the process, and returns its exit status.
    #[must_use]
    pub fn kill(mut self) -> ExitStatus {
        self.process.signal(Signal::SIGKILL).expect("the process can be signalled");
        self.process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}")).status
    }
}

/// The JSON object that `mirror-xdp run --json` prints at its end.
#[derive(Clone, Debug)]
pub struct Report {
    json: Value,
}

impl Report {
    /// Parses the output of a `mirror-xdp run --json` that has ended.
    #[must_use]
    pub fn parse(output: &Output) -> Self {
        let json = serde_json::from_str(&output.stdout).unwrap_or_else(|error| {
            panic!("not one JSON object: {error}: {:?}; it said {:?}", output.stdout, output.stderr)
        });
        Self { json }
    }

    /// Returns the whole object.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Returns the number at a JSON pointer such as `/interfaces/0/program/seen`.
    #[must_use]
    pub fn number(&self, pointer: &str) -> u64 {
        self.json
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no number at {pointer} in {}", self.json))
    }

    /// Returns the list at a JSON pointer.
    #[must_use]
    pub fn list(&self, pointer: &str) -> &[Value] {
        let list = self.json.pointer(pointer).and_then(Value::as_array);
        list.unwrap_or_else(|| panic!("no list at {pointer} in {}", self.json))
    }

    /// Returns the duration of the capture in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.json["seconds"].as_f64().unwrap_or_else(|| panic!("no seconds in {}", self.json))
    }

    /// Returns the frames seen by the programs of all interfaces.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.sum("/interfaces", "/program/seen")
    }

    /// Returns the frames redirected by the programs of all interfaces.
    #[must_use]
    pub fn redirected(&self) -> u64 {
        self.sum("/interfaces", "/program/redirected")
    }

    /// Returns the frames analysed by all workers.
    #[must_use]
    pub fn analysed(&self) -> u64 {
        self.sum("/workers", "/analysed")
    }

    /// Returns the frames lost between the program and the workers.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let rings = self.list("/interfaces").iter().filter_map(|interface| interface["rings"].as_array());
        let rings: u64 = rings.flatten().map(|ring| total(&ring["lost"])).sum();
        rings + self.handed_over("full")
    }

    /// Returns the counters of passed, dropped and shunted frames that are not zero, summed over all
    /// interfaces, by name.
    #[must_use]
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let mut reasons = std::collections::BTreeMap::new();
        for interface in self.list("/interfaces") {
            for fate in ["passed", "dropped", "shunted"] {
                let counters = interface["program"][fate].as_object().expect("an object of counters");
                for (name, count) in counters {
                    *reasons.entry(name.clone()).or_default() += count.as_u64().expect("a count");
                }
            }
        }
        reasons.into_iter().filter(|(_, count)| *count != 0).collect()
    }

    /// Asserts that every frame is accounted for, both by the sums computed here and by the product's own
    /// `unaccounted`.
    #[track_caller]
    pub fn assert_conserved(&self) {
        let mut delivered = 0;
        for interface in self.list("/interfaces") {
            let program = &interface["program"];
            let number = |value: &Value| value.as_u64().expect("a count");
            let seen = number(&program["seen"]);
            let redirected = number(&program["redirected"]);
            assert_eq!(
                seen,
                ["passed", "dropped", "shunted"].iter().map(|fate| total(&program[*fate])).sum::<u64>()
                    + redirected,
                "{program}"
            );
            let rings = interface["rings"].as_array().expect("a list of rings");
            let arrived: u64 = rings.iter().map(|ring| number(&ring["delivered"])).sum();
            let lost: u64 = rings.iter().map(|ring| total(&ring["lost"])).sum();
            assert_eq!(redirected, arrived + lost, "{interface}");
            delivered += arrived;
        }
        let full = self.handed_over("full");
        assert_eq!(delivered, self.sum("/workers", "/delivered") + full, "{}", self.json);
        let [given, taken] = ["given", "taken"].map(|counter| self.handed_over(counter));
        assert_eq!(given, taken, "{}", self.json);
        for worker in self.list("/workers") {
            let (delivered, analysed) = (worker["delivered"].as_u64(), worker["analysed"].as_u64());
            let accounted = analysed.map(|analysed| {
                analysed + total(&worker["refused"]) + worker["duplicates"].as_u64().unwrap_or_default()
            });
            assert_eq!(delivered, accounted, "{worker}");
        }
        assert_eq!(self.number("/unaccounted"), 0, "{}", self.json);
    }

    /// Returns the sum over all workers of a handoff counter: `given`, `full` or `taken`.
    #[must_use]
    pub fn handed_over(&self, counter: &str) -> u64 {
        self.sum("/workers", &format!("/hand_over/{counter}"))
    }

    /// Returns the sum of the numbers at `pointer` in each element of `list`, such as `/workers`.
    #[must_use]
    pub fn sum(&self, list: &str, pointer: &str) -> u64 {
        let number = |value: &Value| value.pointer(pointer).and_then(Value::as_u64);
        self.list(list)
            .iter()
            .map(|value| number(value).unwrap_or_else(|| panic!("no {pointer} in {value}")))
            .sum()
    }
}

/// Returns the sum of an object of counters.
fn total(counters: &Value) -> u64 {
    let counters = counters.as_object().unwrap_or_else(|| panic!("no counters: {counters}"));
    counters.values().map(|count| count.as_u64().expect("a count")).sum()
}

/// Returns the records in the `eve.json` of a directory, one JSON object a line.
#[must_use]
pub fn records(log_dir: &Path) -> Vec<Value> {
    records_of(log_dir, |_| true)
}

/// Returns the records of the lines that are `wanted`, which have their ends.
fn records_of(log_dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let path = log_dir.join("eve.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.split_inclusive('\n').filter(|line| wanted(line)).map(parse).collect()
}

/// Returns the records of one event type.
#[must_use]
pub fn of_type<'a>(records: &'a [Value], event_type: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["event_type"] == event_type).collect()
}

/// Returns records of flows without the fields that differ between two runs over the same frames: times,
/// fields derived from them, and the flow's identifier. The result is sorted, because workers write in no
/// certain order.
#[must_use]
pub fn comparable(records: &[Value]) -> Vec<String> {
    let mut comparable: Vec<_> = records
        .iter()
        .filter(|record| record["event_type"] != "stats" && record["event_type"] != "metrics")
        .map(|record| {
            let mut record = record.clone();
            let fields = record.as_object_mut().expect("a record is an object");
            for name in ["timestamp", "flow_id"] {
                fields.remove(name).unwrap_or_else(|| panic!("a record without {name}"));
            }
            fields.remove("tcp_perf");
            for object in ["dns", "http", "tls"] {
                fields
                    .get_mut(object)
                    .and_then(Value::as_object_mut)
                    .map(|object| object.remove("latency_ms"));
            }
            if let Some(flow) = fields.get_mut("flow").and_then(Value::as_object_mut) {
                for name in ["start", "end", "age"] {
                    flow.remove(name);
                }
            }
            record.to_string()
        })
        .collect();
    comparable.sort();
    comparable
}
