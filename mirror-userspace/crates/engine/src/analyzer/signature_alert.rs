//! The event of an alert that a rule raises, as Suricata writes it: the rule, the transaction, the flow, and on request
//! the payload and the packet.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_packet::{Direction, text};
use mirror_protocols::eve::{EveEvent, EveWriter, LineShape, Packer, Unpacker};
use mirror_records::ALERT;
use mirror_records::eve::Timestamp;
use mirror_signatures::buffer::Application;
use mirror_signatures::compile::Signature;
use mirror_signatures::engine::AlertPayload;
use mirror_signatures::facts::Facts;
use mirror_signatures::recorded;
use mirror_signatures::rule::{Action, Target};
use mirror_xdp_common::Address;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::inspection::Alert;

/// The most values of `metadata` and `reference` of an alert.
const MOST_VALUES: usize = 64;
/// The link type of packets that begin with their IP header, `DLT_RAW` of libpcap.
const RAW_IP: u8 = 12;

/// A rule that has matched, and what it matched in.
pub(super) struct SignatureAlert<'a> {
    pub(super) signature: &'a Signature,
    pub(super) alert: &'a Alert,
    pub(super) facts: &'a Facts,
    /// The buffers of the transaction, the payload, and the packet.
    pub(super) details: [&'a [u8]; 3],
    pub(super) wanted: AlertPayload,
}

/// The same, as bytes.
pub(super) struct Packed<'a>(&'a [u8]);

impl EveEvent for SignatureAlert<'_> {
    const TYPE: &'static str = ALERT;
    type Unpacked<'a> = Packed<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        let Self { signature, alert, facts, details, wanted } = self;
        let rule = &signature.rule;
        let action = alert.action.unwrap_or(rule.header.action);
        packer.u32(rule.id.gid);
        packer.u32(rule.id.sid);
        packer.u32(rule.id.rev);
        packer.u8(signature.priority);
        packer.u8(action as u8);
        packer.u8(match rule.target {
            None => 0,
            Some(Target::Source) => 1,
            Some(Target::Destination) => 2,
        });
        packer.u8(alert.direction as u8);
        packer.u8(u8::from(alert.in_stream) | u8::from(facts.is_lone) << 1);
        packer.u8(u8::from(wanted.encoded) | u8::from(wanted.printable) << 1 | u8::from(wanted.packet) << 2);
        packer.u64(alert.transaction.unwrap_or(u64::MAX));
        packer.bytes(application(facts).as_bytes());
        packer.u8(facts.transport);
        packer.u8(u8::from(facts.ipv6));
        for (address, port) in facts.ends {
            packer.u64(address.high);
            packer.u64(address.low);
            packer.u16(port);
        }
        packer.u64(facts.start);
        facts.packets.into_iter().chain(facts.bytes).for_each(|count| packer.u64(count));
        packer.bytes(signature.category.as_bytes());
        packer.bytes(rule.message.as_bytes());
        let metadata = rule.metadata.get(..MOST_VALUES).unwrap_or(&rule.metadata);
        packer.u8(metadata.len() as u8);
        for (key, value) in metadata {
            packer.bytes(key.as_bytes());
            packer.bytes(value.as_bytes());
        }
        let references = rule.references.get(..MOST_VALUES).unwrap_or(&rule.references);
        packer.u8(references.len() as u8);
        for (system, name) in references {
            packer.bytes(system.as_bytes());
            packer.bytes(name.as_bytes());
        }
        for bytes in *details {
            packer.bytes(bytes);
        }
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<Packed<'a>> {
        Some(Packed(unpacker.rest()))
    }

    fn write(&self, _: &mut impl EveWriter) -> serde_json::Result<()> {
        // Only packed alerts are written.
        Ok(())
    }
}

/// Returns the name of the flow's protocol in records.
fn application(facts: &Facts) -> &'static str {
    match facts.application {
        Some(Application::Http | Application::Http1) => "http",
        Some(other) => other.name(),
        None if facts.is_unknown => "failed",
        None => "",
    }
}

impl EveEvent for Packed<'_> {
    const TYPE: &'static str = ALERT;
    type Unpacked<'a> = Packed<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.rest(self.0);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<Packed<'a>> {
        Some(Packed(unpacker.rest()))
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        let Some(line) = Line::read(&mut Unpacker::new(self.0)) else { return Ok(()) };
        let shape = LineShape {
            transaction: line.transaction.map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
            is_reversed: line.direction == Direction::ToClient,
            is_lone: line.members.flow.is_none(),
        };
        writer.line_with(&shape, &line.object, &line.members)
    }
}

/// A line in the making.
struct Line<'a> {
    transaction: Option<u64>,
    direction: Direction,
    object: Object<'a>,
    members: Members<'a>,
}

/// The object `alert`.
#[derive(Serialize)]
struct Object<'a> {
    action: &'static str,
    gid: u32,
    signature_id: u32,
    rev: u32,
    signature: Cow<'a, str>,
    category: Cow<'a, str>,
    severity: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Endpoint>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    references: Vec<String>,
}

#[derive(Serialize)]
struct Endpoint {
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// The members beside the object `alert`.
#[derive(Serialize)]
struct Members<'a> {
    /// The action that the rule would take if packets could be dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    #[serde(flatten)]
    transaction: Transaction<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    app_proto: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    /// Absent for a packet that belongs to no flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<Flow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_printable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_info: Option<PacketInfo>,
}

#[derive(Serialize)]
struct Verdict {
    action: &'static str,
}

#[derive(Serialize)]
struct PacketInfo {
    linktype: u8,
}

/// The object `flow`, from client to server.
#[derive(Serialize)]
struct Flow {
    pkts_toserver: u64,
    pkts_toclient: u64,
    bytes_toserver: u64,
    bytes_toclient: u64,
    start: Timestamp,
    src_ip: String,
    dest_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
}

/// The object of the transaction, if there is one: packed buffers of one direction.
struct Transaction<'a> {
    application: Cow<'a, str>,
    direction: Direction,
    fields: &'a [u8],
}

impl Serialize for Transaction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde_json::{Map, Value};

        let mut objects: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for (field, bytes) in recorded::unpack(self.fields) {
            let text = String::from_utf8_lossy(bytes);
            let value = match text.parse::<u64>() {
                Ok(number) if field.key == "status" => Value::from(number),
                _ => Value::from(text),
            };
            // QUIC has fingerprints as TLS does.
            let is_quic = field.object == "tls" && self.application == "quic";
            let object = objects.entry(if is_quic { "quic" } else { field.object }).or_default();
            let side = match self.direction {
                Direction::ToServer => "client",
                Direction::ToClient => "server",
            };
            match field.group.or((field.object == "ssh").then_some(side)) {
                Some(group) => {
                    let inner = object.entry(group).or_insert_with(|| Map::new().into());
                    if let Value::Object(inner) = inner {
                        inner.insert(field.key.to_owned(), value);
                    }
                }
                None => {
                    object.entry(field.key).or_insert(value);
                }
            }
        }
        let mut map = serializer.serialize_map(Some(objects.len()))?;
        for (name, object) in objects {
            if name == "dns" {
                let kind = match self.direction {
                    Direction::ToServer => "query",
                    Direction::ToClient => "answer",
                };
                let mut message = Map::new();
                message.insert("type".to_owned(), kind.into());
                message.extend(object);
                let list: Value = match self.direction {
                    Direction::ToServer => vec![Value::Object(message)].into(),
                    Direction::ToClient => message.into(),
                };
                map.serialize_entry(name, &BTreeMap::from([(kind, list)]))?;
            } else {
                map.serialize_entry(name, &object)?;
            }
        }
        map.end()
    }
}

impl<'a> Line<'a> {
    fn read(unpacker: &mut Unpacker<'a>) -> Option<Self> {
        let lossy = |bytes: &'a [u8]| String::from_utf8_lossy(bytes);
        let [gid, signature_id, rev] = [unpacker.u32()?, unpacker.u32()?, unpacker.u32()?];
        let (severity, action, target) = (unpacker.u8()?, unpacker.u8()?, unpacker.u8()?);
        let direction = if unpacker.u8()? == 0 { Direction::ToServer } else { Direction::ToClient };
        let (kind, wanted) = (unpacker.u8()?, unpacker.u8()?);
        let (in_stream, is_lone) = (kind & 1, kind & 2 != 0);
        let transaction = Some(unpacker.u64()?).filter(|number| *number != u64::MAX);
        let app_proto = lossy(unpacker.bytes()?);
        let (protocol, ipv6) = (unpacker.u8()?, unpacker.u8()? != 0);
        let mut end = || {
            let address = Address { high: unpacker.u64()?, low: unpacker.u64()? };
            let text = text::address(address, ipv6);
            Some((String::from_utf8_lossy(text.as_bytes()).into_owned(), unpacker.u16()?))
        };
        let (client, server) = (end()?, end()?);
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let port = |number: u16| has_ports.then_some(number);
        let start = Timestamp(unpacker.u64()?);
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = unpacker.u64()?;
        }
        let [pkts_toserver, pkts_toclient, bytes_toserver, bytes_toclient] = counts;
        let (category, signature) = (lossy(unpacker.bytes()?), lossy(unpacker.bytes()?));
        let mut metadata: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for _ in 0..unpacker.u8()? {
            let (key, value) = (lossy(unpacker.bytes()?), lossy(unpacker.bytes()?));
            metadata.entry(key).or_default().push(value);
        }
        let mut references = Vec::new();
        for _ in 0..unpacker.u8()? {
            references.push(format!("{}:{}", lossy(unpacker.bytes()?), lossy(unpacker.bytes()?)));
        }
        let [fields, payload, packet] = [unpacker.bytes()?, unpacker.bytes()?, unpacker.bytes()?];
        let endpoint = |(ip, number): &(String, u16)| Endpoint { ip: ip.clone(), port: port(*number) };
        // The source and the destination of the packet.
        let (sender, receiver) = match direction {
            Direction::ToServer => (&client, &server),
            Direction::ToClient => (&server, &client),
        };
        let (source, target) = match target {
            1 => (Some(endpoint(receiver)), Some(endpoint(sender))),
            2 => (Some(endpoint(sender)), Some(endpoint(receiver))),
            _ => (None, None),
        };
        let (action, verdict) = outcome(action);
        let is_wanted = |bit: u8, bytes: &[u8]| wanted & 1 << bit != 0 && !bytes.is_empty();
        let has_packet = is_wanted(2, packet);
        Some(Self {
            transaction,
            direction,
            object: Object {
                action,
                gid,
                signature_id,
                rev,
                signature,
                category,
                severity,
                source,
                target,
                metadata,
                references,
            },
            members: Members {
                verdict: verdict.map(|action| Verdict { action }),
                transaction: Transaction { application: app_proto.clone(), direction, fields },
                app_proto,
                direction: (!is_lone).then_some(match direction {
                    Direction::ToServer => "to_server",
                    Direction::ToClient => "to_client",
                }),
                flow: (!is_lone).then_some(Flow {
                    pkts_toserver,
                    pkts_toclient,
                    bytes_toserver,
                    bytes_toclient,
                    start,
                    src_port: port(client.1),
                    dest_port: port(server.1),
                    src_ip: client.0,
                    dest_ip: server.0,
                }),
                payload: is_wanted(0, payload).then(|| STANDARD.encode(payload)),
                payload_printable: is_wanted(1, payload).then(|| printable(payload)),
                stream: (!payload.is_empty()).then_some(in_stream),
                packet: has_packet.then(|| STANDARD.encode(packet)),
                packet_info: has_packet.then_some(PacketInfo { linktype: RAW_IP }),
            },
        })
    }
}

/// Returns the action as Suricata writes it where it drops nothing, and what the rule would do if it could.
const fn outcome(action: u8) -> (&'static str, Option<&'static str>) {
    const DROP: u8 = Action::Drop as u8;
    const ALERT: u8 = Action::Alert as u8;
    const PASS: u8 = Action::Pass as u8;
    match action {
        ALERT | PASS => ("allowed", None),
        DROP => ("allowed", Some("drop")),
        _ => ("blocked", Some("reject")),
    }
}

/// Returns the printable characters of bytes, and a dot for each other one.
fn printable(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'\r' | b'\n' | b' '..=b'~' => char::from(*byte),
        _ => '.',
    };
    bytes.iter().map(shown).collect()
}
