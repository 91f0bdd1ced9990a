//! The event of a transaction, as the `http` object that Suricata 7 writes.

use serde::ser::{Serialize, SerializeMap as _, SerializeStruct as _, Serializer};

use super::target::Authority;
use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};
use crate::pack;
use crate::text::Bytes;

/// Tags of a transaction's [packed](pack) values.
pub mod tag {
    /// The request's method.
    pub const METHOD: u8 = 0;
    /// The request's target.
    pub const TARGET: u8 = 1;
    /// The request's protocol version.
    pub const PROTOCOL: u8 = 2;
    /// The field Host.
    pub const HOST: u8 = 3;
    /// The field User-Agent.
    pub const USER_AGENT: u8 = 4;
    /// The field X-Forwarded-For.
    pub const FORWARDED_FOR: u8 = 5;
    /// The field Referer.
    pub const REFERER: u8 = 6;
    /// The response's field Content-Type.
    pub const CONTENT_TYPE: u8 = 7;
    /// The response's field Content-Range.
    pub const CONTENT_RANGE: u8 = 8;
    /// The response's field Location.
    pub const LOCATION: u8 = 9;
    pub(super) const COUNT: usize = 10;
}

/// The values that every transaction has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// The transaction's number in the flow.
    pub number: u32,
    /// Status of the response; 0 if there is none.
    pub status: u16,
    /// Bytes of the response's body.
    pub length: u64,
    /// Nanoseconds from the request's last byte to the response's first.
    pub latency: Option<u64>,
}

/// A request with its response, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct TransactionEvent<'a> {
    /// The values that every transaction has.
    pub fixed: Fixed,
    /// The other values, [packed](pack) with their [tags](tag).
    pub values: &'a [u8],
}

impl EveEvent for TransactionEvent<'_> {
    const TYPE: &'static str = "http";
    type Unpacked<'a> = TransactionEvent<'a>;

    #[inline]
    fn pack(&self, packer: &mut Packer<'_>) {
        let Fixed { number, status, length, latency } = self.fixed;
        packer.u32(number);
        packer.u16(status);
        packer.u64(length);
        packer.duration(latency);
        packer.rest(self.values);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<TransactionEvent<'a>> {
        let fixed = Fixed {
            number: unpacker.u32()?,
            status: unpacker.u16()?,
            length: unpacker.u64()?,
            latency: unpacker.duration()?,
        };
        Some(TransactionEvent { fixed, values: unpacker.rest() })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.transaction(self.fixed.number, &Object::new(self.fixed, self.values))
    }

    /// Measures a request. Status 500 and above counts as an error.
    fn measured(&self) -> Option<Measured> {
        Some(Measured { latency: self.fixed.latency, error: self.fixed.status >= 500 })
    }
}

/// The target of a request that was not seen, as in Suricata's records.
const UNSEEN: &[u8] = b"/libhtp::request_uri_not_seen";

struct Object<'a> {
    fixed: Fixed,
    /// The packed values, indexed by tag.
    values: [Option<&'a [u8]>; tag::COUNT],
}

impl<'a> Object<'a> {
    fn new(fixed: Fixed, packed: &'a [u8]) -> Self {
        let mut values = [None; tag::COUNT];
        for (tag, value) in pack::values(packed) {
            if let Some(place) = values.get_mut(usize::from(tag)) {
                *place = Some(value);
            }
        }
        Self { fixed, values }
    }

    fn get(&self, tag: u8) -> Option<&'a [u8]> {
        self.values[usize::from(tag)]
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("http", 1)?;
        let authority = self.authority();
        if let Some(host) = authority.host {
            if host.iter().any(u8::is_ascii_uppercase) {
                object.serialize_field("hostname", &Bytes(&host.to_ascii_lowercase()))?;
            } else {
                object.serialize_field("hostname", &Bytes(host))?;
            }
        }
        if let Some(port) = authority.port {
            object.serialize_field("http_port", &port)?;
        }
        object.serialize_field("url", &Bytes(self.get(tag::TARGET).unwrap_or(UNSEEN)))?;
        if let Some(agent) = self.get(tag::USER_AGENT) {
            object.serialize_field("http_user_agent", &Bytes(agent))?;
        }
        if let Some(forwarded_for) = self.get(tag::FORWARDED_FOR) {
            object.serialize_field("xff", &Bytes(forwarded_for))?;
        }
        if let Some(content_type) = self.get(tag::CONTENT_TYPE) {
            object.serialize_field("http_content_type", &Bytes(media_type(content_type)))?;
        }
        if let Some(range) = self.get(tag::CONTENT_RANGE) {
            object.serialize_field("content_range", &ContentRange(range))?;
        }
        if let Some(referer) = self.get(tag::REFERER) {
            object.serialize_field("http_refer", &Bytes(referer))?;
        }
        if let Some(method) = self.get(tag::METHOD) {
            object.serialize_field("http_method", &Bytes(method))?;
        }
        if let Some(protocol) = self.get(tag::PROTOCOL) {
            object.serialize_field("protocol", &Bytes(protocol))?;
        }
        if self.fixed.status != 0 {
            object.serialize_field("status", &self.fixed.status)?;
        }
        if let Some(location) = self.get(tag::LOCATION).filter(|_| (301..400).contains(&self.fixed.status)) {
            object.serialize_field("redirect", &Bytes(location))?;
        }
        object.serialize_field("length", &self.fixed.length)?;
        if let Some(latency) = self.fixed.latency {
            object.serialize_field("latency_ms", &(latency as f64 / 1e6))?;
        }
        object.end()
    }
}

impl Object<'_> {
    /// Returns the authority in the target, or else the one in the Host field.
    fn authority(&self) -> Authority<'_> {
        let target = self.get(tag::TARGET).unwrap_or_default();
        let in_target = Authority::of_target(self.get(tag::METHOD).unwrap_or_default(), target);
        match in_target.host {
            Some(_) => in_target,
            None => self.get(tag::HOST).map_or_else(Authority::default, Authority::parse),
        }
    }
}

/// Returns a media type without its parameters.
fn media_type(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b';').next().unwrap_or_default()
}

/// The field Content-Range (RFC 9110, section 14.4).
struct ContentRange<'a>(&'a [u8]);

impl Serialize for ContentRange<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("raw", &Bytes(self.0))?;
        let text = str::from_utf8(self.0).ok().and_then(|text| text.trim().strip_prefix("bytes"));
        if let Some((range, size)) = text.and_then(|text| text.trim().split_once('/')) {
            if let Some((start, end)) = range.split_once('-')
                && let (Ok(start), Ok(end)) = (start.parse::<u64>(), end.parse::<u64>())
            {
                map.serialize_entry("start", &start)?;
                map.serialize_entry("end", &end)?;
            }
            if let Ok(size) = size.parse::<u64>() {
                map.serialize_entry("size", &size)?;
            }
        }
        map.end()
    }
}
