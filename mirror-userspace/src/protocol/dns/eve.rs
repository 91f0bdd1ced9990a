//! The object `dns` of EVE records, version 2, as Suricata 7 writes it.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::message::{Data, Message, Question, Questions, Record, Records, rrtype};
use super::name::{Name, NameBuffer};
use super::registry::{rcode_name, rrtype_name};
use crate::protocol::text::{Bytes, Text};
use crate::record::text;

impl<'a> Message<'a> {
    /// What is logged of the message: of a query each question, of a response all in one, provided that
    /// it repeats the question. `tx_id` is the message's number in its flow ([`super::Transactions`]).
    #[must_use]
    pub fn events(&self, tx_id: u32) -> Events<'a> {
        Events { message: *self, questions: self.questions(), tx_id }
    }
}

/// Iterates over what is logged of a message.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    message: Message<'a>,
    questions: Questions<'a>,
    tx_id: u32,
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let question = self.questions.next()?;
        let message = self.message;
        if message.header().is_response() {
            self.questions.by_ref().for_each(drop);
            Some(Event::Answer { message, question })
        } else {
            Some(Event::Query { message, question, tx_id: self.tx_id })
        }
    }
}

/// One logged event; serializes as the object `dns`.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A question of a query.
    Query {
        /// The query.
        message: Message<'a>,
        /// The question.
        question: Question<'a>,
        /// Number of the message in its flow.
        tx_id: u32,
    },
    /// A response.
    Answer {
        /// The response.
        message: Message<'a>,
        /// Its first question.
        question: Question<'a>,
    },
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
    pub(crate) fn fields<S: SerializeStruct>(&self, object: &mut S) -> Result<(), S::Error> {
        object.serialize_field("version", &2)?;
        match self {
            Self::Query { message, question, tx_id } => {
                let header = message.header();
                object.serialize_field("type", "query")?;
                object.serialize_field("id", &header.id)?;
                name(object, ["rrname", "rrname_truncated"], &question.name)?;
                object.serialize_field("rrtype", &RrType(question.rrtype))?;
                object.serialize_field("tx_id", tx_id)?;
                flags(object, header.flags & ZERO)?;
                object.serialize_field("opcode", &header.opcode())
            }
            Self::Answer { message, question } => {
                let header = message.header();
                object.serialize_field("type", "answer")?;
                object.serialize_field("id", &header.id)?;
                object.serialize_field("flags", &Flags(header.flags))?;
                flags(object, header.flags)?;
                object.serialize_field("opcode", &header.opcode())?;
                name(object, ["rrname", "rrname_truncated"], &question.name)?;
                object.serialize_field("rrtype", &RrType(question.rrtype))?;
                match rcode_name(header.rcode()) {
                    Some(name) => object.serialize_field("rcode", name)?,
                    None => object.serialize_field("rcode", &Text(header.rcode()))?,
                }
                if header.answers > 0 {
                    object.serialize_field("answers", &Section(message.answers()))?;
                    object.serialize_field("grouped", &Grouped(message.answers()))?;
                }
                if header.authorities > 0 {
                    object.serialize_field("authorities", &Section(message.authorities()))?;
                }
                Ok(())
            }
        }
    }
}

/// The bit that is to be zero; of queries no other is logged.
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

/// Writes a name and, where it was cut off, a mark.
#[inline(always)]
fn name<S: SerializeStruct>(
    object: &mut S,
    keys: [&'static str; 2],
    name: &Name<'_>,
) -> Result<(), S::Error> {
    let mut buffer = NameBuffer::new();
    name.read(&mut buffer);
    object.serialize_field(keys[0], &Bytes(buffer.as_bytes()))?;
    if buffer.truncated() { object.serialize_field(keys[1], &true) } else { Ok(()) }
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
struct Section<'a>(Records<'a>);

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone().map(Detail))
    }
}

struct Detail<'a>(Record<'a>);

impl Serialize for Detail<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.0;
        let mut object = serializer.serialize_struct("record", 1)?;
        name(&mut object, ["rrname", "rrname_truncated"], &record.name)?;
        object.serialize_field("rrtype", &RrType(record.rrtype))?;
        object.serialize_field("ttl", &record.ttl)?;
        match &record.data {
            Data::Name(data) => name(&mut object, ["rdata", "rdata_truncated"], data)?,
            Data::Address(_) | Data::Text(_) => object.serialize_field("rdata", &Value(record.data))?,
            Data::Soa { .. } => object.serialize_field("soa", &Value(record.data))?,
            Data::Srv { .. } => object.serialize_field("srv", &Value(record.data))?,
            Data::Sshfp { .. } => object.serialize_field("sshfp", &Value(record.data))?,
            Data::Other => {}
        }
        object.end()
    }
}

/// The data of a record: a string, or an object for types that have several fields.
struct Value<'a>(Data<'a>);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Data::Address(bytes) => Address(bytes).serialize(serializer),
            Data::Name(name) => Bytes(name.read(&mut NameBuffer::new())).serialize(serializer),
            Data::Text(bytes) => Bytes(bytes).serialize(serializer),
            Data::Soa { mname, rname, numbers: [serial, refresh, retry, expire, minimum] } => {
                let mut object = serializer.serialize_struct("soa", 1)?;
                name(&mut object, ["mname", "mname_truncated"], mname)?;
                name(&mut object, ["rname", "rname_truncated"], rname)?;
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
                object.serialize_field("name", &Bytes(target.read(&mut NameBuffer::new())))?;
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

/// The data of the answers by record type, for those types whose data is looked into.
struct Grouped<'a>(Records<'a>);

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
        for record in self.0.clone().filter(|record| record.data != Data::Other) {
            for (present, _) in present.iter_mut().zip(GROUPS).filter(|(_, group)| *group == record.rrtype) {
                *present = true;
            }
        }
        serializer.collect_map(
            GROUPS
                .into_iter()
                .zip(present)
                .filter(|(_, present)| *present)
                .map(|(group, _)| (RrType(group), Group { records: self.0.clone(), rrtype: group })),
        )
    }
}

/// The data of all answers of one type.
struct Group<'a> {
    records: Records<'a>,
    rrtype: u16,
}

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of_type = |record: &Record<'_>| record.rrtype == self.rrtype && record.data != Data::Other;
        serializer.collect_seq(self.records.clone().filter(of_type).map(|record| Value(record.data)))
    }
}
