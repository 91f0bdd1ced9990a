//! The `dns` object of EVE records, version 2, as Suricata 7 writes it.

use std::fmt;
use std::iter::Take;

use mirror_packet::text;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::message::{Data, MAX_QUESTIONS, Message, Question, Questions, Record, Records, rrtype};
use super::name::{Name, NameBuffer};
use super::registry::{rcode_name, rrtype_name};
use crate::text::{Bytes, Text};

impl<'a> Message<'a> {
    /// Returns the events of the message: one for each question of a query; one for a response, provided that
    /// it repeats the question. `tx_id` is the message's number in its flow ([`super::Transactions`]).
    ///
    /// Compression makes a message of many questions an attack on the log, and on the worker. The events of a
    /// query therefore end when they reach [`Message::most`] or `MAX_QUESTIONS`, and the last one reports the
    /// number of omitted questions. Resolvers ask one question a message (RFC 9619).
    #[must_use]
    pub fn events(&self, tx_id: u32) -> Events<'a> {
        Events { message: *self, questions: self.questions(), tx_id, left: self.most(), count: 0 }
    }

    /// Returns the maximum number of bytes for all events of the message.
    #[must_use]
    pub const fn most(&self) -> usize {
        const OF_ANY: usize = 2048;
        const PER_BYTE: usize = 16;
        OF_ANY + PER_BYTE * self.bytes().len()
    }
}

/// Bytes charged for an event, not counting the names and records in it; and for a record, not counting its
/// own names and data.
const EVENT: usize = 720;
const RECORD: usize = 96;
/// Bytes that a name may take as JSON text if an event has to be shortened. The longest name that is read has
/// 1025 bytes.
const NAME: usize = 1100;

/// The part of a message that is written.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Bytes of a name, as JSON text.
    name: usize,
    answers: usize,
    authorities: usize,
}

impl Extent {
    const WHOLE: Self = Self { name: usize::MAX, answers: usize::MAX, authorities: usize::MAX };

    /// Returns the part of a response that takes at most `most` bytes.
    fn within(most: usize, message: &Message<'_>) -> Self {
        let mut left = most.saturating_sub(EVENT + NAME);
        // The data of an answer is written twice.
        let answers = fitting(message.answers(), 2, &mut left);
        let authorities = fitting(message.authorities(), 1, &mut left);
        Self { name: NAME, answers, authorities }
    }
}

/// Returns the number of records that fit into `left` bytes, with their data written `times` times.
fn fitting(records: Records<'_>, times: usize, left: &mut usize) -> usize {
    let fits = |record: &Record<'_>| {
        let len = RECORD + name_len(&record.name) + times * data_len(&record.data);
        left.checked_sub(len).is_some_and(|rest| {
            *left = rest;
            true
        })
    };
    records.take_while(fits).count()
}

fn name_len(name: &Name<'_>) -> usize {
    Bytes(name.read(&mut NameBuffer::new())).json_len().min(NAME)
}

fn data_len(data: &Data<'_>) -> usize {
    match data {
        Data::Address(_) => 48,
        Data::Name(name) => 24 + name_len(name),
        Data::Text(bytes) => 8 + Bytes(bytes).json_len(),
        Data::Soa { mname, rname, .. } => 192 + name_len(mname) + name_len(rname),
        Data::Srv { target, .. } => 64 + name_len(target),
        Data::Sshfp { fingerprint, .. } => 64 + 3 * fingerprint.len(),
        Data::Other => 0,
    }
}

/// Iterates over the events of a message.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    message: Message<'a>,
    questions: Questions<'a>,
    tx_id: u32,
    /// Bytes that further events may take.
    left: usize,
    /// Number of events so far.
    count: u16,
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let question = self.questions.next()?;
        let message = self.message;
        if message.header().is_response() {
            self.questions.stop();
            return Some(Event { message, question, extent: Extent::WHOLE, kind: Kind::Answer });
        }
        let (mut extent, mut omitted) = (Extent::WHOLE, 0);
        if message.header().questions > 1 {
            extent.name = NAME;
            self.left = self.left.saturating_sub(EVENT + name_len(&question.name));
            self.count += 1;
            if self.left < EVENT || self.count == MAX_QUESTIONS {
                omitted = (message.header().questions - self.count).into();
                self.questions.stop();
            }
        }
        Some(Event { message, question, extent, kind: Kind::Query { tx_id: self.tx_id, omitted } })
    }
}

/// One event; serializes as the `dns` object.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    message: Message<'a>,
    /// The question; the first one in a response.
    question: Question<'a>,
    extent: Extent,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A question of a query.
    Query {
        /// Number of the message in its flow.
        tx_id: u32,
        /// Questions after this one that are omitted.
        omitted: usize,
    },
    /// A response.
    Answer,
}

impl Event<'_> {
    /// Returns the event shortened to the message's limit. The event reports the omitted parts.
    #[must_use]
    pub fn shortened(self) -> Self {
        let extent = Extent::within(self.message.most(), &self.message);
        Self { extent, ..self }
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("dns", 1)?;
        self.fields(&mut object)?;
        object.end()
    }
}

impl Event<'_> {
    /// Writes the fields of the object.
    pub fn fields<S: SerializeStruct>(&self, object: &mut S) -> Result<(), S::Error> {
        let Self { message, question, extent, kind } = self;
        let most = extent.name;
        object.serialize_field("version", &2)?;
        match kind {
            Kind::Query { tx_id, omitted } => {
                let header = message.header();
                object.serialize_field("type", "query")?;
                object.serialize_field("id", &header.id)?;
                name(object, ["rrname", "rrname_truncated"], &question.name, most)?;
                object.serialize_field("rrtype", &RrType(question.rrtype))?;
                object.serialize_field("tx_id", tx_id)?;
                flags(object, header.flags & ZERO)?;
                object.serialize_field("opcode", &header.opcode())?;
                count(object, "questions_omitted", *omitted)
            }
            Kind::Answer => {
                let header = message.header();
                object.serialize_field("type", "answer")?;
                object.serialize_field("id", &header.id)?;
                object.serialize_field("flags", &Flags(header.flags))?;
                flags(object, header.flags)?;
                object.serialize_field("opcode", &header.opcode())?;
                name(object, ["rrname", "rrname_truncated"], &question.name, most)?;
                object.serialize_field("rrtype", &RrType(question.rrtype))?;
                match rcode_name(header.rcode()) {
                    Some(name) => object.serialize_field("rcode", name)?,
                    None => object.serialize_field("rcode", &Text(header.rcode()))?,
                }
                if header.answers > 0 {
                    let records = message.answers().take(extent.answers);
                    object.serialize_field("answers", &Section { records: records.clone(), most })?;
                    object.serialize_field("grouped", &Grouped { records, most })?;
                }
                if header.authorities > 0 {
                    let records = message.authorities().take(extent.authorities);
                    object.serialize_field("authorities", &Section { records, most })?;
                }
                let left_out = |records: Records<'_>, written| {
                    if most < usize::MAX { records.skip(written).count() } else { 0 }
                };
                let [answers, authorities] = message.cut().map(usize::from);
                let answers = answers + left_out(message.answers(), extent.answers);
                count(object, "answers_omitted", answers)?;
                let authorities = authorities + left_out(message.authorities(), extent.authorities);
                count(object, "authorities_omitted", authorities)
            }
        }
    }
}

/// The bit that must be zero. For queries, no other flag is logged.
const ZERO: u16 = 0x0040;

/// Writes the names of the header's flags that are set.
fn flags<S: SerializeStruct>(object: &mut S, flags: u16) -> Result<(), S::Error> {
    if flags & 0x8000 != 0 {
        object.serialize_field("qr", &true)?;
    }
    if flags & 0x0400 != 0 {
        object.serialize_field("aa", &true)?;
    }
    if flags & 0x0200 != 0 {
        object.serialize_field("tc", &true)?;
    }
    if flags & 0x0100 != 0 {
        object.serialize_field("rd", &true)?;
    }
    if flags & 0x0080 != 0 {
        object.serialize_field("ra", &true)?;
    }
    if flags & ZERO != 0 {
        object.serialize_field("z", &true)?;
    }
    Ok(())
}

/// Writes the number of omitted items, if any.
fn count<S: SerializeStruct>(object: &mut S, key: &'static str, count: usize) -> Result<(), S::Error> {
    if count > 0 { object.serialize_field(key, &count) } else { Ok(()) }
}

/// Writes at most `most` bytes of a name, and a mark if it was truncated.
#[inline(always)]
fn name<S: SerializeStruct>(
    object: &mut S,
    keys: [&'static str; 2],
    name: &Name<'_>,
    most: usize,
) -> Result<(), S::Error> {
    let mut buffer = NameBuffer::new();
    name.read(&mut buffer);
    let text = within(buffer.as_bytes(), most);
    object.serialize_field(keys[0], &Bytes(text))?;
    let truncated = buffer.truncated() || text.len() < buffer.as_bytes().len();
    if truncated { object.serialize_field(keys[1], &true) } else { Ok(()) }
}

/// Returns the longest prefix of a text that takes at most `most` bytes in JSON.
fn within(text: &[u8], most: usize) -> &[u8] {
    if most == usize::MAX || Bytes(text).json_len() <= most { text } else { Bytes(text).cut_to(most) }
}

/// The mnemonic of a record type, or its number as a string.
struct RrType(u16);

impl Serialize for RrType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match rrtype_name(self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&self.0),
        }
    }
}

/// The header's flags, as a hexadecimal number.
struct Flags(u16);

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = text::Text::<4>::new();
        self.0.to_be_bytes().into_iter().for_each(|byte| text.hex(byte));
        let zeros = self.0.leading_zeros() as usize / 4;
        serializer.serialize_str(text.as_str().get(zeros.min(3)..).unwrap_or_default())
    }
}

/// Bytes in hexadecimal, separated by colons.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, byte)| {
            let colon = if index > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02x}")
        })
    }
}

/// An address of four or sixteen bytes, the latter in full; empty for other lengths.
struct Address<'a>(&'a [u8]);

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match *self.0 {
            [a, b, c, d] => text::ipv4([a, b, c, d]),
            _ => self.0.try_into().map_or_else(|_| text::AddressText::new(), text::ipv6),
        };
        serializer.serialize_str(text.as_str())
    }
}

/// The records of a section, each as an object.
struct Section<'a> {
    records: Take<Records<'a>>,
    /// See [`Extent::name`].
    most: usize,
}

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.records.clone().map(|record| Detail { record, most: self.most }))
    }
}

struct Detail<'a> {
    record: Record<'a>,
    most: usize,
}

impl Serialize for Detail<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { record, most } = self;
        let value = Value { data: record.data, most: *most };
        let mut object = serializer.serialize_struct("record", 1)?;
        name(&mut object, ["rrname", "rrname_truncated"], &record.name, *most)?;
        object.serialize_field("rrtype", &RrType(record.rrtype))?;
        object.serialize_field("ttl", &record.ttl)?;
        match &record.data {
            Data::Name(data) => name(&mut object, ["rdata", "rdata_truncated"], data, *most)?,
            Data::Address(_) | Data::Text(_) => object.serialize_field("rdata", &value)?,
            Data::Soa { .. } => object.serialize_field("soa", &value)?,
            Data::Srv { .. } => object.serialize_field("srv", &value)?,
            Data::Sshfp { .. } => object.serialize_field("sshfp", &value)?,
            Data::Other => {}
        }
        object.end()
    }
}

/// The data of a record: a string, or an object for types that have several fields.
struct Value<'a> {
    data: Data<'a>,
    most: usize,
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let most = self.most;
        match &self.data {
            Data::Address(bytes) => Address(bytes).serialize(serializer),
            Data::Name(name) => Bytes(within(name.read(&mut NameBuffer::new()), most)).serialize(serializer),
            Data::Text(bytes) => Bytes(bytes).serialize(serializer),
            Data::Soa { mname, rname, numbers: [serial, refresh, retry, expire, minimum] } => {
                let mut object = serializer.serialize_struct("soa", 1)?;
                name(&mut object, ["mname", "mname_truncated"], mname, most)?;
                name(&mut object, ["rname", "rname_truncated"], rname, most)?;
                object.serialize_field("serial", serial)?;
                object.serialize_field("refresh", refresh)?;
                object.serialize_field("retry", retry)?;
                object.serialize_field("expire", expire)?;
                object.serialize_field("minimum", minimum)?;
                object.end()
            }
            Data::Srv { priority, weight, port, target } => {
                let mut object = serializer.serialize_struct("srv", 1)?;
                object.serialize_field("priority", priority)?;
                object.serialize_field("weight", weight)?;
                object.serialize_field("port", port)?;
                let mut buffer = NameBuffer::new();
                object.serialize_field("name", &Bytes(within(target.read(&mut buffer), most)))?;
                object.end()
            }
            Data::Sshfp { algorithm, kind, fingerprint } => {
                let mut object = serializer.serialize_struct("sshfp", 1)?;
                object.serialize_field("fingerprint", &Text(Hex(fingerprint)))?;
                object.serialize_field("algo", algorithm)?;
                object.serialize_field("type", kind)?;
                object.end()
            }
            Data::Other => serializer.serialize_unit(),
        }
    }
}

/// The data of the answers, grouped by record type, for those types whose data is parsed.
struct Grouped<'a> {
    records: Take<Records<'a>>,
    most: usize,
}

/// The types that are grouped.
const GROUPS: [u16; 11] = [
    rrtype::A,
    rrtype::AAAA,
    rrtype::CNAME,
    rrtype::MX,
    rrtype::NS,
    rrtype::PTR,
    rrtype::TXT,
    rrtype::NULL,
    rrtype::SOA,
    rrtype::SSHFP,
    rrtype::SRV,
];

impl Serialize for Grouped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut present = [false; GROUPS.len()];
        for record in self.records.clone().filter(|record| record.data != Data::Other) {
            for (present, _) in present.iter_mut().zip(GROUPS).filter(|(_, group)| *group == record.rrtype) {
                *present = true;
            }
        }
        serializer.collect_map(GROUPS.into_iter().zip(present).filter(|(_, present)| *present).map(
            |(group, _)| {
                (RrType(group), Group { records: self.records.clone(), rrtype: group, most: self.most })
            },
        ))
    }
}

/// The data of all answers of one type.
struct Group<'a> {
    records: Take<Records<'a>>,
    rrtype: u16,
    most: usize,
}

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of_type = |record: &Record<'_>| record.rrtype == self.rrtype && record.data != Data::Other;
        let records = self.records.clone().filter(of_type);
        serializer.collect_seq(records.map(|record| Value { data: record.data, most: self.most }))
    }
}
