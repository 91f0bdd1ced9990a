//! Analyzers: what is made of the data of flows.
//!
//! An [`Analyzer`] says by a [`Filter`] which flows it wants, gets their packets, their data in order and
//! their ends, keeps a state for each flow that it follows, and emits events. Each worker has analyzers of
//! its own ([`Analyzers`]), so none of them needs a lock. Those that are built in use nothing that
//! others cannot; they are known by type, so that calls to them are direct.

mod alert;
mod builtin;
mod credit;
mod enabled;
mod filter;
mod registry;

use std::cell::Cell;

pub use mirror_packet::Direction;
use mirror_packet::Packet;
use mirror_protocols::detect::AppProto;
use mirror_records::sink::Producer;
use mirror_records::{Conversation, EventType};

use crate::Head;
pub use crate::stream::{Event, Use};
pub(crate) use alert::Cause;
pub use builtin::{Dns, EVENT_TYPES, Http, Quic, Ssh, StartTls, Tls};
pub use enabled::Enabled;
pub use filter::Filter;
pub use registry::{Analyzers, Following, Register, TooMany, register_everywhere};

/// Makes events of flows.
///
/// Nothing here may wait, and nothing should allocate once there was some traffic: what an analyzer
/// needs for a flow it can keep in itself and use again.
pub trait Analyzer: Send + 'static {
    /// What is kept of a flow; made when the first of its events comes.
    type Flow: Default + Send + 'static;

    /// Takes a packet of a flow, where the filter asked for packets ([`Filter::packets`]).
    fn packet(
        &mut self,
        _flow: &mut Self::Flow,
        _direction: Direction,
        _packet: &Packet<'_>,
        _context: &mut Context<'_>,
    ) -> Interest {
        Interest::More
    }

    /// Takes what came in a flow: a datagram, the next bytes of a stream, or a gap in it.
    fn data(
        &mut self,
        _flow: &mut Self::Flow,
        _direction: Direction,
        _event: Event<'_>,
        _context: &mut Context<'_>,
    ) -> Use {
        Use::Done
    }

    /// Takes the end of a flow of which there was an event before. The flow's state goes then.
    fn end(&mut self, _flow: &mut Self::Flow, _context: &mut Context<'_>) {}

    /// Bytes of memory that a flow's state holds besides itself. The states of all flows of a worker hold
    /// 32 MiB for each analyzer; beyond, the host that has most of it, or else the oldest, is told to [`forget`].
    ///
    /// [`forget`]: Analyzer::forget
    fn held(_flow: &Self::Flow) -> usize {
        0
    }

    /// Gives up what a flow's state holds, and keeps none of that memory for others. The flow goes on: what comes is
    /// the middle of something.
    fn forget(&mut self, flow: &mut Self::Flow) {
        *flow = Self::Flow::default();
    }
}

/// Whether an analyzer wants to see more of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It does.
    More,
    /// No more of this flow. When no analyzer wants more, the flow can be counted in the kernel from
    /// then on.
    Done,
}

/// What an analyzer is called with besides the event: whose it is, when, and where records go.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) head: &'a Head,
    pub(crate) time: u64,
    pub(crate) original: Option<AppProto>,
    pub(crate) records: &'a mut Producer,
    /// Set where the flow has raised an alert.
    pub(crate) alerted: &'a Cell<bool>,
    /// The analyzer does not run any more: what it says is not heard.
    pub(crate) muted: bool,
}

impl<'a> Context<'a> {
    pub(crate) const fn new(
        head: &'a Head,
        time: u64,
        original: Option<AppProto>,
        records: &'a mut Producer,
        alerted: &'a Cell<bool>,
    ) -> Self {
        Self { head, time, original, records, alerted, muted: false }
    }
}

impl Context<'_> {
    /// When the packet came, or the flow ended, in nanoseconds since the epoch.
    #[must_use]
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// What was spoken in the flow before this application: STARTTLS, CONNECT.
    #[must_use]
    pub const fn original(&self) -> Option<AppProto> {
        self.original
    }

    /// Whose flow it is.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        self.head.conversation()
    }

    /// Whether the flow is a stream of TCP.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.head.is_stream()
    }

    /// Emits a record: `parts`, one after the other, are the packed bytes that its
    /// function to render them gets (see [`EventType::new`]).
    pub fn emit(&mut self, event_type: &'static EventType, parts: &[&[u8]]) {
        if !self.muted {
            self.records.push_event(self.time, self.conversation(), event_type, parts);
        }
    }

    /// Raises an alert: an event `alert` with this signature. Where packets are kept, the flow's are from
    /// here on, whatever the driver would else count of it; where only alerts are (`keep = "alerts"`), so are
    /// those from before that are still in memory.
    pub fn keep(&mut self, signature: &str) {
        self.alert(Cause::Analyzer, signature.as_bytes());
    }

    pub(crate) fn alert(&mut self, cause: Cause, about: &[u8]) {
        self.alerted.set(true);
        self.emit(&alert::ALERT, &[&[cause as u8], about]);
    }
}
