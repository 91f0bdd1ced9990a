//! The report: one JSON file that later runs compare with, and the same as Markdown.

use std::fmt::{self, Write as _};

use mirror_xdp_tests::bench::path;
use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// All figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    /// True for a run with `--quick`.
    pub(super) quick: bool,
    /// Programs to compare with that are not installed.
    #[serde(default)]
    pub(super) missing: Vec<String>,
    pub(super) program: Option<Program>,
    pub(super) worker: Option<Worker>,
    #[serde(default)]
    pub(super) read: Option<Vec<Reading>>,
    pub(super) path: Option<path::Report>,
    #[serde(default)]
    pub(super) disk: Option<Disk>,
    pub(super) memory: Option<Vec<Memory>>,
    pub(super) growth: Option<Vec<Growth>>,
    #[serde(default)]
    pub(super) hand_over: Option<Vec<Handoff>>,
}

/// The cost of a packet in the XDP program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Program {
    /// Nanoseconds a packet of a program that counts and drops.
    pub(super) floor_ns: f64,
    pub(super) rows: Vec<ProgramRow>,
}

/// The cost of one path through the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProgramRow {
    pub(super) rules: u64,
    pub(super) vnis: u64,
    pub(super) outer: String,
    pub(super) encap: String,
    pub(super) flow: String,
    pub(super) ns: f64,
}

/// The cost of a packet in a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Worker {
    pub(super) stages: Vec<Stage>,
    /// The same captures read by mirror-xdp and by Suricata.
    #[serde(default)]
    pub(super) captures: Vec<Peers>,
}

/// The cost of a packet in one stage of the worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stage {
    pub(super) name: String,
    /// Nanoseconds a packet, as the median.
    pub(super) ns: Option<f64>,
    /// Instructions a packet.
    pub(super) instructions: Option<f64>,
}

/// Packets for each second of CPU time in user space, without the start-up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Peers {
    /// The content of the capture.
    pub(super) capture: String,
    pub(super) packets: u64,
    pub(super) mirror_xdp_pps: f64,
    pub(super) suricata_pps: Option<f64>,
}

/// The time that `read` takes for a capture.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) workers: u64,
    /// True if all records are written, false if none is.
    pub(super) records: bool,
    pub(super) frames: u64,
    pub(super) seconds: f64,
    /// CPU time of all threads in user space.
    pub(super) user_seconds: f64,
}

impl Reading {
    /// Returns the same with one worker.
    fn with_one(&self, all: &[Self]) -> Option<Self> {
        all.iter().find(|one| one.workers == 1 && one.records == self.records).cloned()
    }
}

/// Bytes a second to a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Disk {
    /// Bytes a second of `dd` with direct I/O.
    pub(super) dd: f64,
    /// The capture programs.
    pub(super) path: path::Report,
}

impl Disk {
    /// Returns names, and bytes a second of captured frames at the highest rate without loss.
    pub(super) fn rows(&self) -> Vec<(String, f64)> {
        let found = self
            .path
            .subjects
            .iter()
            .map(|found| (found.name.clone(), found.ndr_pps * self.path.frame_bytes));
        [("dd".to_owned(), self.dd)].into_iter().chain(found).collect()
    }
}

/// The memory that flows need.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) flows: u64,
    pub(super) resident_bytes: u64,
    /// The longest insertion of a new flow into a full table, which evicts another flow, in microseconds of
    /// CPU time.
    #[serde(default)]
    pub(super) longest_pause_us: f64,
}

/// The cost of a packet of a known flow in a worker, by the number of flows, VNIs or workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Growth {
    /// The kind of thing counted: `flows`, `VNIs` or `workers`.
    pub(super) of: String,
    pub(super) count: u64,
    pub(super) ns: f64,
}

/// The cost of a packet of a known flow in two workers that hand frames to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Handoff {
    /// The share of frames handed to the other worker, in percent.
    pub(super) percent: u64,
    pub(super) ns: f64,
}

impl Report {
    /// Returns the figures: a name that stays the same from run to run, the value, and whether more is
    /// better.
    pub(super) fn figures(&self) -> Vec<(String, f64, bool)> {
        let mut figures = Vec::new();
        if let Some(program) = &self.program {
            for row in &program.rows {
                figures.push((format!("program: {row}, × floor"), row.ns / program.floor_ns, false));
            }
        }
        if let Some(worker) = &self.worker {
            for Stage { name, ns, instructions } in &worker.stages {
                let ns = ns.map(|ns| (format!("worker: {name}, ns"), ns, false));
                let instructions =
                    instructions.map(|count| (format!("worker: {name}, instructions"), count, false));
                figures.extend(ns.into_iter().chain(instructions));
            }
            for Peers { capture, mirror_xdp_pps, suricata_pps, .. } in &worker.captures {
                let times = suricata_pps.map(|suricata| mirror_xdp_pps / suricata);
                figures.extend(times.map(|times| (format!("worker: {capture}, × Suricata"), times, true)));
            }
        }
        let readings = self.read.as_deref().unwrap_or_default();
        for reading in readings {
            let Some(one) = reading.with_one(readings).filter(|_| reading.workers > 1) else { continue };
            let written = if reading.records { "all records" } else { "no records" };
            let name = format!("read: {} workers, {written}, × one worker", reading.workers);
            figures.push((name, reading.seconds / one.seconds, false));
        }
        for found in self.path.iter().flat_map(|path| &path.subjects) {
            figures.push((format!("path: {}, no loss, pps", found.name), found.ndr_pps, true));
            figures.push((format!("path: {}, ≤ 0.5 % loss, pps", found.name), found.pdr_pps, true));
        }
        if let Some(disk) = &self.disk {
            for (name, rate) in disk.rows().into_iter().skip(1) {
                figures.push((format!("disk: {name}, × dd"), rate / disk.dd, true));
            }
        }
        for memory in self.memory.iter().flatten() {
            let each = memory.resident_bytes as f64 / memory.flows as f64;
            figures.push((format!("memory: {} flows, bytes each", memory.flows), each, false));
        }
        for growth in self.growth.iter().flatten() {
            figures.push((format!("growth: {} {}, ns", growth.count, growth.of), growth.ns, false));
        }
        for Handoff { percent, ns } in self.hand_over.iter().flatten() {
            figures.push((format!("growth: {percent} % handed over, ns"), *ns, false));
        }
        figures
    }

    /// Returns a line for each figure that is worse than in an earlier report by more than `tolerance`.
    pub(super) fn worse_than(&self, earlier: &Self, tolerance: f64) -> Vec<String> {
        let before = earlier.figures();
        let compare = |(name, now, more_is_better): (String, f64, bool)| {
            let &(_, then, _) = before.iter().find(|(other, ..)| *other == name)?;
            let change = if more_is_better { then / now } else { now / then } - 1.0;
            let worse = change > tolerance;
            worse.then(|| format!("{name}: {} → {} ({:.0} % worse)", short(then), short(now), change * 100.0))
        };
        self.figures().into_iter().filter_map(compare).collect()
    }

    /// Returns the report as Markdown; `charts` are the levels and files of the charts beside it.
    pub(super) fn markdown(&self, charts: &[(&str, &str)]) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text, charts);
        text
    }

    fn write(&self, text: &mut String, charts: &[(&str, &str)]) -> fmt::Result {
        let Machine { cpu, cores, memory_mib, kernel, governor, is_virtual, rustc, commit } = &self.machine;
        writeln!(text, "# How fast mirror-xdp is on this machine\n")?;
        let kind = if *is_virtual { " (virtual machine)" } else { "" };
        writeln!(
            text,
            "{cpu}{kind}, {cores} cores, {memory_mib} MiB; Linux {kernel}, governor {governor}; "
        )?;
        writeln!(text, "{rustc}; commit {commit}.")?;
        if self.quick {
            writeln!(text, "\nMeasured with `--quick`: few and short trials.")?;
        }
        if !self.missing.is_empty() {
            writeln!(text, "\n**Not measured, because not installed: {}.**", self.missing.join(", "))?;
        }
        let chart = |text: &mut String, level: &str| {
            charts
                .iter()
                .filter(|(of, _)| *of == level)
                .try_for_each(|(_, file)| writeln!(text, "\n![{level}]({file})"))
        };
        if let Some(program) = &self.program {
            writeln!(
                text,
                "\n## program\n\nNanoseconds a packet; a program that counts and drops takes {:.1}.\n",
                program.floor_ns
            )?;
            writeln!(
                text,
                "| rules | VNIs | outer | encapsulation | flow | ns | × floor |\n| ---: | ---: | --- | --- | --- | ---: | ---: |"
            )?;
            for row in &program.rows {
                let ProgramRow { rules, vnis, outer, encap, flow, ns } = row;
                writeln!(
                    text,
                    "| {rules} | {vnis} | {outer} | {encap} | {flow} | {ns:.0} | {:.1} |",
                    ns / program.floor_ns
                )?;
            }
            chart(text, "program")?;
        }
        if let Some(worker) = &self.worker {
            writeln!(text, "\n## worker\n\nA packet of the mixed traffic, frames already in memory.\n")?;
            writeln!(text, "| stage | ns | instructions |\n| --- | ---: | ---: |")?;
            let shown =
                |figure: &Option<f64>| figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.0}"));
            for Stage { name, ns, instructions } in &worker.stages {
                writeln!(text, "| {name} | {} | {} |", shown(ns), shown(instructions))?;
            }
            if !worker.captures.is_empty() {
                writeln!(text, "\nReading a capture, packets for each second of CPU time in user space.\n")?;
                writeln!(
                    text,
                    "| capture | packets | mirror-xdp | Suricata | × |\n| --- | ---: | ---: | ---: | ---: |"
                )?;
            }
            for Peers { capture, packets, mirror_xdp_pps, suricata_pps } in &worker.captures {
                let (suricata, times) = match suricata_pps {
                    Some(suricata) => (short(*suricata), format!("{:.1}", mirror_xdp_pps / suricata)),
                    None => ("not installed".to_owned(), "–".to_owned()),
                };
                writeln!(
                    text,
                    "| {capture} | {packets} | {} | {suricata} | {times} |",
                    short(*mirror_xdp_pps)
                )?;
            }
            chart(text, "worker")?;
        }
        if let Some(readings) = &self.read {
            writeln!(text, "\n## read\n\nReading the mixed traffic in the encapsulation of a session.\n")?;
            writeln!(
                text,
                "| workers | records | frames/s | × one worker's time | user time a frame, ns |\n\
                 | ---: | --- | ---: | ---: | ---: |"
            )?;
            for reading in readings {
                let Reading { workers, records, frames, seconds, user_seconds } = reading;
                let frames = *frames as f64;
                let times = reading.with_one(readings).map_or(1.0, |one| seconds / one.seconds);
                writeln!(
                    text,
                    "| {workers} | {} | {} | {times:.2} | {:.0} |",
                    if *records { "all" } else { "none" },
                    short(frames / seconds),
                    user_seconds * 1e9 / frames
                )?;
            }
        }
        if let Some(path) = &self.path {
            writeln!(
                text,
                "\n## path\n\n{}; frames of {:.0} bytes on average.\n",
                path.path, path.frame_bytes
            )?;
            writeln!(text, "| subject | no loss, pps | ≤ 0.5 % loss, pps | |\n| --- | ---: | ---: | --- |")?;
            for found in &path.subjects {
                let bound = if found.generator_bound { "all that the generator makes" } else { "" };
                writeln!(
                    text,
                    "| {} | {} | {} | {bound} |",
                    found.name,
                    rate(found.ndr_pps),
                    rate(found.pdr_pps)
                )?;
            }
            for path::LeftOut { name, why } in &path.left_out {
                writeln!(text, "\n{name} could not be measured here: {}", why.replace('\n', " "))?;
            }
            chart(text, "path")?;
        }
        if let Some(disk) = &self.disk {
            writeln!(
                text,
                "\n## disk\n\nBytes a second of frames that are captured and written to the disk without \
                 loss; for `dd oflag=direct`, bytes written.\n"
            )?;
            writeln!(text, "| | bytes/s | × dd |\n| --- | ---: | ---: |")?;
            for (name, rate) in disk.rows() {
                writeln!(text, "| {name} | {} | {:.2} |", self::rate(rate), rate / disk.dd)?;
            }
            chart(text, "disk")?;
        }
        if let Some(memory) = &self.memory {
            writeln!(
                text,
                "\n## memory\n\n| flows | resident | bytes a flow | longest pause when full |\n| ---: | ---: | ---: | ---: |"
            )?;
            for Memory { flows, resident_bytes, longest_pause_us } in memory {
                let each = *resident_bytes as f64 / *flows as f64;
                writeln!(
                    text,
                    "| {flows} | {:.1} MiB | {each:.0} | {longest_pause_us:.0} µs |",
                    *resident_bytes as f64 / f64::from(1 << 20)
                )?;
            }
            chart(text, "memory")?;
        }
        if let Some(growth) = &self.growth {
            writeln!(
                text,
                "\n## growth\n\nNanoseconds that a packet of a known flow takes on its worker's core, by \
                 the number of flows of one VNI, by the number of VNIs that 10,000 flows are spread over, and \
                 by the number of workers with 10,000 flows each. Each queue has a worker of its own. For \
                 rules, see program.\n"
            )?;
            writeln!(text, "| | | ns |\n| ---: | --- | ---: |")?;
            for Growth { of, count, ns } in growth {
                writeln!(text, "| {count} | {of} | {ns:.0} |")?;
            }
            chart(text, "growth")?;
        }
        if let Some(hand_over) = &self.hand_over {
            writeln!(
                text,
                "\nNanoseconds of CPU time that a packet takes in two workers together, with 10,000 flows \
                 each, by the share of frames that belong to the other worker.\n\n\
                 | handed over | ns a packet |\n| ---: | ---: |"
            )?;
            for Handoff { percent, ns } in hand_over {
                writeln!(text, "| {percent} % | {ns:.0} |")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ProgramRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rules, vnis, outer, encap, flow, .. } = self;
        write!(f, "{rules} rules, {vnis} VNIs, {outer}, {encap}, {flow}")
    }
}

/// Formats a rate that was searched for; the search finds none if losses do not depend on the rate.
fn rate(pps: f64) -> String {
    if pps > 0.0 { short(pps) } else { "not found".to_owned() }
}

/// Formats a number with three digits: `1.23 M`.
pub(super) fn short(value: f64) -> String {
    let (value, prefix) = match value {
        value if value >= 999_500.0 => (value / 1e6, " M"),
        value if value >= 9_995.0 => (value / 1e3, " k"),
        value => (value, ""),
    };
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ns: f64, pps: f64) -> Report {
        let row = ProgramRow {
            rules: 10,
            vnis: 1,
            outer: "ipv4".to_owned(),
            encap: "vxlan".to_owned(),
            flow: "known".to_owned(),
            ns,
        };
        let found = path::Found {
            name: "mirror-xdp".to_owned(),
            ndr_pps: pps,
            pdr_pps: pps,
            generator_bound: false,
            trials: Vec::new(),
        };
        Report {
            program: Some(Program { floor_ns: 20.0, rows: vec![row] }),
            path: Some(path::Report {
                path: "veth".to_owned(),
                frame_bytes: 100.0,
                subjects: vec![found],
                left_out: Vec::new(),
            }),
            ..Report::default()
        }
    }

    #[test]
    fn what_got_worse_is_told_and_nothing_else() {
        let before = report(100.0, 1_000_000.0);
        assert!(report(105.0, 960_000.0).worse_than(&before, 0.1).is_empty());
        assert!(report(50.0, 2_000_000.0).worse_than(&before, 0.1).is_empty());
        let worse = report(150.0, 500_000.0).worse_than(&before, 0.1);
        assert_eq!(worse.len(), 3, "{worse:?}");
        assert!(worse[0].contains("× floor: 5.00 → 7.50 (50 % worse)"), "{worse:?}");
        assert!(worse[1].contains("1.00 M → 500 k (100 % worse)"), "{worse:?}");
    }

    #[test]
    fn a_level_that_was_not_measured_is_not_shown() {
        let text = report(100.0, 1.0).markdown(&[("path", "path.svg")]);
        assert!(
            text.contains("## program") && text.contains("## path") && text.contains("(path.svg)"),
            "{text}"
        );
        assert!(!text.contains("## memory"), "{text}");
    }
}
