//! The capture program: loaded from the object inside this binary, attached to one interface, with typed
//! access to its maps.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use mirror_rules::{KeptRules, Policy};
use mirror_xdp_common::capture;
use mirror_xdp_common::counters::{Counter, CounterArray};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::outer::Ports;

pub use super::error::Error;
use super::policy::{PolicyError, PolicyMaps, RuleCount, VniCount};
use super::shunt::{ShuntMaps, Shunter};
use crate::Mode;

/// The name of the program in the object, and in the kernel's list of programs.
pub const PROGRAM_NAME: &str = "capture";

/// The single frames that the program logs, by the kernel's ring buffer. The verifier removes the code of
/// disabled messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Skipped.
    #[default]
    Off,
    /// Each dropped frame.
    Debug,
    /// Each frame that was not captured.
    Trace,
}

impl LogLevel {
    /// Returns the number that `aya-log` compares with: [`aya_log::Level`], or 0 for none.
    const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Debug => aya_log::Level::Debug as u8,
            Self::Trace => aya_log::Level::Trace as u8,
        }
    }
}

/// The parameters that are fixed when the program is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// UDP destination ports of mirror traffic.
    pub ports: Ports,
    /// Seed of the flow hash. It is secret, so that flows that collide cannot be crafted.
    pub hash_seed: u64,
    /// The single frames to log.
    pub log: LogLevel,
    /// The number of queues of the interface.
    pub queues: u32,
    /// The number of sockets of each queue.
    pub sockets_per_queue: u32,
    /// The most flows that are shunted at a time.
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

/// Bytes of the table of the last decisions over all CPUs, and bytes of one entry.
const MEMO_BYTES: usize = 64 << 20;
const MEMO_ENTRY: usize = 128;
/// The fewest and the most entries of a CPU, as powers of two.
const MEMO_BITS: std::ops::RangeInclusive<u32> = 12..=16;

/// Returns the number of entries of each of this many CPUs, as a power of two.
fn memo_bits(cpus: usize) -> u32 {
    let bits = (MEMO_BYTES / MEMO_ENTRY / cpus.max(1)).checked_ilog2().unwrap_or_default();
    bits.clamp(*MEMO_BITS.start(), *MEMO_BITS.end())
}

/// The counters of the program, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts(CounterArray);

impl Counts {
    /// Returns the value of a counter.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Returns the increase since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index].wrapping_sub(earlier.0[index])))
    }
}

/// The result of running the program on a frame that was not received.
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
    /// Loads the program into the kernel. It captures everything until a policy is set.
    pub fn load(options: &Options) -> Result<Self, Error> {
        Self::load_object(crate::objects::CAPTURE, options)
    }

    /// Like [`CaptureProgram::load`], from an object that contains the program among others.
    pub fn load_object(object: &[u8], options: &Options) -> Result<Self, Error> {
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

    /// Puts a policy in force. No frame is judged by parts of two policies.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<(), PolicyError> {
        self.policy.replace(policy)
    }

    /// Reports the identifiers of rules to a store; those of later policies before they are in force.
    pub fn tell_rules(&mut self, kept: Arc<KeptRules>) {
        self.policy.tell(kept);
    }

    /// Returns the number of policies that have been in force; the first is that of [`CaptureProgram::load`].
    #[must_use]
    pub const fn policy_generation(&self) -> u32 {
        self.policy.generation()
    }

    /// Returns the counters of each rule.
    pub fn rule_counts(&self) -> Result<Vec<RuleCount>, Error> {
        Ok(self.policy.rule_counts()?)
    }

    /// Returns the counters of each VNI.
    pub fn vni_counts(&self) -> Result<Vec<VniCount>, Error> {
        Ok(self.policy.vni_counts()?)
    }

    /// Returns the part of the table of shunted flows that belongs to worker `worker` of `workers`.
    pub fn shunter(&self, worker: u32, workers: u32) -> Result<Shunter, Error> {
        self.shunts.part(worker, workers)
    }

    /// Returns the whole loaded object, for objects that contain more than the capture program and its maps.
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

    /// Attaches the program to the interface with this index. The kernel detaches it when the process ends,
    /// however it ends.
    pub fn attach(&mut self, interface: u32, mode: Mode) -> Result<(), Error> {
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        self.link = Some(self.xdp_mut()?.attach_to_if_index(interface, mode)?);
        Ok(())
    }

    /// Detaches the program from the interface. Frames in transit through it may still be counted.
    pub fn detach(&mut self) -> Result<(), Error> {
        if let Some(link) = self.link.take() {
            self.xdp_mut()?.detach(link)?;
        }
        Ok(())
    }

    /// Makes the program redirect the frames of a queue to this `AF_XDP` socket, the first one if there are
    /// several.
    pub fn set_socket(&mut self, queue: u32, socket: RawFd) -> Result<(), Error> {
        self.set_socket_of_several(queue, 0, socket)
    }

    /// Makes the program redirect the frames of a queue to this `AF_XDP` socket if their flows are assigned
    /// to the socket of this number.
    pub fn set_socket_of_several(&mut self, queue: u32, number: u32, socket: RawFd) -> Result<(), Error> {
        Ok(self.sockets.set(queue * self.sockets_per_queue + number, socket, 0)?)
    }

    /// Returns the current counters.
    pub fn counts(&self) -> Result<Counts, Error> {
        let mut sum = CounterArray::default();
        for one_cpu in self.counters.get(&0, 0)?.iter() {
            for (sum, count) in sum.iter_mut().zip(one_cpu) {
                *sum += count;
            }
        }
        Ok(Counts(sum))
    }

    /// Returns the identifier of the loaded program.
    pub fn id(&self) -> Result<u32, Error> {
        Ok(self.xdp()?.info()?.id())
    }

    /// Returns the number of instructions that the verifier processed; it gives up at one million.
    pub fn verified_instructions(&self) -> Result<Option<u32>, Error> {
        Ok(self.xdp()?.info()?.verified_instruction_count())
    }

    /// Returns the reader of the program's messages about single frames, which writes to the [`log`] facade.
    ///
    /// [`log`]: https://docs.rs/log
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
    }

    /// Runs the program `repeat` times on one frame by `BPF_PROG_TEST_RUN`, as if received by queue 0 of the
    /// loopback interface. From the second run on, the program sees the frame as the previous run left it.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<TestRun, Error> {
        self.run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() })
    }

    /// Like [`CaptureProgram::test_run`], with only the first `linear` bytes of the frame in its first
    /// buffer. Needs Linux 6.18.
    pub fn test_run_split(&self, frame: &[u8], linear: u32) -> Result<TestRun, Error> {
        // `struct xdp_md`: data, data_end, data_meta, and the interface and queues, of which 0 are the
        // default.
        let context: [u32; 6] = [0, linear, 0, 0, 0, 0];
        let context = context.map(u32::to_ne_bytes).concat();
        self.run(TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() })
    }

    fn run(&self, options: TestRunOptions<'_>) -> Result<TestRun, Error> {
        // The program may put its header in front of the frame.
        let mut out = vec![0; options.data_in.map_or(0, <[u8]>::len) + capture::LEN];
        let result = self.xdp()?.test_run(TestRunOptions { data_out: Some(&mut out), ..options })?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { action: result.return_value, frame: out, duration: result.duration })
    }
}
