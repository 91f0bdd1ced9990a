//! The handshakes of the corpus: what `protocol::tls` and `protocol::quic` read of the captures is what
//! Suricata 7.0.10 logged of them, as far as the thresholds below say. Packets, streams and the detection
//! of protocols are the product's; flows are kept in the simplest way.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mirror_userspace::capture_file::CaptureFile;
use mirror_userspace::flow::stream::{Event, Stream, Streams, Use};
use mirror_userspace::flow::tcp::{Connection, Segment};
use mirror_userspace::flow::{Direction, FlowKey, Session};
use mirror_userspace::packet::fragment::Defragmenter;
use mirror_userspace::packet::{self, Decoded, Layer, LinkType, Packet, Transport, tcp_flags};
use mirror_userspace::protocol::detect::{AppProto, Detection, Detector, Endpoints, Transport as Carrier};
use mirror_userspace::protocol::tls::Progress;
use mirror_userspace::protocol::{quic, tls};
use mirror_xdp_tests::require::corpus;
use serde_json::{Value, json};

/// A flow whose handshake is looked for.
struct Flow {
    /// Whether the client is the key's lower endpoint.
    client_is_low: bool,
    ports: [u16; 2],
    connection: Option<Connection>,
    streams: [Stream; 2],
    detector: Detector,
    upgraded: bool,
    handshake: tls::Handshake,
    quic: quic::Connection,
}

impl Flow {
    fn new(forward: bool, packet: &Packet<'_>) -> Self {
        Self {
            client_is_low: forward,
            ports: [packet.source_port, packet.destination_port],
            connection: None,
            streams: [Stream::default(); 2],
            detector: Detector::default(),
            upgraded: false,
            handshake: tls::Handshake::new(),
            quic: quic::Connection::new(),
        }
    }

    /// Takes what happens in a stream.
    fn stream(&mut self, direction: Direction, event: Event<'_>) -> Use {
        let Event::Data { bytes, new } = event else { return Use::Close };
        let [client_port, server_port] = self.ports;
        let endpoints = Endpoints { transport: Carrier::Tcp, client_port, server_port };
        // What detection does not want yet is seen again.
        let fresh = &bytes[new..];
        let found = self.detector.feed(endpoints, direction, fresh);
        let upgrades =
            matches!(self.detector.flow(), Detection::Found(AppProto::Http | AppProto::Ftp | AppProto::Smtp));
        self.upgraded |= upgrades && direction == Direction::ToServer && tls::begins_with_client_hello(fresh);
        match found {
            _ if self.upgraded => {}
            // Who was answered with something else did not speak TLS.
            Detection::Found(AppProto::Tls)
                if matches!(
                    self.detector.direction(Direction::ToClient),
                    Detection::Unknown | Detection::Found(AppProto::Tls)
                ) => {}
            _ if upgrades => return Use::Used(bytes.len()),
            Detection::Unknown => return Use::Used(0),
            Detection::Found(_) | Detection::Failed => return Use::Close,
        }
        match self.handshake.push(direction, bytes) {
            Ok(Progress::Reading) => Use::Used(bytes.len()),
            Ok(Progress::Complete) | Err(_) => Use::Close,
        }
    }
}

/// Reads the handshakes of a capture.
#[derive(Default)]
struct Reader {
    flows: HashMap<FlowKey, Flow>,
    streams: Streams,
    defragmenter: Defragmenter,
    scratch: Vec<u8>,
    events: Vec<Value>,
}

impl Reader {
    fn layers(&mut self, time: u64, layer: Layer<'_>) {
        let mut next = Some(layer);
        while let Some(layer) = next.take() {
            match packet::decode(layer) {
                Ok(Decoded::Packet(packet)) => {
                    next = packet.tunnelled;
                    self.packet(&packet);
                }
                Ok(Decoded::Fragment(fragment)) => {
                    let mut datagram = Vec::new();
                    let added = self.defragmenter.add(&fragment, Session::from(None), time, &mut datagram);
                    if added == Ok(true) {
                        self.layers(time, Layer::datagram(&datagram, &fragment));
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        let (key, forward) = FlowKey::of_packet(packet, Session::from(None));
        match packet.transport {
            Transport::Tcp { header, payload, missing } => {
                let segment = Segment { header, payload, missing };
                let reused = self.flows.get(&key).is_some_and(|flow| {
                    let begins = flow.connection.as_ref().is_none_or(|connection| {
                        connection.is_reused_by(direction(forward == flow.client_is_low), &segment)
                    });
                    segment.begins_connection() && begins
                });
                if reused && let Some(flow) = self.flows.remove(&key) {
                    self.end(&key, flow);
                }
                let mut flow = self.flows.remove(&key).unwrap_or_else(|| Flow::new(forward, packet));
                let direction = direction(forward == flow.client_is_low);
                self.segment(&mut flow, direction, &segment);
                self.flows.insert(key, flow);
            }
            Transport::Udp { payload } => {
                let mut flow = self.flows.remove(&key).unwrap_or_else(|| Flow::new(forward, packet));
                let direction = direction(forward == flow.client_is_low);
                self.datagram(&key, &mut flow, direction, payload);
                self.flows.insert(key, flow);
            }
            _ => {}
        }
    }

    fn segment(&mut self, flow: &mut Flow, direction: Direction, segment: &Segment<'_>) {
        match &mut flow.connection {
            Some(connection) => connection.follow(direction, segment),
            None => flow.connection = Connection::begin(segment),
        }
        let Some(connection) = flow.connection.as_ref().filter(|connection| connection.is_answered()) else {
            return;
        };
        let first = connection.first_byte(direction);
        let flags = segment.header.flags;
        let mut streams = flow.streams;
        let [client, server] = &mut streams;
        let (this, other, back) = match direction {
            Direction::ToServer => (client, server, Direction::ToClient),
            Direction::ToClient => (server, client, Direction::ToServer),
        };
        if flags & tcp_flags::ACK != 0 {
            let acknowledged = segment.header.acknowledgement;
            self.streams.acknowledge(other, acknowledged, &mut |event| flow.stream(back, event));
        }
        let sequence = segment.header.sequence.wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
        let each = &mut |event: Event<'_>| flow.stream(direction, event);
        self.streams.segment(this, first, sequence, segment.payload, each);
        flow.streams = streams;
    }

    fn datagram(&mut self, key: &FlowKey, flow: &mut Flow, direction: Direction, payload: &[u8]) {
        let [client_port, server_port] = flow.ports;
        let endpoints = Endpoints { transport: Carrier::Udp, client_port, server_port };
        flow.detector.feed(endpoints, direction, payload);
        if flow.detector.flow() != Detection::Found(AppProto::Quic) {
            return;
        }
        if let Some(hello) = flow.quic.push(direction, payload, &mut self.scratch) {
            let event = quic::Event::new(hello.version, hello.direction, hello.body);
            let event = serde_json::to_value(event).unwrap();
            self.events.push(json!({ "ends": ends(key), "quic": event }));
        }
    }

    /// Writes the record of a connection.
    fn end(&mut self, key: &FlowKey, mut flow: Flow) {
        flow.streams.iter_mut().for_each(|stream| self.streams.close(stream));
        let messages = flow.handshake.messages();
        if messages.is_recorded() {
            // As a worker and a sink do it.
            let bytes = messages.parts().concat();
            let event = serde_json::to_value(tls::Event::new(&messages.outline().messages(&bytes))).unwrap();
            self.events.push(json!({ "ends": ends(key), "tls": event }));
        }
    }
}

const fn direction(from_client: bool) -> Direction {
    if from_client { Direction::ToServer } else { Direction::ToClient }
}

/// The handshakes of a capture, read by this project.
fn read(capture: &Path) -> Vec<Value> {
    let mut reader = Reader::default();
    // Some are damaged at their end.
    let _ = CaptureFile::open(capture).unwrap().for_each(|frame| {
        if let Some(link) = LinkType::from_number(frame.link) {
            reader.layers(frame.time, Layer::frame(link, frame.bytes, frame.original_len as usize));
        }
    });
    let flows: Vec<_> = reader.flows.drain().collect();
    for (key, flow) in flows {
        reader.end(&key, flow);
    }
    reader.events
}

/// The handshakes of a capture in Suricata's log.
fn expected(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let handshakes = events.filter(|event| event["event_type"] == "tls" || event["event_type"] == "quic");
    handshakes
        .map(|mut event| {
            let mut ends = [&event["src_port"], &event["dest_port"]].map(|port| port.as_u64().unwrap());
            ends.sort_unstable();
            event["ends"] = json!(ends);
            event
        })
        .collect()
}

/// The ports of a flow.
fn ends(key: &FlowKey) -> [u16; 2] {
    let mut ends = [key.low.1, key.high.1];
    ends.sort_unstable();
    ends
}

/// The value of some fields of an event's object, where the first of them is there.
fn fields(event: &Value, object: &str, pointers: &[&str]) -> Option<String> {
    let object = event.get(object)?;
    object.pointer(pointers[0])?;
    let values: Vec<_> = pointers.iter().map(|pointer| object.pointer(pointer)).collect();
    Some(format!("{} {}", event["ends"], json!(values)))
}

/// One thing that is compared: how, and the least recall and precision.
struct Measure {
    name: &'static str,
    object: &'static str,
    pointers: &'static [&'static str],
    least: [f64; 2],
    expected: usize,
    ours: usize,
    both: usize,
}

impl Measure {
    const fn new(
        name: &'static str,
        object: &'static str,
        pointers: &'static [&'static str],
        least: [f64; 2],
    ) -> Self {
        Self { name, object, pointers, least, expected: 0, ours: 0, both: 0 }
    }

    fn add(&mut self, capture: &str, expected: &[Value], ours: &[Value]) {
        let keys = |events: &[Value]| -> Vec<_> {
            events.iter().filter_map(|event| fields(event, self.object, self.pointers)).collect()
        };
        let (mut missing, ours) = (keys(expected), keys(ours));
        self.expected += missing.len();
        self.ours += ours.len();
        for key in ours {
            if let Some(at) = missing.iter().position(|other| *other == key) {
                missing.swap_remove(at);
                self.both += 1;
            } else {
                println!("{}: more {capture} {key}", self.name);
            }
        }
        for key in missing {
            println!("{}: less {capture} {key}", self.name);
        }
    }

    fn check(&self) {
        let recall = self.both as f64 / self.expected as f64;
        let precision = self.both as f64 / self.ours as f64;
        println!("{:16} recall {recall:.4} precision {precision:.4} of {}", self.name, self.expected);
        assert!(recall >= self.least[0] && precision >= self.least[1], "{}", self.name);
    }
}

/// What is said of a certificate.
const CERTIFICATE: &[&str] = &["/subject", "/issuerdn", "/serial", "/fingerprint", "/notbefore", "/notafter"];

// More than Suricata logs: a certificate with a NUL byte in a name, a connection whose answer to the SYN has a
// wrong time stamp, and two where the capture ends before the server's hello is acknowledged. Less: a session
// that was resumed by a ticket that there was not, and the second flow of two that are one here.
#[test]
fn handshakes_are_those_of_suricata() {
    let Some(corpus) = corpus() else { return };
    let mut measures = [
        Measure::new("TLS", "tls", &["/version", "/sni"], [0.97, 0.94]),
        Measure::new("session resumed", "tls", &["/session_resumed"], [0.8, 1.0]),
        Measure::new("JA3", "tls", &["/ja3/hash", "/ja3/string"], [0.98, 0.95]),
        Measure::new("JA3S", "tls", &["/ja3s/hash", "/ja3s/string"], [0.98, 0.94]),
        Measure::new("JA4", "tls", &["/ja4"], [0.98, 0.95]),
        Measure::new("certificate", "tls", CERTIFICATE, [1.0, 0.95]),
        Measure::new("of client", "tls", &["/client"], [1.0, 1.0]),
        Measure::new("QUIC", "quic", &["/sni", "/version", "/ja4"], [1.0, 1.0]),
        Measure::new("QUIC client", "quic", &["/ja3", "/extensions"], [1.0, 1.0]),
        Measure::new("QUIC server", "quic", &["/ja3s", "/extensions"], [1.0, 1.0]),
    ];
    let manifest = fs::read_to_string(corpus.join("MANIFEST.tsv")).unwrap();
    for capture in manifest.lines().filter_map(|line| line.split('\t').next()) {
        let ours = read(&corpus.join(capture));
        let expected = expected(&corpus.join("expected").join(format!("{capture}.eve.json")));
        for measure in &mut measures {
            measure.add(capture, &expected, &ours);
        }
    }
    for measure in &measures {
        measure.check();
    }
}
