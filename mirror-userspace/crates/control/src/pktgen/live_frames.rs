//! The engine `live-frames`: an XDP program under `BPF_PROG_TEST_RUN` in the kernel's live frames mode (Linux
//! 5.18). For each frame the kernel takes a page out of a pool and runs the program on it, which copies the
//! next frame in and redirects it; batches go to the driver like any redirected frames. The pages return to
//! the pool after transmission, so a frame costs neither memory nor a system call.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, MapData};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use mirror_xdp_common::pktgen::{BLOCK_LEN, BLOCK_VALUE_LEN, ENTRY_LEN, Entry, STATE_LEN, State};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use zerocopy::FromBytes as _;

use super::sequence::Sequence;
use super::{Engine, Error, Go, LISTEN, Progress, monotonic};

const CANNOT_LOAD: &str = "the kernel does not load the packet generator's program";
const CANNOT_RUN: &str = "the kernel does not run the packet generator's program (it needs Linux 5.18)";

/// The longest frame: the room in a page besides the kernel's own data and the XDP headroom.
pub(super) const MAX_FRAME: usize = 3392;

/// Frames that the kernel prepares before it sends them.
const BATCH: u32 = 64;
/// The interval at which a stop of the user is noticed while the program runs.
const POLL: Duration = Duration::from_millis(2);
/// The program waits for a frame's time by running without effect, which keeps a core busy. For a longer wait
/// than this, it is stopped meanwhile; stopping and restarting it takes some hundredths of a second.
const LONG_WAIT: Duration = Duration::from_millis(200);
const START: Duration = Duration::from_millis(50);
/// The signal that interrupts a run. Nothing else uses it in this process.
const INTERRUPT: Signal = Signal::SIGUSR1;

/// The program, with the sequence in its maps.
pub(super) struct LiveFrames {
    state: Array<MapData, [u8; STATE_LEN]>,
    /// The initial contents of pages. They are as long as the longest frame, because the kernel would have to
    /// clear the bytes of a frame that grows.
    page: Vec<u8>,
    link: Option<XdpLinkId>,
    ebpf: Ebpf,
}

impl LiveFrames {
    /// Loads program and sequence into the kernel. With `rewrite`, each lap brings new flows.
    pub(super) fn load(sequence: &Sequence, interface: u32, rewrite: bool) -> Result<Self, Error> {
        // Only the arrival of the signal matters; without a handler it would end the process.
        signal_hook::flag::register(INTERRUPT as i32, Arc::new(AtomicBool::new(false)))
            .map_err(Error::kernel(CANNOT_RUN))?;
        let (blocks, entries) = pack(sequence);
        let paced = u32::from(sequence.frames.iter().any(|frame| frame.gap > 0));
        let frames = entries.len() as u32;
        let laps = if rewrite { sequence.laps } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .override_global("INTERFACE", &interface, true)
            .override_global("FRAMES", &frames, true)
            .override_global("ROOM", &sequence.longest(), true)
            .override_global("PACED", &paced, true)
            .override_global("LAPS", &laps, true)
            .map_max_entries("ENTRIES", frames)
            .map_max_entries("BLOCKS", blocks.len() as u32)
            .load(mirror_device::objects::PKTGEN)
            .map_err(Error::kernel(CANNOT_LOAD))?;
        let mut take = |name: &str| {
            let lacks = || Error::Kernel {
                what: CANNOT_LOAD,
                cause: format!("the object lacks `{name}`: rebuild it with `cargo xtask build`"),
            };
            ebpf.take_map(name).ok_or_else(lacks)
        };
        let loaded = Error::kernel(CANNOT_LOAD);
        let mut entry_map: Array<_, [u8; ENTRY_LEN]> = take("ENTRIES")?.try_into().map_err(loaded)?;
        let mut block_map: Array<_, [u8; BLOCK_VALUE_LEN]> = take("BLOCKS")?.try_into().map_err(loaded)?;
        let state = take("STATE")?.try_into().map_err(loaded)?;
        for (index, entry) in (0..).zip(&entries) {
            let bytes: [u8; ENTRY_LEN] = zerocopy::transmute!(*entry);
            entry_map.set(index, bytes, 0).map_err(loaded)?;
        }
        for (index, block) in (0..).zip(&blocks) {
            block_map.set(index, **block, 0).map_err(loaded)?;
        }
        let page = vec![0; sequence.longest() as usize];
        let mut engine = Self { state, page, link: None, ebpf };
        program(&mut engine.ebpf, "pktgen")?.load().map_err(Error::kernel(CANNOT_LOAD))?;
        Ok(engine)
    }

    /// Attaches a program that passes every frame to the interface: some drivers send redirected frames only
    /// from interfaces that have a program of their own.
    pub(super) fn prepare_driver(&mut self, interface: u32) -> Result<(), Error> {
        let attach = |program: &mut Xdp| -> Result<_, ProgramError> {
            program.load()?;
            program.attach_to_if_index(interface, XdpMode::Driver)
        };
        let link = attach(program(&mut self.ebpf, "pass")?);
        self.link = Some(link.map_err(Error::kernel("the interface does not accept an XDP program"))?);
        Ok(())
    }

    fn state(&self) -> Result<State, Error> {
        read(&self.state)
    }

    /// Runs the program until `is_over`, which is called with the state at intervals, returns `true`.
    fn run_until(&mut self, mut is_over: impl FnMut(&State) -> bool) -> Result<(), Error> {
        let Self { state, page, ebpf, .. } = self;
        let program = program(ebpf, "pktgen")?;
        let id = OnceLock::new();
        thread::scope(|scope| {
            let runner = thread::Builder::new()
                .name("pktgen".to_owned())
                .spawn_scoped(scope, || {
                    id.get_or_init(pthread_self);
                    run(program, page)
                })
                .map_err(Error::kernel(CANNOT_RUN))?;
            let mut outcome = Ok(());
            while !runner.is_finished() {
                thread::sleep(POLL);
                let over = read(state).map(|state| is_over(&state));
                if !matches!(over, Ok(false)) {
                    // The signal is repeated, because one that arrives before the run has begun is lost. The
                    // thread exists until it is joined.
                    if let Some(&id) = id.get() {
                        let _ = pthread_kill(id, INTERRUPT);
                    }
                    outcome = over.map(drop);
                }
            }
            let ended = runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.and(ended)
        })
    }
}

/// Runs the program once, as long as the kernel allows or until a signal arrives.
fn run(program: &Xdp, page: &[u8]) -> Result<(), Error> {
    let options = TestRunOptions {
        data_in: Some(page),
        repeat: u32::MAX,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    match program.test_run(options) {
        Ok(_) => Ok(()),
        Err(error) if super::errno(&error) == Some(libc::EINTR) => Ok(()),
        Err(error) => Err(Error::kernel(CANNOT_RUN)(error)),
    }
}

fn read(state: &Array<MapData, [u8; STATE_LEN]>) -> Result<State, Error> {
    let bytes = state.get(&0, 0).map_err(Error::kernel(CANNOT_RUN))?;
    let state = State::read_from_bytes(&bytes).unwrap_or_default();
    if state.failed > 0 {
        let cause = format!("{} frames did not fit into a page", state.failed);
        return Err(Error::Kernel { what: CANNOT_RUN, cause });
    }
    Ok(state)
}

impl Engine for LiveFrames {
    fn send(&mut self, limit: u64, watch: &mut dyn FnMut(Progress) -> Go) -> Result<Progress, Error> {
        let mut state = self.state()?;
        state.limit = limit;
        state.due = state.due.max(monotonic()?);
        let bytes: [u8; STATE_LEN] = zerocopy::transmute!(state);
        self.state.set(0, bytes, 0).map_err(Error::kernel(CANNOT_RUN))?;
        loop {
            let mut go = Go::On;
            self.run_until(|state| {
                go = watch(progress(state));
                let wait = monotonic().map_or(0, |now| state.due.saturating_sub(now));
                go == Go::Stop || state.frames >= limit || u128::from(wait) > LONG_WAIT.as_nanos()
            })?;
            let state = self.state()?;
            if go == Go::Stop || state.frames >= limit {
                return Ok(progress(&state));
            }
            // The wait is slept through in pieces, so that a stop of the user is noticed.
            while go == Go::On {
                let wait = Duration::from_nanos(state.due.saturating_sub(monotonic()?)).saturating_sub(START);
                if wait.is_zero() {
                    break;
                }
                thread::sleep(wait.min(LISTEN));
                go = watch(progress(&state));
            }
            if go == Go::Stop {
                return Ok(progress(&state));
            }
        }
    }
}

const fn progress(state: &State) -> Progress {
    Progress { frames: state.frames, bytes: state.bytes }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Error> {
    let missing = || Error::Kernel {
        what: CANNOT_LOAD,
        cause: format!("the object lacks `{name}`: rebuild it with `cargo xtask build`"),
    };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(Error::kernel(CANNOT_LOAD))
}

/// Packs the frames into blocks, one behind the other.
fn pack(sequence: &Sequence) -> (Vec<Box<[u8; BLOCK_VALUE_LEN]>>, Vec<Entry>) {
    let mut blocks: Vec<Box<[u8; BLOCK_VALUE_LEN]>> = Vec::new();
    // As if a block were full, so that the first frame begins a new one.
    let mut offset = BLOCK_LEN;
    let mut entries = Vec::with_capacity(sequence.frames.len());
    for frame in &sequence.frames {
        if offset >= BLOCK_LEN {
            let block = vec![0; BLOCK_VALUE_LEN].into_boxed_slice();
            blocks.push(block.try_into().expect("a block has just been made with as many bytes"));
            offset = 0;
        }
        let bytes = sequence.bytes_of(frame);
        if let Some(place) = blocks.last_mut().and_then(|block| block.get_mut(offset..offset + bytes.len())) {
            place.copy_from_slice(bytes);
        }
        entries.push(Entry {
            block: blocks.len() as u32 - 1,
            offset: offset as u32,
            length: frame.length,
            lap: frame.lap,
            gap: frame.gap,
            rewrite: frame.rewrite,
            reserved: 0,
        });
        offset += bytes.len();
    }
    (blocks, entries)
}
