//! The events of a stream and of a frame about the connection, as the `http` objects that Suricata 7 writes for HTTP/2.

use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use super::frame;
use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};
use crate::pack;
use crate::text::Bytes;

/// Tags of a stream's [packed](pack) values.
pub mod tag {
    /// The name of a field of the request; its value follows. Those of responses are [`RESPONSE`] more.
    pub const NAME: u8 = 0;
    /// The value of the field whose name came before.
    pub const VALUE: u8 = 1;
    /// A new size of the table of fields, four bytes.
    pub const TABLE_SIZE: u8 = 2;
    /// Added for values of the response.
    pub const RESPONSE: u8 = 4;
}

/// The values that every stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The transaction's number in the flow.
    pub number: u32,
    /// The stream's identifier.
    pub id: u32,
    /// Status of the response; 0 if there is none.
    pub status: u16,
    /// Bytes of the response's body.
    pub length: u64,
    /// Nanoseconds from the request's last byte to the response's first.
    pub latency: Option<u64>,
    /// The weight that the client gave the stream.
    pub priority: Option<u8>,
    /// The codes with which client and server reset the stream.
    pub errors: [Option<u32>; 2],
}

/// A request with its response, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct StreamEvent<'a> {
    /// The values that every stream has.
    pub stream: Stream,
    /// The fields, [packed](pack) with their [tags](tag).
    pub values: &'a [u8],
}

/// Stands for no value in packed bytes.
const NONE: u64 = u64::MAX;

fn pack_stream(stream: &Stream, packer: &mut Packer<'_>) {
    let Stream { number, id, status, length, latency, priority, errors } = *stream;
    packer.u32(number);
    packer.u32(id);
    packer.u16(status);
    packer.u64(length);
    packer.duration(latency);
    packer.u64(priority.map_or(NONE, u64::from));
    for error in errors {
        packer.u64(error.map_or(NONE, u64::from));
    }
}

fn unpack_stream(unpacker: &mut Unpacker<'_>) -> Option<Stream> {
    Some(Stream {
        number: unpacker.u32()?,
        id: unpacker.u32()?,
        status: unpacker.u16()?,
        length: unpacker.u64()?,
        latency: unpacker.duration()?,
        priority: u8::try_from(unpacker.u64()?).ok(),
        errors: [u32::try_from(unpacker.u64()?).ok(), u32::try_from(unpacker.u64()?).ok()],
    })
}

impl EveEvent for StreamEvent<'_> {
    const TYPE: &'static str = "http";
    type Unpacked<'a> = StreamEvent<'a>;

    #[inline]
    fn pack(&self, packer: &mut Packer<'_>) {
        pack_stream(&self.stream, packer);
        packer.rest(self.values);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<StreamEvent<'a>> {
        Some(StreamEvent { stream: unpack_stream(unpacker)?, values: unpacker.rest() })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.transaction(self.stream.number, self)
    }

    /// Measures a request. Status 500 and above counts as an error.
    fn measured(&self) -> Option<Measured> {
        Some(Measured { latency: self.stream.latency, error: self.stream.status >= 500 })
    }
}

/// Returns the fields of a request, or of a response, among packed values.
pub(super) fn fields(values: &[u8], of: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut name = None;
    pack::values(values).filter_map(move |(tag, value)| {
        if tag == of + tag::NAME {
            name = Some(value);
        }
        if tag == of + tag::VALUE { name.take().map(|name| (name, value)) } else { None }
    })
}

/// Returns the value of a field of a request, among packed values.
#[must_use]
pub fn request_field<'a>(values: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    field(values, 0, name)
}

/// Returns the value of a field of a request, or of a response.
pub(crate) fn field<'a>(values: &'a [u8], of: u8, name: &[u8]) -> Option<&'a [u8]> {
    fields(values, of).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Serialize for StreamEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Stream { id, status, length, latency, priority, errors, .. } = self.stream;
        let request = |name: &str| field(self.values, 0, name.as_bytes());
        let mut object = serializer.serialize_map(None)?;
        if let Some(host) = request("host") {
            object.serialize_entry("hostname", &Bytes(host))?;
        }
        if let Some(path) = request(":path") {
            object.serialize_entry("url", &Bytes(path))?;
        }
        if let Some(agent) = request("user-agent") {
            object.serialize_entry("http_user_agent", &Bytes(agent))?;
        }
        if let Some(method) = request(":method") {
            object.serialize_entry("http_method", &Bytes(method))?;
        }
        object.serialize_entry("version", "2")?;
        for (name, of) in [("request_headers", 0), ("response_headers", tag::RESPONSE)] {
            let list = List { values: self.values, of };
            if !list.is_empty() {
                object.serialize_entry(name, &list)?;
            }
        }
        if status > 0 {
            object.serialize_entry("status", &status)?;
        }
        object.serialize_entry("length", &length)?;
        if let Some(latency) = latency {
            object.serialize_entry("latency_ms", &(latency as f64 / 1e6))?;
        }
        let [by_client, by_server] =
            errors.map(|error| Details { error: error.map(reset), ..Details::default() });
        let by_client = Details { priority, ..by_client };
        object.serialize_entry("http2", &Frames { id, request: by_client, response: by_server })?;
        object.end()
    }
}

/// The fields of one direction.
struct List<'a> {
    values: &'a [u8],
    of: u8,
}

impl List<'_> {
    fn is_empty(&self) -> bool {
        !pack::values(self.values).any(|(tag, _)| tag & tag::RESPONSE == self.of)
    }
}

/// Fields whose values are secrets.
const SECRET: [&[u8]; 4] = [b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"];

/// A field, or a change of the table's size.
enum Item<'a> {
    Field(&'a [u8], &'a [u8]),
    TableSize(u32),
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match *self {
            Self::Field(name, value) => {
                map.serialize_entry("name", &Bytes(name))?;
                if !SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                    map.serialize_entry("value", &Bytes(value))?;
                }
            }
            Self::TableSize(size) => map.serialize_entry("table_size_update", &size)?,
        }
        map.end()
    }
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for (tag, value) in pack::values(self.values) {
            if tag == self.of + tag::TABLE_SIZE
                && let Some(size) = frame::number(value)
            {
                list.serialize_element(&Item::TableSize(size))?;
            }
        }
        for (name, value) in fields(self.values, self.of) {
            list.serialize_element(&Item::Field(name, value))?;
        }
        list.end()
    }
}

/// The object `http2`.
struct Frames<'a> {
    id: u32,
    request: Details<'a>,
    response: Details<'a>,
}

impl Serialize for Frames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("stream_id", &self.id)?;
        map.serialize_entry("request", &self.request)?;
        map.serialize_entry("response", &self.response)?;
        map.end()
    }
}

/// A name, or the number of an unknown one.
enum Name {
    Known(&'static str),
    Unknown(u32),
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(name) => serializer.serialize_str(name),
            Self::Unknown(number) => serializer.collect_str(number),
        }
    }
}

/// The frames of one direction.
#[derive(Default)]
struct Details<'a> {
    priority: Option<u8>,
    error: Option<Name>,
    settings: &'a [u8],
}

impl Serialize for Details<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(priority) = self.priority {
            map.serialize_entry("priority", &priority)?;
        }
        if let Some(error) = &self.error {
            map.serialize_entry("error_code", error)?;
        }
        if !self.settings.is_empty() {
            map.serialize_entry("settings", &Settings(self.settings))?;
        }
        map.end()
    }
}

struct Settings<'a>(&'a [u8]);

struct Setting(u16, u32);

impl Serialize for Settings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(frame::settings(self.0).map(|(id, value)| Setting(id, value)))
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = match self.0 {
            1 => Name::Known("SETTINGSHEADERTABLESIZE"),
            2 => Name::Known("SETTINGSENABLEPUSH"),
            3 => Name::Known("SETTINGSMAXCONCURRENTSTREAMS"),
            4 => Name::Known("SETTINGSINITIALWINDOWSIZE"),
            5 => Name::Known("SETTINGSMAXFRAMESIZE"),
            6 => Name::Known("SETTINGSMAXHEADERLISTSIZE"),
            other => Name::Unknown(u32::from(other)),
        };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("settings_id", &name)?;
        map.serialize_entry("settings_value", &self.1)?;
        map.end()
    }
}

/// The codes of errors (RFC 9113, section 7), as Suricata writes them for GOAWAY and for `RST_STREAM`.
const ERRORS: [(&str, &str); 14] = [
    ("NOERROR", "NoError"),
    ("PROTOCOLERROR", "ProtocolError"),
    ("INTERNALERROR", "InternalError"),
    ("FLOWCONTROLERROR", "FlowControlError"),
    ("SETTINGSTIMEOUT", "SettingsTimeout"),
    ("STREAMCLOSED", "StreamClosed"),
    ("FRAMESIZEERROR", "FrameSizeError"),
    ("REFUSEDSTREAM", "RefusedStream"),
    ("CANCEL", "Cancel"),
    ("COMPRESSIONERROR", "CompressionError"),
    ("CONNECTERROR", "ConnectError"),
    ("ENHANCEYOURCALM", "EnhanceYourCalm"),
    ("INADEQUATESECURITY", "InadequateSecurity"),
    ("HTTP11REQUIRED", "Http11Required"),
];

fn reset(code: u32) -> Name {
    ERRORS.get(code as usize).map_or(Name::Unknown(code), |names| Name::Known(names.1))
}

fn goaway(code: u32) -> Name {
    ERRORS.get(code as usize).map_or(Name::Unknown(code), |names| Name::Known(names.0))
}

/// A frame about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// The payload of a SETTINGS frame.
    Settings(&'a [u8]),
    /// The code of a GOAWAY frame.
    Goaway(u32),
}

/// A frame about the connection, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct ControlEvent<'a> {
    /// The transaction's number in the flow.
    pub number: u32,
    /// True if the server sent it.
    pub by_server: bool,
    /// The frame.
    pub control: Control<'a>,
}

impl EveEvent for ControlEvent<'_> {
    const TYPE: &'static str = "http";
    type Unpacked<'a> = ControlEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u32(self.number);
        packer.u8(u8::from(self.by_server));
        match self.control {
            Control::Settings(settings) => {
                packer.u8(0);
                packer.rest(settings);
            }
            Control::Goaway(code) => {
                packer.u8(1);
                packer.u32(code);
            }
        }
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<ControlEvent<'a>> {
        Some(ControlEvent {
            number: unpacker.u32()?,
            by_server: unpacker.u8()? != 0,
            control: match unpacker.u8()? {
                0 => Control::Settings(unpacker.rest()),
                _ => Control::Goaway(unpacker.u32()?),
            },
        })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.transaction(self.number, self)
    }
}

impl Serialize for ControlEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sent = match self.control {
            Control::Settings(settings) => Details { settings, ..Details::default() },
            Control::Goaway(code) => Details { error: Some(goaway(code)), ..Details::default() },
        };
        let (request, response) =
            if self.by_server { (Details::default(), sent) } else { (sent, Details::default()) };
        let mut object = serializer.serialize_map(Some(2))?;
        object.serialize_entry("version", "2")?;
        object.serialize_entry("http2", &Frames { id: 0, request, response })?;
        object.end()
    }
}

/// The parts of a connection that are missing in its events, because they were not seen or a bound was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Blocks of fields that were not read.
    pub blocks: u32,
    /// Fields of other blocks that were not read.
    pub fields: u32,
    /// Streams whose events were written before their ends, because too many were open.
    pub streams: u32,
}

/// The losses of a connection, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct LossEvent(pub Losses);

impl EveEvent for LossEvent {
    const TYPE: &'static str = "http";
    type Unpacked<'a> = Self;

    fn pack(&self, packer: &mut Packer<'_>) {
        for count in [self.0.blocks, self.0.fields, self.0.streams] {
            packer.u32(count);
        }
    }

    fn unpack(unpacker: &mut Unpacker<'_>) -> Option<Self> {
        Some(Self(Losses { blocks: unpacker.u32()?, fields: unpacker.u32()?, streams: unpacker.u32()? }))
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.line(self)
    }
}

impl Serialize for LossEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = [
            ("header_blocks_lost", self.0.blocks),
            ("headers_omitted", self.0.fields),
            ("streams_evicted", self.0.streams),
        ];
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("version", "2")?;
        for (name, count) in counts {
            if count > 0 {
                object.serialize_entry(name, &count)?;
            }
        }
        object.end()
    }
}
