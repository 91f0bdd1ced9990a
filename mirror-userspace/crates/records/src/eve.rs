//! EVE JSON: records as Suricata 7 writes them, one object a line, fields in its order, with the
//! Community ID and the `mirror` object added.

use mirror_packet::text::{self, Clock, Text};
use mirror_packet::{CommunityId, Conversation, Direction};
use mirror_xdp_common::Address;
use mirror_xdp_common::wire::protocol;
use serde::{Serialize, Serializer};

use super::{
    Application, EndReason, EventRecord, FLOW, FlowRecord, FlowState, Record, STATS, TcpSummary, json,
};
use crate::apm::{METRICS, Metrics, Service};

/// Turns records into lines. Remembers what the last ones had in common.
#[derive(Debug)]
pub struct Renderer {
    clock: Clock,
    /// Community IDs of flows, where their numbers say.
    ids: Box<[KnownId]>,
}

/// A Community ID, and the number of the flow whose it is.
#[derive(Clone, Copy, Debug)]
struct KnownId {
    flow_id: u64,
    text: [u8; CommunityId::TEXT_LEN],
}

/// Community IDs that are remembered, for the events of flows that have many in a row. More would not stay in the
/// caches nearest to the CPU, and cost what making them anew does.
const KNOWN_IDS: usize = 256;

impl Default for Renderer {
    fn default() -> Self {
        // No flow has this number.
        let nobody = KnownId { flow_id: u64::MAX, text: [0; CommunityId::TEXT_LEN] };
        Self { clock: Clock::default(), ids: vec![nobody; KNOWN_IDS].into() }
    }
}

impl Renderer {
    /// Appends the events of `record` to `out`, a line each, and calls `each` after each with the length that
    /// `out` has then. `bytes` are those of the record's batch.
    ///
    /// # Errors
    ///
    /// Where a value has no JSON form; none of ours lacks one.
    pub fn write_record(
        &mut self,
        out: &mut Vec<u8>,
        record: &Record,
        bytes: &[u8],
        mut each: impl FnMut(usize),
    ) -> serde_json::Result<()> {
        match record {
            Record::Flow(flow) => {
                self.flow(&mut Line { out }, flow);
                out.push(b'\n');
                each(out.len());
            }
            Record::Event(record) => {
                let packed = record.packed(bytes);
                let left = MOST_OF_ANY + MOST_PER_BYTE * packed.len();
                let each = &mut each;
                let mut lines = Lines { renderer: self, out, record, each, left, closed: false };
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

    /// What all records begin with.
    fn head(
        &mut self,
        line: &mut Line<'_>,
        time: u64,
        kind: &str,
        flow: &Conversation,
    ) -> serde_json::Result<()> {
        line.raw(b"{\"timestamp\":\"");
        line.raw(&self.clock.text(time));
        line.number(b"\",\"flow_id\":", flow.flow_id);
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

    /// An event whose particulars are an object named after it.
    fn event(
        &mut self,
        out: &mut Vec<u8>,
        record: &EventRecord,
        tx_id: Option<u32>,
        object: &impl Serialize,
    ) -> serde_json::Result<()> {
        let EventRecord { time, conversation, event_type, .. } = record;
        let line = &mut Line { out };
        self.head(line, *time, event_type.name, conversation)?;
        line.raw(b",\"community_id\":\"");
        line.raw(&self.community_id(conversation));
        line.raw(b"\"");
        if let Some(number) = tx_id {
            line.number(b",\"tx_id\":", number.into());
        }
        line.raw(b",");
        json::append(line.out, &event_type.name)?;
        line.raw(b":");
        json::append(line.out, object)?;
        line.mirror(conversation);
        line.raw(b"}\n");
        Ok(())
    }

    fn flow(&mut self, line: &mut Line<'_>, record: &FlowRecord) {
        const SECOND: u64 = 1_000_000_000;
        // Fails for names of events only that have no JSON form.
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
        line.mirror(&record.conversation);
        line.raw(b"}");
    }
}

/// A line that is being put together. Names and texts given to it need no escapes.
struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    /// Bytes whose number is known where this is called, so that writing them is a store or two.
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

    /// A field whose value is a name, where there is one.
    #[inline(always)]
    fn name<const N: usize>(&mut self, before: &[u8; N], name: Option<&'static str>) {
        if let Some(name) = name {
            self.raw(before);
            self.text(name.as_bytes());
            self.raw(b"\"");
        }
    }

    /// The mirror session, as an object of its own.
    fn mirror(&mut self, flow: &Conversation) {
        let Some(mirror) = flow.mirror else { return };
        let address = |address: Address| text::address(address, address.as_v4().is_none());
        self.number(b",\"mirror\":{\"vni\":", mirror.vni.get().into());
        self.raw(b",\"outer_src\":\"");
        self.text(address(mirror.outer_source).as_bytes());
        self.raw(b"\",\"outer_dst\":\"");
        self.text(address(mirror.outer_destination).as_bytes());
        self.raw(b"\"");
        if mirror.endpoint != 0 {
            // As the endpoint's name in AWS ends.
            self.raw(b",\"endpoint\":\"vpce-");
            for byte in mirror.endpoint.to_be_bytes() {
                self.hex(byte);
            }
            self.raw(b"\"");
        }
        self.raw(b"}");
    }

    fn hex(&mut self, byte: u8) {
        let mut text = Text::<2>::new();
        text.hex(byte);
        self.text(text.as_bytes());
    }

    /// What a TCP connection came to. Flags are written where they are set.
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

    /// How well a connection went. Segments by the direction in which they were sent; times by who took them.
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

/// Takes the events that one record becomes.
pub struct Lines<'a> {
    renderer: &'a mut Renderer,
    out: &'a mut Vec<u8>,
    record: &'a EventRecord,
    each: &'a mut dyn FnMut(usize),
    /// Bytes that the lines may still have.
    left: usize,
    /// They were too many, which the last one says.
    closed: bool,
}

/// What the lines of one record may come to, in bytes, for each byte that was packed for it, and besides. The records
/// of a normal message stay far below.
pub const MOST_PER_BYTE: usize = 16;
/// See [`MOST_PER_BYTE`].
pub const MOST_OF_ANY: usize = 4096;

impl Lines<'_> {
    /// Writes an event with `object` for what is particular to it.
    ///
    /// # Errors
    ///
    /// Where `object` has no JSON form.
    pub fn line(&mut self, object: &impl Serialize) -> serde_json::Result<()> {
        self.write(None, object)
    }

    /// Writes an event about the transaction with this number in its flow.
    ///
    /// # Errors
    ///
    /// Where `object` has no JSON form.
    pub fn transaction(&mut self, number: u32, object: &impl Serialize) -> serde_json::Result<()> {
        self.write(Some(number), object)
    }

    /// Writes such an event, unless it has more than so many bytes. Says whether it is written.
    ///
    /// # Errors
    ///
    /// Where `object` has no JSON form.
    pub fn line_within(&mut self, most: usize, object: &impl Serialize) -> serde_json::Result<bool> {
        self.write_within(most.min(self.left), None, object)
    }

    /// Writes an event; one that is too long says only that. Where even those are too many, no more are written.
    fn write(&mut self, tx_id: Option<u32>, object: &impl Serialize) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Truncated {
            truncated: bool,
        }
        if !self.closed && !self.write_within(self.left, tx_id, object)? {
            self.closed = true;
            self.write_within(usize::MAX, tx_id, &Truncated { truncated: true })?;
        }
        Ok(())
    }

    fn write_within(
        &mut self,
        most: usize,
        tx_id: Option<u32>,
        object: &impl Serialize,
    ) -> serde_json::Result<bool> {
        let start = self.out.len();
        self.renderer.event(self.out, self.record, tx_id, object)?;
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

fn write_line(out: &mut Vec<u8>, event: &impl Serialize) -> serde_json::Result<()> {
    json::append(out, event)?;
    out.push(b'\n');
    Ok(())
}

/// Appends a `stats` event to `out` as one line; `stats` is the value of its object.
///
/// # Errors
///
/// Where `stats` has no JSON form.
pub fn write_stats(out: &mut Vec<u8>, time: u64, stats: &impl Serialize) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct StatsEvent<'a, S> {
        timestamp: Timestamp,
        event_type: &'static str,
        stats: &'a S,
    }
    write_line(out, &StatsEvent { timestamp: Timestamp(time), event_type: STATS, stats })
}

/// The `flow` event of a flow as an object.
///
/// # Errors
///
/// Where a value has no JSON form; none of ours lacks one.
pub fn flow_object(flow: &FlowRecord) -> serde_json::Result<serde_json::Value> {
    let mut out = Vec::new();
    Renderer::default().flow(&mut Line { out: &mut out }, flow);
    serde_json::from_slice(&out)
}

/// A service as events name it: address and port of its server, protocols, network.
///
/// # Errors
///
/// Where a value has no JSON form; none of ours lacks one.
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
/// Where a value has no JSON form; none of ours lacks one.
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

/// A time in nanoseconds since the epoch, written in UTC to the microsecond.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub u64);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&Clock::default().text(self.0)).unwrap_or_default())
    }
}

/// An address as Suricata writes it: IPv6 with all its zeros.
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

/// The name of a transport protocol, where Suricata knows one.
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

/// What stands for a transport protocol without a name.
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
