//! Measures the cost of a packet in a worker, with frames already in memory. Criterion measures nanoseconds;
//! the first argument selects further measurements of `cargo xtask bench`:
//!
//! * `instructions STAGE PASSES` runs that many passes of a stage, in a function that callgrind counts;
//! * `memory FLOWS` prints the resident bytes that this many flows add;
//! * `pause FLOWS` prints the most microseconds of CPU time that a new flow takes in a table that holds this
//!   many flows and is full, so that each new flow ends another;
//! * `growth flows|VNIs|workers COUNT` prints the nanoseconds of a packet for this many of them;
//! * `handed-over PERCENT` prints the nanoseconds of CPU time that a packet takes in two workers that hand
//!   this share of their frames to each other;
//! * `store plain|zstd|encrypted MIB` stores this much and prints the nanoseconds of CPU time a byte of the
//!   packet store's threads `seal` and `write`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run is to say why and end")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use criterion::{Criterion, Throughput};
use mirror_device::afxdp::exchange::Peer;
use mirror_device::xdp::shunt::Shunter;
use mirror_engine::hooks::Observer;
use mirror_engine::observers::{Mailbox, Workers};
use mirror_engine::worker::{Worker, WorkerConfig};
use mirror_packet::{Direction, FrameInfo, Layer, LinkType, MirrorSession, decode};
use mirror_protocols::detect::{Detector, Endpoints, Transport};
use mirror_protocols::dns::Message;
use mirror_protocols::http::{Request, Response};
use mirror_protocols::quic::Connection;
use mirror_protocols::tls::Handshake;
use mirror_records::sink::{Overflow, Sink};
use mirror_store::copy::{self, Copier, Copies, Wanted};
use mirror_store::expression::Expression;
use mirror_store::{Policy, Retention, Settings, Store, StoreHandle, StoreKey};
use mirror_xdp_common::hash::{FlowHash, FlowHashKey};
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::{Address, Vni};
use mirror_xdp_tests::bench::traffic::mixed;
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query};
use mirror_xdp_tests::tls::{client_hello, server_hello};

/// Frames between two ticks of the worker: the size of a batch.
const BATCH: usize = 64;
/// 2023-11-14, in nanoseconds.
const EPOCH: u64 = 1_700_000_000_000_000_000;

/// A worker as it is in a live capture.
type LiveWorker = Worker<Option<StoreHandle>, Shunter>;

/// A stage to measure.
#[derive(Clone, Copy)]
enum Stage {
    /// Parsing and hashing the inner headers.
    Headers,
    /// Decoding the frame.
    View,
    /// The whole worker, with known flows whose analysis has ended.
    Known,
    /// The whole worker, with DNS questions and answers.
    Dns,
    /// The whole worker, with a new flow for each packet.
    New,
    /// The whole worker, with the mix of traffic.
    Mixed,
    /// The same with a `tail` whose filter matches nothing.
    Tailed,
    /// The same with a tap, for which all frames are copied.
    Tapped,
    /// The handoff of a frame, in both workers together, without its analysis.
    Handoff,
    /// The mix, with all packets stored.
    Kept,
    /// The mix, with all packets waiting for alerts that do not come.
    Waiting,
}

impl Stage {
    const ALL: [Self; 11] = [
        Self::Headers,
        Self::View,
        Self::Known,
        Self::Dns,
        Self::New,
        Self::Mixed,
        Self::Tailed,
        Self::Tapped,
        Self::Handoff,
        Self::Kept,
        Self::Waiting,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::View => "view",
            Self::Known => "known-flows",
            Self::Dns => "dns",
            Self::New => "new-flows",
            Self::Mixed => "mixed",
            Self::Tailed => "mixed-tail",
            Self::Tapped => "mixed-tap",
            Self::Handoff => "hand-over",
            Self::Kept => "kept",
            Self::Waiting => "waiting-for-alerts",
        }
    }

    /// Returns the settings of the stage's store, if it has one.
    fn store(self) -> Option<Settings> {
        let pre_trigger = match self {
            Self::Kept => None,
            Self::Waiting => Some(32 << 20),
            _ => return None,
        };
        Some(settings(Policy { pre_trigger, ..Policy::default() }))
    }

    fn frames(self) -> Vec<Vec<u8>> {
        match self {
            Self::Headers
            | Self::View
            | Self::Mixed
            | Self::Tailed
            | Self::Tapped
            | Self::Kept
            | Self::Waiting => mixed(),
            Self::Known | Self::Handoff => {
                (0..200).map(|port| Flow::v4(10_000 + port, 9).udp(&[0; 200])).collect()
            }
            Self::Dns => (0..100).flat_map(dns).collect(),
            Self::New => vec![Flow::v4(10_000, 9).udp(&[0; 200])],
        }
    }

    /// Returns the stage's observer, if it has one: the worker's end and the other end.
    fn observer(self) -> Option<(Copier, Copies)> {
        let wanted = match self {
            Self::Tailed => {
                let filter = Expression::parse("udp port 53 and vni 7").unwrap();
                Wanted { filter: Some(Arc::new(filter)), snaplen: None, rate: Some(10_000) }
            }
            Self::Tapped => Wanted::default(),
            _ => return None,
        };
        // The size of a tap's buffer.
        Some(copy::pair(wanted, 8 << 20))
    }
}

fn dns(host: u16) -> [Vec<u8>; 2] {
    let flow = Flow::v4(20_000 + host, 53);
    let name = format!("host{host}.example.com");
    let answer = dns_answer(host, &name, [192, 0, 2, 1].into());
    [flow.udp(&dns_query(host, &name)), flow.reversed().udp(&answer)]
}

/// Returns settings of a store of bounded size.
fn settings(policy: Policy) -> Settings {
    let retention = Retention { max_size: Some(1 << 30), ..Retention::default() };
    Settings { policy, retention, ..Settings::default() }
}

/// A worker whose records go to a file in a directory that is removed at the end.
struct Bench {
    stage: Stage,
    frames: Vec<(FrameInfo, Vec<u8>)>,
    worker: LiveWorker,
    /// The observer's end of the copies of frames.
    copies: Option<Copies>,
    taken: Vec<u8>,
    peers: (Peer<usize>, Peer<usize>),
    /// The number of packets so far.
    count: u64,
    _store: Option<Store>,
    _sink: Sink,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(stage: Stage, frames: Vec<Vec<u8>>, max_flows: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::open(directory.path()).unwrap();
        // Writing lost records costs nothing: only the worker is measured.
        let config = WorkerConfig { max_flows, ..WorkerConfig::default() };
        let store = stage
            .store()
            .map(|settings| Store::open(&directory.path().join("store"), settings, None).unwrap());
        let mut worker = Worker::builder(config, sink.producer(Overflow::Lose))
            .recorder(store.as_ref().map(|store| store.handle(0, Overflow::Wait).unwrap()))
            .offload(None)
            .build();
        let frames = frames.into_iter().map(|frame| (info(&frame), frame)).collect();
        let mut copies = None;
        if let Some((copier, other_end)) = stage.observer() {
            let mailbox = Arc::new(Mailbox::default());
            let observer: Box<dyn Observer> = Box::new(copier);
            // The worker keeps the observer for good.
            std::mem::forget(Workers::new([Arc::clone(&mailbox)]).subscribe([observer]).unwrap());
            mailbox.collect(worker.observers());
            copies = Some(other_end);
        }
        let mut bench = Self {
            stage,
            frames,
            worker,
            copies,
            taken: Vec::new(),
            peers: Peer::pair(2 * BATCH),
            count: 0,
            _store: store,
            _sink: sink,
            _directory: directory,
        };
        // Passes until memory is touched and flows are known.
        for _ in 0..2 {
            bench.pass();
            bench.take();
        }
        bench
    }

    /// Does the work of another thread: takes the copies, to make room, and asserts that all were made.
    fn take(&mut self) {
        if let Some(copies) = &mut self.copies {
            self.taken.clear();
            copies.take(&mut self.taken);
            assert_eq!(copies.counts().lost, 0, "the ring is too small for a pass");
        }
    }

    /// Passes each frame once. Out of line, so that callgrind can separate it from the preparation.
    #[inline(never)]
    fn pass(&mut self) {
        for index in 0..self.frames.len() {
            let (info, frame) = &mut self.frames[index];
            match self.stage {
                Stage::Headers => {
                    black_box(InnerHeaders::parse(black_box(&frame[..]), 0).flow_hash(&FlowHashKey::new(0)));
                    continue;
                }
                Stage::View => {
                    let _ =
                        black_box(decode(Layer::frame(LinkType::Ethernet, black_box(frame), frame.len())));
                    continue;
                }
                Stage::New => {
                    if let Some(mirror) = &mut info.mirror {
                        mirror.vni = Vni::new(self.count as u32 & Vni::MAX.get()).unwrap();
                    }
                }
                Stage::Handoff => {
                    self.hand_over(index);
                    continue;
                }
                Stage::Known
                | Stage::Dns
                | Stage::Mixed
                | Stage::Tailed
                | Stage::Tapped
                | Stage::Kept
                | Stage::Waiting => {}
            }
            // A million packets a second.
            info.time = EPOCH + self.count * 1000;
            self.count += 1;
            self.worker.frame(info, frame);
            if index % BATCH == BATCH - 1 {
                self.worker.tick(EPOCH + self.count * 1000);
            }
        }
        self.worker.tick(EPOCH + self.count * 1000);
    }
}

impl Bench {
    /// Lends a buffer; after the last one of a batch, the other side takes and returns all of them.
    fn hand_over(&mut self, buffer: usize) {
        let (one, other) = &mut self.peers;
        assert!(one.lend(&[buffer]), "everything has come back");
        if buffer % BATCH == BATCH - 1 || buffer + 1 == self.frames.len() {
            while let Some(buffer) = other.borrow() {
                other.give_back(black_box(buffer));
            }
            while let Some(buffer) = one.come_back() {
                black_box(buffer);
            }
        }
    }
}

/// Two workers that hand frames to each other, each on a thread of its own.
struct Exchange {
    /// The share of frames that belong to the other worker, in percent.
    percent: u64,
    /// The number of workers that have received all their frames.
    done: AtomicUsize,
}

impl Exchange {
    const FRAMES: usize = 10_000;
    const PACKETS: u64 = 3_000_000;
    /// The size between two queues with rings of the default size.
    const ROOM: usize = 8192;

    /// Returns the nanoseconds of CPU time a packet.
    fn measure(percent: u64) -> f64 {
        let this = Self { percent, done: AtomicUsize::new(0) };
        let (one, other) = Peer::pair(Self::ROOM);
        let [one, other] = std::thread::scope(|scope| {
            let this = &this;
            [one, other].map(|peer| scope.spawn(move || this.work(peer))).map(|thread| thread.join().unwrap())
        });
        (one + other).as_nanos() as f64 / (2 * Self::PACKETS) as f64
    }

    /// Does the work of one worker; returns its CPU time.
    fn work(&self, mut peer: Peer<usize>) -> Duration {
        // Both workers have the same flows: a frame handed over belongs to a flow that the other worker has
        // too.
        let frames = (0..Self::FRAMES as u16).map(|port| Flow::v4(10_000 + port, 9).udp(&[0; 200])).collect();
        let mut bench = Bench::new(Stage::Known, frames, WorkerConfig::default().max_flows);
        let mut analyse = |buffer: usize| {
            let (info, frame) = &bench.frames[buffer];
            bench.worker.frame(info, frame);
        };
        let mut received = 0;
        let mut waits_for_other = false;
        let start = thread_time();
        while self.done.load(Ordering::Acquire) < 2 || !peer.has_lent_nothing() {
            let mut idle = true;
            for _ in 0..BATCH.min((Self::PACKETS - received) as usize) {
                let buffer = (received.wrapping_mul(0x9e37_79b1) % Self::FRAMES as u64) as usize;
                if received % 100 >= self.percent {
                    analyse(buffer);
                } else if !peer.lend(&[buffer]) {
                    // Losing a frame is cheap and would distort the result, so this waits if the other worker
                    // has no core now.
                    break;
                }
                received += 1;
                idle = false;
            }
            for _ in 0..BATCH {
                let Some(buffer) = peer.borrow() else { break };
                idle = false;
                analyse(buffer);
                peer.give_back(buffer);
            }
            while peer.come_back().is_some() {}
            if received == Self::PACKETS && !std::mem::replace(&mut waits_for_other, true) {
                self.done.fetch_add(1, Ordering::Release);
            }
            if idle {
                // Sleeping excludes the time of waiting from the cost of handoffs.
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        thread_time().saturating_sub(start)
    }
}

fn info(frame: &[u8]) -> FrameInfo {
    let hash = InnerHeaders::parse(frame, 0).flow_hash(&FlowHashKey::new(0));
    FrameInfo { flow_hash: hash, original_len: frame.len() as u32, ..session(1) }
}

/// Returns the information about a frame of a session.
fn session(vni: u32) -> FrameInfo {
    let mirror = MirrorSession {
        vni: Vni::new(vni).unwrap(),
        outer_source: Address::from_v4(0x0a09_0001),
        outer_destination: Address::from_v4(0x0a09_0002),
        endpoint: 0,
    };
    FrameInfo {
        time: EPOCH,
        original_len: 0,
        flow_hash: FlowHash::default(),
        mirror: Some(mirror),
        side: None,
    }
}

/// Returns the resident bytes of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Returns a worker with this many flows, and the resident bytes that they add.
fn with_flows(flows: u64) -> (Bench, u64) {
    let before = resident();
    let mut bench = Bench::new(Stage::New, Stage::New.frames(), flows as usize + 16);
    while bench.worker.counters().flows_active < flows {
        bench.pass();
    }
    (bench, resident() - before)
}

/// Returns the longest time that a new flow takes, with its tick, in a worker whose table is full.
fn pause(flows: u64) -> Duration {
    const NEW: usize = 300_000;
    let mut bench = Bench::new(Stage::New, Stage::New.frames(), flows as usize);
    // Twice, so that memory is touched and all of the first flows are gone.
    for _ in 0..2 * flows {
        bench.pass();
    }
    assert_eq!(bench.worker.counters().flows_active, flows);
    let mut longest = Duration::ZERO;
    for _ in 0..NEW {
        let start = thread_time();
        bench.pass();
        longest = longest.max(thread_time().saturating_sub(start));
    }
    longest
}

/// The number of flows of a worker, and of the sessions that they are spread over.
#[derive(Clone, Copy)]
struct Spread {
    flows: u64,
    vnis: u64,
}

/// The number of flows where another quantity grows.
const FLOWS: u64 = 10_000;

impl Spread {
    /// Returns the nanoseconds of this thread's CPU time that a packet of one of the flows takes, in an order
    /// that caches cannot predict.
    fn packet(self) -> f64 {
        const ROUNDS: usize = 7;
        const PACKETS: u64 = 200_000;
        let mut bench = Bench::new(Stage::New, Stage::New.frames(), self.flows as usize + 16);
        let (info, mut frame) = bench.frames.pop().unwrap();
        let mut send = |flow: u64| {
            // The inner source address.
            frame[26..30].copy_from_slice(&(0x0b00_0000 + flow as u32).to_be_bytes());
            let flow_hash = FlowHash((flow as u32).wrapping_mul(0x9e37_79b1));
            let session = session(1 + (flow % self.vnis) as u32);
            bench.worker.frame(&FrameInfo { flow_hash, original_len: info.original_len, ..session }, &frame);
        };
        (0..self.flows).for_each(&mut send);
        let mut flow = 1;
        let mut rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let start = thread_time();
                for _ in 0..PACKETS {
                    flow = (flow + 0x9e37_79b1) % self.flows;
                    send(flow);
                }
                thread_time().saturating_sub(start).as_nanos() as f64 / PACKETS as f64
            })
            .collect();
        assert!(bench.worker.counters().flows_active >= self.flows, "flows were taken for one another");
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    }
}

/// Returns the nanoseconds of CPU time that each thread of a store takes for a byte of the segments, with
/// packets of the mix.
fn store(form: &str, bytes: u64) -> Vec<(String, f64)> {
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::open(directory.path()).unwrap();
    let key = (form == "encrypted").then(|| {
        let path = directory.path().join("key");
        fs::write(&path, [7; 32]).unwrap();
        StoreKey::load(&path).unwrap()
    });
    let compression = (form == "zstd").then_some(1);
    let settings = Settings { compression, ..settings(Policy::default()) };
    let store = Store::open(&directory.path().join("store"), settings, key).unwrap();
    let mut worker = Worker::builder(WorkerConfig::default(), sink.producer(Overflow::Lose))
        .recorder(store.handle(0, Overflow::Wait).unwrap())
        .build();
    let frames: Vec<_> = mixed().into_iter().map(|frame| (info(&frame), frame)).collect();
    let mut kept = 0;
    while kept < bytes {
        for (info, frame) in &frames {
            worker.frame(info, frame);
            kept += frame.len() as u64;
        }
        worker.tick(EPOCH);
    }
    // All bytes except those still in memory on their way to the disk.
    let written = worker.recorder().counters().written_bytes as f64;
    let mut times = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        let on_cpu = fs::read_to_string(task.join("schedstat")).unwrap();
        let on_cpu: f64 = on_cpu.split(' ').next().unwrap().parse().unwrap();
        if name.starts_with("seal") || name.starts_with("write") {
            times.push((name.trim().to_owned(), on_cpu / written));
        }
    }
    times.sort_by(|one, other| one.0.cmp(&other.0));
    times
}

/// Returns the CPU time of this thread.
fn thread_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn growth(of: &str, count: u64) -> f64 {
    match of {
        "flows" => Spread { flows: count, vnis: 1 }.packet(),
        "VNIs" => Spread { flows: FLOWS, vnis: count }.packet(),
        "workers" => {
            let one = || Spread { flows: FLOWS, vnis: 1 }.packet();
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            all.iter().sum::<f64>() / count as f64
        }
        _ => panic!("nothing is known of the growth of {of}"),
    }
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |index: usize| arguments[index].parse::<u64>().unwrap();
    match arguments.first().map(String::as_str) {
        Some("instructions") => {
            let stage = Stage::ALL.into_iter().find(|stage| stage.name() == arguments[1]).unwrap();
            let mut bench = Bench::new(stage, stage.frames(), WorkerConfig::default().max_flows);
            for _ in 0..number(2) {
                measured(&mut bench);
                bench.take();
            }
            println!("{}", number(2) * bench.frames.len() as u64);
        }
        Some("memory") => println!("{}", with_flows(number(1)).1),
        Some("pause") => println!("{:.1}", pause(number(1)).as_secs_f64() * 1e6),
        Some("handed-over") => println!("{:.2}", Exchange::measure(number(1))),
        Some("store") => {
            for (thread, nanoseconds) in store(&arguments[1], number(2) << 20) {
                println!("{thread} {nanoseconds:.3}");
            }
        }
        Some("growth") => println!("{:.2}", growth(&arguments[1], number(2))),
        _ => by_criterion(),
    }
}

/// The function that callgrind counts.
#[inline(never)]
fn measured(bench: &mut Bench) {
    bench.pass();
}

/// Measures the parsers alone, with one message each.
fn parsers(criterion: &mut Criterion) {
    let answer = dns_answer(7, "host7.example.com", [192, 0, 2, 1].into());
    let request =
        b"GET /item/7 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
    let response =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nServer: example\r\nContent-Length: 5\r\n\r\n";
    let (client, server) = (client_hello("www.example.com"), server_hello());
    let mut handshake = Handshake::new();
    let mut group = criterion.benchmark_group("parser");
    group.throughput(Throughput::Elements(1));
    group.bench_function("dns", |bencher| bencher.iter(|| Message::parse(black_box(&answer)).is_ok()));
    group.bench_function("http-request", |bencher| {
        bencher.iter(|| Request::parse(black_box(request)).method.len());
    });
    group.bench_function("http-response", |bencher| {
        bencher.iter(|| Response::parse(black_box(response)).status);
    });
    group.bench_function("tls-handshake", |bencher| {
        bencher.iter(|| {
            let _ = handshake.push(Direction::ToServer, black_box(&client));
            let _ = handshake.push(Direction::ToClient, black_box(&server));
            let recorded = handshake.messages().is_recorded();
            handshake.clear();
            recorded
        });
    });
    let initial = quic_initial();
    let (mut connection, mut scratch) = (Connection::new(), Vec::new());
    group.bench_function("quic-initial", |bencher| {
        bencher.iter(|| {
            let hello = connection.push(Direction::ToServer, black_box(&initial), &mut scratch).is_some();
            connection.clear();
            assert!(hello);
        });
    });
    group.bench_function("detect", |bencher| {
        let endpoints = Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 443 };
        bencher.iter(|| {
            let mut detector = Detector::default();
            let _ = detector.feed(endpoints, Direction::ToServer, black_box(&client));
            detector.flow()
        });
    });
    group.finish();
}

/// Returns the client's Initial packet of RFC 9001, A.2.
fn quic_initial() -> Vec<u8> {
    let text = include_str!("../../protocols/src/quic/rfc9001-client-initial.hex").replace('\n', "");
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}

fn by_criterion() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    let mut group = criterion.benchmark_group("worker");
    for stage in Stage::ALL {
        let mut bench = Bench::new(stage, stage.frames(), WorkerConfig::default().max_flows);
        group.throughput(Throughput::Elements(bench.frames.len() as u64));
        group.bench_function(stage.name(), |bencher| {
            bencher.iter_custom(|passes| {
                let mut time = Duration::ZERO;
                for _ in 0..passes {
                    let start = Instant::now();
                    bench.pass();
                    time += start.elapsed();
                    bench.take();
                }
                time
            });
        });
    }
    group.finish();
    parsers(&mut criterion);
    criterion.final_summary();
}
