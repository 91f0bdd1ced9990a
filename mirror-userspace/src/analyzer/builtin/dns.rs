//! DNS: each message becomes an event.

use crate::analyzer::{Analyzer, Context, Direction, Event, Use};
use crate::protocol::dns::{self, Message, Transactions};
use crate::record::EventType;
use crate::record::eve::Lines;

/// A message, behind its number in the flow.
pub(super) static DNS: EventType = EventType { name: "dns", render };

fn render(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    let Some((number, message)) = bytes.split_first_chunk() else { return Ok(()) };
    // The worker has parsed it before: there is no other case.
    let Ok(message) = Message::parse(message) else { return Ok(()) };
    message.events(u32::from_ne_bytes(*number)).try_for_each(|event| lines.line(&event))
}

/// Makes events of DNS messages, over UDP and TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dns;

/// What is kept of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    transactions: Transactions,
    /// Bytes of a direction are missing: the next may be in the middle of a message.
    lost: [bool; 2],
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
        let lost = &mut flow.lost[direction as usize];
        match event {
            Event::Data { bytes, .. } if !context.is_stream() => {
                message(&mut flow.transactions, bytes, context);
                Use::Used(bytes.len())
            }
            Event::Data { bytes, .. } if *lost && !dns::probe_tcp(bytes) => Use::Used(bytes.len()),
            Event::Data { bytes, .. } => {
                *lost = false;
                Use::Used(messages(&mut flow.transactions, bytes, context))
            }
            Event::Gap { .. } => {
                *lost = true;
                Use::Used(0)
            }
            Event::End { .. } => Use::Done,
        }
    }
}

/// Takes the messages of a stream, each behind its length (RFC 1035, section 4.2.2); answers how many
/// bytes were whole messages.
fn messages(transactions: &mut Transactions, bytes: &[u8], context: &mut Context<'_>) -> usize {
    let mut rest = bytes;
    while let Some((len, body)) = rest.split_first_chunk()
        && let Some((whole, behind)) = body.split_at_checked(usize::from(u16::from_be_bytes(*len)))
    {
        message(transactions, whole, context);
        rest = behind;
    }
    bytes.len() - rest.len()
}

fn message(transactions: &mut Transactions, bytes: &[u8], context: &mut Context<'_>) {
    if Message::parse(bytes).is_ok() {
        context.emit(&DNS, &[&transactions.number().to_ne_bytes(), bytes]);
    }
}
