//! The capture program: loaded from the object inside this binary, attached to one interface, its maps
//! behind types.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, MapError, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader};
use mirror_rules::{KeptRules, Policy};
use mirror_xdp_common::capture;
use mirror_xdp_common::counters::{Counter, CounterArray};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::outer::Ports;

use super::policy::{PolicyError, PolicyMaps, RuleCount, VniCount};
use super::shunt::{ShuntMaps, Shunter};
use crate::Mode;

/// The name of the program in the object, and in the kernel's list of programs.
pub const PROGRAM_NAME: &str = "capture";

/// What the program tells of single frames, by way of the kernel's ring buffer. The verifier removes
/// what is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    #[default]
    Off,
    /// Each dropped frame.
    Debug,
    /// Each frame that was not captured.
    Trace,
}

impl LogLevel {
    /// The number that `aya-log` compares with: [`aya_log::Level`], 0 for none.
    const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Debug => aya_log::Level::Debug as u8,
            Self::Trace => aya_log::Level::Trace as u8,
        }
    }
}

/// What is fixed when the program is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// UDP destination ports of mirror traffic.
    pub ports: Ports,
    /// Seed of the flow hash. Secret, so that nobody can craft flows that collide.
    pub hash_seed: u64,
    /// What to tell of single frames.
    pub log: LogLevel,
    /// How many queues the interface has.
    pub queues: u32,
    /// How many sockets each queue has.
    pub sockets_per_queue: u32,
    /// Flows that can be shunted at once.
    pub max_shunted: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: Ports::default(),
            hash_seed: 0,
            log: LogLevel::Off,
            queues: 1,
            sockets_per_queue: 1,
            max_shunted: 1 << 16,
        }
    }
}

/// Bytes of the table of the last decisions, over all CPUs, and of one entry.
const MEMO_BYTES: usize = 64 << 20;
const MEMO_ENTRY: usize = 128;
/// The least and the most entries that a CPU has, as powers of two.
const MEMO_BITS: std::ops::RangeInclusive<u32> = 12..=16;

/// How many entries each of so many CPUs has, as a power of two.
fn memo_bits(cpus: usize) -> u32 {
    let bits = (MEMO_BYTES / MEMO_ENTRY / cpus.max(1)).checked_ilog2().unwrap_or_default();
    bits.clamp(*MEMO_BITS.start(), *MEMO_BITS.end())
}

/// Why the program could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary holds no eBPF object.
    #[error("this binary was built without its eBPF programs: build it with `cargo xtask build`")]
    NotBuilt,
    /// The object is not what this code expects of it.
    #[error("the embedded eBPF object lacks `{0}`: rebuild it with `cargo xtask build`")]
    Missing(&'static str),
    /// The kernel did not take the object.
    #[error("the kernel did not load the eBPF program")]
    Load(#[from] EbpfError),
    /// The kernel refused an operation on the program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel refused an operation on a map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The system does not say how many CPUs there are.
    #[error("cannot tell how many CPUs there may be")]
    Cpus(#[source] std::io::Error),
}

impl Error {
    /// The system's error number, where that is what it comes down to.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            next = error.source();
        }
        None
    }
}

/// The counters of the program, added up over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts(CounterArray);

impl Counts {
    /// How often this happened.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index].wrapping_sub(earlier.0[index])))
    }
}

/// What the program did with a frame that was not received but handed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The action, as in `enum xdp_action` of the kernel: 1 drop, 2 pass, 4 redirect.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

/// The capture program of one interface. Dropping it detaches and unloads it.
pub struct CaptureProgram {
    counters: PerCpuArray<MapData, CounterArray>,
    sockets: XskMap<MapData>,
    sockets_per_queue: u32,
    policy: PolicyMaps,
    shunts: ShuntMaps,
    link: Option<XdpLinkId>,
    ebpf: Ebpf,
}

impl CaptureProgram {
    /// Loads the program into the kernel. It captures everything until it is given a policy.
    pub fn load(options: &Options) -> Result<Self, Error> {
        Self::load_object(crate::objects::CAPTURE, options)
    }

    /// As [`CaptureProgram::load`], from an object that has the program among others.
    pub fn load_object(object: &[u8], options: &Options) -> Result<Self, Error> {
        if object.is_empty() {
            return Err(Error::NotBuilt);
        }
        let level = options.log.number();
        let cpus = nr_cpus().map_err(|(_, error)| Error::Cpus(error))?;
        let memo_bits = memo_bits(cpus);
        let shunts = options.max_shunted.max(1).saturating_mul(2);
        let hash_key = FlowHashKey::new(options.hash_seed);
        let mut ebpf = EbpfLoader::new()
            .override_global("PORTS", options.ports.as_array(), true)
            .override_global("HASH_KEY", &hash_key.0[..], true)
            .override_global("SOCKETS_PER_QUEUE", &options.sockets_per_queue, true)
            .override_global("MEMO_BITS", &memo_bits, true)
            .override_global(aya_log::LEVEL, &level, true)
            .map_max_entries("SOCKETS", options.queues * options.sockets_per_queue)
            .map_max_entries("MEMOS", (cpus as u32) << memo_bits)
            .map_max_entries("SHUNTS", shunts)
            .map_max_entries("SHUNT_COUNTERS", shunts)
            .load(object)?;
        let counters = ebpf.take_map("COUNTERS").ok_or(Error::Missing("COUNTERS"))?.try_into()?;
        let sockets = ebpf.take_map("SOCKETS").ok_or(Error::Missing("SOCKETS"))?.try_into()?;
        let policy = PolicyMaps::take(&mut ebpf)?;
        let shunts = ShuntMaps::take(&mut ebpf, options.max_shunted)?;
        let sockets_per_queue = options.sockets_per_queue;
        let mut program = Self { counters, sockets, sockets_per_queue, policy, shunts, link: None, ebpf };
        program.xdp_mut()?.load()?;
        program.policy.replace(&Policy::default()).map_err(|error| match error {
            PolicyError::Map(error) => Error::Map(error),
            PolicyError::Compile(_) => Error::Missing("TABLES"),
        })?;
        Ok(program)
    }

    /// Puts a policy in force: from one frame to the next, without a frame that is judged by parts of two.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<(), PolicyError> {
        self.policy.replace(policy)
    }

    /// Has the identifiers of rules told to a store, those of other policies before they are in force.
    pub fn tell_rules(&mut self, kept: Arc<KeptRules>) {
        self.policy.tell(kept);
    }

    /// How many policies have been in force; the first is that of [`CaptureProgram::load`].
    #[must_use]
    pub const fn policy_generation(&self) -> u32 {
        self.policy.generation()
    }

    /// What was counted of each rule.
    pub fn rule_counts(&self) -> Result<Vec<RuleCount>, Error> {
        Ok(self.policy.rule_counts()?)
    }

    /// What was counted of each VNI.
    pub fn vni_counts(&self) -> Result<Vec<VniCount>, Error> {
        Ok(self.policy.vni_counts()?)
    }

    /// The part of the shunted flows that worker number `worker` of `workers` decides on.
    pub fn shunter(&self, worker: u32, workers: u32) -> Result<Shunter, Error> {
        self.shunts.part(worker, workers)
    }

    /// All of the loaded object, where it has more than the capture program and its maps.
    pub const fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    fn xdp(&self) -> Result<&Xdp, Error> {
        let program = self.ebpf.program(PROGRAM_NAME).ok_or(Error::Missing(PROGRAM_NAME))?;
        Ok(program.try_into()?)
    }

    fn xdp_mut(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(PROGRAM_NAME).ok_or(Error::Missing(PROGRAM_NAME))?;
        Ok(program.try_into()?)
    }

    /// Attaches the program to the interface with this index. The kernel takes it off again when the
    /// process ends, however that comes about.
    pub fn attach(&mut self, interface: u32, mode: Mode) -> Result<(), Error> {
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        self.link = Some(self.xdp_mut()?.attach_to_if_index(interface, mode)?);
        Ok(())
    }

    /// Takes the program off the interface. Frames that are just passing through may still be counted.
    pub fn detach(&mut self) -> Result<(), Error> {
        if let Some(link) = self.link.take() {
            self.xdp_mut()?.detach(link)?;
        }
        Ok(())
    }

    /// Makes the program hand the frames of a queue to this `AF_XDP` socket, the first where there are
    /// several.
    pub fn set_socket(&mut self, queue: u32, socket: RawFd) -> Result<(), Error> {
        self.set_socket_of_several(queue, 0, socket)
    }

    /// Makes the program hand those frames of a queue to this `AF_XDP` socket whose flows fall to the
    /// socket of this number.
    pub fn set_socket_of_several(&mut self, queue: u32, number: u32, socket: RawFd) -> Result<(), Error> {
        Ok(self.sockets.set(queue * self.sockets_per_queue + number, socket, 0)?)
    }

    /// The counters as they stand.
    pub fn counts(&self) -> Result<Counts, Error> {
        let mut sum = CounterArray::default();
        for one_cpu in self.counters.get(&0, 0)?.iter() {
            for (sum, count) in sum.iter_mut().zip(one_cpu) {
                *sum += count;
            }
        }
        Ok(Counts(sum))
    }

    /// Identifier of the loaded program.
    pub fn id(&self) -> Result<u32, Error> {
        Ok(self.xdp()?.info()?.id())
    }

    /// How many instructions the verifier went through; the kernel gives up at one million.
    pub fn verified_instructions(&self) -> Result<Option<u32>, Error> {
        Ok(self.xdp()?.info()?.verified_instruction_count())
    }

    /// The reader of what the program tells of single frames; writes to the [`log`] facade.
    ///
    /// [`log`]: https://docs.rs/log
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
    }

    /// Runs the program `repeat` times on one frame by `BPF_PROG_TEST_RUN`, as if received by queue 0 of
    /// the loopback interface. From the second time on it sees what it has written itself.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<TestRun, Error> {
        self.run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() })
    }

    /// As [`CaptureProgram::test_run`], with only the first `linear` bytes of the frame in its first
    /// buffer. Needs Linux 6.18.
    pub fn test_run_split(&self, frame: &[u8], linear: u32) -> Result<TestRun, Error> {
        // `struct xdp_md`: data, data_end, data_meta, and the interface and queues, of which 0 are the
        // default.
        let context: [u32; 6] = [0, linear, 0, 0, 0, 0];
        let context = context.map(u32::to_ne_bytes).concat();
        self.run(TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() })
    }

    fn run(&self, options: TestRunOptions<'_>) -> Result<TestRun, Error> {
        // The program may put its header in front of what was there.
        let mut out = vec![0; options.data_in.map_or(0, <[u8]>::len) + capture::LEN];
        let result = self.xdp()?.test_run(TestRunOptions { data_out: Some(&mut out), ..options })?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { action: result.return_value, frame: out, duration: result.duration })
    }
}
