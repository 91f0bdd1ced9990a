//! The EVE sink: a thread that renders records as lines and writes them to a [`Destination`]: a file such as
//! `eve.json`, standard output, or a Unix socket.
//!
//! Each worker has a [`Producer`] with a fixed number of batches that circulate: the worker fills one and
//! hands it over through a bounded queue, and the sink writes it and sends it back empty. The packet path
//! therefore neither allocates nor waits: if no empty batch is left, the record is lost and counted. A
//! producer for capture files waits instead, and loses nothing.

mod merge;
mod output;
mod relays;

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mirror_base::Slot;
use mirror_base::sandbox::{self, Kind};
use mirror_packet::{Conversation, Sources};
use mirror_protocols::ANALYZED;
use mirror_protocols::eve::{EveEvent, Packer};
use mirror_protocols::grpc::CallEvent;
use mirror_protocols::preamble::Relayed;
use serde::Serialize;
use tokio::sync::oneshot;

pub use self::merge::Order;
use self::merge::{Member, Merger, Report, Run};
pub use self::output::{Destination, Modes, Rotation, StallPolicy};
use self::output::{Lines, Output};
use self::relays::Relays;
use crate::apm::{METRICS, Metrics, Service, Services, Standing};
use crate::names::Names;
use crate::{ALERT, EventRecord, EventType, FLOW, FlowRecord, Record, STATS, eve};

/// The type of the events of calls, which no protocol of flows has.
const GRPC: &str = <CallEvent<'static> as EveEvent>::TYPE;

/// The log's file name in the log directory.
pub const FILE_NAME: &str = "eve.json";

/// Batches that circulate between one worker and the sink.
const BATCHES: usize = 8;
/// Records in a batch.
const BATCH_RECORDS: usize = 256;
/// Bytes in a batch: at least one message of the largest kind, DNS over TCP.
const BATCH_BYTES: usize = 128 * 1024;
/// Messages that may wait for the sink: batches, events and the stop mark.
const QUEUE: usize = 1024;
/// Bytes of text that are collected before they are written to the file.
const BUFFER: usize = 256 * 1024;
/// Maximum time that a line waits before it is written to the file.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The reason why a log cannot be opened, or was not completely written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The log directory is missing and cannot be created, or is not a directory.
    #[error(
        "cannot create the log directory {}: {source}; choose a writable one with --log-dir",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The log cannot be opened for appending.
    #[error("cannot write {}: {source}; choose a writable directory with --log-dir", path.display())]
    Open {
        /// The log file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No process listens on a socket.
    #[error("cannot connect to the socket {}: {source}; start the reader of the log first", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Records and account would both go to standard output.
    #[error("the records and the account would both go to stdout; leave out --json, or the output `-`")]
    Stdout,
    /// The sink's thread cannot be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(io::Error),
}

/// The types of events that are written; without a selection, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTypes(Option<Vec<String>>);

impl EventTypes {
    /// The built-in types. Registered analyzers may have others.
    pub const KNOWN: [&'static str; 5 + ANALYZED.len()] = {
        let mut known = [FLOW; 5 + ANALYZED.len()];
        known[1] = ALERT;
        let mut at = 0;
        while at < ANALYZED.len() {
            known[2 + at] = ANALYZED[at].name;
            at += 1;
        }
        (known[2 + at], known[3 + at], known[4 + at]) = (GRPC, METRICS, STATS);
        known
    };

    /// Returns the built-in types that are written by default.
    pub fn by_default() -> impl Iterator<Item = &'static str> {
        let off = |name| ANALYZED.iter().any(|protocol| protocol.name == name && !protocol.by_default);
        Self::KNOWN.into_iter().filter(move |name| !off(*name))
    }

    /// Selects only these of the built-in types.
    #[must_use]
    pub const fn only(types: Vec<String>) -> Self {
        Self(Some(types))
    }

    /// Returns the selected types, if there is a selection.
    #[must_use]
    pub fn chosen(&self) -> Option<&[String]> {
        self.0.as_deref()
    }

    fn wants(&self, kind: &str) -> bool {
        let wanted = |types: &Vec<String>| types.iter().any(|wanted| wanted == kind);
        self.0.as_ref().is_none_or(|types| wanted(types) || !Self::KNOWN.contains(&kind))
    }
}

/// The counters of the records handed to the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkCounters {
    /// Events written, by their `event_type`.
    written: Vec<(&'static str, u64)>,
    /// Events that could not be written.
    pub lost: u64,
}

impl Default for SinkCounters {
    fn default() -> Self {
        Self { written: EventTypes::by_default().map(|name| (name, 0)).collect(), lost: 0 }
    }
}

impl SinkCounters {
    /// Returns the numbers of events written, with their `event_type`. Types that are
    /// written by default are included even at 0.
    pub fn written_by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.written.iter().copied()
    }

    /// Returns the number of events written of one type.
    #[must_use]
    pub fn written(&self, event_type: &str) -> u64 {
        self.written_by_kind().filter(|&(name, _)| name == event_type).map(|(_, count)| count).sum()
    }

    fn count(&mut self, event_type: &'static str) {
        match self.written.iter_mut().find(|(name, _)| *name == event_type) {
            Some((_, count)) => *count += 1,
            None => self.written.push((event_type, 1)),
        }
    }
}

/// The counters, shared between the sink's thread and others. They are locked for a moment at each write.
#[derive(Debug, Default)]
struct SharedCounters(Mutex<SinkCounters>);

impl SharedCounters {
    fn load(&self) -> SinkCounters {
        self.with(|counters| counters.clone())
    }

    fn lose(&self, events: u64) {
        self.with(|counters| counters.lost += events);
    }

    fn with<T>(&self, change: impl FnOnce(&mut SinkCounters) -> T) -> T {
        // The counters are consistent even if a thread has panicked.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A batch of records for the sink, with the packed bytes of their events.
#[derive(Debug)]
struct Batch {
    records: Vec<Record>,
    bytes: Vec<u8>,
    /// The order of the records, if they are merged with those of other producers.
    runs: Vec<Run>,
}

impl Batch {
    fn new() -> Self {
        Self {
            records: Vec::with_capacity(BATCH_RECORDS),
            bytes: Vec::with_capacity(BATCH_BYTES),
            runs: Vec::new(),
        }
    }

    fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
        self.runs.clear();
    }

    /// Notes the order of the last record.
    fn note(&mut self, order: Order) {
        let end = self.records.len();
        match self.runs.last_mut() {
            Some(run) if run.order == order => run.end = end,
            _ => self.runs.push(Run { order, end }),
        }
    }

    /// Appends the packed bytes of an event and those of its connection's preambles, if they fit. Returns the
    /// positions and lengths of both.
    #[inline]
    fn pack<E: EveEvent>(&mut self, event: &E, relay: &[u8]) -> Option<[(u32, u32); 2]> {
        let start = self.bytes.len();
        let mut packer = Packer::new(&mut self.bytes, BATCH_BYTES);
        event.pack(&mut packer);
        packer.rest(relay);
        let fits = packer.fits();
        if !fits {
            self.bytes.truncate(start);
        }
        let len = self.bytes.len() - start - relay.len();
        fits.then_some([(start as u32, len as u32), ((start + len) as u32, relay.len() as u32)])
    }

    /// Appends the preambles of a connection, for which there is room. Returns their position and length.
    fn append(&mut self, relay: &[u8]) -> (u32, u32) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(relay);
        (start as u32, relay.len() as u32)
    }

    const fn has_room(&self, bytes: usize) -> bool {
        self.records.len() < BATCH_RECORDS && self.bytes.len() + bytes <= BATCH_BYTES
    }
}

#[derive(Debug)]
enum Message {
    /// A batch of records, and the channel that takes it back when it is empty; and how far the producer is, if its
    /// records are merged with those of others.
    Records { batch: Batch, home: SyncSender<Batch>, report: Option<Report> },
    /// Merge the records of a new group of this many producers.
    Group(u32, usize),
    /// A producer of a group has nothing to hand over, and is this far.
    Reached(Report),
    /// A `stats` event, already rendered as a line, and its time.
    Stats(Vec<u8>, u64),
    /// A request to measure services, whether or not metrics are written.
    Measure,
    /// A request to reopen a file that was moved away.
    Reopen,
    /// A request to write everything before this message now, and to notify the sender afterwards.
    Flush(SyncSender<()>),
    /// A request to write everything before this message, and to begin another log.
    Begin { destination: Destination, patience: StallPolicy, done: SyncSender<Result<(), SinkError>> },
    /// A request for the state of at most this many services.
    Services(usize, oneshot::Sender<Vec<Standing>>),
    /// The last message.
    Stop,
}

/// A producer's behaviour when the sink does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Loses the record and counts it: the choice for a live worker.
    Lose,
    /// Waits for the sink: the choice for a reader of capture files.
    Wait,
}

/// A worker's end of the queue to the sink.
#[derive(Debug)]
pub struct Producer {
    sink: SyncSender<Message>,
    home: SyncSender<Batch>,
    empty: Receiver<Batch>,
    current: Batch,
    relays: Relays,
    overflow: Overflow,
    /// Time of the last flush that was not caused by a full batch.
    flushed: Instant,
    lost: u64,
    /// Set if the records are merged with those of other producers.
    member: Option<Member>,
    /// The mirrored interfaces that flows know by number, and records spell out.
    pub sources: Sources,
}

impl Producer {
    fn new(sink: SyncSender<Message>, overflow: Overflow) -> Self {
        let (home, empty) = sync_channel(BATCHES);
        for _ in 0..BATCHES {
            home.try_send(Batch::new()).expect("the channel has room for every batch");
        }
        Self {
            sink,
            home,
            empty,
            current: Batch::new(),
            relays: Relays::new(match overflow {
                Overflow::Lose => relays::LIVE,
                Overflow::Wait => relays::FILES,
            }),
            overflow,
            flushed: Instant::now(),
            lost: 0,
            member: None,
            sources: Sources::default(),
        }
    }

    /// Sets the order of the records that are added next. It matters for producers of [`Sink::producers`], and must not
    /// be before that of records added earlier.
    #[inline]
    pub fn set_order(&mut self, order: Order) {
        if let Some(member) = &mut self.member {
            member.report.until = order;
        }
    }

    /// Returns true if the records are merged with those of other producers.
    #[must_use]
    pub const fn is_merged(&self) -> bool {
        self.member.is_some()
    }

    /// Hands the collected records over, and reports the order of the next: the records of other producers that are
    /// before that need not wait any more.
    pub fn report(&mut self) {
        let Some(Member { report, sink }) = &self.member else { return };
        if self.current.records.is_empty() {
            // Fails only if the sink's thread panicked, and a panic reports itself.
            let _ = sink.send(Message::Reached(*report));
        } else {
            self.hand_over();
        }
    }

    /// Notes the order of the record that was added last.
    #[inline]
    fn note(&mut self) {
        if let Some(member) = &self.member {
            self.current.note(member.report.until);
        }
    }

    /// Adds a flow's record, or loses it if the sink is too far behind. It is the last record of the flow: the values
    /// of its preambles are released.
    pub fn push_flow(&mut self, record: FlowRecord) {
        let flow_id = record.conversation.flow_id;
        if self.make_room(self.relay_len(flow_id)) {
            let relay = self.current.append(self.relays.get(flow_id));
            self.current.records.push(Record::Flow(FlowRecord { relay, ..record }));
            self.note();
        }
        self.relays.release(flow_id);
    }

    /// Stores the value of a preamble: all later records of the flow have it.
    #[cold]
    pub fn relay(&mut self, flow_id: u64, value: &Relayed<'_>) {
        self.relays.add(flow_id, value);
    }

    /// Gives the values of a flow that ends without a record to the flow that continues it.
    pub fn unite_relays(&mut self, gone: u64, kept: u64) {
        self.relays.unite(gone, kept);
    }

    /// Returns true if there are values of preambles.
    #[must_use]
    pub fn has_relays(&self) -> bool {
        !self.relays.is_empty()
    }

    /// Returns the number of bytes that each record of a flow has for its preambles.
    #[must_use]
    pub fn relay_len(&self, flow_id: u64) -> usize {
        self.relays.get(flow_id).len()
    }

    /// Returns the number of preambles whose values were not stored for lack of memory.
    #[must_use]
    pub const fn relays_lost(&self) -> u64 {
        self.relays.lost()
    }

    /// Adds an analyzer's event, or loses it if the sink is too far behind. Its packed bytes are the
    /// concatenation of `parts`.
    pub fn push_event(
        &mut self,
        time: u64,
        conversation: Conversation,
        event_type: &'static EventType,
        parts: &[&[u8]],
    ) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.make_room(len + self.relay_len(conversation.flow_id)) {
            let bytes = (self.current.bytes.len() as u32, len as u32);
            for part in parts {
                self.current.bytes.extend_from_slice(part);
            }
            let relay = self.current.append(self.relays.get(conversation.flow_id));
            let record = EventRecord { time, conversation, event_type, bytes, relay };
            self.current.records.push(Record::Event(record));
            self.note();
        }
    }

    /// Adds an analyzer's typed event, or loses it if the sink is too far behind.
    pub fn push_typed<E: EveEvent>(&mut self, time: u64, conversation: Conversation, event: &E) {
        if self.make_room(0)
            && let Some([bytes, relay]) = self.pack(event, conversation.flow_id)
        {
            let event_type = const { &EventType::of::<E>() };
            let record = EventRecord { time, conversation, event_type, bytes, relay };
            self.current.records.push(Record::Event(record));
            self.note();
        }
    }

    /// Packs an event into the current batch, or else into an empty one. Returns the place of its bytes. If there
    /// is no room, counts the event as lost.
    #[inline]
    fn pack<E: EveEvent>(&mut self, event: &E, flow_id: u64) -> Option<[(u32, u32); 2]> {
        self.current.pack(event, self.relays.get(flow_id)).or_else(|| self.pack_next(event, flow_id))
    }

    #[cold]
    fn pack_next<E: EveEvent>(&mut self, event: &E, flow_id: u64) -> Option<[(u32, u32); 2]> {
        let place = if self.hand_over() { self.current.pack(event, self.relays.get(flow_id)) } else { None };
        self.lost += u64::from(place.is_none());
        place
    }

    /// Makes room for a record and its bytes. If there is none, counts the record as lost.
    fn make_room(&mut self, bytes: usize) -> bool {
        let room = self.current.has_room(bytes) || self.hand_over() && self.current.has_room(bytes);
        self.lost += u64::from(!room);
        room
    }

    /// Hands the collected records over if the sink has room. Otherwise they stay for the next call.
    pub fn flush(&mut self) {
        if !self.current.records.is_empty() {
            self.hand_over();
        }
    }

    /// Flushes from time to time, so that no record waits for long. Time passes fast in a capture file: its
    /// reader uses the clock, or else it would wake the sink for every few records.
    pub fn flush_in_time(&mut self) {
        if self.overflow == Overflow::Wait && self.flushed.elapsed() < FLUSH_INTERVAL {
            return;
        }
        self.flushed = Instant::now();
        self.flush();
    }

    /// Returns true if a flow's record could be added now. If not, the caller postpones what it can.
    pub fn has_room(&mut self) -> bool {
        self.current.has_room(0) || self.hand_over()
    }

    /// Waits for the sink from now on, since the capture is over.
    pub const fn wait(&mut self) {
        self.overflow = Overflow::Wait;
    }

    /// Returns the number of records lost because the sink was too far behind.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Exchanges the current batch for an empty one. Returns `false` if there is none.
    fn hand_over(&mut self) -> bool {
        let empty = match self.overflow {
            Overflow::Lose => self.empty.try_recv().ok(),
            Overflow::Wait => self.empty.recv().ok(),
        };
        let Some(empty) = empty else { return false };
        let batch = std::mem::replace(&mut self.current, empty);
        let records = batch.records.len() as u64;
        let report = self.member.as_ref().map(|member| member.report);
        let message = Message::Records { batch, home: self.home.clone(), report };
        let sent = match self.overflow {
            Overflow::Lose => self.sink.try_send(message).is_ok(),
            Overflow::Wait => self.sink.send(message).is_ok(),
        };
        if !sent {
            self.lost += records;
        }
        true
    }
}

/// The settings that can change while records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    /// Interval of the `metrics` events.
    pub metrics_interval: Duration,
    /// Writes the literals of statements.
    pub literals: bool,
    /// Rotation of the log file.
    pub rotation: Rotation,
}

/// The log and the thread that writes it.
#[derive(Debug)]
pub struct Sink {
    queue: SyncSender<Message>,
    settings: Arc<Slot<SinkSettings>>,
    names: Arc<Slot<Option<Arc<Names>>>>,
    counters: Arc<SharedCounters>,
    /// Number of groups of producers.
    groups: AtomicU32,
    thread: JoinHandle<()>,
}

impl Sink {
    /// Opens `eve.json` in `directory` for appending, and creates the directory if it is missing.
    pub fn open(directory: &Path) -> Result<Self, SinkError> {
        let destination = Destination::file(directory.join(FILE_NAME));
        Self::to(destination, EventTypes::default(), StallPolicy::Endless)
    }

    /// Opens a destination of the log, for events of these types.
    pub fn to(destination: Destination, types: EventTypes, patience: StallPolicy) -> Result<Self, SinkError> {
        let name = destination.to_string();
        let output = Output::open(destination, patience)?;
        let (queue, messages) = sync_channel(QUEUE);
        let counters = Arc::new(SharedCounters::default());
        let (settings, names) = (Arc::new(Slot::default()), Arc::new(Slot::default()));
        let mut writer = Writer::new(output, name, types, Arc::clone(&counters));
        writer.settings = Arc::clone(&settings);
        writer.names = Arc::clone(&names);
        let run = move || writer.run(&messages);
        let thread =
            sandbox::spawn("eve".to_owned(), Kind::Records, || (), run).map_err(SinkError::Thread)?;
        Ok(Self { queue, settings, names, counters, groups: AtomicU32::new(0), thread })
    }

    /// Applies other settings within a second. Does not wait.
    pub fn set(&self, settings: SinkSettings) {
        self.settings.leave(settings);
    }

    /// Returns the slot for the names of sessions and hosts. The records written a second after a change show them.
    #[must_use]
    pub fn names(&self) -> Arc<Slot<Option<Arc<Names>>>> {
        Arc::clone(&self.names)
    }

    /// Reopens the log's file by its name, after it was moved away. Does not wait. Returns `false` if the
    /// sink's queue is full.
    #[must_use]
    pub fn reopen(&self) -> bool {
        self.queue.try_send(Message::Reopen).is_ok()
    }

    /// Creates a producer for one worker.
    #[must_use]
    pub fn producer(&self, overflow: Overflow) -> Producer {
        Producer::new(self.queue.clone(), overflow)
    }

    /// Creates producers for the workers that read a capture file together. They wait for the sink, and their records
    /// are written in the order that [`Producer::set_order`] gives them, whichever comes first. Of two groups of
    /// producers, only the records of the later one are merged.
    #[must_use]
    pub fn producers(&self, workers: NonZeroUsize) -> Vec<Producer> {
        let group = self.groups.fetch_add(1, Ordering::Relaxed);
        let count = workers.get();
        if count > 1 {
            // Fails only if the thread panicked, and a panic reports itself.
            let _ = self.queue.send(Message::Group(group, count));
        }
        let producer = |number| {
            let mut producer = self.producer(Overflow::Wait);
            let report = Report { group, number, until: Order::default() };
            producer.member = (count > 1).then(|| Member { report, sink: self.queue.clone() });
            producer.relays.share(workers);
            producer
        };
        (0..count).map(producer).collect()
    }

    /// Returns a handle for queries about services.
    #[must_use]
    pub fn desk(&self) -> ServiceDesk {
        // Fails only if the thread panicked, and a panic reports itself.
        let _ = self.queue.send(Message::Measure);
        ServiceDesk(self.queue.clone())
    }

    /// Writes a `stats` event. `time` is in nanoseconds since the epoch, `stats` is its object.
    ///
    /// # Errors
    ///
    /// Fails if `stats` has no JSON form.
    pub fn stats(&self, time: u64, stats: &impl Serialize) -> serde_json::Result<()> {
        let mut line = Vec::new();
        eve::write_stats(&mut line, time, stats)?;
        if self.queue.send(Message::Stats(line, time)).is_err() {
            self.counters.lose(1);
        }
        Ok(())
    }

    /// Returns the counters so far. Events that wait for the next write count neither as written nor as lost.
    #[must_use]
    pub fn counters(&self) -> SinkCounters {
        self.counters.load()
    }

    /// Writes everything that was handed over before this call, and the measurements of services, and waits
    /// until it is written. To be called when the capture is over.
    #[must_use]
    pub fn flush(&self) -> SinkCounters {
        let (done, written) = sync_channel(1);
        // Both fail only if the thread panicked, and a panic reports itself.
        let _ = self.queue.send(Message::Flush(done));
        let _ = written.recv();
        self.counters.load()
    }

    /// Writes everything that was handed over before this call, closes the log and begins another one, as a new sink
    /// would: its counters are 0, and its settings those of [`SinkSettings`] that are set from now on.
    ///
    /// # Errors
    ///
    /// Fails if the destination cannot be opened. Records then go on to the old one.
    pub fn begin(&self, destination: Destination, patience: StallPolicy) -> Result<(), SinkError> {
        let (done, begun) = sync_channel(1);
        // Both fail only if the thread panicked, and a panic reports itself.
        let _ = self.queue.send(Message::Begin { destination, patience, done });
        begun.recv().unwrap_or(Ok(()))
    }

    /// Writes everything that was handed over before this call and closes the log.
    #[must_use]
    pub fn finish(self) -> SinkCounters {
        // As above.
        let _ = self.queue.send(Message::Stop);
        let _ = self.thread.join();
        self.counters.load()
    }
}

/// A handle for queries about the state of services.
#[derive(Clone, Debug)]
pub struct ServiceDesk(SyncSender<Message>);

impl ServiceDesk {
    /// Asks for the services with the most requests and connections, at most `limit`. There is no answer if
    /// the sink is too far behind, or has ended.
    #[must_use]
    pub fn ask(&self, limit: usize) -> oneshot::Receiver<Vec<Standing>> {
        let (answer, receiver) = oneshot::channel();
        // On failure the sender is dropped, which the receiver notices.
        let _ = self.0.try_send(Message::Services(limit, answer));
        receiver
    }
}

/// The state of the sink's thread.
struct Writer {
    output: Output,
    /// The destination's name.
    name: String,
    types: EventTypes,
    renderer: eve::Renderer,
    text: Vec<u8>,
    /// End of each event in `text`, and its `event_type`.
    events: Vec<(usize, &'static str)>,
    /// The measurements of services.
    services: Services,
    /// True if services are measured: metrics are written, or there is a [`ServiceDesk`].
    measured: bool,
    /// The latest time of a record.
    now: u64,
    /// Merges the records of several producers.
    merger: Option<Merger>,
    /// A warning about lost records was logged, and the loss continues.
    warned: bool,
    counters: Arc<SharedCounters>,
    /// The place where other settings arrive.
    settings: Arc<Slot<SinkSettings>>,
    /// The place where other names arrive.
    names: Arc<Slot<Option<Arc<Names>>>>,
}

impl Writer {
    fn new(output: Output, name: String, types: EventTypes, counters: Arc<SharedCounters>) -> Self {
        Self {
            output,
            name,
            measured: types.wants(METRICS),
            types,
            renderer: eve::Renderer::default(),
            text: Vec::with_capacity(BUFFER * 2),
            events: Vec::with_capacity(BATCH_RECORDS * 4),
            services: Services::default(),
            now: 0,
            merger: None,
            warned: false,
            counters,
            settings: Arc::default(),
            names: Arc::default(),
        }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        let mut flushed = Instant::now();
        loop {
            let message = messages.recv_timeout(FLUSH_INTERVAL.saturating_sub(flushed.elapsed()));
            if let Some(SinkSettings { metrics_interval, literals, rotation }) = self.settings.collect() {
                self.renderer.set_literals(literals);
                self.services.set_interval(metrics_interval);
                self.output.set_rotation(rotation);
            }
            if let Some(names) = self.names.collect() {
                self.renderer.set_names(names);
            }
            match message {
                Ok(Message::Records { batch, home, report }) => self.take_batch(batch, &home, report),
                Ok(Message::Group(group, producers)) => {
                    self.end_group();
                    self.merger = Some(Merger::new(group, producers));
                }
                Ok(Message::Reached(report)) => {
                    if let Some(merger) = &mut self.merger
                        && merger.reached(report)
                    {
                        self.merge();
                    }
                }
                Ok(Message::Stats(line, time)) => {
                    self.advance(time);
                    if self.types.wants(STATS) {
                        self.add_line(&line, STATS);
                    }
                }
                Ok(Message::Measure) => self.measured = true,
                Ok(Message::Reopen) => {
                    self.flush();
                    if let Err(error) = self.output.reopen() {
                        tracing::warn!(
                            "cannot reopen {}: {error}; records still go to the old file",
                            self.name
                        );
                    }
                }
                Ok(Message::Flush(done)) => {
                    self.end_interval();
                    self.flush();
                    // Fails if the requester does not wait any more.
                    let _ = done.try_send(());
                }
                Ok(Message::Begin { destination, patience, done }) => {
                    self.end_interval();
                    self.flush();
                    // Fails if the requester does not wait any more.
                    let _ = done.try_send(self.begin(destination, patience));
                }
                Ok(Message::Services(limit, answer)) => {
                    // Fails if the requester does not wait any more.
                    let _ = answer.send(self.services.standing(limit));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.end_group();
                    self.end_interval();
                    self.flush();
                    return;
                }
            }
            if self.text.len() >= BUFFER || flushed.elapsed() >= FLUSH_INTERVAL {
                self.flush();
                flushed = Instant::now();
            }
        }
    }

    /// Begins another log, with nothing of the last one but the types of its events.
    fn begin(&mut self, destination: Destination, patience: StallPolicy) -> Result<(), SinkError> {
        let name = destination.to_string();
        let output = Output::open(destination, patience)?;
        self.counters.with(|counters| *counters = SinkCounters::default());
        self.output = output;
        self.name = name;
        self.renderer = self.renderer.anew();
        self.services = Services::default();
        self.now = 0;
        self.warned = false;
        Ok(())
    }

    /// Adds the records of a batch, or has them wait for those of other producers that come first.
    fn take_batch(&mut self, mut batch: Batch, home: &SyncSender<Batch>, report: Option<Report>) {
        if let Some(report) = report
            && let Some(merger) = &mut self.merger
            && merger.reached(report)
        {
            merger.add(report.number, batch, home.clone());
            return self.merge();
        }
        self.add_records(&batch.records, &batch.bytes);
        batch.clear();
        // Fails if the worker is gone, which needs no batches any more.
        let _ = home.try_send(batch);
    }

    /// Adds the records that are the next of all producers.
    fn merge(&mut self) {
        if let Some(mut merger) = self.merger.take() {
            merger.pass(|records, bytes| self.add_records(records, bytes));
            self.merger = Some(merger);
        }
    }

    /// Adds all records of the producers whose records were merged.
    fn end_group(&mut self) {
        if let Some(mut merger) = self.merger.take() {
            merger.finish(|records, bytes| self.add_records(records, bytes));
        }
    }

    fn add_records(&mut self, records: &[Record], bytes: &[u8]) {
        for record in records {
            self.measure(record, bytes);
            let (kind, events) = (record.event_type(), &mut self.events);
            if !self.types.wants(kind) {
                continue;
            }
            let written =
                self.renderer.write_record(&mut self.text, record, bytes, |end| events.push((end, kind)));
            if let Err(error) = written {
                // Removes the rest of a half-written line.
                self.text.truncate(self.events.last().map_or(0, |&(end, _)| end));
                self.lose(1, &error);
            }
        }
    }

    /// Adds a record to the measurements of its service.
    fn measure(&mut self, record: &Record, bytes: &[u8]) {
        self.now = self.now.max(record.time());
        if self.measured {
            let (services, mut add) = self.metrics();
            services.add(record, bytes, &mut add);
        }
    }

    fn advance(&mut self, time: u64) {
        self.now = self.now.max(time);
        let now = self.now;
        let (services, mut add) = self.metrics();
        services.advance(now, &mut add);
    }

    /// Writes the measurements of services that are not written yet.
    fn end_interval(&mut self) {
        let now = self.now;
        let (services, mut add) = self.metrics();
        services.flush(now, &mut add);
    }

    /// Returns the services, and the function that receives the measurements of each.
    fn metrics(&mut self) -> (&mut Services, impl FnMut(&Service, &Metrics)) {
        let Self { services, text, events, types, .. } = self;
        let wanted = types.wants(METRICS);
        let add = move |service: &Service, metrics: &Metrics| {
            if wanted {
                add_metrics(text, events, service, metrics);
            }
        };
        (services, add)
    }

    fn add_line(&mut self, line: &[u8], kind: &'static str) {
        self.text.extend_from_slice(line);
        self.events.push((self.text.len(), kind));
    }

    /// Writes the collected text. Events that cannot be written are lost.
    fn flush(&mut self) {
        if self.text.is_empty() {
            if let Err(error) = self.output.tick() {
                self.warn(&error, "records still go to the same file");
            }
            return;
        }
        let (whole, error) = self.output.write(Lines::new(&self.text, &self.events));
        let lost = (self.events.len() - whole) as u64;
        self.counters.with(|counters| {
            self.events.iter().take(whole).for_each(|&(_, kind)| counters.count(kind));
        });
        match error {
            Some(error) if lost > 0 => self.lose(lost, &error),
            Some(error) => self.warn(&error, "records still go to the same file"),
            None if self.warned => {
                self.warned = false;
                tracing::info!("can write {} again", self.name);
            }
            None => {}
        }
        self.text.clear();
        self.events.clear();
    }

    fn lose(&mut self, records: u64, error: &dyn std::fmt::Display) {
        self.counters.lose(records);
        self.warn(error, "records are lost until this is fixed");
    }

    fn warn(&mut self, error: &dyn std::fmt::Display, consequence: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!("cannot write {}: {error}; {consequence}", self.name);
        }
    }
}

fn add_metrics(
    text: &mut Vec<u8>,
    events: &mut Vec<(usize, &'static str)>,
    service: &Service,
    metrics: &Metrics,
) {
    let before = text.len();
    match eve::write_metrics(text, service, metrics) {
        Ok(()) => events.push((text.len(), METRICS)),
        // Removes the rest of a half-written line. Every number has a JSON form.
        Err(_) => text.truncate(before),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mirror_packet::Vlans;
    use mirror_xdp_common::Address;

    use super::*;
    use crate::{Application, Conversation, EndReason, FlowState};

    fn record(flow_id: u64) -> FlowRecord {
        let conversation = Conversation {
            flow_id,
            source: Address::from_v4(0x0a00_0001),
            destination: Address::from_v4(0x0a00_0002),
            source_port: 1000,
            destination_port: 2000,
            protocol: 17,
            ipv6: false,
            vlans: Vlans::new(),
            mirror: None,
            other_source: None,
        };
        FlowRecord {
            time: 0,
            conversation,
            application: Application::default(),
            packets: [1, 0],
            bytes: [60, 0],
            start: 0,
            end: 0,
            state: FlowState::New,
            reason: EndReason::Shutdown,
            alerted: false,
            icmp: None,
            spi: None,
            tcp: None,
            performance: None,
            relay: (0, 0),
        }
    }

    /// An event that reports the number of bytes packed for it.
    static LENGTH: EventType = EventType::new("length", |bytes, lines| lines.line(&[bytes.len()]));

    fn push_event(producer: &mut Producer, parts: &[&[u8]]) {
        producer.push_event(0, record(1).conversation, &LENGTH, parts);
    }

    #[test]
    fn every_record_of_a_waiting_producer_is_written_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::open(&directory.path().join("made/on/demand")).unwrap();
        let mut producer = sink.producer(Overflow::Wait);
        let count = (BATCH_RECORDS * BATCHES * 3 + 7) as u64;
        for id in 0..count {
            producer.push_flow(record(id));
        }
        push_event(&mut producer, &[b"ab", b"cde"]);
        producer.flush();
        sink.stats(5, &serde_json::json!({"seen": 3})).unwrap();
        let counters = sink.finish();
        assert_eq!(["flow", "length", "stats"].map(|kind| counters.written(kind)), [count, 1, 1]);
        assert_eq!((counters.written("dns"), counters.lost), (0, 0));
        assert_eq!(producer.lost(), 0);
        let text = fs::read_to_string(directory.path().join("made/on/demand/eve.json")).unwrap();
        let events: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (id, event) in (0..count).zip(&events) {
            assert_eq!(event["flow_id"], id);
        }
        assert_eq!(events[count as usize]["length"][0], 5);
        assert_eq!(events[count as usize + 1]["stats"]["seen"], 3);
    }

    #[test]
    fn a_sink_that_begins_another_log_leaves_nothing_in_it_of_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let sink = Sink::open(&first).unwrap();
        for (log, count) in [(&first, 3), (&second, 2)] {
            sink.begin(Destination::file(log.join(FILE_NAME)), StallPolicy::Endless).unwrap();
            let mut producer = sink.producer(Overflow::Wait);
            (0..count).for_each(|id| producer.push_flow(record(id)));
            producer.flush();
            assert_eq!(sink.flush().written(FLOW), count);
        }
        fs::write(directory.path().join("file"), "").unwrap();
        let wrong = Destination::file(directory.path().join("file/eve.json"));
        sink.begin(wrong, StallPolicy::Endless).unwrap_err();
        assert_eq!(sink.finish().written(FLOW), 2, "it goes on with the last one");
        let lines = |log: &Path| fs::read_to_string(log.join(FILE_NAME)).unwrap().lines().count() as u64;
        assert_eq!([lines(&first), lines(&second)], [3, 2]);
    }

    #[test]
    fn a_live_producer_never_waits_and_counts_each_record_that_it_loses() {
        let (queue, _messages) = sync_channel(QUEUE);
        let mut producer = Producer::new(queue, Overflow::Lose);
        let held = (BATCHES + 1) * BATCH_RECORDS;
        for id in 0..held + 500 {
            producer.push_flow(record(id as u64));
        }
        assert!(!producer.has_room());
        push_event(&mut producer, &[b"a"]);
        producer.flush();
        assert_eq!(producer.lost(), 501);
    }

    #[test]
    fn a_batch_without_room_for_a_message_is_handed_over() {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::open(directory.path()).unwrap();
        let mut producer = sink.producer(Overflow::Wait);
        let message = vec![0; 65_535];
        for _ in 0..20 {
            push_event(&mut producer, &[&message]);
        }
        producer.flush();
        let counters = sink.finish();
        assert_eq!((counters.written("length"), counters.lost), (20, 0));
    }

    #[test]
    fn records_that_a_full_disk_does_not_take_are_counted() {
        let sink =
            Sink::to(Destination::file("/dev/full"), EventTypes::default(), StallPolicy::Short).unwrap();
        let mut producer = sink.producer(Overflow::Wait);
        for id in 0..300 {
            producer.push_flow(record(id));
        }
        producer.flush();
        let counters = sink.finish();
        assert_eq!((counters.written(FLOW), counters.lost), (0, 300));
    }

    #[test]
    fn a_reader_that_stalls_costs_records_and_no_time_of_the_packet_path() {
        const RECORDS: u64 = 100_000;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eve.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let sink = Sink::to(
            Destination::Socket { path, datagrams: false },
            EventTypes::default(),
            StallPolicy::Short,
        )
        .unwrap();
        let _reader = listener.accept().unwrap();
        let mut producer = sink.producer(Overflow::Lose);
        let begun = Instant::now();
        for id in 0..RECORDS {
            producer.push_flow(record(id));
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        producer.wait();
        producer.flush();
        let counters = sink.finish();
        assert!(producer.lost() > 0 && counters.lost > 0 && counters.written(FLOW) > 0);
        assert_eq!(producer.lost() + counters.lost + counters.written(FLOW), RECORDS);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Sink::open(&file.join("logs")).unwrap_err().to_string();
        assert!(error.contains("file/logs") && error.contains("--log-dir"), "{error}");
    }
}
