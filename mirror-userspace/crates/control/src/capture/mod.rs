//! A running capture: interfaces with the program attached, one or more sockets per queue, one worker per
//! socket.
//!
//! [`Plan::make`] checks everything that can be wrong without changing anything. [`Plan::start`] then sets up
//! from the inside out: buffers and sockets, workers, and last the program, so that the first frame finds its
//! way. [`Capture::stop`] takes down from the outside in: it detaches the program, drains the rings, ends the
//! workers, closes the sockets and frees the buffers. A failure during the start leaves nothing behind,
//! because each part takes itself down when it is dropped.

mod clock;
pub mod device_losses;
mod pulse;
mod queue_worker;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use mirror_base::one_line;
use mirror_device::afxdp::{self, Opened, Port, ZeroCopy};
use mirror_device::nic::{self, Links, Netlink};
use mirror_device::xdp::Mode;
use mirror_device::xdp::attached::{self, Attached};
use mirror_device::xdp::policy::PolicyError;
use mirror_device::xdp::program::{self, CaptureProgram, LogLevel, Options};
use mirror_engine::indicators::Indicators;
use mirror_engine::inspection::Rules;
use mirror_engine::observers::Workers;
use mirror_engine::worker::affinity::Affinity;
use mirror_engine::worker::flow_scan::FlowScan;
use mirror_engine::worker::{Datagrams, Tuning, Worker, WorkerConfig};
use mirror_records::sink::{Overflow, Sink};
use mirror_rules::Policy;
use mirror_signatures::engine::{Engine, KEYS as COUNTED};
use mirror_signatures::threshold::Counts;
use mirror_store::{Store, StoreError, UploadWatch};
use mirror_xdp_common::counters::Counter;
use mirror_xdp_common::outer::Ports;
use nix::errno::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub use self::pulse::Pulse;
use self::queue_worker::{Assignment, Counters, Ended, Handle, Stages};
pub use self::queue_worker::{LiveWorker, WorkerError};
use crate::config::{ModeChoice, ReceiveSettings, ShuntSettings, settings};
use crate::host::port::ReservedPort;
use crate::host::{cpus, memory, privilege};
use crate::observe::rules::RulesInForce;
use crate::stats::{self, Profile, Stats};

/// A detached program has finished once its counters have stood still for this long.
const SETTLE: Duration = Duration::from_millis(10);
/// The longest wait for that.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// The longest wait for workers to apply new settings; a running worker needs a tenth of a second at most.
const TUNE_LIMIT: Duration = Duration::from_secs(1);

/// The time that a killed process may need to disappear.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);

/// The configuration of a capture.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// Settings of reception.
    pub receive: ReceiveSettings,
    /// Detaches an XDP program that is already attached.
    pub replace: bool,
    /// UDP ports of mirror traffic.
    pub ports: Ports,
    /// The single frames that the program logs.
    pub log: LogLevel,
    /// The settings of each worker. Their seed is also that of the program.
    pub worker: WorkerConfig,
    /// Admission and filter rules.
    pub policy: Policy,
    /// Settings of flows that the driver counts and drops.
    pub shunt: ShuntSettings,
    /// The indicators that raise alerts.
    pub indicators: Arc<Indicators>,
    /// The rules that raise alerts, if there are any.
    pub rules: Option<Arc<Engine>>,
}

/// The reasons why a capture does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process lacks privileges.
    #[error("capturing needs root, or the capabilities it lacks: {}; run it with sudo", .0.join(", "))]
    Privilege(Vec<&'static str>),
    /// The kernel does not report its interfaces.
    #[error(transparent)]
    Netlink(nic::Error),
    /// An interface cannot be captured.
    #[error("{name}")]
    Interface {
        /// Its name.
        name: String,
        /// The reason.
        source: Box<InterfaceError>,
    },
    /// An interface was named twice.
    #[error("{0}: named twice")]
    Twice(String),
    /// Another socket on this host receives the datagrams of a port of mirror traffic.
    #[error(
        "UDP port {port} is in use on this host, {by}; stop that, or choose the port of the mirror \
         sessions with --vxlan-port or --geneve-port"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// The user of the port.
        by: PortUser,
    },
    /// A port of mirror traffic cannot be reserved.
    #[error("cannot reserve UDP port {port}")]
    Port {
        /// The port.
        port: u16,
        /// The error of the kernel.
        source: Errno,
    },
    /// A worker's thread cannot be started.
    #[error("cannot start a worker")]
    Thread(#[source] std::io::Error),
    /// The packet store has no room for a worker.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A worker ended on its own.
    #[error("worker {worker}, of queue {queue} of {interface}, ended")]
    Worker {
        /// Its number.
        worker: usize,
        /// The interface that it served.
        interface: String,
        /// The queue that it served.
        queue: u32,
        /// The reason why it ended.
        source: WorkerError,
    },
}

/// The user of a UDP port.
#[derive(Debug)]
pub enum PortUser {
    /// A VXLAN interface of the kernel.
    Interface(String),
    /// A process.
    Process,
}

impl Error {
    /// Makes the error about the interface `name`.
    fn of(name: &str, source: impl Into<InterfaceError>) -> Self {
        Self::Interface { name: name.to_owned(), source: Box::new(source.into()) }
    }
}

impl fmt::Display for PortUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => write!(f, "by the VXLAN interface {name}"),
            Self::Process => f.write_str("by another program (`ss -ulpn` names it)"),
        }
    }
}

/// The reasons why an interface cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// It does not exist, or the kernel refuses a request about it.
    #[error(transparent)]
    Netlink(#[from] nic::Error),
    /// It is down.
    #[error("the interface is down; set it up with `ip link set dev {0} up`")]
    Down(String),
    /// Its frames have no Ethernet header.
    #[error("not an Ethernet interface, which mirror traffic needs; capture another one")]
    NotEthernet,
    /// Its frames may be longer than a buffer.
    #[error(
        "its MTU of {mtu} is too large{}, the largest possible is {most}; set it with `ip link set dev \
         {name} mtu {most}`",
        if *most == afxdp::MAX_MTU { " for zero-copy" } else { "" }
    )]
    Mtu {
        /// The interface.
        name: String,
        /// Its MTU.
        mtu: u32,
        /// The largest supported MTU.
        most: u32,
    },
    /// An XDP program is attached to it already.
    #[error("an XDP program is attached already ({0}); stop its owner, or detach it with --replace")]
    Attached(Attached),
    /// The attached program cannot be detached.
    #[error(transparent)]
    Replace(#[from] attached::Error),
    /// The program cannot be loaded.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// The sockets cannot be opened.
    #[error(transparent)]
    Sockets(#[from] afxdp::Error),
    /// Its rules cannot be put in force.
    #[error("the rules cannot be put in force")]
    Policy(#[from] PolicyError),
    /// The program cannot be attached.
    #[error("the XDP program cannot be attached in {} mode: {}", mode.name(), reason(.cause))]
    Attach {
        /// The mode that was tried.
        mode: Mode,
        /// The cause.
        cause: program::Error,
    },
    /// It was removed from the system during the capture.
    #[error("the interface is gone")]
    Gone,
    /// Another process detached the program during the capture.
    #[error("another process detached the XDP program")]
    Detached,
}

/// Returns the reason why a program could not be attached.
fn reason(error: &program::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        Some(Errno::ENOSPC) => "too few queues: a veth needs as many for receiving as its peer has for \
                                sending, other drivers one for each CPU"
            .to_owned(),
        Some(errno) => errno.desc().to_owned(),
        None => one_line(error),
    }
}

/// An interface on which a capture can start.
#[derive(Debug)]
struct PlannedDevice {
    interface: nic::Interface,
    queues: NonZeroU32,
}

/// The resources that the interfaces share.
struct Shares {
    /// CPUs for the workers; empty if any CPU will do.
    cpus: Vec<usize>,
    sockets_per_queue: NonZeroU32,
    ring: u32,
}

impl Shares {
    fn new(settings: &ReceiveSettings, devices: &[PlannedDevice]) -> Self {
        let cpus = match &settings.cpus {
            Some(list) => list.cpus().to_vec(),
            None => cpus::choose(devices.iter().map(|device| &device.interface)),
        };
        let queues = devices.iter().map(|device| device.queues.get()).sum();
        let queues = NonZeroU32::new(queues).unwrap_or(NonZeroU32::MIN);
        let most = settings::MAX_SOCKETS as u32;
        let sockets = settings.sockets_per_queue.unwrap_or_else(|| (cpus.len() as u32 / queues).min(most));
        Self {
            cpus,
            sockets_per_queue: NonZeroU32::new(sockets).unwrap_or(NonZeroU32::MIN),
            ring: settings.ring.unwrap_or_else(|| memory::ring(queues)),
        }
    }
}

/// A capture that has passed all checks.
#[derive(Debug)]
pub struct Plan {
    config: Config,
    netlink: Netlink,
    devices: Vec<PlannedDevice>,
    ports: Vec<ReservedPort>,
}

impl Plan {
    /// Checks privileges, interfaces and ports. Changes nothing, except that it binds the ports.
    ///
    /// Needs a tokio runtime. Network namespace and allowed CPUs are those of the calling thread.
    pub async fn make(config: Config) -> Result<Self, Error> {
        let missing = privilege::missing();
        if !missing.is_empty() {
            return Err(Error::Privilege(missing));
        }
        let netlink = Netlink::connect().map_err(Error::Netlink)?;
        let mut devices: Vec<PlannedDevice> = Vec::new();
        for name in &config.interfaces {
            let device = PlannedDevice::check(&netlink, name, &config)
                .await
                .map_err(|source| Error::of(name, source))?;
            if devices.iter().any(|other| other.interface.index == device.interface.index) {
                return Err(Error::Twice(name.clone()));
            }
            devices.push(device);
        }
        let mut ports = Vec::new();
        for port in config.ports.iter() {
            ports.push(match ReservedPort::take(port) {
                Ok(reserved) => reserved,
                Err(Errno::EADDRINUSE) => {
                    let interface = netlink.vxlan_on_port(port).await.map_err(Error::Netlink)?;
                    let by = interface.map_or(PortUser::Process, PortUser::Interface);
                    return Err(Error::PortInUse { port, by });
                }
                Err(source) => return Err(Error::Port { port, source }),
            });
        }
        Ok(Self { config, netlink, devices, ports })
    }

    /// Opens the sockets, starts the workers, and attaches the program. With a store, the workers keep frames
    /// in it.
    pub async fn start(self, sink: &Sink, store: Option<&Store>) -> Result<Capture, Error> {
        privilege::raise_locked_memory_limit();
        let stop = Arc::new(AtomicBool::new(false));
        let (notice, ended) = unbounded_channel();
        let mut capture = Capture {
            devices: Vec::new(),
            workers: Vec::new(),
            stop: Arc::clone(&stop),
            ended,
            started: Instant::now(),
            policy: self.config.policy.clone(),
            tuning: self.config.worker.tuning,
            indicators: Arc::clone(&self.config.indicators),
            rules: RulesInForce::default(),
            counts: Arc::new(Counts::new(COUNTED, self.config.worker.hash_seed)),
            netlink: self.netlink,
            upload: store.and_then(Store::upload),
            links: Links::of(self.devices.iter().map(|device| &device.interface)),
            ports: self.ports,
            missed_said: AtomicBool::new(false),
        };
        capture.rules.set(self.config.rules.clone());
        let shares = Shares::new(&self.config.receive, &self.devices);
        for planned in self.devices {
            let name = planned.interface.name.clone();
            let error = |source| Error::of(&name, source);
            let device = capture.devices.len();
            if self.config.replace {
                // This comes before the sockets are opened: the program's owner may hold sockets on the same
                // queues, and closes them when it finds its program gone.
                planned.clear(&capture.netlink).await.map_err(error)?;
            }
            let (opened, ports) = Device::open(planned, &self.config, &shares).map_err(error)?;
            capture.devices.push(opened);
            let workers = ports.len() as u32;
            let affinity =
                (self.config.receive.flow_affinity && workers > 1).then_some(Affinity::over(workers));
            let rules = store.and_then(Store::rules);
            if let Some(rules) = &rules {
                capture.devices[device].program.tell_rules(Arc::clone(rules));
            }
            let stages = Arc::new(Stages::of(ports.len()));
            let mut datagrams = affinity
                .map(|affinity| Datagrams::between(ports.len(), affinity))
                .unwrap_or_default()
                .into_iter();
            for port in ports {
                let number = capture.workers.len();
                let cpu = (!shares.cpus.is_empty()).then(|| shares.cpus[number % shares.cpus.len()]);
                let queue = port.queue();
                let shunter = capture.devices[device]
                    .program
                    .shunter(port.number() as u32, workers)
                    .map_err(|source| Error::of(&name, source))?;
                let recorder = match store {
                    Some(store) => Some(store.handle(number, Overflow::Lose)?.by_rules(rules.clone())),
                    None => None,
                };
                let indicators = &self.config.indicators;
                let mut worker = Worker::builder(self.config.worker, sink.producer(Overflow::Lose))
                    .recorder(recorder)
                    .offload(Some(shunter))
                    .indicators((!indicators.is_empty()).then(|| Arc::clone(indicators)))
                    .datagrams(datagrams.next())
                    .build();
                worker.inspect(capture.with_counts(self.config.rules.clone()));
                let stages = Arc::clone(&stages);
                let assignment = Assignment { number, cpu, port, worker, affinity, stages };
                let handle =
                    Handle::spawn(assignment, Arc::clone(&stop), notice.clone()).map_err(Error::Thread)?;
                capture.workers.push((Served { device, queue }, handle));
            }
        }
        for device in &mut capture.devices {
            device.attach(self.config.receive.xdp_mode).map_err(|source| Error::of(&device.name, source))?;
            // Only a running capture warns of this; one that failed has an error to report.
            if let Some(errno) = device.refused {
                tracing::warn!("{}: {}", device.name, without_zero_copy(errno));
            }
        }
        capture.started = Instant::now();
        Ok(capture)
    }
}

impl PlannedDevice {
    async fn check(netlink: &Netlink, name: &str, config: &Config) -> Result<Self, InterfaceError> {
        let interface = netlink.interface(name).await?;
        if !interface.ethernet {
            return Err(InterfaceError::NotEthernet);
        }
        if !interface.up {
            return Err(InterfaceError::Down(interface.name));
        }
        let zero_copy = config.receive.zero_copy == ZeroCopy::Required;
        let most = if zero_copy { afxdp::MAX_MTU } else { afxdp::MAX_JUMBO_MTU };
        if interface.mtu > most {
            return Err(InterfaceError::Mtu { mtu: interface.mtu, name: interface.name, most });
        }
        if !config.replace {
            Self::check_unattached(netlink, name).await?;
        }
        let queues = NonZeroU32::new(netlink.rx_queues(&interface).await).unwrap_or(NonZeroU32::MIN);
        Ok(Self { interface, queues })
    }

    /// Checks that no XDP program is attached to the interface. A program that a process holds may disappear
    /// in a moment, if that process was just killed.
    async fn check_unattached(netlink: &Netlink, name: &str) -> Result<(), InterfaceError> {
        let deadline = Instant::now() + EXIT_PATIENCE;
        loop {
            let interface = netlink.interface(name).await?;
            let Some(attached) = attached::on(&interface).pop() else { return Ok(()) };
            if !attached.is_held() || Instant::now() > deadline {
                return Err(InterfaceError::Attached(attached));
            }
            tokio::time::sleep(EXIT_PATIENCE / 10).await;
        }
    }

    /// Detaches the XDP programs of the interface.
    async fn clear(&self, netlink: &Netlink) -> Result<(), InterfaceError> {
        for attached in attached::on(&netlink.interface(&self.interface.name).await?) {
            attached.detach(netlink).await?;
        }
        Ok(())
    }
}

/// An interface with its program.
struct Device {
    name: String,
    index: u32,
    queues: u32,
    workers: u32,
    mode: Mode,
    zero_copy: bool,
    /// The error with which zero-copy failed, if it was tried.
    refused: Option<Errno>,
    profile: Profile,
    huge_pages: bool,
    program: CaptureProgram,
    program_id: u32,
}

impl Device {
    /// Loads the program and opens the sockets.
    fn open(
        planned: PlannedDevice,
        config: &Config,
        shares: &Shares,
    ) -> Result<(Self, Vec<Port>), InterfaceError> {
        let PlannedDevice { interface, queues } = planned;
        let sockets_per_queue = shares.sockets_per_queue;
        let mut program = CaptureProgram::load(&Options {
            ports: config.ports,
            hash_seed: config.worker.hash_seed,
            log: config.log,
            queues: queues.get(),
            sockets_per_queue: sockets_per_queue.get(),
            max_shunted: config.shunt.max_flows,
        })?;
        program.set_policy(&config.policy)?;
        let ReceiveSettings { xdp_mode, zero_copy, flow_affinity, busy_poll, .. } = config.receive;
        let jumbo = interface.mtu > afxdp::MAX_MTU;
        let zero_copy = match zero_copy {
            ZeroCopy::Auto if jumbo || xdp_mode == ModeChoice::Generic => ZeroCopy::Off,
            choice => choice,
        };
        let plan = afxdp::Plan {
            queues,
            sockets_per_queue,
            hand_over: flow_affinity,
            ring: shares.ring,
            zero_copy,
            multi_buffer: jumbo,
            busy_poll,
        };
        let Opened { ports, zero_copy, refused, huge_pages } = open_near(&interface, &plan)?;
        for port in &ports {
            let number = port.number() as u32 / queues;
            program.set_socket_of_several(port.queue(), number, port.socket())?;
        }
        let device = Self {
            name: interface.name,
            index: interface.index,
            queues: queues.get(),
            workers: ports.len() as u32,
            mode: Mode::Native,
            zero_copy,
            refused,
            profile: if jumbo { Profile::Jumbo } else { Profile::SingleBuffer },
            huge_pages,
            program_id: program.id()?,
            program,
        };
        Ok((device, ports))
    }

    fn counts(&self) -> Result<program::Counts, Error> {
        self.program.counts().map_err(|source| Error::of(&self.name, source))
    }

    fn attach(&mut self, choice: ModeChoice) -> Result<(), InterfaceError> {
        self.mode = match choice {
            ModeChoice::Generic => Mode::Generic,
            ModeChoice::Auto | ModeChoice::Native => Mode::Native,
        };
        let Err(cause) = self.program.attach(self.index, self.mode) else { return Ok(()) };
        if choice != ModeChoice::Auto || cause.raw_os_error() == Some(Errno::EBUSY as i32) {
            return Err(InterfaceError::Attach { mode: self.mode, cause });
        }
        tracing::warn!(
            "{}: no native mode ({}), using generic mode, which is slower",
            self.name,
            reason(&cause)
        );
        self.mode = Mode::Generic;
        self.program
            .attach(self.index, self.mode)
            .map_err(|cause| InterfaceError::Attach { mode: self.mode, cause })
    }
}

/// Opens the sockets, with the buffers on the NUMA node of the interface.
fn open_near(interface: &nic::Interface, plan: &afxdp::Plan) -> Result<Opened, afxdp::Error> {
    let Some(cpus) = cpus::near(interface) else { return afxdp::open(&interface.name, plan) };
    // The thread that maps the memory touches it first, and so determines its node.
    let opened = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cpus::pin(&cpus);
            afxdp::open(&interface.name, plan)
        });
        thread.join()
    });
    opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Returns a warning about a driver without zero-copy, with the remedy.
fn without_zero_copy(refused: Errno) -> String {
    let reason = match refused {
        Errno::EOPNOTSUPP => "the driver has none".to_owned(),
        errno => format!("the driver refuses it: {}", errno.desc()),
    };
    format!(
        "no zero-copy ({reason}), frames are copied once; ENA has it with amzn-drivers from 2.13.2 on, and \
         --zero-copy off silences this warning"
    )
}

/// The queue that a worker serves.
#[derive(Clone, Copy)]
struct Served {
    /// Position of the interface in [`Capture::devices`].
    device: usize,
    queue: u32,
}

/// The part of one queue and its worker in the account.
type Part = (Served, Counters);

/// Makes the account without the records.
fn account(devices: &[Device], workers: &[Part], time: Duration) -> Result<Stats, Error> {
    let interface = |(index, device): (usize, &Device)| {
        let served = workers.iter().enumerate().filter(|(_, (served, _))| served.device == index);
        Ok(stats::Interface {
            name: device.name.clone(),
            mode: device.mode,
            device: nic::losses::Counters::default(),
            zero_copy: device.zero_copy,
            profile: device.profile,
            huge_pages: device.huge_pages,
            program: (&device.counts()?).into(),
            rings: served
                .map(|(worker, (served, c))| stats::Ring::new(served.queue, worker, c.delivered, c.socket))
                .collect(),
        })
    };
    let worker = |(number, (_, counters)): (usize, &Part)| stats::Worker {
        busy_ms: counters.busy.as_millis() as u64,
        ..stats::Worker::new(number, counters.hand_over, counters.worker.clone(), counters.store.clone())
    };
    Ok(Stats {
        seconds: time.as_secs_f64(),
        interfaces: devices.iter().enumerate().map(interface).collect::<Result<_, Error>>()?,
        workers: workers.iter().enumerate().map(worker).collect(),
        records: stats::Records::default(),
        tap: None,
        upload: None,
        policies: Vec::new(),
        missed: 0,
        unaccounted: None,
    })
}

/// A running capture. Dropping it ends the capture without an account.
pub struct Capture {
    devices: Vec<Device>,
    workers: Vec<(Served, Handle)>,
    stop: Arc<AtomicBool>,
    ended: UnboundedReceiver<Ended>,
    started: Instant,
    policy: Policy,
    tuning: Tuning,
    indicators: Arc<Indicators>,
    rules: RulesInForce,
    /// How often rules with limits matched, whatever rules are in force.
    counts: Arc<Counts>,
    netlink: Netlink,
    upload: Option<UploadWatch>,
    links: Links,
    ports: Vec<ReservedPort>,
    /// Set once the warning about missed mirror traffic was logged.
    missed_said: AtomicBool,
}

/// The way in which one interface is captured.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'c> {
    /// The interface.
    pub name: &'c str,
    /// The XDP mode of the program.
    pub mode: Mode,
    /// `true` if frames are received with zero-copy.
    pub zero_copy: bool,
    /// The number of queues.
    pub queues: u32,
    /// The number of workers.
    pub workers: u32,
    /// The placement of frames in buffers.
    pub profile: Profile,
    /// `true` if the buffers are in huge pages.
    pub huge_pages: bool,
}

/// The view of a worker from other threads.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The interface that it serves.
    pub interface: String,
    /// The queue that it serves.
    pub queue: u32,
    /// The time of its last iteration.
    pub pulse: Arc<Pulse>,
    /// The channel for surveys of its flows; it holds one at a time.
    pub surveys: SyncSender<FlowScan>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        let Self { name, mode, queues, workers, .. } = *self;
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{name}: {}, {copy}, {queues} queue{}", mode.name(), plural(queues))?;
        write!(f, ", {workers} worker{}", plural(workers))?;
        if self.profile == Profile::Jumbo {
            f.write_str(", jumbo frames in several buffers")?;
        }
        if self.huge_pages {
            f.write_str(", huge pages")?;
        }
        Ok(())
    }
}

impl Capture {
    /// Returns the interfaces, in the order in which they were named.
    pub fn interfaces(&self) -> impl Iterator<Item = Summary<'_>> {
        self.devices.iter().map(|device| Summary {
            name: &device.name,
            mode: device.mode,
            zero_copy: device.zero_copy,
            queues: device.queues,
            workers: device.workers,
            profile: device.profile,
            huge_pages: device.huge_pages,
        })
    }

    /// Returns the workers, for observers.
    #[must_use]
    pub fn workers(&self) -> Workers {
        Workers::new(self.workers.iter().map(|(_, handle)| Arc::clone(handle.mailbox())))
    }

    /// Returns the views of the workers, by their numbers.
    #[must_use]
    pub fn watches(&self) -> Vec<Watch> {
        let watch = |(served, handle): &(Served, Handle)| Watch {
            interface: self.devices.get(served.device).map(|d| d.name.clone()).unwrap_or_default(),
            queue: served.queue,
            pulse: handle.pulse(),
            surveys: handle.surveys(),
        };
        self.workers.iter().map(watch).collect()
    }

    /// Returns the links, as of the last [`Capture::check`].
    #[must_use]
    pub fn links(&self) -> Links {
        self.links.clone()
    }

    /// Returns the kernel's receive counters and the state of each interface.
    pub async fn received(&self) -> Result<Vec<nic::Received>, Error> {
        let mut all = Vec::new();
        for device in &self.devices {
            let received = self.netlink.received(device.index).await;
            all.push(received.map_err(|source| Error::of(&device.name, source))?);
        }
        Ok(all)
    }

    /// Returns the loggers of the programs' messages about single frames, see [`LogLevel`].
    pub fn loggers(
        &mut self,
    ) -> impl Iterator<Item = Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error>> {
        self.devices.iter_mut().map(|device| device.program.logger())
    }

    /// Returns the account so far, without the records. It is exact except for frames in transit; workers and
    /// sockets are a fraction of a second old.
    pub fn stats(&self) -> Result<Stats, Error> {
        let workers: Vec<_> =
            self.workers.iter().map(|(served, handle)| (*served, handle.published())).collect();
        let mut stats = account(&self.devices, &workers, self.started.elapsed())?;
        stats.missed = self.missed();
        stats.upload = self.upload.as_ref().map(UploadWatch::counters);
        Ok(stats)
    }

    /// Puts another policy in force, on all interfaces or on none.
    pub fn set_policy(&mut self, policy: Policy) -> Result<(), Error> {
        for index in 0..self.devices.len() {
            let device = &mut self.devices[index];
            let Err(source) = device.program.set_policy(&policy) else { continue };
            let error = Error::of(&device.name, source);
            for done in &mut self.devices[..index] {
                // The previous policy was in force until now, so it fits.
                let _ = done.program.set_policy(&self.policy);
            }
            return Err(error);
        }
        self.policy = policy;
        Ok(())
    }

    /// Gives the workers new settings and indicators, and waits until they use them.
    pub async fn tune(&mut self, tuning: Tuning, indicators: Arc<Indicators>) {
        if tuning != self.tuning {
            self.tuning = tuning;
            self.workers.iter().for_each(|(_, handle)| handle.changed().tuning.leave(tuning));
        }
        if indicators != self.indicators {
            for (_, handle) in &self.workers {
                handle.changed().indicators.leave(Arc::clone(&indicators));
            }
            self.indicators = indicators;
        }
        self.settle_in().await;
    }

    /// Gives the workers other rules, which they use from one batch to the next, and waits until they do.
    pub async fn inspect(&mut self, rules: Option<Arc<Engine>>) {
        for (_, handle) in &self.workers {
            handle.changed().rules.leave(self.with_counts(rules.clone()));
        }
        let before = self.rules.set(rules);
        self.settle_in().await;
        // Freed here: freeing them takes a worker longer than it has time.
        drop(before);
    }

    /// Joins rules with the counts of their matches, which all workers share.
    fn with_counts(&self, rules: Option<Arc<Engine>>) -> Option<Rules> {
        rules.map(|engine| Rules { engine, counts: Arc::clone(&self.counts) })
    }

    /// Returns the rules in force.
    #[must_use]
    pub const fn rules(&self) -> &RulesInForce {
        &self.rules
    }

    /// Waits until the workers use their new settings.
    async fn settle_in(&self) {
        let deadline = Instant::now() + TUNE_LIMIT;
        while !self.workers.iter().all(|(_, handle)| handle.changed().is_collected()) {
            if Instant::now() > deadline {
                tracing::warn!("a worker is stuck; it applies the new settings once it continues");
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns the counters of VNIs and rules, by interface.
    pub fn policy_stats(&self) -> Result<Vec<stats::Policy>, Error> {
        self.devices
            .iter()
            .map(|device| {
                let error = |source| Error::of(&device.name, source);
                let vnis = device.program.vni_counts().map_err(error)?;
                let rules = device.program.rule_counts().map_err(error)?;
                Ok(stats::Policy::new(&device.name, device.program.policy_generation(), &vnis, rules))
            })
            .collect()
    }

    /// Waits until a worker has ended on its own. Cancel safe.
    pub async fn worker_ended(&mut self) -> usize {
        match self.ended.recv().await {
            Some(ended) => ended.worker,
            // The workers hold the senders; without workers nothing can end.
            None => std::future::pending().await,
        }
    }

    /// Checks that the interfaces still exist with the program attached, and reads the state of their links.
    pub async fn check(&self) -> Result<(), Error> {
        for (position, device) in self.devices.iter().enumerate() {
            let error = |source: InterfaceError| Error::of(&device.name, source);
            match self.netlink.interface_by_index(device.index).await {
                Ok(Some(interface)) => {
                    if !interface.xdp.iter().any(|xdp| xdp.program == device.program_id) {
                        return Err(error(InterfaceError::Detached));
                    }
                    self.links.note(position, interface.link);
                }
                Ok(None) => return Err(error(InterfaceError::Gone)),
                Err(source) => return Err(error(source.into())),
            }
        }
        self.say_missed();
        Ok(())
    }

    /// Returns the number of mirrored datagrams that the network stack received in place of the capture.
    fn missed(&self) -> u64 {
        self.ports.iter().map(ReservedPort::reached).sum()
    }

    /// Warns once of missed mirror traffic, with the likely reason.
    fn say_missed(&self) {
        // While a capture starts, some datagrams pass before the program is attached.
        const SOME: u64 = 16;
        let missed = self.missed();
        if missed < SOME || self.missed_said.swap(true, Ordering::Relaxed) {
            return;
        }
        let generic = self.devices.iter().any(|device| device.mode == Mode::Generic);
        let why = if generic {
            "a program in generic mode does not receive frames that this host has redirected itself, as \
             `mirror-xdp source` on it does (use --xdp-mode native there), or frames of other interfaces"
        } else {
            "they come by an interface that is not captured, or the program passes them"
        };
        tracing::warn!(
            "{missed} datagrams of mirror traffic bypassed the capture and reached the network stack: {why}"
        );
    }

    /// Detaches the program, drains the rings, ends the workers and their flows, closes the sockets and frees
    /// the buffers. The returned account is exact, except for the records, which are still in transit.
    pub async fn stop(mut self) -> Result<Stats, Error> {
        let time = self.started.elapsed();
        // Once the programs are detached, all mirror traffic would count as missed.
        let missed = self.missed();
        for device in &mut self.devices {
            device.program.detach().map_err(|source| Error::of(&device.name, source))?;
        }
        self.settle().await?;
        // The sockets stay open until the account is made.
        let (_sockets, workers): (Vec<_>, Vec<_>) = self.end_workers()?.into_iter().unzip();
        let mut stats = account(&self.devices, &workers, time)?;
        stats.missed = missed;
        stats.upload = self.upload.as_ref().map(UploadWatch::counters);
        stats.policies = self.policy_stats()?;
        stats.unaccounted = Some(stats.imbalance());
        Ok(stats)
    }

    /// Ends all workers, even if one has failed; returns the first failure.
    fn end_workers(&mut self) -> Result<Vec<(Port, Part)>, Error> {
        self.stop.store(true, Ordering::Release);
        let ended: Vec<_> = std::mem::take(&mut self.workers)
            .into_iter()
            .map(|(served, handle)| (served, handle.join()))
            .collect();
        let result = |(worker, (served, result)): (usize, (Served, Result<_, WorkerError>))| match result {
            Ok((port, counters)) => Ok((port, (served, counters))),
            Err(source) => Err(Error::Worker {
                worker,
                interface: self.devices.get(served.device).map(|d| d.name.clone()).unwrap_or_default(),
                queue: served.queue,
                source,
            }),
        };
        ended.into_iter().enumerate().map(result).collect()
    }

    /// Waits for frames in transit through the programs. The kernel detaches a program without waiting for
    /// the CPUs that are just running it.
    async fn settle(&self) -> Result<(), Error> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut last = self.redirected()?;
        loop {
            tokio::time::sleep(SETTLE).await;
            let now = self.redirected()?;
            if now == last || Instant::now() > deadline {
                return Ok(());
            }
            last = now;
        }
    }

    fn redirected(&self) -> Result<u64, Error> {
        self.devices.iter().map(|device| Ok(device.counts()?.get(Counter::Redirected))).sum()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        for device in &mut self.devices {
            // The kernel cleans up at the end of the process if this fails.
            let _ = device.program.detach();
        }
        // After a stop there are no workers left; after a failed start their result does not matter.
        let _ = self.end_workers();
    }
}
