//! The thread of one worker: takes frames off its socket's ring, reads their capture headers, passes each
//! frame to the worker that owns its flow, and returns the buffers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mirror_base::Slot;
use mirror_base::sandbox::{self, Kind};
use mirror_device::afxdp::{BATCH, Port, Statistics};
use mirror_device::xdp::shunt::Shunter;
use mirror_engine::indicators::Indicators;
use mirror_engine::inspection::Rules;
use mirror_engine::observers::Mailbox;
use mirror_engine::worker::affinity::Affinity;
use mirror_engine::worker::flow_scan::FlowScan;
use mirror_engine::worker::{Tuning, Worker, WorkerCounters};
use mirror_packet::{FrameInfo, MirrorDirection, MirrorSession};
use mirror_store::{StoreCounters, StoreHandle};
use mirror_xdp_common::capture::{CaptureHeader, flags};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::UnboundedSender;

use super::clock::Clock;
use super::cpus;
use super::pulse::Pulse;
use crate::stats::Handoff;

/// A worker of a live capture.
pub type LiveWorker = Worker<Option<StoreHandle>, Shunter>;

/// The interval at which an idle worker checks whether it is to stop.
const IDLE: Duration = Duration::from_millis(100);
/// The interval at which a stopping worker checks whether other workers still hand frames over.
const DRAIN: Duration = Duration::from_millis(1);
/// The interval at which timers advance and finished records leave under load, in nanoseconds.
const TICK: u64 = 10_000_000;
/// The interval at which counters are published, in nanoseconds.
const PUBLISH: u64 = 200_000_000;

/// The reason under which frames without a valid capture header are refused. No program writes such frames,
/// but they are counted nevertheless.
const BAD_HEADER: &str = "capture_header";

/// The counters of a socket and its worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    /// Frames taken off the ring.
    pub(super) delivered: u64,
    /// The outcome of handing over frames that belong to another worker.
    pub(super) hand_over: Handoff,
    /// The kernel's counters of the socket.
    pub(super) socket: Statistics,
    /// The worker's counters.
    pub(super) worker: WorkerCounters,
    /// Those of the packet store, where there is one.
    pub(super) store: Option<StoreCounters>,
    /// CPU time of the thread.
    pub(super) busy: Duration,
}

/// Sent when a worker's thread ends, even by a panic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// The worker's number.
    pub(super) worker: usize,
}

/// The reason why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It met a state that should not exist.
    #[error("panicked: {0}; this is a bug of mirror-xdp")]
    Panicked(String),
    /// The kernel refused to go on.
    #[error("cannot receive: {0}")]
    Receive(#[from] std::io::Error),
}

/// The progress of a device's workers in stopping: no worker ends before all have handed over all their
/// frames.
#[derive(Debug)]
pub(super) struct Stages {
    /// Workers that still take frames off their sockets, and may hand some over.
    receiving: AtomicUsize,
    /// Workers that may still have frames, and hand over datagrams reassembled from them.
    analysing: AtomicUsize,
}

impl Stages {
    /// Starts with this many workers in both stages.
    pub(super) const fn of(workers: usize) -> Self {
        Self { receiving: AtomicUsize::new(workers), analysing: AtomicUsize::new(workers) }
    }
}

/// The stage of one worker. It counts for as long as it lives.
#[derive(Debug)]
struct Stage {
    stages: Arc<Stages>,
    of: fn(&Stages) -> &AtomicUsize,
}

impl Drop for Stage {
    fn drop(&mut self) {
        (self.of)(&self.stages).fetch_sub(1, Ordering::Release);
    }
}

/// The parameters of a worker's thread.
#[derive(Debug)]
pub(super) struct Assignment {
    /// Its number among all workers.
    pub(super) number: usize,
    /// The CPU to run on; `None` for any.
    pub(super) cpu: Option<usize>,
    /// Its socket.
    pub(super) port: Port,
    /// The analysis of the frames.
    pub(super) worker: LiveWorker,
    /// The owners of flows; `None` if each worker owns the flows that its socket receives.
    pub(super) affinity: Option<Affinity>,
    /// The progress of the device's workers in stopping.
    pub(super) stages: Arc<Stages>,
}

/// Changed settings, left for a worker while it runs.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) tuning: Slot<Tuning>,
    pub(super) indicators: Slot<Arc<Indicators>>,
    pub(super) rules: Slot<Option<Rules>>,
}

impl Changed {
    /// Applies the settings to the worker.
    fn collect(&self, worker: &mut LiveWorker) {
        if let Some(tuning) = self.tuning.collect() {
            worker.tune(tuning);
        }
        if let Some(rules) = self.rules.collect() {
            worker.inspect(rules);
        }
        if let Some(indicators) = self.indicators.collect() {
            worker.watch_for(&indicators);
        }
    }

    /// Returns whether the worker has applied them all.
    pub(super) fn is_collected(&self) -> bool {
        self.tuning.is_collected() && self.rules.is_collected() && self.indicators.is_collected()
    }
}

/// The state of the thread while it runs.
struct QueueWorker {
    port: Port,
    worker: LiveWorker,
    affinity: Option<Affinity>,
    stages: Arc<Stages>,
    /// Held until the ring is empty and stays so.
    receiving: Option<Stage>,
    /// Held until no worker hands over frames any more, and none is left.
    analysing: Option<Stage>,
    clock: Clock,
    delivered: u64,
    hand_over: Handoff,
    undecodable: u64,
    published: Arc<Mutex<Counters>>,
    mailbox: Arc<Mailbox>,
    pulse: Arc<Pulse>,
    /// Changed settings, left by another thread.
    changed: Arc<Changed>,
    /// Requested surveys, and the one in progress.
    surveys: Receiver<FlowScan>,
    flow_scan: Option<FlowScan>,
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Handle {
    thread: JoinHandle<std::io::Result<(Port, Counters)>>,
    published: Arc<Mutex<Counters>>,
    mailbox: Arc<Mailbox>,
    pulse: Arc<Pulse>,
    changed: Arc<Changed>,
    surveys: SyncSender<FlowScan>,
}

/// Sends [`Ended`] when it is dropped.
struct EndNotice {
    worker: usize,
    to: UnboundedSender<Ended>,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        // There is no receiver any more if the capture has ended first.
        let _ = self.to.send(Ended { worker: self.worker });
    }
}

impl Handle {
    /// Starts a worker's thread. It works until `stop` is set.
    pub(super) fn spawn(
        assignment: Assignment,
        stop: Arc<AtomicBool>,
        ended: UnboundedSender<Ended>,
    ) -> std::io::Result<Self> {
        let Assignment { number, cpu, port, worker, affinity, stages } = assignment;
        let published = Arc::new(Mutex::new(Counters::default()));
        let mailbox = Arc::new(Mailbox::default());
        let pulse = Arc::new(Pulse::default());
        let changed = Arc::new(Changed::default());
        // One survey may wait for another to end.
        let (asked, surveys) = sync_channel(1);
        let mut this = QueueWorker {
            port,
            worker,
            affinity,
            receiving: Some(Stage { stages: Arc::clone(&stages), of: |stages| &stages.receiving }),
            analysing: Some(Stage { stages: Arc::clone(&stages), of: |stages| &stages.analysing }),
            stages,
            clock: Clock::new(),
            delivered: 0,
            hand_over: Handoff::default(),
            undecodable: 0,
            published: Arc::clone(&published),
            mailbox: Arc::clone(&mailbox),
            pulse: Arc::clone(&pulse),
            changed: Arc::clone(&changed),
            surveys,
            flow_scan: None,
        };
        let notice = EndNotice { worker: number, to: ended };
        let pin = move || cpu.into_iter().for_each(|cpu| cpus::pin(&[cpu]));
        let thread = sandbox::spawn(format!("worker {number}"), Kind::Worker, pin, move || {
            let _notice = notice;
            this.run(&stop)?;
            let counters = this.counters()?;
            Ok((this.port, counters))
        })?;
        Ok(Self { thread, published, mailbox, pulse, changed, surveys: asked })
    }

    /// Returns the slot where observers are left for the worker.
    pub(super) const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Returns the counters as last published, a fraction of a second old.
    pub(super) fn published(&self) -> Counters {
        // A worker that panicked while it held the lock leaves consistent counters, because they are moved in
        // at once.
        self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Returns the heartbeat of the worker.
    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Returns the slots where changed settings are left for the worker.
    pub(super) fn changed(&self) -> &Changed {
        &self.changed
    }

    /// Returns the channel for surveys of the worker's flows.
    pub(super) fn surveys(&self) -> SyncSender<FlowScan> {
        self.surveys.clone()
    }

    /// Waits until the thread has ended.
    pub(super) fn join(self) -> Result<(Port, Counters), WorkerError> {
        match self.thread.join() {
            Ok(result) => Ok(result?),
            Err(panic) => {
                let message = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                Err(WorkerError::Panicked(message.unwrap_or("no message").to_owned()))
            }
        }
    }
}

/// Returns the direction of a packet at the mirrored interface, from the flags of its capture header.
const fn side(header: u16) -> Option<MirrorDirection> {
    match header & (flags::INGRESS | flags::EGRESS) {
        flags::INGRESS => Some(MirrorDirection::Ingress),
        flags::EGRESS => Some(MirrorDirection::Egress),
        _ => None,
    }
}

impl QueueWorker {
    /// Works until `stop` is set, the ring is empty, and no other worker hands over frames any more.
    fn run(&mut self, stop: &AtomicBool) -> std::io::Result<()> {
        let (mut ticked, mut published) = (0, 0);
        loop {
            // This is read before the ring, so that a frame that was there when the stop was requested is
            // still taken.
            let stopping = stop.load(Ordering::Acquire);
            let nobody_receives = self.stages.receiving.load(Ordering::Acquire) == 0;
            let nobody_analyses = self.stages.analysing.load(Ordering::Acquire) == 0;
            let taken = self.receive() + self.take_over() + self.worker.take_datagrams(BATCH);
            self.port.flush();
            let Self { worker, port, .. } = self;
            worker.wake_for_datagrams(|number| port.wake(number));
            let now = self.clock.now();
            if now.wrapping_sub(ticked) >= TICK {
                if let Some(shunting) = self.worker.shunting() {
                    shunting.set_clock(self.clock.ahead());
                }
                self.mailbox.collect(self.worker.observers());
                self.changed.collect(&mut self.worker);
                self.worker.tick(now);
                self.pulse.beat();
                let flow_scan = self.flow_scan.take().or_else(|| self.surveys.try_recv().ok());
                self.flow_scan = flow_scan.and_then(|flow_scan| self.worker.flow_scan(flow_scan));
                ticked = now;
            }
            if now.wrapping_sub(published) >= PUBLISH {
                self.publish()?;
                published = now;
            }
            if taken > 0 {
                continue;
            }
            if stopping {
                self.receiving = None;
                if nobody_receives {
                    self.analysing = None;
                }
                if nobody_analyses {
                    break;
                }
            }
            let patience = match (stopping, &self.flow_scan) {
                (true, _) => DRAIN,
                (false, Some(_)) => Duration::from_nanos(TICK),
                (false, None) => IDLE,
            };
            self.port.wait(patience)?;
        }
        self.worker.finish();
        Ok(())
    }

    /// Takes one batch off the ring, keeps this worker's frames and hands over the rest; returns the number
    /// of frames.
    fn receive(&mut self) -> usize {
        let Self { port, worker, clock, affinity, hand_over, .. } = self;
        let number = port.number();
        let mut count = 0;
        while count < BATCH
            && let Some(received) = port.received()
        {
            count += 1;
            let Ok((header, frame)) = CaptureHeader::decode(received.bytes()) else {
                self.undecodable += 1;
                continue;
            };
            match affinity.map(|affinity| affinity.owner(header.flow_hash)) {
                Some(owner) if owner != number => {
                    if received.hand_over(owner) {
                        hand_over.given += 1;
                    } else {
                        hand_over.full += 1;
                    }
                }
                _ => worker.frame_of(header.rule, &info(clock, &header), frame),
            }
        }
        self.delivered += count as u64;
        count
    }

    /// Takes one batch of the frames that others have handed over.
    fn take_over(&mut self) -> usize {
        let mut count = 0;
        while count < BATCH
            && let Some(taken) = self.port.handed_over()
        {
            count += 1;
            match CaptureHeader::decode(taken.bytes()) {
                Ok((header, frame)) => {
                    self.worker.frame_of(header.rule, &info(&self.clock, &header), frame);
                }
                Err(_) => self.undecodable += 1,
            }
        }
        self.hand_over.taken += count as u64;
        count
    }

    fn counters(&self) -> std::io::Result<Counters> {
        let mut worker = self.worker.counters();
        worker.delivered += self.undecodable;
        worker.refused.push((BAD_HEADER, self.undecodable));
        let mut store = self.worker.recorder().as_ref().map(StoreHandle::counters);
        if let Some(store) = &mut store {
            store.not_kept.push((BAD_HEADER, self.undecodable));
        }
        let busy = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        Ok(Counters {
            delivered: self.delivered,
            hand_over: Handoff {
                datagrams_given: self.worker.datagram_counters().given,
                datagrams_kept: self.worker.datagram_counters().kept,
                ..self.hand_over
            },
            socket: self.port.statistics()?,
            worker,
            store,
            busy,
        })
    }

    /// Publishes the counters, unless another thread is just reading the previous ones.
    fn publish(&self) -> std::io::Result<()> {
        let counters = self.counters()?;
        if let Ok(mut published) = self.published.try_lock() {
            *published = counters;
        }
        Ok(())
    }
}

/// Describes a frame to the worker.
fn info(clock: &Clock, header: &CaptureHeader) -> FrameInfo {
    FrameInfo {
        time: clock.time_of_day(header.time),
        original_len: header.original_len,
        flow_hash: header.flow_hash,
        mirror: Some(MirrorSession {
            vni: header.vni,
            outer_source: header.outer_source,
            outer_destination: header.outer_destination,
            endpoint: header.gateway.endpoint,
        }),
        side: side(header.flags),
    }
}
