//! The packet generator: replays captures as mirror traffic, or makes traffic up.
//!
//! [`run`] does all of it: it makes the frames (`sequence`) and gives them to an engine, which sends them
//! when they are due (`rate`). What the engine has handed to the interface and what the interface has
//! taken are two things: the kernel drops what a full queue refuses without telling the one who sent it.
//! So the interface's own counters say in the end what was sent, and what was refused.

mod af_xdp;
mod envelope;
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
pub use self::envelope::Envelope;
use self::envelope::Macs;
use self::kernel::Kernel;
use self::live_frames::LiveFrames;
pub use self::rate::Rate;
pub use self::sequence::{Countable, IMIX, Ranges, Traffic};
use self::sequence::{Recipe, Sequence, Target};

/// So often the user is listened to and told.
const LISTEN: Duration = Duration::from_millis(50);
const TELL: Duration = Duration::from_secs(1);
/// So long the interface's counters may stand still before they are taken for final.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);
/// Ethernet header, and a VLAN tag, which an MTU does not count.
const BEYOND_MTU: usize = ETHERNET_LEN;

/// How frames get to the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineChoice {
    /// An XDP program that makes the frames in the kernel: the fastest, on interfaces with native XDP
    #[default]
    LiveFrames,
    /// An AF_XDP socket: also frames of up to 11520 bytes, and interfaces without native XDP
    AfXdp,
    /// The kernel's own pktgen, where its module is loaded: made-up frames only, also longer ones
    Kernel,
}

impl EngineChoice {
    /// Bytes of the longest frame that it can send.
    const fn max_frame(self) -> usize {
        match self {
            Self::LiveFrames => live_frames::MAX_FRAME,
            Self::AfXdp => af_xdp::MAX_FRAME,
            Self::Kernel => usize::MAX,
        }
    }

    /// What to do about frames that are too long, on an interface that sends so many bytes.
    const fn remedy(self, interface_sends: usize) -> &'static str {
        match self {
            Self::LiveFrames if interface_sends > live_frames::MAX_FRAME => {
                "live-frames has a page for each, use --engine af-xdp, which sends up to 11520"
            }
            Self::AfXdp if interface_sends > af_xdp::MAX_FRAME => {
                "af-xdp has three pages for each (--engine kernel makes longer ones up)"
            }
            _ => "raise the MTU",
        }
    }
}

/// What to do with frames that are longer than the interface sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Oversize {
    /// Send nothing
    #[default]
    Refuse,
    /// Cut the inner frames, as a mirror session does
    Truncate,
}

/// What to send, where, and how fast.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface to send by.
    pub interface: String,
    /// How to send.
    pub engine: EngineChoice,
    /// What the frames are made of.
    pub traffic: Traffic,
    /// What is put around them.
    pub envelope: Envelope,
    /// The sessions' network identifiers; frames that were mirrored already keep theirs without.
    pub vnis: Option<Ranges<Vni>>,
    /// The sessions' sources; frames that were mirrored already keep theirs without.
    pub sources: Option<Ranges<IpAddr>>,
    /// The mirror target; frames that were mirrored already keep theirs without.
    pub target: Option<IpAddr>,
    /// The target's hardware address, or that of the router to it; without, the kernel is asked.
    pub target_mac: Option<[u8; 6]>,
    /// UDP port of the target.
    pub port: u16,
    /// How fast.
    pub rate: Rate,
    /// Frames to send.
    pub count: Option<u64>,
    /// How often to send the capture.
    pub loops: Option<u64>,
    /// How long to send.
    pub duration: Option<Duration>,
    /// Whether each loop brings new flows.
    pub rewrite: bool,
    /// What to do with frames that are too long.
    pub oversize: Oversize,
    /// The share of malformed frames, 0 to 1.
    pub malformed: f64,
    /// Seed of all that is chosen at random.
    pub seed: u64,
}

/// Why nothing was sent, or not all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no interface of this name, or the kernel does not tell.
    #[error("{interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// Why.
        source: nic::Error,
    },
    /// The interface is down.
    #[error("interface {0} is down: set it up with `ip link set {0} up`")]
    Down(String),
    /// The interface has no native XDP.
    #[error("{0} has no native XDP, through which the engine live-frames sends: use --engine af-xdp")]
    NoNativeXdp(String),
    /// The interface has native XDP, but takes no redirected frames.
    #[error(
        "{0} takes no frames of XDP at the moment: of a veth pair, the other end needs an XDP program or GRO \
         (`ethtool -K PEER gro on`); or use --engine af-xdp"
    )]
    NoTransmit(String),
    /// The kernel forbids it.
    #[error("generating packets needs root (or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF): run it with sudo")]
    Privilege,
    /// The target cannot be reached.
    #[error(transparent)]
    Target(#[from] mirror_device::source::Error),
    /// The target is reached by another interface.
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
    /// Capture files without a frame that could be sent.
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
    /// Some frames are longer than the interface sends.
    #[error(
        "{count} of {frames} frames are longer than the {max} bytes that can be sent here, the longest has \
         {longest} with its envelope: {remedy}, or cut them with --oversize truncate"
    )]
    Oversize {
        /// How many.
        count: u64,
        /// Of how many.
        frames: usize,
        /// Bytes of the longest.
        longest: usize,
        /// Bytes that can be sent.
        max: usize,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The kernel's generator is not there.
    #[error("the kernel's pktgen is not loaded: load it with `modprobe pktgen`, or use another --engine")]
    NoPktgen,
    /// Somebody else uses the kernel's generator.
    #[error("the kernel's pktgen is sending already, by {0}: wait for it, or use another --engine")]
    PktgenBusy(String),
    /// The kernel's generator cannot do what is asked for.
    #[error("the kernel's pktgen cannot {0}: use --engine live-frames or af-xdp")]
    KernelCannot(&'static str),
    /// The kernel's generator needs a target that the kernel knows the way to.
    #[error(
        "the kernel's pktgen sends to a target that the kernel knows the way to: name it with --to, and leave \
         --to-mac out"
    )]
    KernelTarget,
    /// The binary holds no eBPF object.
    #[error("this binary was built without its eBPF programs: build it with `cargo xtask build`")]
    NotBuilt,
    /// The kernel refuses.
    #[error("{what}: {cause}")]
    Kernel {
        /// What failed.
        what: &'static str,
        /// What the kernel or the library says.
        cause: String,
    },
}

impl Error {
    /// A refusal of the kernel.
    fn kernel<E: std::error::Error + 'static>(what: &'static str) -> impl Fn(E) -> Self + Copy {
        move |cause| match errno(&cause) {
            Some(libc::EPERM) => Self::Privilege,
            _ => Self::Kernel { what, cause: one_line(&cause) },
        }
    }
}

/// The system's error number that an error comes down to.
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

/// The time of the clock that schedules go by, in nanoseconds.
fn monotonic() -> Result<u64, Error> {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(Error::kernel("cannot read the clock"))?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// What an engine has handed to the interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    frames: u64,
    bytes: u64,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// Something that sends the frames of a sequence when they are due, in order, over and over again.
trait Engine {
    /// Sends until `limit` frames were sent in all, or `watch` says stop, which hears several times a second
    /// what was sent so far. Returns what was sent in all.
    fn send(&mut self, limit: u64, watch: &mut dyn FnMut(Progress) -> Go) -> Result<Progress, Error>;
}

/// What there is to tell before it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Frames of the capture, or of what was made up.
    pub frames: usize,
    /// Those that were cut to what can be sent.
    pub truncated: u64,
    /// Those that are left out: no Ethernet.
    pub unsendable: u64,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'a> {
    /// It begins.
    Ready(&'a Prepared),
    /// A second has passed; so many frames and bytes were sent.
    Sending {
        /// Frames so far.
        frames: u64,
        /// Bytes so far.
        bytes: u64,
        /// Since the beginning.
        elapsed: Duration,
    },
    /// The interface does not count what is sent by XDP: `sent` is what it was given.
    Uncounted,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Frames that the interface took.
    pub sent: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames that it was given and did not take.
    pub refused: u64,
    /// From the first frame to the last.
    pub seconds: f64,
    /// Frames a second.
    pub pps: f64,
}

/// Sends until all is sent, or `stop` is set; `tell` hears what happens meanwhile.
///
/// Runs in the network namespace of the calling thread.
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
        envelope: options.envelope,
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
    // As many frames as were asked for are those that the interface took.
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

/// Without these the kernel would refuse only after half of the work, and unclearly.
fn has_privilege() -> bool {
    use caps::{CapSet, Capability};
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    has(Capability::CAP_NET_ADMIN)
        && has(Capability::CAP_NET_RAW)
        && (has(Capability::CAP_BPF) || has(Capability::CAP_SYS_ADMIN))
}

/// Where the frames go. Without a target they have addresses that belong to nobody (RFC 5737).
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

/// A generator at work.
struct Sending<'a, T> {
    engine: &'a mut dyn Engine,
    stop: &'a AtomicBool,
    deadline: Option<Instant>,
    start: Instant,
    /// When it was last seen to have sent something.
    end: Instant,
    progress: Progress,
    tell: &'a mut T,
    told: Instant,
}

impl<T: FnMut(Event<'_>)> Sending<'_, T> {
    /// Whether it was told to stop, or its time is up.
    fn is_over(&self) -> bool {
        is_over(self.stop, self.deadline)
    }

    /// Sends until so many frames were handed to the interface in all.
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

/// What became of the frames that were handed to the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    sent: u64,
    bytes: u64,
    refused: u64,
    /// Whether the interface counts nothing.
    uncounted: bool,
}

/// Waits until the interface has counted all that it was given, or counts no more, and makes the account.
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

/// Others may send by the same interface: only what it did not take is surely ours.
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
    // Which frames were refused nobody knows: they had the mean length.
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
        // Frames of others among them.
        assert_eq!(account(120, 10), (90, 9_000, 10, false));
        // Neither sent nor counted as dropped: the interface went down.
        assert_eq!(account(40, 0), (40, 4_000, 60, false));
        // A driver without counters.
        assert_eq!(account(0, 0), (100, 10_000, 0, true));
    }
}
