//! DNS: each message becomes an event.

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::credit::{self, Credit};
use crate::analyzer::{Analyzer, Context, Direction, Event, Use};
use crate::apm::Measured;
use crate::protocol::dns::{self, Message, NameBuffer, Transactions};
use crate::record::EventType;
use crate::record::eve::Lines;

/// A message, behind its number in the flow and the latency.
pub(super) static DNS: EventType = EventType::new("dns", render).measured(measure);

/// How many messages of a stream, and alerts, were left out.
static OMITTED: EventType = EventType::new("dns", credit::render_omitted);

/// Stands for a latency that is not known.
const UNKNOWN: u64 = u64::MAX;

/// Number, latency and message.
fn unpack(bytes: &[u8]) -> Option<(u32, Option<u64>, Message<'_>)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (latency, message) = rest.split_first_chunk()?;
    let latency = Some(u64::from_ne_bytes(*latency)).filter(|&latency| latency != UNKNOWN);
    // The worker has parsed it before: there is no other case.
    Some((u32::from_ne_bytes(*number), latency, Message::parse(message).ok()?))
}

/// The object `dns`.
struct Object<'a> {
    event: dns::Event<'a>,
    latency: Option<u64>,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("dns", 1)?;
        self.event.fields(&mut object)?;
        if let Some(latency) = self.latency {
            object.serialize_field("latency_ms", &(latency as f64 / 1e6))?;
        }
        object.end()
    }
}

fn render(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    let Some((number, latency, message)) = unpack(bytes) else { return Ok(()) };
    message.events(number).try_for_each(|event| {
        if lines.line_within(message.most(), &Object { event, latency })? {
            return Ok(());
        }
        lines.line(&Object { event: event.shortened(), latency })
    })
}

/// An answer ends a request, with an error where it is one of the server.
fn measure(bytes: &[u8]) -> Option<Measured> {
    const NO_ERROR: u8 = 0;
    const NO_SUCH_NAME: u8 = 3;
    let (_, latency, message) = unpack(bytes)?;
    let header = message.header();
    let error = !matches!(header.rcode(), NO_ERROR | NO_SUCH_NAME);
    header.is_response().then_some(Measured { latency, error })
}

/// Makes events of DNS messages, over UDP and TCP.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    pub(in crate::analyzer) watch: Watch,
}

/// Queries of a flow that may wait for their answers; with one more the oldest is forgotten.
const MAX_OPEN: usize = 4;

/// What is kept of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    transactions: Transactions,
    /// Identifiers of queries, and when they came; 0 for none.
    open: [(u16, u64); MAX_OPEN],
    next: u8,
    /// Bytes of a direction are missing: the next may be in the middle of a message.
    lost: [bool; 2],
    /// What messages of a stream, and alerts, may still become.
    credit: Credit,
}

impl Analyzer for Dns {
    type Flow = Flow;

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Use {
        let lost = flow.lost[direction as usize];
        match event {
            Event::Data { bytes, .. } if !context.is_stream() => {
                flow.credit.earn(bytes.len());
                self.message(flow, bytes, context);
                Use::Used(bytes.len())
            }
            Event::Data { bytes, .. } if lost && !dns::probe_tcp(bytes) => Use::Used(bytes.len()),
            Event::Data { bytes, new } => {
                flow.lost[direction as usize] = false;
                flow.credit.earn(bytes.len().saturating_sub(new));
                Use::Used(self.messages(flow, bytes, context))
            }
            Event::Gap { .. } => {
                flow.lost[direction as usize] = true;
                Use::Used(0)
            }
            Event::End { .. } => Use::Done,
        }
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        flow.credit.end(&OMITTED, context);
    }
}

impl Dns {
    /// Takes the messages of a stream, each behind its length (RFC 1035, section 4.2.2); answers how many
    /// bytes were whole messages.
    fn messages(&self, flow: &mut Flow, bytes: &[u8], context: &mut Context<'_>) -> usize {
        let mut rest = bytes;
        while let Some((len, body)) = rest.split_first_chunk()
            && let Some((whole, behind)) = body.split_at_checked(usize::from(u16::from_be_bytes(*len)))
        {
            self.message(flow, whole, context);
            rest = behind;
        }
        bytes.len() - rest.len()
    }

    fn message(&self, flow: &mut Flow, bytes: &[u8], context: &mut Context<'_>) {
        let Ok(message) = Message::parse(bytes) else { return };
        let header = message.header();
        let latency = if header.is_response() {
            flow.answer(header.id).map(|asked| context.time().saturating_sub(asked))
        } else {
            flow.ask(header.id, context.time());
            None
        };
        let number = flow.transactions.number().to_ne_bytes();
        // Of an answer where the question was not seen: it has that, too.
        if self.watch.is_on() && latency.is_none() {
            let mut name = NameBuffer::new();
            for question in message.questions() {
                let name = question.name.read(&mut name);
                self.watch.one_of_names(Cause::Query, name, &mut flow.credit.alerts, context);
            }
        }
        // A datagram has the headers of a packet in front, a message in a stream has not.
        if context.is_stream() && !flow.credit.events.spend(credit::EVENT + 2 * message.names()) {
            return;
        }
        context.emit(&DNS, &[&number, &latency.unwrap_or(UNKNOWN).to_ne_bytes(), bytes]);
    }
}

impl Flow {
    fn ask(&mut self, id: u16, time: u64) {
        // A query that is sent again waits since the first time.
        if self.open.iter().any(|&(open, since)| open == id && since > 0) {
            return;
        }
        self.open[usize::from(self.next)] = (id, time);
        self.next = (self.next + 1) % MAX_OPEN as u8;
    }

    /// When the query with this identifier came, which waits no longer.
    fn answer(&mut self, id: u16) -> Option<u64> {
        let query = self.open.iter_mut().find(|(open, since)| *open == id && *since > 0)?;
        Some(std::mem::take(&mut query.1))
    }
}
