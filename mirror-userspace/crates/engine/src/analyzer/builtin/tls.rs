//! TLS: each handshake becomes an event. Later records are ignored.

use std::sync::Arc;

use mirror_packet::Direction;
use mirror_protocols::detect::AppProto;
use mirror_protocols::preamble::{TlsBegin, tls_begins};
use mirror_protocols::tls::{
    Carrier, Certificate, Handshake, HandshakeEvent, Ja3, Messages, Progress, ServerHello, Version,
    alternative_names, ja4,
};
use mirror_signatures::buffer::Buffer;
use mirror_signatures::facts::TransactionFact;

use crate::analyzer::alert::{Cause, Watch};
use crate::analyzer::{Analyzer, Consumed, Context, Event};
use crate::indicators::Indicators;
use crate::inspection;

/// Emits an event for each TLS handshake.
#[derive(Debug, Default)]
pub struct Tls {
    watch: Watch,
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
    /// Client and server were mistaken for each other, as the first hello shows: only one direction of a connection
    /// that is older than the capture is mirrored, and the ports do not tell.
    reversed: Option<bool>,
    /// The rules have seen the client's hello.
    is_hello_inspected: bool,
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
        let (bytes, is_gap) = match event {
            Event::Data { bytes, .. } => (bytes, false),
            Event::Gap { bytes, .. } => (bytes, true),
            Event::End { acknowledged, .. } => {
                let direction = if flow.reversed == Some(true) { direction.reverse() } else { direction };
                flow.unanswered |= direction == Direction::ToClient && !acknowledged;
                return Consumed::Close;
            }
        };
        let is_hello_of_other = || tls_begins(direction.reverse(), bytes) == TlsBegin::At(0);
        let reversed = *flow.reversed.get_or_insert_with(is_hello_of_other);
        let direction = if reversed { direction.reverse() } else { direction };
        let handshake = flow.handshake.get_or_insert_with(|| {
            let mut handshake = self.spare.pop().unwrap_or_default();
            if context.wants(Buffer::TlsCerts) {
                handshake.keep_chain();
            }
            handshake
        });
        match direction {
            Direction::ToServer if flow.latency.is_none() => flow.asked = Some(context.time()),
            Direction::ToServer => {}
            Direction::ToClient => {
                let since = flow.asked.and_then(|asked| context.time().checked_sub(asked));
                flow.latency = flow.latency.or(since);
            }
        }
        let mut progress = handshake.push(direction, bytes);
        if is_gap {
            // This direction cannot be parsed behind a gap.
            progress = handshake.miss(direction);
        }
        if context.is_inspected() && !flow.is_hello_inspected && direction == Direction::ToServer {
            flow.is_hello_inspected = hand_over_hello(&handshake.messages(), context);
        }
        match progress {
            Ok(Progress::Reading) => Consumed::Used(bytes.len()),
            Ok(Progress::Complete) | Err(_) => {
                self.finish(flow, context);
                context.end_payload();
                Consumed::Done
            }
        }
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.watch.set(indicators);
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
        let is_answer_lost = handshake.is_answer_lost();
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
            && let Some(hello) = messages.client()
        {
            if let Some(name) = hello.extensions.server_name() {
                self.watch.name(Cause::ServerName, name, context);
            }
            if !messages.client_hello_cut {
                self.watch.fingerprints(&hello, Carrier::Tcp, context);
            }
        }
        if context.is_inspected() {
            if !flow.is_hello_inspected {
                hand_over_hello(&messages, context);
            }
            // Of plain frames, Suricata's rules see no answer if the client's data were not captured.
            if flow.asked.is_some() || flow.latency.is_some() || context.head.key.session.is_mirrored() {
                hand_over_answer(&messages, handshake.chain(), context);
            }
        }
        if messages.is_recorded() {
            let original = context.original().map_or("", AppProto::name);
            context.record(&HandshakeEvent {
                latency: flow.latency,
                original,
                alert: handshake.alert().filter(|_| !messages.are_suricatas()),
                answer_unknown: context.is_one_sided() || is_answer_lost,
                messages,
            });
        }
        handshake.clear();
        self.spare.push(handshake);
    }
}

/// The number of the transaction, of which a connection has one.
const TRANSACTION: u64 = 0;

/// Hands over the client's hello to the rules. Returns false if it is not complete yet.
#[cold]
fn hand_over_hello(messages: &Messages<'_>, context: &mut Context<'_>) -> bool {
    let Some(hello) = messages.client() else { return false };
    if let Some(name) = hello.extensions.server_name() {
        context.buffer(Buffer::TlsSni, name);
    }
    if context.wants(Buffer::Ja3Hash) || context.wants(Buffer::Ja3String) {
        let Ja3 { hash, string } = Ja3::client(&hello);
        context.buffer(Buffer::Ja3Hash, hash.as_bytes());
        context.buffer(Buffer::Ja3String, string.as_bytes());
    }
    if context.wants(Buffer::Ja4Hash) {
        context.buffer(Buffer::Ja4Hash, ja4(&hello, Carrier::Tcp).as_bytes());
    }
    hand_over_random(hello.random, context);
    context.fact(TransactionFact::TlsVersion(hello.version));
    context.transaction(TRANSACTION, Direction::ToServer, inspection::Progress::Done);
    true
}

/// Adds the buffers of the random value of a hello.
fn hand_over_random(random: &[u8], context: &mut Context<'_>) {
    let (time, bytes) = random.split_at_checked(4).unwrap_or_default();
    for (buffer, part) in
        [(Buffer::TlsRandom, random), (Buffer::TlsRandomTime, time), (Buffer::TlsRandomBytes, bytes)]
    {
        if context.wants(buffer) {
            context.buffer(buffer, part);
        }
    }
}

/// Hands over what the server has answered to the rules.
#[cold]
fn hand_over_answer<'a>(
    messages: &Messages<'_>,
    chain: impl Iterator<Item = &'a [u8]>,
    context: &mut Context<'_>,
) {
    let server = messages.server_hello.and_then(ServerHello::parse);
    if server.is_none() && messages.server_certificate.is_none() {
        return;
    }
    if let Some(hello) = &server {
        if context.wants(Buffer::Ja3sHash) || context.wants(Buffer::Ja3sString) {
            let Ja3 { hash, string } = Ja3::server(hello);
            context.buffer(Buffer::Ja3sHash, hash.as_bytes());
            context.buffer(Buffer::Ja3sString, string.as_bytes());
        }
        hand_over_random(hello.random, context);
        context.fact(TransactionFact::TlsVersion(hello.chosen().0));
    }
    if let Some(der) = messages.server_certificate {
        hand_over_certificate(der, chain, context);
    }
    context.transaction(TRANSACTION, Direction::ToClient, inspection::Progress::Done);
}

/// Adds the buffers that are made from the certificates of a server. `der` is the first of them.
fn hand_over_certificate<'a>(der: &[u8], chain: impl Iterator<Item = &'a [u8]>, context: &mut Context<'_>) {
    const FIELDS: [Buffer; 4] =
        [Buffer::TlsCertSubject, Buffer::TlsCertIssuer, Buffer::TlsCertSerial, Buffer::TlsCertFingerprint];
    if FIELDS.iter().any(|buffer| context.wants(*buffer))
        && let Some(certificate) = Certificate::parse(der)
    {
        let Certificate { subject, issuer, serial, fingerprint, .. } = certificate;
        for (buffer, text) in FIELDS.into_iter().zip([subject, issuer, serial, fingerprint]) {
            context.buffer(buffer, text.as_bytes());
        }
    }
    if context.wants(Buffer::TlsCerts) {
        chain.for_each(|der| context.buffer(Buffer::TlsCerts, der));
    }
    if context.wants(Buffer::TlsSubjectAltName) {
        for name in &alternative_names(der) {
            context.buffer(Buffer::TlsSubjectAltName, name.as_bytes());
        }
    }
}

/// Looks for TLS in flows of protocols that negotiate it with commands of their own (STARTTLS, AUTH TLS).
#[derive(Clone, Copy, Debug, Default)]
pub struct StartTls;

/// Bytes of both sides that are searched. A client that negotiates TLS does so early.
const MAX_PLAIN: usize = 64 * 1024;

impl Analyzer for StartTls {
    /// Bytes of each side.
    type Flow = [usize; 2];

    fn data(
        &mut self,
        sent: &mut [usize; 2],
        direction: Direction,
        event: Event<'_>,
        _context: &mut Context<'_>,
    ) -> Consumed {
        let bytes = match event {
            Event::Data { bytes, .. } => bytes,
            Event::Gap { .. } => return Consumed::Used(0),
            Event::End { .. } => return Consumed::Done,
        };
        let plain = match tls_begins(direction, bytes) {
            // Detection has recognised it.
            TlsBegin::At(0) if sent[direction as usize] == 0 => return Consumed::Done,
            TlsBegin::At(begin) => return Consumed::Restart(begin),
            TlsBegin::Maybe(begin) => begin,
            TlsBegin::No => bytes.len(),
        };
        sent[direction as usize] += plain;
        if sent[0] + sent[1] > MAX_PLAIN { Consumed::Done } else { Consumed::Used(plain) }
    }
}
