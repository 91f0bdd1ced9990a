//! TLS: each handshake becomes an event. Later records are ignored.

use mirror_packet::Direction;
use mirror_protocols::detect::AppProto;
use mirror_protocols::tls::{
    self, Carrier, ClientHello, Handshake, Messages, Outline, Progress, Version, begins_with_client_hello,
};
use mirror_records::EventType;
use mirror_records::apm::Measured;
use mirror_records::eve::Lines;
use serde::Serialize;

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::{Analyzer, Consumed, Context, Event};

/// A handshake: the latency, the length and the name of the previous protocol, the outline of the messages,
/// the messages.
pub(super) static TLS: EventType = EventType::new("tls", render).measured(measure);

/// Stands for an unknown latency.
const UNKNOWN: u64 = u64::MAX;

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    event: tls::Event<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    from_proto: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
}

/// A packed handshake.
struct Packed<'a> {
    latency: Option<u64>,
    /// The protocol that was spoken before; empty if none.
    original: &'a str,
    messages: Messages<'a>,
}

impl<'a> Packed<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (latency, rest) = bytes.split_first_chunk()?;
        let (&len, rest) = rest.split_first()?;
        let (original, rest) = rest.split_at_checked(usize::from(len))?;
        let (outline, parts) = rest.split_first_chunk()?;
        Some(Self {
            latency: Some(u64::from_ne_bytes(*latency)).filter(|&latency| latency != UNKNOWN),
            original: str::from_utf8(original).ok()?,
            messages: Outline::unpack(outline).messages(parts),
        })
    }
}

fn render(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    let Some(Packed { latency, original, messages }) = Packed::read(bytes) else { return Ok(()) };
    lines.line(&Object {
        event: tls::Event::new(&messages),
        from_proto: original,
        latency_ms: latency.map(|latency| latency as f64 / 1e6),
    })
}

/// Measures a handshake. It failed if the server did not answer it.
fn measure(bytes: &[u8]) -> Option<Measured> {
    let Packed { latency, messages, .. } = Packed::read(bytes)?;
    Some(Measured { latency, error: messages.server_hello.is_none() })
}

/// Emits an event for each TLS handshake.
#[derive(Debug, Default)]
pub struct Tls {
    pub(in crate::analyzer) watch: Watch,
    /// Handshakes that no flow uses, held for their memory.
    spare: Vec<Handshake>,
}

/// The state of a flow.
#[derive(Debug, Default)]
pub struct Flow {
    handshake: Option<Handshake>,
    /// Time of the client's last data before the server's first.
    asked: Option<u64>,
    /// Nanoseconds until the server answered.
    latency: Option<u64>,
    /// The client may not have received the server's data.
    unanswered: bool,
}

impl Analyzer for Tls {
    type Flow = Flow;

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        let bytes = match event {
            Event::Data { bytes, .. } => bytes,
            Event::Gap { .. } => {
                // The handshake cannot be parsed behind a gap.
                self.finish(flow, context);
                return Consumed::Done;
            }
            Event::End { acknowledged, .. } => {
                flow.unanswered |= direction == Direction::ToClient && !acknowledged;
                return Consumed::Close;
            }
        };
        let handshake = flow.handshake.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        match direction {
            Direction::ToServer if flow.latency.is_none() => flow.asked = Some(context.time()),
            Direction::ToServer => {}
            Direction::ToClient => {
                let since = flow.asked.map(|asked| context.time().saturating_sub(asked));
                flow.latency = flow.latency.or(since);
            }
        }
        match handshake.push(direction, bytes) {
            Ok(Progress::Reading) => Consumed::Used(bytes.len()),
            Ok(Progress::Complete) | Err(_) => {
                self.finish(flow, context);
                Consumed::Done
            }
        }
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        self.finish(flow, context);
    }

    fn held(flow: &Flow) -> usize {
        flow.handshake.as_ref().map_or(0, Handshake::room)
    }
}

impl Tls {
    /// Emits the event of a handshake, once.
    fn finish(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        let Some(mut handshake) = flow.handshake.take() else { return };
        let mut messages = handshake.messages();
        if flow.unanswered {
            messages = Messages {
                server_hello: None,
                server_certificate: None,
                server_record: Version::UNDETERMINED,
                ..messages
            };
        }
        if self.watch.is_on()
            && let Some(hello) = messages.client_hello.and_then(ClientHello::parse)
        {
            if let Some(name) = hello.extensions.server_name() {
                self.watch.name(Cause::ServerName, name, context);
            }
            self.watch.fingerprints(&hello, Carrier::Tcp, context);
        }
        if messages.is_recorded() {
            let latency = flow.latency.unwrap_or(UNKNOWN).to_ne_bytes();
            let [client, server, server_certificate, client_certificate] = messages.parts();
            let outline = messages.outline().pack();
            let original = context.original().map_or("", AppProto::name);
            let before = [&[original.len() as u8], original.as_bytes()];
            context.emit(
                &TLS,
                &[
                    &latency,
                    before[0],
                    before[1],
                    &outline,
                    client,
                    server,
                    server_certificate,
                    client_certificate,
                ],
            );
        }
        handshake.clear();
        self.spare.push(handshake);
    }
}

/// Looks for TLS in flows of protocols that negotiate it with commands of their own (STARTTLS, AUTH TLS).
#[derive(Clone, Copy, Debug, Default)]
pub struct StartTls;

/// Bytes of client data that are searched. A client that negotiates TLS does so early.
const MAX_PLAIN: usize = 64 * 1024;

impl Analyzer for StartTls {
    /// Bytes that the client has sent.
    type Flow = usize;

    fn data(
        &mut self,
        sent: &mut usize,
        direction: Direction,
        event: Event<'_>,
        _context: &mut Context<'_>,
    ) -> Consumed {
        match (event, direction) {
            (Event::Data { bytes, .. }, Direction::ToServer) => {
                if *sent > 0 && begins_with_client_hello(bytes) {
                    return Consumed::Restart(0);
                }
                *sent += bytes.len();
                if *sent > MAX_PLAIN { Consumed::Done } else { Consumed::Used(bytes.len()) }
            }
            (Event::Data { bytes, .. }, Direction::ToClient) => Consumed::Used(bytes.len()),
            (Event::Gap { .. }, _) => Consumed::Used(0),
            (Event::End { .. }, _) => Consumed::Done,
        }
    }
}
