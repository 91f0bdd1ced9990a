//! The thread of one queue: frames off the ring, their capture headers read, to the worker, buffers back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mirror_xdp_common::capture::{CaptureHeader, flags};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedSender;

use super::clock::Clock;
use crate::afxdp::{Queue, Statistics};
use crate::confine;
use crate::observe::Mailbox;
use crate::worker::{FrameInfo, Mirror, Side, Worker, WorkerCounters};

/// A worker without traffic looks this often whether it is to stop.
const IDLE: Duration = Duration::from_millis(100);
/// Timers advance, and finished records leave, this often under load. Nanoseconds.
const TICK: u64 = 10_000_000;
/// Counters are published this often. Nanoseconds.
const PUBLISH: u64 = 200_000_000;

/// Why a frame is refused that has no valid capture header. Nothing writes such frames; they are counted
/// all the same.
const BAD_HEADER: &str = "capture_header";

/// The counters of a queue and its worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    /// Frames taken off the ring.
    pub(super) delivered: u64,
    /// What the kernel counts of the socket.
    pub(super) socket: Statistics,
    /// What the worker counts.
    pub(super) worker: WorkerCounters,
}

/// Sent when a worker's thread ends, be it by a panic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// The worker's number.
    pub(super) worker: usize,
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It met a state that should not exist.
    #[error("panicked: {0}; this is a bug of mirror-xdp")]
    Panicked(String),
    /// The kernel refused to go on.
    #[error("cannot receive: {0}")]
    Receive(#[from] std::io::Error),
}

/// What the thread has while it runs.
struct QueueWorker {
    queue: Queue,
    worker: Worker,
    clock: Clock,
    delivered: u64,
    undecodable: u64,
    published: Arc<Mutex<Counters>>,
    mailbox: Arc<Mailbox>,
    ticks: Arc<AtomicU64>,
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Handle {
    thread: JoinHandle<std::io::Result<(Queue, Counters)>>,
    published: Arc<Mutex<Counters>>,
    mailbox: Arc<Mailbox>,
    ticks: Arc<AtomicU64>,
}

/// Sends [`Ended`] when it is dropped.
struct EndNotice {
    worker: usize,
    to: UnboundedSender<Ended>,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        // Nobody listens any more where the capture has ended first.
        let _ = self.to.send(Ended { worker: self.worker });
    }
}

impl Handle {
    /// Starts the thread of worker number `number`, pinned to `cpu`.
    pub(super) fn spawn(
        number: usize,
        cpu: Option<usize>,
        queue: Queue,
        worker: Worker,
        stop: Arc<AtomicBool>,
        ended: UnboundedSender<Ended>,
    ) -> std::io::Result<Self> {
        let published = Arc::new(Mutex::new(Counters::default()));
        let mailbox = Arc::new(Mailbox::default());
        let ticks = Arc::new(AtomicU64::new(0));
        let mut this = QueueWorker {
            queue,
            worker,
            clock: Clock::new(),
            delivered: 0,
            undecodable: 0,
            published: Arc::clone(&published),
            mailbox: Arc::clone(&mailbox),
            ticks: Arc::clone(&ticks),
        };
        let thread = std::thread::Builder::new().name(format!("worker {number}")).spawn(move || {
            let _notice = EndNotice { worker: number, to: ended };
            if let Some(cpu) = cpu {
                pin(cpu);
            }
            confine::this_thread();
            this.run(&stop)?;
            let counters = this.counters()?;
            Ok((this.queue, counters))
        })?;
        Ok(Self { thread, published, mailbox, ticks })
    }

    /// How often the worker has looked at the clock: more often from one second to the next, as long as it
    /// moves.
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Where observers are left for the worker.
    pub(super) const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// The counters as last published, a fraction of a second old.
    pub(super) fn published(&self) -> Counters {
        // A worker that panicked while it held the lock leaves whole counters: they are moved in at once.
        self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Waits until the thread has ended.
    pub(super) fn join(self) -> Result<(Queue, Counters), WorkerError> {
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

/// Keeps the calling thread on one CPU. Where the kernel refuses, it runs anywhere.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    if let Err(error) = cpus.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus)) {
        tracing::warn!("cannot keep a worker on CPU {cpu}: {error}");
    }
}

/// Which way a packet went by the mirrored interface, as its capture header says.
const fn side(header: u16) -> Option<Side> {
    match header & (flags::INGRESS | flags::EGRESS) {
        flags::INGRESS => Some(Side::Ingress),
        flags::EGRESS => Some(Side::Egress),
        _ => None,
    }
}

impl QueueWorker {
    /// Works until `stop` is set and the ring is empty.
    fn run(&mut self, stop: &AtomicBool) -> std::io::Result<()> {
        let (mut ticked, mut published) = (0, 0);
        loop {
            // Looked at before the ring: a frame that was there when the stop was asked for is still taken.
            let stopping = stop.load(Ordering::Acquire);
            let received = self.receive();
            let now = self.clock.now();
            if now.wrapping_sub(ticked) >= TICK {
                if let Some(shunting) = self.worker.shunting() {
                    shunting.set_clock(self.clock.ahead());
                }
                self.ticks.fetch_add(1, Ordering::Relaxed);
                self.mailbox.collect(self.worker.observers());
                self.worker.tick(now);
                ticked = now;
            }
            if now.wrapping_sub(published) >= PUBLISH {
                self.publish()?;
                published = now;
            }
            if received == 0 {
                if stopping {
                    break;
                }
                self.queue.wait(IDLE)?;
            }
        }
        self.worker.finish();
        Ok(())
    }

    /// Takes one batch and says how many frames it had.
    fn receive(&mut self) -> usize {
        let batch = self.queue.receive();
        for bytes in batch.frames() {
            let Ok((header, frame)) = CaptureHeader::decode(bytes) else {
                self.undecodable += 1;
                continue;
            };
            let info = FrameInfo {
                time: self.clock.time_of_day(header.time),
                original_len: header.original_len,
                flow_hash: header.flow_hash,
                mirror: Some(Mirror {
                    vni: header.vni,
                    outer_source: header.outer_source,
                    outer_destination: header.outer_destination,
                    endpoint: header.gateway.endpoint,
                }),
                side: side(header.flags),
            };
            self.worker.frame(&info, frame);
        }
        self.delivered += batch.len() as u64;
        batch.len()
    }

    fn counters(&self) -> std::io::Result<Counters> {
        let mut worker = self.worker.counters();
        worker.delivered += self.undecodable;
        worker.refused.push((BAD_HEADER, self.undecodable));
        if let Some(store) = &mut worker.store {
            store.not_kept.push((BAD_HEADER, self.undecodable));
        }
        Ok(Counters { delivered: self.delivered, socket: self.queue.statistics()?, worker })
    }

    /// Publishes the counters, unless just now somebody reads the last ones.
    fn publish(&self) -> std::io::Result<()> {
        let counters = self.counters()?;
        if let Ok(mut published) = self.published.try_lock() {
            *published = counters;
        }
        Ok(())
    }
}
