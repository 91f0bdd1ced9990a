//! EVE JSON: records as Suricata 7 writes them, one object per line, fields in its order, with the Community
//! ID and the `mirror` object added.

use std::sync::Arc;

use mirror_packet::text::{self, Clock, Text};
use mirror_packet::{CommunityId, Conversation, Direction};
use mirror_protocols::eve::{EveWriter, LineShape};
use mirror_protocols::preamble::write_relayed;
use mirror_xdp_common::Address;
use mirror_xdp_common::wire::protocol;
use serde::{Serialize, Serializer};

use super::{
    Application, EndReason, EventRecord, FLOW, FlowRecord, FlowState, Record, STATS, TcpSummary, json, place,
};
use crate::apm::{METRICS, Metrics, Service};
use crate::names::Names;
pub use crate::timestamp::Timestamp;

/// Renders records as lines. Caches values that consecutive records share.
#[derive(Debug)]
pub struct Renderer {
    clock: Clock,
    /// Writes the literals of statements.
    literals: bool,
    names: Option<Arc<Names>>,
    /// A cache of Community IDs, indexed by flow identifier.
    ids: Box<[KnownId]>,
}

/// A Community ID, and the identifier of its flow.
#[derive(Clone, Copy, Debug)]
struct KnownId {
    flow_id: u64,
    text: [u8; CommunityId::TEXT_LEN],
}

/// Cached Community IDs, for flows that have many events in a row. A larger table would not stay in the CPU's
/// nearest caches, and would cost as much as computing them again.
const KNOWN_IDS: usize = 256;

impl Default for Renderer {
    fn default() -> Self {
        // No flow has this identifier.
        let nobody = KnownId { flow_id: u64::MAX, text: [0; CommunityId::TEXT_LEN] };
        Self { clock: Clock::default(), literals: false, names: None, ids: vec![nobody; KNOWN_IDS].into() }
    }
}

impl Renderer {
    /// Returns a renderer with the same settings that has rendered nothing yet.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { literals: self.literals, names: self.names.clone(), ..Self::default() }
    }

    /// Sets whether the literals of statements are written.
    pub const fn set_literals(&mut self, literals: bool) {
        self.literals = literals;
    }

    /// Sets the names of sessions and hosts that records show.
    pub fn set_names(&mut self, names: Option<Arc<Names>>) {
        self.names = names;
    }

    /// Appends the events of `record` to `out`, a line each. Calls `each` after each line with the current
    /// length of `out`. `bytes` are those of the record's batch.
    ///
    /// # Errors
    ///
    /// Fails if a value has no JSON form. All of ours have one.
    pub fn write_record(
        &mut self,
        out: &mut Vec<u8>,
        record: &Record,
        bytes: &[u8],
        mut each: impl FnMut(usize),
    ) -> serde_json::Result<()> {
        match record {
            Record::Flow(flow) => {
                self.flow(&mut Line { out }, flow, place(bytes, flow.relay));
                out.push(b'\n');
                each(out.len());
            }
            Record::Event(record) => {
                let packed = record.packed(bytes);
                let relay = place(bytes, record.relay);
                let left = MOST_OF_ANY + MOST_PER_BYTE * (packed.len() + relay.len());
                let each = &mut each;
                let mut lines = Lines { renderer: self, out, record, relay, each, left, closed: false };
                (record.event_type.render)(packed, &mut lines)?;
            }
        }
        Ok(())
    }

    fn community_id(&mut self, flow: &Conversation) -> [u8; CommunityId::TEXT_LEN] {
        let Some(known) = self.ids.get_mut(flow.flow_id as usize % KNOWN_IDS) else {
            return CommunityId::of(flow).text();
        };
        if known.flow_id != flow.flow_id {
            *known = KnownId { flow_id: flow.flow_id, text: CommunityId::of(flow).text() };
        }
        known.text
    }

    /// Writes the fields that all records begin with.
    fn head(
        &mut self,
        line: &mut Line<'_>,
        time: u64,
        kind: &str,
        flow: &Conversation,
    ) -> serde_json::Result<()> {
        self.head_of(line, time, kind, flow, false)
    }

    /// Writes the same fields; for a packet of no flow, without the flow's identifier.
    fn head_of(
        &mut self,
        line: &mut Line<'_>,
        time: u64,
        kind: &str,
        flow: &Conversation,
        is_lone: bool,
    ) -> serde_json::Result<()> {
        line.raw(b"{\"timestamp\":\"");
        line.raw(&self.clock.text(time));
        line.raw(b"\"");
        if !is_lone {
            line.number(b",\"flow_id\":", flow.flow_id);
        }
        line.raw(b",\"event_type\":");
        json::append(line.out, &kind)?;
        if !flow.vlans.is_empty() {
            let mut before = b",\"vlan\":[".as_slice();
            for id in flow.vlans.ids() {
                line.out.extend_from_slice(before);
                line.number(b"", id.into());
                before = b",";
            }
            line.raw(b"]");
        }
        let ports = matches!(flow.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        line.raw(b",\"src_ip\":\"");
        line.text(text::address(flow.source, flow.ipv6).as_bytes());
        line.raw(b"\"");
        if ports {
            line.number(b",\"src_port\":", flow.source_port.into());
        }
        line.raw(b",\"dest_ip\":\"");
        line.text(text::address(flow.destination, flow.ipv6).as_bytes());
        line.raw(b"\"");
        if ports {
            line.number(b",\"dest_port\":", flow.destination_port.into());
        }
        line.raw(b",\"proto\":\"");
        match protocol_name(flow.protocol) {
            Some(name) => line.text(name.as_bytes()),
            None => line.text(protocol_number(flow.protocol).as_bytes()),
        }
        line.raw(b"\"");
        Ok(())
    }

    /// Writes an event whose details are an object named after it, the object `service`, or both.
    fn event(
        &mut self,
        out: &mut Vec<u8>,
        (record, relay): (&EventRecord, &[u8]),
        shape: LineShape,
        object: Option<&impl Serialize>,
        members: Option<&impl Serialize>,
    ) -> serde_json::Result<()> {
        let EventRecord { time, conversation, event_type, .. } = record;
        let line = &mut Line { out };
        let turned = if shape.is_reversed { &reversed(conversation) } else { conversation };
        self.head_of(line, *time, event_type.name, turned, shape.is_lone)?;
        if !shape.is_lone {
            line.raw(b",\"community_id\":\"");
            line.raw(&self.community_id(conversation));
            line.raw(b"\"");
        }
        if let Some(number) = shape.transaction {
            line.number(b",\"tx_id\":", number.into());
        }
        if let Some(object) = object {
            line.raw(b",");
            json::append(line.out, &event_type.name)?;
            line.raw(b":");
            json::append(line.out, object)?;
        }
        if let Some(members) = members {
            line.members(members)?;
        }
        line.relay(relay)?;
        line.mirror(turned, self.names.as_deref(), *time);
        line.raw(b"}\n");
        Ok(())
    }

    fn flow(&mut self, line: &mut Line<'_>, record: &FlowRecord, relay: &[u8]) {
        const SECOND: u64 = 1_000_000_000;
        // Fails only for event names that have no JSON form.
        let _ = self.head(line, record.time, FLOW, &record.conversation);
        if let Some(icmp) = record.icmp {
            line.number(b",\"icmp_type\":", icmp.request.0.into());
            line.number(b",\"icmp_code\":", icmp.request.1.into());
            if let Some((kind, code)) = icmp.response {
                line.number(b",\"response_icmp_type\":", kind.into());
                line.number(b",\"response_icmp_code\":", code.into());
            }
        }
        if let Some(spi) = record.spi {
            line.number(b",\"spi\":", spi.into());
        }
        let Application { protocol, original, to_server, to_client } = record.application;
        line.name(b",\"app_proto\":\"", protocol);
        line.name(b",\"app_proto_orig\":\"", original);
        line.name(b",\"app_proto_ts\":\"", to_server);
        line.name(b",\"app_proto_tc\":\"", to_client);
        line.number(b",\"flow\":{\"pkts_toserver\":", record.packets[0]);
        line.number(b",\"pkts_toclient\":", record.packets[1]);
        line.number(b",\"bytes_toserver\":", record.bytes[0]);
        line.number(b",\"bytes_toclient\":", record.bytes[1]);
        line.raw(b",\"start\":\"");
        line.raw(&self.clock.text(record.start));
        line.raw(b"\",\"end\":\"");
        line.raw(&self.clock.text(record.end));
        // Suricata subtracts whole seconds.
        line.number(b"\",\"age\":", (record.end / SECOND).saturating_sub(record.start / SECOND));
        let state = match record.state {
            FlowState::New => "new",
            FlowState::Established => "established",
            FlowState::Closed => "closed",
        };
        let reason = match record.reason {
            EndReason::Timeout => "timeout",
            EndReason::Forced => "forced",
            EndReason::Shutdown => "shutdown",
        };
        line.name(b",\"state\":\"", Some(state));
        line.name(b",\"reason\":\"", Some(reason));
        line.raw(b",\"alerted\":");
        line.text(if record.alerted { b"true" } else { b"false" });
        line.raw(b"},\"community_id\":\"");
        line.raw(&self.community_id(&record.conversation));
        line.raw(b"\"");
        if let Some(tcp) = &record.tcp {
            line.tcp(tcp);
        }
        if let Some(performance) = &record.performance {
            line.performance(performance);
        }
        // Every preamble has a JSON form.
        let _ = line.relay(relay);
        line.mirror(&record.conversation, self.names.as_deref(), record.time);
        line.raw(b"}");
    }
}

/// A line under construction. Names and texts passed to it need no escapes.
struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    /// Appends bytes whose number is known at compile time, so that writing them takes a store or two.
    #[inline(always)]
    fn raw<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    fn text(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
    }

    #[inline(always)]
    fn number<const N: usize>(&mut self, before: &[u8; N], number: u64) {
        self.raw(before);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Writes a field whose value is a name, if there is one.
    #[inline(always)]
    fn name<const N: usize>(&mut self, before: &[u8; N], name: Option<&'static str>) {
        if let Some(name) = name {
            self.raw(before);
            self.text(name.as_bytes());
            self.raw(b"\"");
        }
    }

    /// Writes the members of an object, in place of the object.
    fn members(&mut self, members: &impl Serialize) -> serde_json::Result<()> {
        let start = self.out.len();
        json::append(self.out, members)?;
        if self.out.len() <= start + 2 {
            self.out.truncate(start);
        } else if let Some(open) = self.out.get_mut(start) {
            *open = b',';
            self.out.pop();
        }
        Ok(())
    }

    /// Writes the preambles of a connection, as objects of their own.
    #[inline]
    fn relay(&mut self, packed: &[u8]) -> serde_json::Result<()> {
        if packed.is_empty() {
            return Ok(());
        }
        write_relayed(packed, |name, object| {
            self.raw(b",\"");
            self.text(name.as_bytes());
            self.raw(b"\":");
            json::append(self.out, object)
        })
    }

    /// Writes the mirror session, as an object of its own. `time` is that of the record.
    fn mirror(&mut self, flow: &Conversation, names: Option<&Names>, time: u64) {
        let Some(mirror) = flow.mirror else { return };
        let address = |address: Address| text::address(address, address.as_v4().is_none());
        self.number(b",\"mirror\":{\"vni\":", mirror.vni.get().into());
        self.raw(b",\"outer_src\":\"");
        self.text(address(mirror.outer_source).as_bytes());
        self.raw(b"\",\"outer_dst\":\"");
        self.text(address(mirror.outer_destination).as_bytes());
        self.raw(b"\"");
        if mirror.endpoint != 0 {
            // The identifier is the end of the endpoint's name in AWS.
            self.raw(b",\"endpoint\":\"vpce-");
            for byte in mirror.endpoint.to_be_bytes() {
                self.hex(byte);
            }
            self.raw(b"\"");
        }
        if let Some(other) = flow.other_source {
            self.raw(b",\"sources\":[\"");
            self.text(address(mirror.outer_source).as_bytes());
            self.raw(b"\",\"");
            self.text(address(other).as_bytes());
            self.raw(b"\"]");
        }
        if let Some(names) = names {
            names.write(self.out, &mirror, flow, time);
        }
        self.raw(b"}");
    }

    fn hex(&mut self, byte: u8) {
        let mut text = Text::<2>::new();
        text.hex(byte);
        self.text(text.as_bytes());
    }

    /// Writes the summary of a TCP connection. Only flags that are set are written.
    fn tcp(&mut self, tcp: &TcpSummary) {
        self.raw(b",\"tcp\":{\"tcp_flags\":\"");
        self.hex(tcp.flags);
        self.raw(b"\",\"tcp_flags_ts\":\"");
        self.hex(tcp.flags_to_server);
        self.raw(b"\",\"tcp_flags_tc\":\"");
        self.hex(tcp.flags_to_client);
        self.raw(b"\"");
        for (bit, text) in [
            (0x02, b",\"syn\":true"),
            (0x01, b",\"fin\":true"),
            (0x04, b",\"rst\":true"),
            (0x08, b",\"psh\":true"),
            (0x10, b",\"ack\":true"),
            (0x20, b",\"urg\":true"),
            (0x40, b",\"ecn\":true"),
            (0x80, b",\"cwr\":true"),
        ] {
            if tcp.flags & bit != 0 {
                self.raw(text);
            }
        }
        self.name(b",\"state\":\"", tcp.state);
        if tcp.gap_to_client {
            self.raw(b",\"tc_gap\":true");
        }
        if tcp.gap_to_server {
            self.raw(b",\"ts_gap\":true");
        }
        self.raw(b"}");
    }

    /// Writes the performance of a connection. Segments are named by the direction in which they were sent,
    /// times by the side that took them.
    fn performance(&mut self, summary: &super::PerformanceSummary) {
        self.raw(b",\"tcp_perf\":{");
        let start = self.out.len();
        let [client, server] = [0, 1];
        for (name, micros) in [
            (&b"\"handshake_server_ms\":"[..], summary.handshake[server]),
            (b"\"handshake_client_ms\":", summary.handshake[client]),
            (b"\"rtt_server_min_ms\":", summary.rtt_min[server]),
            (b"\"rtt_server_avg_ms\":", summary.rtt_average[server]),
            (b"\"rtt_client_min_ms\":", summary.rtt_min[client]),
            (b"\"rtt_client_avg_ms\":", summary.rtt_average[client]),
            (b"\"ttfb_ms\":", summary.time_to_first_byte),
        ] {
            if let Some(micros) = micros {
                self.text(name);
                self.text(text::decimal(micros.into(), 3).as_bytes());
                self.raw(b",");
            }
        }
        for (names, counts) in [
            (["\"retransmissions_toserver\":", "\"retransmissions_toclient\":"], summary.retransmissions),
            (["\"out_of_order_toserver\":", "\"out_of_order_toclient\":"], summary.out_of_order),
            (["\"dup_acks_toserver\":", "\"dup_acks_toclient\":"], summary.duplicate_acks),
            (["\"zero_windows_toserver\":", "\"zero_windows_toclient\":"], summary.zero_windows),
            (["\"gap_bytes_toserver\":", "\"gap_bytes_toclient\":"], summary.gap_bytes),
        ] {
            for (name, count) in names.into_iter().zip(counts) {
                if count > 0 {
                    self.text(name.as_bytes());
                    self.number(b"", count.into());
                    self.raw(b",");
                }
            }
        }
        match summary.reset_by {
            Some(Direction::ToServer) => self.raw(b"\"reset_by\":\"client\","),
            Some(Direction::ToClient) => self.raw(b"\"reset_by\":\"server\","),
            None => {}
        }
        if self.out.len() > start {
            self.out.pop();
        }
        self.raw(b"}");
    }
}

/// Receives the events of one record.
pub struct Lines<'a> {
    renderer: &'a mut Renderer,
    out: &'a mut Vec<u8>,
    record: &'a EventRecord,
    /// The packed preambles of the connection.
    relay: &'a [u8],
    each: &'a mut dyn FnMut(usize),
    /// Bytes that the lines may still take.
    left: usize,
    /// The limit was exceeded, as the last line reports.
    closed: bool,
}

/// The limit on the lines of one record, in bytes for each packed byte of the record, in addition to
/// [`MOST_OF_ANY`]. The records of a normal message stay far below.
pub const MOST_PER_BYTE: usize = 16;
/// The part of the limit that every record has, see [`MOST_PER_BYTE`].
pub const MOST_OF_ANY: usize = 4096;

/// No object `service`.
const NO_MEMBERS: Option<&()> = None;

impl Lines<'_> {
    /// Writes an event with `object` for its details.
    ///
    /// # Errors
    ///
    /// Fails if `object` has no JSON form.
    pub fn line(&mut self, object: &impl Serialize) -> serde_json::Result<()> {
        self.write(LineShape::default(), Some(object), NO_MEMBERS)
    }

    /// Writes an event about the transaction with this number in its flow.
    ///
    /// # Errors
    ///
    /// Fails if `object` has no JSON form.
    pub fn transaction(&mut self, number: u32, object: &impl Serialize) -> serde_json::Result<()> {
        self.write(LineShape { transaction: Some(number), ..LineShape::default() }, Some(object), NO_MEMBERS)
    }

    /// Writes an event unless it has more than `most` bytes. Returns true if it was written.
    ///
    /// # Errors
    ///
    /// Fails if `object` has no JSON form.
    pub fn line_within(&mut self, most: usize, object: &impl Serialize) -> serde_json::Result<bool> {
        self.write_within(most.min(self.left), LineShape::default(), Some(object), NO_MEMBERS)
    }

    /// Writes an event. One that exceeds the record's limit is replaced by a truncation mark, and no more are
    /// written.
    fn write(
        &mut self,
        shape: LineShape,
        object: Option<&impl Serialize>,
        members: Option<&impl Serialize>,
    ) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Truncated {
            truncated: bool,
        }
        if !self.closed && !self.write_within(self.left, shape, object, members)? {
            self.closed = true;
            self.write_within(usize::MAX, shape, Some(&Truncated { truncated: true }), NO_MEMBERS)?;
        }
        Ok(())
    }

    fn write_within(
        &mut self,
        most: usize,
        shape: LineShape,
        object: Option<&impl Serialize>,
        members: Option<&impl Serialize>,
    ) -> serde_json::Result<bool> {
        let start = self.out.len();
        self.renderer.event(self.out, (self.record, self.relay), shape, object, members)?;
        let len = self.out.len() - start;
        if len > most {
            self.out.truncate(start);
            return Ok(false);
        }
        self.left = self.left.saturating_sub(len);
        (self.each)(self.out.len());
        Ok(true)
    }
}

impl EveWriter for Lines<'_> {
    fn line(&mut self, object: &impl Serialize) -> serde_json::Result<()> {
        self.line(object)
    }

    fn transaction(&mut self, number: u32, object: &impl Serialize) -> serde_json::Result<()> {
        self.transaction(number, object)
    }

    fn line_within(&mut self, most: usize, object: &impl Serialize) -> serde_json::Result<bool> {
        self.line_within(most, object)
    }

    fn service(
        &mut self,
        object: Option<&impl Serialize>,
        service: Option<&impl Serialize>,
    ) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Members<'a, S> {
            service: &'a S,
        }
        let members = service.map(|service| Members { service });
        self.write(LineShape::default(), object, members.as_ref())
    }

    fn literals(&self) -> bool {
        self.renderer.literals
    }

    fn line_with(
        &mut self,
        shape: &LineShape,
        object: &impl Serialize,
        members: &impl Serialize,
    ) -> serde_json::Result<()> {
        self.write(*shape, Some(object), Some(members))
    }
}

/// Returns the fields of a flow with the server as their source.
const fn reversed(flow: &Conversation) -> Conversation {
    Conversation {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        ..*flow
    }
}

fn write_line(out: &mut Vec<u8>, event: &impl Serialize) -> serde_json::Result<()> {
    json::append(out, event)?;
    out.push(b'\n');
    Ok(())
}

/// Appends a `stats` event to `out` as one line. `stats` is the value of its object.
///
/// # Errors
///
/// Fails if `stats` has no JSON form.
pub fn write_stats(out: &mut Vec<u8>, time: u64, stats: &impl Serialize) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct StatsEvent<'a, S> {
        timestamp: Timestamp,
        event_type: &'static str,
        stats: &'a S,
    }
    write_line(out, &StatsEvent { timestamp: Timestamp(time), event_type: STATS, stats })
}

/// Returns the `flow` event of a flow as an object.
///
/// # Errors
///
/// Fails if a value has no JSON form. All of ours have one.
pub fn flow_object(flow: &FlowRecord) -> serde_json::Result<serde_json::Value> {
    let mut out = Vec::new();
    Renderer::default().flow(&mut Line { out: &mut out }, flow, &[]);
    serde_json::from_slice(&out)
}

/// Returns a service as events name it: address and port of its server, protocols, network.
///
/// # Errors
///
/// Fails if a value has no JSON form. All of ours have one.
pub fn service_object(service: &Service) -> serde_json::Result<serde_json::Value> {
    #[derive(Serialize)]
    struct Object {
        dest_ip: EveAddress,
        dest_port: u16,
        proto: Protocol,
        #[serde(skip_serializing_if = "Option::is_none")]
        app_proto: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        vni: Option<u32>,
    }
    serde_json::to_value(Object {
        dest_ip: EveAddress { address: service.address, ipv6: service.ipv6 },
        dest_port: service.port,
        proto: Protocol(service.protocol),
        app_proto: service.application,
        vni: service.vni,
    })
}

/// Appends a `metrics` event to `out` as one line.
///
/// # Errors
///
/// Fails if a value has no JSON form. All of ours have one.
pub fn write_metrics(out: &mut Vec<u8>, service: &Service, metrics: &Metrics) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct MetricsEvent<'a> {
        timestamp: Timestamp,
        event_type: &'static str,
        dest_ip: EveAddress,
        dest_port: u16,
        proto: Protocol,
        #[serde(skip_serializing_if = "Option::is_none")]
        app_proto: Option<&'static str>,
        metrics: &'a Metrics,
        #[serde(skip_serializing_if = "Option::is_none")]
        mirror: Option<Network>,
    }
    #[derive(Serialize)]
    struct Network {
        vni: u32,
    }
    let [_, end] = metrics.interval;
    let event = MetricsEvent {
        timestamp: Timestamp(end),
        event_type: METRICS,
        dest_ip: EveAddress { address: service.address, ipv6: service.ipv6 },
        dest_port: service.port,
        proto: Protocol(service.protocol),
        app_proto: service.application,
        metrics,
        mirror: service.vni.map(|vni| Network { vni }),
    };
    write_line(out, &event)
}

/// An address as Suricata writes it: IPv6 without zero compression.
#[derive(Clone, Copy, Debug)]
struct EveAddress {
    address: Address,
    ipv6: bool,
}

impl Serialize for EveAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text::address(self.address, self.ipv6).as_str())
    }
}

/// Returns Suricata's name of a transport protocol, if there is one.
const fn protocol_name(number: u8) -> Option<&'static str> {
    Some(match number {
        protocol::ICMP => "ICMP",
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::ICMPV6 => "IPv6-ICMP",
        protocol::SCTP => "SCTP",
        protocol::IPV6 => "IPv6",
        protocol::IPV4 => "IPIP",
        protocol::ESP => "ESP",
        _ => return None,
    })
}

/// Returns the text for a transport protocol without a name.
fn protocol_number(number: u8) -> Text<3> {
    let mut text = Text::new();
    text.digits(number.into(), 3);
    text
}

/// A transport protocol.
struct Protocol(u8);

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match protocol_name(self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_str(protocol_number(self.0).as_str()),
        }
    }
}
