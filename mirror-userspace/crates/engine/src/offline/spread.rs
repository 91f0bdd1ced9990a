//! Several workers, each in a thread of its own, for the frames of one reader.
//!
//! The reader copies frames into a buffer for each worker. When one of them is full, all are sent, so each worker knows
//! of the same part of the file: none waits for the records of another that has seen less. Each buffer returns to the
//! reader when its worker has done with it; if none has returned, the reader waits. Threads share nothing else.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use mirror_base::sandbox::{self, Kind};
use mirror_packet::fragment::Defragmenter;
use mirror_packet::{DecodeError, FrameInfo, LinkType, Packet};
use mirror_xdp_common::inner::InnerHeaders;

use super::front::{FIRST, Front, Treatment};
use super::work::{Framed, Moment, Special, Whole, Work};
use crate::hooks::Recorder;
use crate::worker::{Worker, WorkerCounters};

/// Buffers that circulate between the reader and one worker.
const BUFFERS: usize = 4;

/// A worker that shares no cache line with another.
#[derive(Debug)]
#[repr(align(128))]
struct Own<R: Recorder>(Worker<R>);

#[derive(Debug)]
enum Message<R: Recorder> {
    /// The worker that does the work that follows.
    Begin(Box<Own<R>>),
    Work(Work),
}

/// A worker's thread, from the reader's view.
#[derive(Debug)]
struct Lane<R: Recorder> {
    to: SyncSender<Message<R>>,
    /// Buffers that the worker has done with.
    home: Receiver<Work>,
    /// The worker, once it has finished.
    back: Receiver<Box<Own<R>>>,
    thread: Option<JoinHandle<()>>,
    /// The buffer that is being filled.
    current: Work,
    /// Empty buffers.
    spare: Vec<Work>,
    /// Buffers that the worker has.
    away: usize,
}

impl<R: Recorder + Send + 'static> Lane<R> {
    fn start(number: usize) -> io::Result<Self> {
        let (to, inbox) = sync_channel(BUFFERS + 1);
        let (homeward, home) = sync_channel(BUFFERS);
        let (finished, back) = sync_channel(1);
        let run = move || serve(&inbox, &homeward, &finished);
        let thread = sandbox::spawn(format!("worker {number}"), Kind::Worker, || (), run)?;
        Ok(Self {
            to,
            home,
            back,
            thread: Some(thread),
            current: Work::default(),
            spare: (1..BUFFERS).map(|_| Work::default()).collect(),
            away: 0,
        })
    }

    fn send(&mut self, message: Message<R>) {
        if self.to.send(message).is_err() {
            self.fail();
        }
    }

    /// Sends the current buffer, and begins another one. Returns true if the buffer has a long frame.
    fn send_current(&mut self, end: u64) -> bool {
        self.current.set_end(end);
        let is_oversized = self.current.is_oversized();
        let next = self.empty();
        let full = std::mem::replace(&mut self.current, next);
        self.send(Message::Work(full));
        self.away += 1;
        is_oversized
    }

    /// Waits until the worker has done everything.
    fn wait(&mut self) {
        while self.away > 0 {
            let empty = self.returned();
            self.spare.push(empty);
        }
    }

    fn empty(&mut self) -> Work {
        match self.spare.pop() {
            Some(empty) => empty,
            None => self.returned(),
        }
    }

    /// Waits for a buffer.
    fn returned(&mut self) -> Work {
        let Ok(work) = self.home.recv() else { self.fail() };
        self.away -= 1;
        work
    }

    /// Goes on with the panic of the worker.
    fn fail(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            _ => panic!("a worker that reads has ended"),
        }
    }
}

/// Does the work of a worker's thread until the reader is gone.
fn serve<R: Recorder>(
    inbox: &Receiver<Message<R>>,
    homeward: &SyncSender<Work>,
    finished: &SyncSender<Box<Own<R>>>,
) {
    let mut idle = None;
    while let Ok(message) = inbox.recv() {
        match message {
            Message::Begin(worker) => idle = Some(worker),
            Message::Work(mut work) => {
                let Some(mut worker) = idle.take() else { return };
                let is_finished = work.run(&mut worker.0);
                work.clear();
                // Fails if the reader is gone, which needs no buffers any more.
                let _ = homeward.send(work);
                // The records of other workers may wait for this one.
                worker.0.report();
                if is_finished {
                    let _ = finished.send(worker);
                } else {
                    idle = Some(worker);
                }
            }
        }
    }
}

/// The workers and their threads.
#[derive(Debug)]
pub(super) struct Spread<R: Recorder> {
    lanes: Vec<Lane<R>>,
    front: Front,
    /// The workers, before the first frame and after the end.
    workers: Vec<Box<Own<R>>>,
    is_recording: bool,
    /// The position behind those of all records that the frames and ticks so far cause.
    end: u64,
}

impl<R: Recorder + Send + 'static> Spread<R> {
    /// Starts a thread for each worker.
    pub(super) fn start(mut workers: Vec<Worker<R>>) -> io::Result<Self> {
        let count = workers.len();
        let config = workers.first().map(|worker| *worker.config()).unwrap_or_default();
        let dedup = workers.iter_mut().find_map(Worker::take_dedup);
        // The other half is for fragments in tunnels.
        let defragmenter = Defragmenter::new(config.hash_seed, config.memory.fragments / 2);
        let is_recording = workers.iter().any(|worker| worker.recorder().is_recording());
        Ok(Self {
            lanes: (0..count).map(Lane::start).collect::<io::Result<_>>()?,
            front: Front::new(count as u32, &config, dedup, defragmenter),
            workers: workers.into_iter().map(|worker| Box::new(Own(worker))).collect(),
            is_recording,
            end: 0,
        })
    }

    pub(super) const fn front(&self) -> &Front {
        &self.front
    }

    pub(super) const fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Returns the workers; none while they work.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker<R>> {
        self.workers.iter().map(|own| &own.0)
    }

    /// Sends a frame that is already decoded to its worker.
    #[inline]
    pub(super) fn decoded_frame(
        &mut self,
        moment: Moment,
        info: &FrameInfo,
        frame: &[u8],
        packet: &Packet<'_>,
    ) {
        let owner = self.front.owner(packet);
        let framed = Framed {
            moment,
            info: *info,
            rule: 0,
            link: Some(LinkType::Ethernet),
            len: frame.len() as u32,
            special: None,
        };
        self.work(owner, frame.len(), moment).add(framed, frame);
    }

    /// Sends a frame to its worker.
    pub(super) fn frame(
        &mut self,
        moment: Moment,
        rule: u32,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        headers: Option<&InnerHeaders>,
    ) {
        let (owner, treatment) = self.front.assign(info, link, frame, moment.now, headers);
        let len = frame.len();
        let framed = Framed { moment, info: *info, rule, link, len: len as u32, special: None };
        match treatment {
            Treatment::Plain => self.work(owner, len, moment).add(framed, frame),
            Treatment::Judged(verdict) => {
                self.work(owner, len, moment).add_judged(framed, frame, verdict);
            }
            Treatment::Waiting => {
                let framed = Framed { special: Some(Special::Waiting), ..framed };
                self.work(owner, len, moment).add(framed, frame);
            }
            Treatment::Refused(refusal) => {
                let framed = Framed { special: Some(Special::Refused(refusal)), ..framed };
                self.work(owner, len, moment).add(framed, frame);
            }
            Treatment::Whole { place, vlans, before } => {
                let whole = Whole { place, vlans, before, len: self.front.datagram().len() };
                self.work(owner, len + whole.len, moment);
                if let Some(lane) = self.lanes.get_mut(owner) {
                    lane.current.add_whole(framed, frame, whole, self.front.datagram());
                }
            }
        }
    }

    /// Advances the timers of all workers.
    pub(super) fn tick(&mut self, moment: Moment) {
        // A tick has two steps.
        self.end = moment.position + 2;
        self.front.defragmenter.expire(moment.now);
        self.lanes.iter_mut().for_each(|lane| lane.current.add_tick(moment));
        // All have as many ticks, so this one stands for all that have nothing else.
        if self.lanes[FIRST].current.is_full_for(0) {
            self.send_all();
        }
    }

    /// Ends all flows, and waits until the workers have.
    pub(super) fn finish(&mut self, moment: Moment) {
        self.front.defragmenter.finish();
        self.lanes.iter_mut().for_each(|lane| lane.current.add_finish(moment));
        self.end = moment.position + 1;
        self.send_all();
        for lane in &mut self.lanes {
            match lane.back.recv() {
                Ok(worker) => self.workers.push(worker),
                Err(_) => lane.fail(),
            }
        }
    }

    /// Returns the counters of all workers together.
    pub(super) fn counters(&self) -> WorkerCounters {
        let mut counters = WorkerCounters::default();
        self.workers().for_each(|worker| counters.add(&worker.counters()));
        counters.waiting += self.front.defragmenter.waiting();
        for (reason, lost) in self.front.defragmenter.lost() {
            add_refused(&mut counters.refused, reason, lost.frames);
        }
        counters
    }

    /// Returns the buffer for a frame of this length to this worker.
    #[inline]
    fn work(&mut self, owner: usize, len: usize, moment: Moment) -> &mut Work {
        if self.lanes[owner].current.is_full_for(len) {
            self.send_all();
        }
        self.end = moment.position + 1;
        &mut self.lanes[owner].current
    }

    #[cold]
    fn send_all(&mut self) {
        for (lane, worker) in self.lanes.iter_mut().zip(self.workers.drain(..)) {
            lane.send(Message::Begin(worker));
        }
        let end = self.end;
        let mut has_long = false;
        for lane in &mut self.lanes {
            has_long |= lane.send_current(end);
        }
        if has_long {
            // There is one buffer with long frames at a time.
            self.lanes.iter_mut().for_each(Lane::wait);
        }
    }
}

fn add_refused(refused: &mut [(&'static str, u64)], reason: DecodeError, frames: u64) {
    if let Some((_, count)) = refused.iter_mut().find(|(name, _)| *name == reason.name()) {
        *count += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_share_no_cache_line() {
        assert_eq!((align_of::<Own<()>>() % 128, size_of::<Own<()>>() % 128), (0, 0));
    }
}
