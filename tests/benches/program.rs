//! Measures the cost of a packet in the whole XDP program, compared with a program that counts and drops:
//! `cargo xtask bench program`. See `mirror-xdp-ebpf/src/bench`.
//!
//! The kernel runs a program many times on one frame (`BPF_PROG_TEST_RUN`). The capture program changes its
//! frame, so it runs behind code that restores the frame. The cost of that code is measured by running it
//! before the program that counts and drops, and is subtracted. All programs run in turn, several times; each
//! figure is the median. After each run the counters must show that every frame was captured, and that frames
//! were judged anew or not, as the case requires.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::env;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use mirror_userspace::device::xdp::program::{CaptureProgram, Counts, Options};
use mirror_userspace::rules::policy::{Action, Policy, Rule, RuleDirection, RuleSet};
use mirror_xdp_common::capture::{self, CaptureHeader};
use mirror_xdp_common::counters::Counter;
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_tests::frames::{Flow, Mirrored, mirrored};
use mirror_xdp_tests::require;
use mirror_xdp_tests::rules::Rng;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketType, socket};
use serde_json::json;

const SEED: u64 = 0x5eed_0f1a_57ed_c0de;

/// The verdicts, as in `enum xdp_action` of the kernel.
const DROP: u32 = 1;
const REDIRECT: u32 = 4;

/// Bytes of the inner frame: longer than all headers, and the same for every flow.
const INNER_LEN: usize = 600;

/// The largest number of VNIs, which are 1 to this.
const MANY_VNIS: u32 = 16_384;
/// The number of successive flows if each packet is to be judged: many times the capacity of the memo.
const NEW_FLOWS: usize = 1 << 18;
/// The number of flows of the case `Many`, which may share places of the memo.
const MANY_FLOWS: usize = 1 << 16;

/// The number of passes over all measurements.
const PASSES: usize = 5;

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/bench.o");

fn main() -> ExitCode {
    let (mut json, mut quick, mut bench) = (false, false, false);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--quick" => quick = true,
            "--bench" => bench = true,
            other => {
                eprintln!("unknown argument `{other}`; possible are --json and --quick");
                return ExitCode::from(2);
            }
        }
    }
    // `cargo test --all-targets` runs benchmarks as if they were tests.
    if !bench {
        return ExitCode::SUCCESS;
    }
    if !require::privileges() {
        eprintln!("the benchmark loads eBPF programs: run it as root");
        return ExitCode::FAILURE;
    }
    match measure(quick) {
        Ok(report) if json => println!("{}", report.json()),
        Ok(report) => print!("{}", report.text()),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The outer IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outer {
    Ipv4,
    Ipv6,
}

/// The encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Encap {
    Vxlan,
    /// As sent by a Gateway Load Balancer: GENEVE around IP, UDP and VXLAN.
    Geneve,
}

/// The program's memory of the packets' flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flows {
    /// It remembers how the last packet was judged.
    Known,
    /// It remembers nothing.
    New,
    /// It remembers part of so many flows.
    Many,
}

/// A case to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Case {
    rules: usize,
    vnis: u32,
    outer: Outer,
    encap: Encap,
    flows: Flows,
}

impl Case {
    fn all(quick: bool) -> Vec<Self> {
        let rules: &[usize] = if quick { &[0, 10, 1000, 4096] } else { &[0, 1, 10, 100, 1000, 4096] };
        let vnis: &[u32] = if quick { &[1] } else { &[1, MANY_VNIS] };
        let outers: &[Outer] = if quick { &[Outer::Ipv4] } else { &[Outer::Ipv4, Outer::Ipv6] };
        let encaps: &[Encap] = if quick { &[Encap::Vxlan] } else { &[Encap::Vxlan, Encap::Geneve] };
        let mut cases = Vec::new();
        for &rules in rules {
            for &vnis in vnis {
                for &outer in outers {
                    for &encap in encaps {
                        for flows in [Flows::Known, Flows::New] {
                            cases.push(Self { rules, vnis, outer, encap, flows });
                        }
                    }
                }
            }
        }
        let many = Self { rules: 1000, vnis: 1, outer: Outer::Ipv4, encap: Encap::Vxlan, flows: Flows::Many };
        cases.push(many);
        cases
    }

    /// Returns whether the targets refer to packets of this case.
    fn is_plain(self) -> bool {
        let Self { vnis, outer, encap, flows, .. } = self;
        (vnis, outer, encap, flows) == (1, Outer::Ipv4, Encap::Vxlan, Flows::Known)
    }

    fn frame(self, flow: &Flow) -> Vec<u8> {
        self.envelope().carrying(&inner(flow))
    }

    fn envelope(self) -> Mirrored {
        match (self.outer, self.encap) {
            (Outer::Ipv4, Encap::Vxlan) => mirrored(1),
            (Outer::Ipv6, Encap::Vxlan) => mirrored(1).over_ipv6(),
            (Outer::Ipv4, Encap::Geneve) => mirrored(1).by_gateway(1, 2, 3),
            (Outer::Ipv6, Encap::Geneve) => mirrored(1).over_ipv6().by_gateway_over_ipv6(1, 2, 3),
        }
    }
}

/// Returns an inner frame; all have the same length and the same server.
fn inner(flow: &Flow) -> Vec<u8> {
    let headers = flow.udp(b"").len();
    flow.udp(&vec![7; INNER_LEN - headers])
}

/// The network of all clients, and the server's port.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 0);
const SERVER_PORT: u16 = 443;

/// Returns the flow of a client.
fn flow(client: u16, port: u16) -> Flow {
    let address = Ipv4Addr::from_bits(CLIENTS.to_bits() | u32::from(client));
    Flow { client: SocketAddr::from((address, port)), ..Flow::v4(0, SERVER_PORT) }
}

/// Returns a policy of `rules` rules. The last one accepts all packets that are measured. Each of the others
/// fails to match for one reason and matches otherwise, so all of them have to be examined.
fn policy(rules: usize, vnis: u32) -> Result<Policy> {
    let mut policy = Policy { vnis: vec![1..=vnis], ..Policy::default() };
    if rules == 0 {
        return Ok(policy);
    }
    let any = Rule {
        number: 0,
        direction: RuleDirection::Both,
        action: Action::Accept,
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
    };
    let (udp, tcp) = (Some(17), Some(6));
    let clients = Some(format!("{CLIENTS}/16").parse()?);
    let server = Some("172.31.0.2/32".parse()?);
    let mut list = Vec::with_capacity(rules);
    for index in 1..rules {
        let (high, low) = (index / 256, index % 256);
        let other: ipnet::IpNet = format!("10.{high}.{low}.0/24").parse()?;
        let port = 1024 + index as u16;
        let action = if index % 3 == 0 { Action::Reject } else { Action::Accept };
        let rule = match index % 5 {
            0 => Rule { source: Some(other), destination: server, protocol: udp, ..any.clone() },
            1 => Rule { source: clients, destination: Some(other), protocol: udp, ..any.clone() },
            2 => Rule {
                source: clients,
                destination_ports: Some(port..=port + 9),
                protocol: udp,
                ..any.clone()
            },
            3 => {
                Rule { destination: server, destination_ports: Some(443..=443), protocol: tcp, ..any.clone() }
            }
            _ => Rule { source: clients, source_ports: Some(1..=index as u16 % 1000 + 1), ..any.clone() },
        };
        list.push(Rule { number: index as u32, action, ..rule });
    }
    list.push(Rule {
        number: rules as u32,
        protocol: udp,
        source: clients,
        destination_ports: Some(SERVER_PORT..=SERVER_PORT),
        ..any
    });
    policy.sets.push(RuleSet { name: "bench".to_owned(), rules: list });
    policy.default_set = Some(0);
    Ok(policy)
}

/// The `Frame` of the eBPF programs: nine numbers and the outer headers as words.
type FrameValue = [u32; 9 + 64];
/// The `Variant` of the eBPF programs.
type VariantValue = [u32; 4];

/// A range of the programs' list of variants.
#[derive(Clone, Copy)]
struct Variants {
    first: u32,
    count: u32,
}

/// The loaded programs.
struct Kernel {
    program: CaptureProgram,
    frame: Array<MapData, FrameValue>,
    known: [Variants; 2],
    new: [Variants; 2],
    many: Variants,
    _socket: OwnedFd,
}

const PROGRAMS: [&str; 7] =
    ["floor", "clock", "redirect", "renewed_floor", "renewed_outer", "renewed_inner", "renewed_capture"];

/// Parts of the capture program, each including those before it, and their work.
const PARTS: [(&str, &str); 2] =
    [("renewed_outer", "outer headers read"), ("renewed_inner", "and taken off, inner ones read, hashed")];

impl Kernel {
    fn load() -> Result<Self> {
        let object = std::fs::read(OBJECT)
            .with_context(|| format!("cannot read {OBJECT}: build it with `cargo xtask build`"))?;
        let options = Options { hash_seed: SEED, ..Options::default() };
        let mut program = CaptureProgram::load_object(&object, &options)?;
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None)?;
        program.set_socket(0, socket.as_raw_fd())?;
        let object = program.object_mut();
        for name in PROGRAMS {
            let xdp: &mut Xdp = object.program_mut(name).context("the object lacks a program")?.try_into()?;
            xdp.load()?;
        }
        let frame = object.take_map("FRAME").context("the object lacks FRAME")?.try_into()?;
        let variants = object.take_map("VARIANTS").context("the object lacks VARIANTS")?.try_into()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let memos: Array<MapData, [u64; 16]> =
            object.take_map("MEMOS").context("the object lacks MEMOS")?.try_into()?;
        let places = memos.len() as usize / cpus;
        let mut list = List { variants, next: 0, rng: Rng::new(SEED) };
        // A flow has a place for each direction.
        let known = (MANY_VNIS as usize).min(places / 4);
        Ok(Self {
            known: [list.known(1, 1, places)?, list.known(known, MANY_VNIS, places)?],
            new: [list.random(NEW_FLOWS, 1)?, list.random(NEW_FLOWS, MANY_VNIS)?],
            many: list.random(MANY_FLOWS, 1)?,
            program,
            frame,
            _socket: socket,
        })
    }

    /// Returns the flows of a case.
    fn variants(&self, case: Case) -> Variants {
        match case.flows {
            Flows::Known => self.known[usize::from(case.vnis != 1)],
            Flows::New => self.new[usize::from(case.vnis != 1)],
            Flows::Many => self.many,
        }
    }

    /// Makes the next runs restore the frame of this case; returns that frame.
    fn prepare(&mut self, case: Case) -> Result<Vec<u8>> {
        let whole = case.frame(&flow(1, 40_000));
        let inner_at = whole.len() - INNER_LEN;
        ensure!(inner_at % 4 == 2, "the outer headers do not end where a word does");
        let variants = self.variants(case);
        let mut value: FrameValue = [0; 9 + 64];
        let (ip_at, udp_at) = (inner_at + 14, inner_at + 34);
        let numbers = [
            whole.len(),
            u16::from_ne_bytes([whole[0], whole[1]]).into(),
            inner_at / 4,
            inner_at - 4,
            ip_at + 12,
            udp_at,
            variants.first as usize,
            variants.count as usize - 1,
            0,
        ];
        for (place, number) in value.iter_mut().zip(numbers) {
            *place = number as u32;
        }
        for (place, word) in value[9..].iter_mut().zip(whole[2..inner_at].chunks_exact(4)) {
            *place = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        }
        self.frame.set(0, value, 0)?;
        Ok(whole)
    }

    /// Runs a program. Returns the verdict on the last frame, that frame afterwards, and the nanoseconds of
    /// one run.
    fn run(&mut self, program: &str, frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>, f64)> {
        let object = self.program.object_mut();
        let xdp: &Xdp = object.program(program).context("the object lacks a program")?.try_into()?;
        let mut out = vec![0; frame.len() + capture::LEN];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::new()
        };
        // The kernel itself measures whole nanoseconds a run only.
        let before = cpu_time()?;
        let result = xdp.test_run(options)?;
        let time = cpu_time()?.saturating_sub(before);
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out, time.as_nanos() as f64 / f64::from(repeat)))
    }

    /// Runs a program, checks its verdict, and returns the nanoseconds of one run.
    fn run_expecting(&mut self, program: &str, expected: u32, frame: &[u8], repeat: u32) -> Result<f64> {
        let (verdict, _, time) = self.run(program, frame, repeat)?;
        ensure!(verdict == expected, "the verdict of `{program}` is {verdict}");
        Ok(time)
    }

    /// Runs the capture program and checks that it did the work to measure. Returns the nanoseconds of one
    /// run and the share of frames that were judged.
    fn run_capture(&mut self, case: Case, frame: &[u8], repeat: u32) -> Result<(f64, f64)> {
        let before = self.program.counts()?;
        let (verdict, out, time) = self.run("renewed_capture", frame, repeat)?;
        let counted = self.program.counts()?.since(&before);
        ensure!(verdict == REDIRECT, "the verdict on {case:?} is {verdict}");
        check_counts(case, &counted, repeat)?;
        let (header, inner) =
            CaptureHeader::decode(&out).map_err(|error| anyhow::anyhow!("{case:?}: {error:?}"))?;
        let expected = case.frame(&flow(1, 40_000));
        let expected = &expected[expected.len() - INNER_LEN..];
        // The end of the source address and the source port differ from flow to flow.
        let same = |range: std::ops::Range<usize>| inner[range.clone()] == expected[range];
        ensure!(inner.len() == INNER_LEN && same(0..28) && same(36..INNER_LEN), "{case:?}: a wrong frame");
        ensure!((1..=case.vnis).contains(&header.vni.get()), "{case:?}: VNI {}", header.vni.get());
        let hash = InnerHeaders::parse(inner, 0).flow_hash(&FlowHashKey::new(SEED));
        ensure!(header.flow_hash == hash, "{case:?}: a wrong hash");
        ensure!((header.rule != 0) == (case.rules != 0), "{case:?}: decided by rule {}", header.rule);
        Ok((time, counted.get(Counter::Judged) as f64 / f64::from(repeat)))
    }
}

fn check_counts(case: Case, counted: &Counts, repeat: u32) -> Result<()> {
    let all = u64::from(repeat);
    ensure!(
        counted.get(Counter::Seen) == all && counted.get(Counter::Redirected) == all,
        "{case:?}: of {all} frames {} were seen and {} captured",
        counted.get(Counter::Seen),
        counted.get(Counter::Redirected)
    );
    let judged = counted.get(Counter::Judged);
    let as_meant = match case.flows {
        Flows::Known => judged <= all / 1000,
        Flows::New => judged >= all - all / 100,
        Flows::Many => true,
    };
    ensure!(as_meant, "{case:?}: of {all} frames {judged} were judged");
    Ok(())
}

/// The programs' list of variants while it is filled.
struct List {
    variants: Array<MapData, VariantValue>,
    next: u32,
    rng: Rng,
}

impl List {
    fn random_flow(&mut self) -> (u16, u16) {
        // Not the server itself, and no port below those that rules name.
        (3 + self.rng.below(65_000) as u16, 2000 + self.rng.below(63_000) as u16)
    }

    /// Adds at most as many flows as there are VNIs, no two of which share a place of the memo.
    fn known(&mut self, count: usize, vnis: u32, places: usize) -> Result<Variants> {
        let mut taken = vec![false; places / 2];
        let mut flows = Vec::new();
        while flows.len() < count {
            let (client, port) = self.random_flow();
            let hash =
                InnerHeaders::parse(&inner(&flow(client, port))[..], 0).flow_hash(&FlowHashKey::new(SEED));
            let place = hash.0 as usize % taken.len();
            if !std::mem::replace(&mut taken[place], true) {
                flows.push((client, port));
            }
        }
        self.enter(&flows, vnis)
    }

    fn random(&mut self, count: usize, vnis: u32) -> Result<Variants> {
        let flows: Vec<_> = (0..count).map(|_| self.random_flow()).collect();
        self.enter(&flows, vnis)
    }

    fn enter(&mut self, flows: &[(u16, u16)], vnis: u32) -> Result<Variants> {
        ensure!(flows.len().is_power_of_two(), "the number of flows is not a power of two");
        let first = self.next;
        // An odd factor: all VNIs occur equally often, but not one after the other.
        let vni = |index: u32| 1 + index.wrapping_mul(0x9e37_79b1) % vnis;
        for (index, &(client, port)) in (0..).zip(flows) {
            let [a, b, ..] = CLIENTS.octets();
            let [c, d] = client.to_be_bytes();
            let variant =
                [(vni(index) << 8).to_be(), u32::from_ne_bytes([a, b, c, d]), u32::from(port.to_be()), 0];
            self.variants.set(self.next, variant, 0)?;
            self.next += 1;
        }
        Ok(Variants { first, count: flows.len() as u32 })
    }
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Pins this thread to its current CPU.
fn pin() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(nix::sched::sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// The times of one measurement, one for each pass.
#[derive(Clone, Debug, Default)]
struct Times(Vec<f64>);

impl Times {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

struct Row {
    case: Case,
    times: Times,
    renewing: Times,
    judged: f64,
}

struct Size {
    name: &'static str,
    translated: Option<u32>,
    jitted: u32,
}

struct Report {
    floor: Times,
    clock: Times,
    redirect: Times,
    parts: [Times; PARTS.len()],
    rows: Vec<Row>,
    sizes: Vec<Size>,
}

fn measure(quick: bool) -> Result<Report> {
    pin()?;
    let repeat: u32 = if quick { 100_000 } else { 1 << 17 };
    let mut kernel = Kernel::load()?;
    let mut rows: Vec<Row> = Case::all(quick)
        .into_iter()
        .map(|case| Row { case, times: Times::default(), renewing: Times::default(), judged: 0.0 })
        .collect();
    let (mut floor, mut clock, mut redirect) = (Times::default(), Times::default(), Times::default());
    let mut parts: [Times; PARTS.len()] = Default::default();
    let mut in_force = None;
    for _ in 0..PASSES {
        // The cost of restoring the frame does not depend on the rules.
        let mut renewing: HashMap<Case, f64> = HashMap::new();
        for row in &mut rows {
            let case = row.case;
            let frame = kernel.prepare(case)?;
            if in_force.replace((case.rules, case.vnis)) != Some((case.rules, case.vnis)) {
                kernel.program.set_policy(&policy(case.rules, case.vnis)?)?;
                redirect.0.push(kernel.run_expecting("redirect", REDIRECT, &frame, repeat)?);
            }
            let bare = kernel.run_expecting("floor", DROP, &frame, repeat)?;
            floor.0.push(bare);
            let renewing = match renewing.entry(Case { rules: 0, ..case }) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    let renewed = kernel.run_expecting("renewed_floor", DROP, &frame, repeat)?;
                    if case.is_plain() {
                        clock.0.push(kernel.run_expecting("clock", DROP, &frame, repeat)?);
                        for ((program, _), times) in PARTS.iter().zip(&mut parts) {
                            let time = kernel.run_expecting(program, DROP, &frame, repeat)?;
                            times.0.push(time - (renewed - bare));
                        }
                    }
                    *entry.insert(renewed - bare)
                }
            };
            if case.flows != Flows::New {
                let flows = kernel.variants(case).count;
                kernel.run_expecting("renewed_capture", REDIRECT, &frame, flows)?;
            }
            let (captured, judged) = kernel.run_capture(case, &frame, repeat)?;
            row.renewing.0.push(renewing);
            row.times.0.push(captured - renewing);
            row.judged = judged;
        }
    }
    let mut sizes = Vec::new();
    for name in ["floor", "redirect", "renewed_floor", "capture", "renewed_capture"] {
        let object = kernel.program.object_mut();
        let xdp: &Xdp = object.program(name).context("the object lacks a program")?.try_into()?;
        let info = xdp.info()?;
        sizes.push(Size { name, translated: info.size_translated(), jitted: info.size_jitted() });
    }
    Ok(Report { floor, clock, redirect, parts, rows, sizes })
}

/// Rounds to a tenth, the precision of a figure.
fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

impl Report {
    fn json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.case.flows != Flows::Many)
            .map(|row| {
                let Case { rules, vnis, .. } = row.case;
                json!({
                    "rules": rules,
                    "vnis": vnis,
                    "outer": row.outer(),
                    "encap": row.encap(),
                    "flow": row.flow(),
                    "ns": tenth(row.times.median()),
                })
            })
            .collect();
        json!({ "floor_ns": tenth(self.floor.median()), "rows": rows })
    }

    fn text(&self) -> String {
        let floor = self.floor.median();
        let mut text = String::from("ns a packet, median (least) and times the floor\n\n");
        let mut line = |name: &str, times: &Times| {
            let (median, min) = (times.median(), times.min());
            let _ = writeln!(text, "{name:<48} {median:7.1} ({min:6.1}) {:6.2}×", median / floor);
        };
        line("floor: counts and drops", &self.floor);
        line("reads the clock besides", &self.clock);
        line("counts and redirects to a socket", &self.redirect);
        for ((_, name), times) in PARTS.iter().zip(&self.parts) {
            line(name, times);
        }
        for row in &self.rows {
            line(&row.name(), &row.times);
        }
        text.push_str("\nsubtracted for renewing the frame\n\n");
        for row in self.rows.iter().filter(|row| row.case.rules == 1000) {
            let _ = writeln!(text, "{:<48} {:7.1}", row.name(), row.renewing.median());
        }
        text.push_str("\nprograms, in bytes of eBPF and of machine code\n\n");
        for Size { name, translated, jitted } in &self.sizes {
            let translated = translated.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
            let _ = writeln!(text, "{name:<48} {translated:>7} {jitted:>7}");
        }
        text.push_str("\ntargets, over IPv4 and VXLAN, of 1 VNI and known flows\n\n");
        for (what, value, most) in self.targets() {
            let verdict = if value <= most { "met" } else { "missed" };
            let _ = writeln!(text, "{what:<48} {value:6.2}×, at most {most}×: {verdict}");
        }
        text
    }

    fn targets(&self) -> Vec<(&'static str, f64, f64)> {
        let of = |rules| {
            let mut rows = self.rows.iter().filter(|row| row.case.is_plain());
            rows.find(|row| row.case.rules == rules).map_or(f64::NAN, |row| row.times.median())
        };
        let floor = self.floor.median();
        vec![
            ("10 rules to the floor", of(10) / floor, 5.0),
            ("1,000 rules to the floor", of(1000) / floor, 7.0),
            ("4,096 rules to 1,000", of(4096) / of(1000), 1.2),
        ]
    }
}

impl Row {
    fn outer(&self) -> &'static str {
        match self.case.outer {
            Outer::Ipv4 => "ipv4",
            Outer::Ipv6 => "ipv6",
        }
    }

    fn encap(&self) -> &'static str {
        match self.case.encap {
            Encap::Vxlan => "vxlan",
            Encap::Geneve => "geneve",
        }
    }

    fn flow(&self) -> &'static str {
        match self.case.flows {
            Flows::Known => "known",
            Flows::New => "new",
            Flows::Many => "many",
        }
    }

    fn name(&self) -> String {
        let Case { rules, vnis, flows, .. } = self.case;
        let mut name = format!(
            "{rules:>4} rules {vnis:>5} VNIs {} {:<6} {:<5}",
            self.outer(),
            self.encap(),
            self.flow()
        );
        if flows == Flows::Many {
            let _ = write!(name, " ({:.0} % judged)", self.judged * 100.0);
        }
        name
    }
}
