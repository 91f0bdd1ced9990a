//! The packet generator: replays captures as mirror traffic, or sends synthetic traffic.
//!
//! [`run`] is the entry point: it makes the frames (`sequence`) and gives them to an engine, which sends them
//! when they are due (`rate`). The frames that the engine has handed to the interface and those that the
//! interface has accepted are two different numbers, because the kernel drops frames that a full queue
//! refuses without reporting that to the sender. The interface's own counters therefore decide in the end how
//! many frames were sent, and how many were refused.

mod af_xdp;
mod encapsulation;
mod kernel;
mod live_frames;
mod malform;
mod random;
mod rate;
mod sequence;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mirror_base::one_line;
use mirror_device::nic::{self, Interface, Netlink, XdpFeatures};
use mirror_packet::capture_file::CaptureFileError;
use mirror_xdp_common::Vni;
use mirror_xdp_common::wire::ETHERNET_LEN;
use serde::Serialize;

use self::af_xdp::AfXdp;
pub use self::encapsulation::Encapsulation;
use self::encapsulation::Macs;
use self::kernel::Kernel;
use self::live_frames::LiveFrames;
pub use self::rate::Rate;
pub use self::sequence::{Countable, IMIX, Ranges, Traffic};
use self::sequence::{Recipe, Sequence, Target};

/// The intervals at which a stop of the user is noticed, and at which progress is reported.
const LISTEN: Duration = Duration::from_millis(50);
const TELL: Duration = Duration::from_secs(1);
/// The interface's counters are final once they stand still for this long; and the interval of the checks.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);
/// The Ethernet header, which an MTU does not include.
const BEYOND_MTU: usize = ETHERNET_LEN;

/// The engine that sends the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineChoice {
    /// An XDP program that makes the frames in the kernel: the fastest, on interfaces with native XDP
    #[default]
    LiveFrames,
    /// An AF_XDP socket: also frames of up to 11520 bytes, and interfaces without native XDP
    AfXdp,
    /// The kernel's own pktgen, if its module is loaded: synthetic frames only, also longer ones
    Kernel,
}

impl EngineChoice {
    /// Returns the bytes of the longest frame that the engine can send.
    const fn max_frame(self) -> usize {
        match self {
            Self::LiveFrames => live_frames::MAX_FRAME,
            Self::AfXdp => af_xdp::MAX_FRAME,
            Self::Kernel => usize::MAX,
        }
    }

    /// Returns the remedy for frames that are too long, on an interface that sends at most `interface_sends`
    /// bytes.
    const fn remedy(self, interface_sends: usize) -> &'static str {
        match self {
            Self::LiveFrames if interface_sends > live_frames::MAX_FRAME => {
                "live-frames has a page for each, use --engine af-xdp, which sends up to 11520"
            }
            Self::AfXdp if interface_sends > af_xdp::MAX_FRAME => {
                "af-xdp has three pages for each (--engine kernel sends longer synthetic ones)"
            }
            _ => "raise the MTU",
        }
    }
}

/// The treatment of frames that are longer than the interface sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Oversize {
    /// Send nothing
    #[default]
    Refuse,
    /// Cut the inner frames, as a mirror session does
    Truncate,
}

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface to send by.
    pub interface: String,
    /// The engine that sends.
    pub engine: EngineChoice,
    /// The source of the frames.
    pub traffic: Traffic,
    /// The encapsulation of the frames.
    pub encapsulation: Encapsulation,
    /// VNIs of the sessions; without them, frames that were already mirrored keep theirs.
    pub vnis: Option<Ranges<Vni>>,
    /// Outer source addresses of the sessions; without them, frames that were already mirrored keep theirs.
    pub sources: Option<Ranges<IpAddr>>,
    /// The mirror target; without one, frames that were already mirrored keep theirs.
    pub target: Option<IpAddr>,
    /// The hardware address of the target, or of the router to it; without one, the kernel is asked.
    pub target_mac: Option<[u8; 6]>,
    /// UDP port of the target.
    pub port: u16,
    /// The rate of sending.
    pub rate: Rate,
    /// The number of frames to send.
    pub count: Option<u64>,
    /// The number of times to send the capture.
    pub loops: Option<u64>,
    /// The duration of sending.
    pub duration: Option<Duration>,
    /// Each loop brings new flows.
    pub rewrite: bool,
    /// The treatment of frames that are too long.
    pub oversize: Oversize,
    /// The share of malformed frames, from 0 to 1.
    pub malformed: f64,
    /// Seed of all random choices.
    pub seed: u64,
}

/// The reasons why nothing was sent, or not all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no interface of this name, or the kernel does not describe it.
    #[error("{interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// The cause.
        source: nic::Error,
    },
    /// The interface is down.
    #[error("interface {0} is down: set it up with `ip link set {0} up`")]
    Down(String),
    /// The interface has no native XDP.
    #[error("{0} has no native XDP, through which the engine live-frames sends: use --engine af-xdp")]
    NoNativeXdp(String),
    /// The interface has native XDP, but does not accept redirected frames.
    #[error(
        "{0} does not accept frames from XDP at the moment: of a veth pair, the other end needs an XDP program \
         or GRO (`ethtool -K PEER gro on`); or use --engine af-xdp"
    )]
    NoTransmit(String),
    /// The process lacks privileges.
    #[error("generating packets needs root (or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF): run it with sudo")]
    Privilege,
    /// The target cannot be reached.
    #[error(transparent)]
    Target(#[from] mirror_device::source::Error),
    /// Another interface leads to the target.
    #[error("{target} is reached by {way}, not by {interface}: name that one, or give --to-mac")]
    OtherInterface {
        /// The target.
        target: IpAddr,
        /// The interface that leads there.
        way: String,
        /// The interface that was given.
        interface: String,
    },
    /// A capture file cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureFileError),
    /// The capture files contain no frame that could be sent.
    #[error("there is nothing to send{}", if *unsendable > 0 { format!(": none of {unsendable} frames is Ethernet") } else { String::new() })]
    NothingToSend {
        /// Frames that are not Ethernet.
        unsendable: u64,
    },
    /// The capture does not fit into memory.
    #[error("{} has more frames than the kernel can hold for sending (1 GiB, 4 million): cut it, with editcap -r for instance", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Some frames are longer than the longest that can be sent.
    #[error(
        "{count} of {frames} frames are longer than the {max} bytes that can be sent here, the longest has \
         {longest} with its outer headers: {remedy}, or cut them with --oversize truncate"
    )]
    Oversize {
        /// The number of frames that are too long.
        count: u64,
        /// The number of all frames.
        frames: usize,
        /// Bytes of the longest frame.
        longest: usize,
        /// Bytes of the longest frame that can be sent.
        max: usize,
        /// The remedy.
        remedy: &'static str,
    },
    /// The kernel's pktgen module is not loaded.
    #[error("the kernel's pktgen is not loaded: load it with `modprobe pktgen`, or use another --engine")]
    NoPktgen,
    /// Another process uses the kernel's pktgen.
    #[error("the kernel's pktgen is sending already, by {0}: wait for it, or use another --engine")]
    PktgenBusy(String),
    /// The kernel's pktgen does not support an option.
    #[error("the kernel's pktgen cannot {0}: use --engine live-frames or af-xdp")]
    KernelCannot(&'static str),
    /// The kernel's pktgen needs a target to which the kernel has a route.
    #[error(
        "the kernel's pktgen needs a target to which the kernel has a route: name it with --to, and leave \
         --to-mac out"
    )]
    KernelTarget,
    /// The kernel refuses an operation.
    #[error("{what}: {cause}")]
    Kernel {
        /// The operation that failed.
        what: &'static str,
        /// The error of the kernel or the library.
        cause: String,
    },
}

impl Error {
    /// Makes an error from a refusal of the kernel.
    fn kernel<E: std::error::Error + 'static>(what: &'static str) -> impl Fn(E) -> Self + Copy {
        move |cause| match errno(&cause) {
            Some(libc::EPERM) => Self::Privilege,
            _ => Self::Kernel { what, cause: one_line(&cause) },
        }
    }
}

/// Returns the system's error number at the root of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// Returns the time of the clock that schedules use, in nanoseconds.
fn monotonic() -> Result<u64, Error> {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(Error::kernel("cannot read the clock"))?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// The frames and bytes that an engine has handed to the interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    frames: u64,
    bytes: u64,
}

/// The decision to continue or stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// An engine, which sends the frames of a sequence in order when they are due, over and over again.
trait Engine {
    /// Sends until `limit` frames were sent in total, or `watch` stops it. Calls `watch` several times a
    /// second with the progress so far. Returns the total progress.
    fn send(&mut self, limit: u64, watch: &mut dyn FnMut(Progress) -> Go) -> Result<Progress, Error>;
}

/// The properties of a sequence, reported before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Frames of the capture or of the synthetic traffic.
    pub frames: usize,
    /// Frames that were truncated to the longest that can be sent.
    pub truncated: u64,
    /// Frames that are left out because they are not Ethernet.
    pub unsendable: u64,
}

/// Events of a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// Sending begins.
    Ready(&'a Prepared),
    /// A second has passed.
    Sending {
        /// Frames sent so far.
        frames: u64,
        /// Bytes sent so far.
        bytes: u64,
        /// Time since the beginning.
        elapsed: Duration,
    },
    /// The interface does not count frames sent by XDP, so `sent` is the number of frames handed to it.
    Uncounted,
}

/// The result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Frames that the interface accepted.
    pub sent: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames that were handed to the interface but not accepted.
    pub refused: u64,
    /// Seconds from the first frame to the last.
    pub seconds: f64,
    /// Frames per second.
    pub pps: f64,
}

/// Sends until all is sent or `stop` is set; `tell` receives the events.
///
/// Uses the network namespace of the calling thread.
pub fn run(options: &Options, stop: &AtomicBool, mut tell: impl FnMut(Event<'_>)) -> Result<Totals, Error> {
    if options.engine == EngineChoice::Kernel {
        kernel::check(options)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::kernel("cannot start"))?;
    let (netlink, interface) = runtime.block_on(async {
        let failed = |source| Error::Interface { interface: options.interface.clone(), source };
        let netlink = Netlink::connect().map_err(failed)?;
        let interface = netlink.interface(&options.interface).await.map_err(failed)?;
        Ok::<_, Error>((netlink, interface))
    })?;
    if !interface.up {
        return Err(Error::Down(interface.name));
    }
    if !has_privilege() {
        return Err(Error::Privilege);
    }
    let target = runtime.block_on(target(options, &interface))?;
    let interface_sends = interface.mtu as usize + BEYOND_MTU;
    let recipe = Recipe {
        encapsulation: options.encapsulation,
        port: options.port,
        vnis: options.vnis.as_ref(),
        sources: options.sources.as_ref(),
        target,
        target_for_all: options.target.is_some(),
        rate: options.rate,
        oversize: options.oversize,
        max_frame: interface_sends.min(options.engine.max_frame()),
        remedy: options.engine.remedy(interface_sends),
        malformed: options.malformed,
        seed: options.seed,
    };
    let sequence = Sequence::make(&options.traffic, &recipe)?;
    let prepared = Prepared {
        frames: sequence.lap_frames,
        truncated: sequence.truncated,
        unsendable: sequence.unsendable,
    };
    let mut engine: Box<dyn Engine + '_> = match options.engine {
        EngineChoice::LiveFrames => {
            let features = || {
                let failed = |source| Error::Interface { interface: options.interface.clone(), source };
                runtime.block_on(netlink.xdp_features(interface.index)).map_err(failed)
            };
            Box::new(live_frames(&sequence, &interface, options.rewrite, features)?)
        }
        EngineChoice::AfXdp => Box::new(AfXdp::open(&sequence, &interface.name, options.rewrite)?),
        EngineChoice::Kernel => {
            Box::new(Kernel::open(&runtime, options, &interface, &target, recipe.max_frame)?)
        }
    };
    let counters = || -> Result<nic::Transmitted, Error> {
        let failed = |source| Error::Interface { interface: options.interface.clone(), source };
        runtime.block_on(netlink.transmitted(interface.index)).map_err(failed)
    };
    tell(Event::Ready(&prepared));
    let mut sending = Sending {
        engine: &mut *engine,
        stop,
        deadline: None,
        start: Instant::now(),
        end: Instant::now(),
        progress: Progress::default(),
        tell: &mut tell,
        told: Instant::now(),
    };
    sending.deadline = options.duration.map(|duration| sending.start + duration);
    let before = counters()?;
    let loops = options.loops.map(|loops| loops.saturating_mul(sequence.lap_frames as u64));
    let once = matches!(options.traffic, Traffic::Capture(_)).then_some(sequence.lap_frames as u64);
    let limit = match (options.count, loops, options.duration) {
        (Some(count), Some(loops), _) => Some(count.min(loops)),
        (count, loops, Some(_)) => count.or(loops),
        (count, loops, None) => count.or(loops).or(once),
    };
    sending.until(limit)?;
    let mut account = settle(sending.progress, before, &counters)?;
    // The requested number of frames is the number that the interface has to accept.
    if let Some(count) = options.count.filter(|&count| Some(count) == limit) {
        while account.sent < count && !sending.is_over() {
            let sent = account.sent;
            sending.until(Some(sending.progress.frames + count - sent))?;
            account = settle(sending.progress, before, &counters)?;
            if account.sent == sent {
                break;
            }
        }
    }
    let seconds = sending.end.saturating_duration_since(sending.start).as_secs_f64();
    if account.uncounted {
        tell(Event::Uncounted);
    }
    Ok(Totals {
        sent: account.sent,
        bytes: account.bytes,
        refused: account.refused,
        seconds,
        pps: if seconds > 0.0 { account.sent as f64 / seconds } else { 0.0 },
    })
}

/// Checks the privileges. Without them the kernel would refuse only half-way, with unclear errors.
fn has_privilege() -> bool {
    use caps::{CapSet, Capability};
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    has(Capability::CAP_NET_ADMIN)
        && has(Capability::CAP_NET_RAW)
        && (has(Capability::CAP_BPF) || has(Capability::CAP_SYS_ADMIN))
}

/// Returns the destination of the frames. Without a target, they have addresses reserved for documentation
/// (RFC 5737).
async fn target(options: &Options, interface: &Interface) -> Result<Target, Error> {
    const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 2];
    let source_mac = interface.mac.unwrap_or([2, 0, 0, 0, 0, 1]);
    let macs = Macs { source: source_mac, destination: options.target_mac.unwrap_or(NOBODY) };
    let documentation = |host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host));
    match (options.target, options.target_mac) {
        (None, _) => Ok(Target { source: documentation(1), destination: documentation(2), macs }),
        (Some(destination), Some(_)) => {
            let source = match destination {
                IpAddr::V4(_) => documentation(1),
                IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() ^ 0xffff).into()),
            };
            Ok(Target { source, destination, macs })
        }
        (Some(destination), None) => {
            let way = mirror_device::source::way_to(destination).await?;
            if way.path.interface != interface.index {
                return Err(Error::OtherInterface {
                    target: destination,
                    way: way.interface,
                    interface: interface.name.clone(),
                });
            }
            let macs = Macs { source: way.path.source_mac, destination: way.path.destination_mac };
            Ok(Target { source: way.path.source, destination, macs })
        }
    }
}

fn live_frames(
    sequence: &Sequence,
    interface: &Interface,
    rewrite: bool,
    features: impl Fn() -> Result<Option<XdpFeatures>, Error>,
) -> Result<LiveFrames, Error> {
    let now = features()?;
    if now.is_some_and(|features| !features.native()) {
        return Err(Error::NoNativeXdp(interface.name.clone()));
    }
    let mut engine = LiveFrames::load(sequence, interface.index, rewrite)?;
    if now.is_some_and(|features| !features.transmit()) {
        engine.prepare_driver(interface.index)?;
        if features()?.is_some_and(|features| !features.transmit()) {
            return Err(Error::NoTransmit(interface.name.clone()));
        }
    }
    Ok(engine)
}

/// An engine that sends.
struct Sending<'a, T> {
    engine: &'a mut dyn Engine,
    stop: &'a AtomicBool,
    deadline: Option<Instant>,
    start: Instant,
    /// The last time at which progress was seen.
    end: Instant,
    progress: Progress,
    tell: &'a mut T,
    told: Instant,
}

impl<T: FnMut(Event<'_>)> Sending<'_, T> {
    /// Returns whether the run was stopped, or its time is up.
    fn is_over(&self) -> bool {
        is_over(self.stop, self.deadline)
    }

    /// Sends until this many frames were handed to the interface in total.
    fn until(&mut self, limit: Option<u64>) -> Result<(), Error> {
        let Self { engine, stop, deadline, start, end, tell, told, progress } = self;
        let mut watch = |now: Progress| {
            if *progress != now {
                (*progress, *end) = (now, Instant::now());
            }
            let Progress { frames, bytes } = now;
            if told.elapsed() >= TELL {
                *told = Instant::now();
                tell(Event::Sending { frames, bytes, elapsed: start.elapsed() });
            }
            if is_over(stop, *deadline) { Go::Stop } else { Go::On }
        };
        *progress = engine.send(limit.unwrap_or(u64::MAX), &mut watch)?;
        Ok(())
    }
}

fn is_over(stop: &AtomicBool, deadline: Option<Instant>) -> bool {
    stop.load(Ordering::Relaxed) || deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// The outcome of the frames that were handed to the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    sent: u64,
    bytes: u64,
    refused: u64,
    /// `true` if the interface counts nothing.
    uncounted: bool,
}

/// Waits until the interface has counted all frames that it was given, or its counters stand still, and makes
/// the account.
fn settle(
    given: Progress,
    before: nic::Transmitted,
    counters: &impl Fn() -> Result<nic::Transmitted, Error>,
) -> Result<Account, Error> {
    let mut last = counters()?;
    let mut changed = Instant::now();
    while last.since(before).all() < given.frames && changed.elapsed() < SETTLE {
        std::thread::sleep(SETTLE_INTERVAL);
        let now = counters()?;
        if now != last {
            (last, changed) = (now, Instant::now());
        }
    }
    Ok(account(given, last.since(before)))
}

/// Other programs may send by the same interface, so only the frames that it did not accept are certainly
/// ours.
fn account(given: Progress, counted: nic::Transmitted) -> Account {
    let uncounted = counted.all() == 0 && given.frames > 0;
    let refused = if uncounted {
        0
    } else if counted.all() >= given.frames {
        counted.dropped.min(given.frames)
    } else {
        given.frames - counted.packets.min(given.frames)
    };
    let sent = given.frames - refused;
    // It is unknown which frames were refused, so the mean length is assumed.
    let bytes = if refused == 0 || given.frames == 0 {
        given.bytes
    } else {
        (u128::from(given.bytes) * u128::from(sent) / u128::from(given.frames)) as u64
    };
    Account { sent, bytes, refused, uncounted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(packets: u64, dropped: u64) -> nic::Transmitted {
        nic::Transmitted { packets, dropped }
    }

    #[test]
    fn what_the_interface_did_not_take_was_refused() {
        let given = Progress { frames: 100, bytes: 10_000 };
        let account = |packets, dropped| {
            let Account { sent, bytes, refused, uncounted } = account(given, counted(packets, dropped));
            (sent, bytes, refused, uncounted)
        };
        assert_eq!(account(100, 0), (100, 10_000, 0, false));
        assert_eq!(account(90, 10), (90, 9_000, 10, false));
        // Includes frames of other programs.
        assert_eq!(account(120, 10), (90, 9_000, 10, false));
        // Neither sent nor counted as dropped: the interface went down.
        assert_eq!(account(40, 0), (40, 4_000, 60, false));
        // A driver without counters.
        assert_eq!(account(0, 0), (100, 10_000, 0, true));
    }
}
