//! EVE JSON: records as Suricata 7 writes them, one object a line, fields in its order, with the
//! Community ID and the `mirror` object added.

use mirror_xdp_common::Address;
use mirror_xdp_common::wire::protocol;
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};

use super::community_id::CommunityId;
use super::{
    Application, Conversation, EndReason, EventRecord, FLOW, FlowRecord, FlowState, Record, STATS,
    TcpSummary, Vlans, json,
};
use crate::apm::{METRICS, Metrics, Service};
use crate::flow::performance;
use crate::protocol::Direction;
use crate::worker::Mirror;

/// Appends the events of `record` to `out`, a line each, and calls `each` after each with the length that
/// `out` has then. `bytes` are those of the record's batch.
///
/// # Errors
///
/// Where a value has no JSON form; none of ours lacks one.
pub fn write_record(
    out: &mut Vec<u8>,
    record: &Record,
    bytes: &[u8],
    mut each: impl FnMut(usize),
) -> serde_json::Result<()> {
    match record {
        Record::Flow(flow) => {
            write_line(out, &FlowEvent::from(flow))?;
            each(out.len());
        }
        Record::Event(record) => {
            let packed = record.packed(bytes);
            (record.event_type.render)(packed, &mut Lines { out, record, each: &mut each })?;
        }
    }
    Ok(())
}

/// Takes the events that one record becomes.
pub struct Lines<'a> {
    out: &'a mut Vec<u8>,
    record: &'a EventRecord,
    each: &'a mut dyn FnMut(usize),
}

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

    fn write(&mut self, tx_id: Option<u32>, object: &impl Serialize) -> serde_json::Result<()> {
        write_line(self.out, &AnalyzerEvent { record: self.record, tx_id, object })?;
        (self.each)(self.out.len());
        Ok(())
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
    serde_json::to_value(FlowEvent::from(flow))
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
        const SECONDS_A_DAY: u64 = 86_400;
        let (seconds, micros) = (self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000);
        let (days, second) = (seconds / SECONDS_A_DAY, seconds % SECONDS_A_DAY);
        let date = time::Date::from_julian_day(UNIX_EPOCH_DAY + days as i32)
            .expect("2⁶⁴ nanoseconds after the epoch are in the year 2554");
        let mut text = Text::<31>::new();
        text.digits(date.year() as u32, 4);
        text.byte(b'-');
        text.digits(u8::from(date.month()).into(), 2);
        text.byte(b'-');
        text.digits(date.day().into(), 2);
        for (separator, value) in [(b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
            text.byte(separator);
            text.digits(value as u32, 2);
        }
        text.byte(b'.');
        text.digits(micros as u32, 6);
        text.bytes(b"+0000");
        serializer.serialize_str(text.as_str())
    }
}

/// The day that Unix time counts from, as a Julian day.
const UNIX_EPOCH_DAY: i32 = time::OffsetDateTime::UNIX_EPOCH.date().to_julian_day();

/// A short text, put together without the machinery of formatting, which takes most of the time that records
/// do.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    /// The last so many decimal digits of a number.
    fn digits(&mut self, mut number: u32, count: usize) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + count) {
            for digit in place.iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
            self.len += count;
        }
    }

    /// A byte in two hexadecimal digits.
    fn hex(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.bytes(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
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
        let mut text = Text::<39>::new();
        if self.ipv6 {
            let groups = (u128::from(self.address.high) << 64 | u128::from(self.address.low)).to_be_bytes();
            for (index, byte) in groups.into_iter().enumerate() {
                if index > 0 && index % 2 == 0 {
                    text.byte(b':');
                }
                text.hex(byte);
            }
        } else {
            for (index, byte) in (self.address.low as u32).to_be_bytes().into_iter().enumerate() {
                if index > 0 {
                    text.byte(b'.');
                }
                let digits = if byte >= 100 {
                    3
                } else if byte >= 10 {
                    2
                } else {
                    1
                };
                text.digits(byte.into(), digits);
            }
        }
        serializer.serialize_str(text.as_str())
    }
}

impl Serialize for Vlans {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ids = self.as_slice();
        let mut sequence = serializer.serialize_seq(Some(ids.len()))?;
        for id in ids {
            sequence.serialize_element(id)?;
        }
        sequence.end()
    }
}

/// The name of a transport protocol as Suricata knows it, its number where it has none.
struct Protocol(u8);

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = match self.0 {
            protocol::ICMP => "ICMP",
            protocol::TCP => "TCP",
            protocol::UDP => "UDP",
            protocol::ICMPV6 => "IPv6-ICMP",
            protocol::SCTP => "SCTP",
            protocol::IPV6 => "IPv6",
            protocol::IPV4 => "IPIP",
            protocol::ESP => "ESP",
            other => {
                let mut text = Text::<3>::new();
                text.digits(other.into(), 3);
                return serializer.serialize_str(text.as_str());
            }
        };
        serializer.serialize_str(name)
    }
}

impl Serialize for CommunityId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

/// The mirror session, as an object of its own.
#[derive(Serialize)]
struct MirrorObject {
    vni: u32,
    outer_src: EveAddress,
    outer_dst: EveAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
}

impl From<Mirror> for MirrorObject {
    fn from(mirror: Mirror) -> Self {
        let address = |address: Address| EveAddress { address, ipv6: address.as_v4().is_none() };
        Self {
            vni: mirror.vni.get(),
            outer_src: address(mirror.outer_source),
            outer_dst: address(mirror.outer_destination),
            // As the endpoint's name in AWS ends.
            endpoint: (mirror.endpoint != 0).then(|| format!("vpce-{:016x}", mirror.endpoint)),
        }
    }
}

/// The fields between `event_type` and what is particular to an event.
#[derive(Serialize)]
struct Tuple {
    #[serde(skip_serializing_if = "Vlans::is_empty")]
    vlan: Vlans,
    src_ip: EveAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    dest_ip: EveAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    proto: Protocol,
}

impl From<&Conversation> for Tuple {
    fn from(flow: &Conversation) -> Self {
        let ports = matches!(flow.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        Self {
            vlan: flow.vlans,
            src_ip: EveAddress { address: flow.source, ipv6: flow.ipv6 },
            src_port: ports.then_some(flow.source_port),
            dest_ip: EveAddress { address: flow.destination, ipv6: flow.ipv6 },
            dest_port: ports.then_some(flow.destination_port),
            proto: Protocol(flow.protocol),
        }
    }
}

#[derive(Serialize)]
struct FlowEvent {
    timestamp: Timestamp,
    flow_id: u64,
    event_type: &'static str,
    #[serde(flatten)]
    tuple: Tuple,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spi: Option<u32>,
    #[serde(flatten)]
    application: ApplicationFields,
    flow: FlowObject,
    community_id: CommunityId,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_perf: Option<PerformanceObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<MirrorObject>,
}

impl From<&FlowRecord> for FlowEvent {
    fn from(record: &FlowRecord) -> Self {
        let response = record.icmp.and_then(|icmp| icmp.response);
        Self {
            timestamp: Timestamp(record.time),
            flow_id: record.conversation.flow_id,
            event_type: FLOW,
            tuple: Tuple::from(&record.conversation),
            icmp_type: record.icmp.map(|icmp| icmp.request.0),
            icmp_code: record.icmp.map(|icmp| icmp.request.1),
            response_icmp_type: response.map(|(kind, _)| kind),
            response_icmp_code: response.map(|(_, code)| code),
            spi: record.spi,
            application: record.application.into(),
            flow: record.into(),
            community_id: CommunityId::of(&record.conversation),
            tcp: record.tcp.map(TcpObject::from),
            tcp_perf: record.performance.map(PerformanceObject::from),
            mirror: record.conversation.mirror.map(MirrorObject::from),
        }
    }
}

/// An event whose particulars are an object named after it.
struct AnalyzerEvent<'a, T> {
    record: &'a EventRecord,
    tx_id: Option<u32>,
    object: &'a T,
}

impl<T: Serialize> Serialize for AnalyzerEvent<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let EventRecord { time, conversation, event_type, .. } = self.record;
        let Tuple { vlan, src_ip, src_port, dest_ip, dest_port, proto } = Tuple::from(conversation);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &Timestamp(*time))?;
        map.serialize_entry("flow_id", &conversation.flow_id)?;
        map.serialize_entry("event_type", event_type.name)?;
        if !vlan.is_empty() {
            map.serialize_entry("vlan", &vlan)?;
        }
        map.serialize_entry("src_ip", &src_ip)?;
        if let Some(port) = src_port {
            map.serialize_entry("src_port", &port)?;
        }
        map.serialize_entry("dest_ip", &dest_ip)?;
        if let Some(port) = dest_port {
            map.serialize_entry("dest_port", &port)?;
        }
        map.serialize_entry("proto", &proto)?;
        map.serialize_entry("community_id", &CommunityId::of(conversation))?;
        if let Some(number) = self.tx_id {
            map.serialize_entry("tx_id", &number)?;
        }
        map.serialize_entry(event_type.name, self.object)?;
        if let Some(mirror) = conversation.mirror {
            map.serialize_entry("mirror", &MirrorObject::from(mirror))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ApplicationFields {
    #[serde(rename = "app_proto", skip_serializing_if = "Option::is_none")]
    flow: Option<&'static str>,
    #[serde(rename = "app_proto_orig", skip_serializing_if = "Option::is_none")]
    original: Option<&'static str>,
    #[serde(rename = "app_proto_ts", skip_serializing_if = "Option::is_none")]
    to_server: Option<&'static str>,
    #[serde(rename = "app_proto_tc", skip_serializing_if = "Option::is_none")]
    to_client: Option<&'static str>,
}

impl From<Application> for ApplicationFields {
    fn from(application: Application) -> Self {
        Self {
            original: application.original,
            flow: application.protocol,
            to_server: application.to_server,
            to_client: application.to_client,
        }
    }
}

#[derive(Serialize)]
struct FlowObject {
    pkts_toserver: u64,
    pkts_toclient: u64,
    bytes_toserver: u64,
    bytes_toclient: u64,
    start: Timestamp,
    end: Timestamp,
    age: u64,
    state: &'static str,
    reason: &'static str,
    alerted: bool,
}

impl From<&FlowRecord> for FlowObject {
    fn from(record: &FlowRecord) -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            pkts_toserver: record.packets[0],
            pkts_toclient: record.packets[1],
            bytes_toserver: record.bytes[0],
            bytes_toclient: record.bytes[1],
            start: Timestamp(record.start),
            end: Timestamp(record.end),
            // Suricata subtracts whole seconds.
            age: (record.end / SECOND).saturating_sub(record.start / SECOND),
            state: match record.state {
                FlowState::New => "new",
                FlowState::Established => "established",
                FlowState::Closed => "closed",
            },
            reason: match record.reason {
                EndReason::Timeout => "timeout",
                EndReason::Forced => "forced",
                EndReason::Shutdown => "shutdown",
            },
            alerted: record.alerted,
        }
    }
}

/// A TCP flag that is only written where it is set.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
const fn is_unset(flag: &bool) -> bool {
    !*flag
}

/// A flag byte in two hexadecimal digits.
struct Hex(u8);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Text::<2>::new();
        text.hex(self.0);
        serializer.serialize_str(text.as_str())
    }
}

/// A counter that is only written where it counted.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How well a connection went. Segments by the direction in which they were sent; times by who took them.
#[derive(Serialize)]
struct PerformanceObject {
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_server_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_client_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_server_min_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_server_avg_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_client_min_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_client_avg_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb_ms: Option<Millis>,
    #[serde(skip_serializing_if = "is_zero")]
    retransmissions_toserver: u32,
    #[serde(skip_serializing_if = "is_zero")]
    retransmissions_toclient: u32,
    #[serde(skip_serializing_if = "is_zero")]
    out_of_order_toserver: u32,
    #[serde(skip_serializing_if = "is_zero")]
    out_of_order_toclient: u32,
    #[serde(skip_serializing_if = "is_zero")]
    dup_acks_toserver: u32,
    #[serde(skip_serializing_if = "is_zero")]
    dup_acks_toclient: u32,
    #[serde(skip_serializing_if = "is_zero")]
    zero_windows_toserver: u32,
    #[serde(skip_serializing_if = "is_zero")]
    zero_windows_toclient: u32,
    #[serde(skip_serializing_if = "is_zero")]
    gap_bytes_toserver: u32,
    #[serde(skip_serializing_if = "is_zero")]
    gap_bytes_toclient: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_by: Option<&'static str>,
}

/// Microseconds, written as milliseconds.
struct Millis(u32);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1e3)
    }
}

impl From<performance::Summary> for PerformanceObject {
    fn from(summary: performance::Summary) -> Self {
        let [handshake_client_ms, handshake_server_ms] = summary.handshake.map(|time| time.map(Millis));
        let [rtt_client_min_ms, rtt_server_min_ms] = summary.rtt_min.map(|time| time.map(Millis));
        let [rtt_client_avg_ms, rtt_server_avg_ms] = summary.rtt_average.map(|time| time.map(Millis));
        let [retransmissions_toserver, retransmissions_toclient] = summary.retransmissions;
        let [out_of_order_toserver, out_of_order_toclient] = summary.out_of_order;
        let [dup_acks_toserver, dup_acks_toclient] = summary.duplicate_acks;
        let [zero_windows_toserver, zero_windows_toclient] = summary.zero_windows;
        let [gap_bytes_toserver, gap_bytes_toclient] = summary.gap_bytes;
        Self {
            handshake_server_ms,
            handshake_client_ms,
            rtt_server_min_ms,
            rtt_server_avg_ms,
            rtt_client_min_ms,
            rtt_client_avg_ms,
            ttfb_ms: summary.time_to_first_byte.map(Millis),
            retransmissions_toserver,
            retransmissions_toclient,
            out_of_order_toserver,
            out_of_order_toclient,
            dup_acks_toserver,
            dup_acks_toclient,
            zero_windows_toserver,
            zero_windows_toclient,
            gap_bytes_toserver,
            gap_bytes_toclient,
            reset_by: summary.reset_by.map(|by| match by {
                Direction::ToServer => "client",
                Direction::ToClient => "server",
            }),
        }
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are fields of the format")]
struct TcpObject {
    tcp_flags: Hex,
    tcp_flags_ts: Hex,
    tcp_flags_tc: Hex,
    #[serde(skip_serializing_if = "is_unset")]
    syn: bool,
    #[serde(skip_serializing_if = "is_unset")]
    fin: bool,
    #[serde(skip_serializing_if = "is_unset")]
    rst: bool,
    #[serde(skip_serializing_if = "is_unset")]
    psh: bool,
    #[serde(skip_serializing_if = "is_unset")]
    ack: bool,
    #[serde(skip_serializing_if = "is_unset")]
    urg: bool,
    #[serde(skip_serializing_if = "is_unset")]
    ecn: bool,
    #[serde(skip_serializing_if = "is_unset")]
    cwr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "is_unset")]
    tc_gap: bool,
    #[serde(skip_serializing_if = "is_unset")]
    ts_gap: bool,
}

impl From<TcpSummary> for TcpObject {
    fn from(tcp: TcpSummary) -> Self {
        let flag = |bit: u8| tcp.flags & bit != 0;
        Self {
            tcp_flags: Hex(tcp.flags),
            tcp_flags_ts: Hex(tcp.flags_to_server),
            tcp_flags_tc: Hex(tcp.flags_to_client),
            syn: flag(0x02),
            fin: flag(0x01),
            rst: flag(0x04),
            psh: flag(0x08),
            ack: flag(0x10),
            urg: flag(0x20),
            ecn: flag(0x40),
            cwr: flag(0x80),
            state: tcp.state,
            tc_gap: tcp.gap_to_client,
            ts_gap: tcp.gap_to_server,
        }
    }
}
