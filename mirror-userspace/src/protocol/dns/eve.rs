//! The object `dns` of EVE records, version 2, as Suricata 7 writes it.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

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
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", &2)?;
        match self {
            Self::Query { message, question, tx_id } => {
                let header = message.header();
                map.serialize_entry("type", "query")?;
                map.serialize_entry("id", &header.id)?;
                name(&mut map, ["rrname", "rrname_truncated"], &question.name)?;
                map.serialize_entry("rrtype", &RrType(question.rrtype))?;
                map.serialize_entry("tx_id", tx_id)?;
                flags(&mut map, header.flags, &FLAGS[5..])?;
                map.serialize_entry("opcode", &header.opcode())?;
            }
            Self::Answer { message, question } => {
                let header = message.header();
                map.serialize_entry("type", "answer")?;
                map.serialize_entry("id", &header.id)?;
                map.serialize_entry("flags", &Flags(header.flags))?;
                flags(&mut map, header.flags, &FLAGS)?;
                map.serialize_entry("opcode", &header.opcode())?;
                name(&mut map, ["rrname", "rrname_truncated"], &question.name)?;
                map.serialize_entry("rrtype", &RrType(question.rrtype))?;
                match rcode_name(header.rcode()) {
                    Some(name) => map.serialize_entry("rcode", name)?,
                    None => map.serialize_entry("rcode", &Text(header.rcode()))?,
                }
                if header.answers > 0 {
                    map.serialize_entry("answers", &Section(message.answers()))?;
                    map.serialize_entry("grouped", &Grouped(message.answers()))?;
                }
                if header.authorities > 0 {
                    map.serialize_entry("authorities", &Section(message.authorities()))?;
                }
            }
        }
        map.end()
    }
}

/// Names and bits of the header's flags, in the order of the record. Only those set are logged.
const FLAGS: [(&str, u16); 6] =
    [("qr", 0x8000), ("aa", 0x0400), ("tc", 0x0200), ("rd", 0x0100), ("ra", 0x0080), ("z", 0x0040)];

fn flags<M: SerializeMap>(map: &mut M, flags: u16, names: &[(&'static str, u16)]) -> Result<(), M::Error> {
    names
        .iter()
        .filter(|(_, bit)| flags & bit != 0)
        .try_for_each(|(name, _)| map.serialize_entry(name, &true))
}

/// Writes a name and, where it was cut off, a mark.
fn name<M: SerializeMap>(map: &mut M, keys: [&'static str; 2], name: &Name<'_>) -> Result<(), M::Error> {
    let mut buffer = NameBuffer::new();
    name.read(&mut buffer);
    map.serialize_entry(keys[0], &Bytes(buffer.as_bytes()))?;
    if buffer.truncated() { map.serialize_entry(keys[1], &true) } else { Ok(()) }
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
        let mut map = serializer.serialize_map(None)?;
        name(&mut map, ["rrname", "rrname_truncated"], &record.name)?;
        map.serialize_entry("rrtype", &RrType(record.rrtype))?;
        map.serialize_entry("ttl", &record.ttl)?;
        match &record.data {
            Data::Name(data) => name(&mut map, ["rdata", "rdata_truncated"], data)?,
            Data::Address(_) | Data::Text(_) => map.serialize_entry("rdata", &Value(record.data))?,
            Data::Soa { .. } => map.serialize_entry("soa", &Value(record.data))?,
            Data::Srv { .. } => map.serialize_entry("srv", &Value(record.data))?,
            Data::Sshfp { .. } => map.serialize_entry("sshfp", &Value(record.data))?,
            Data::Other => {}
        }
        map.end()
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
            Data::Soa { mname, rname, numbers } => {
                let mut map = serializer.serialize_map(None)?;
                name(&mut map, ["mname", "mname_truncated"], mname)?;
                name(&mut map, ["rname", "rname_truncated"], rname)?;
                for (key, number) in ["serial", "refresh", "retry", "expire", "minimum"].iter().zip(numbers) {
                    map.serialize_entry(key, number)?;
                }
                map.end()
            }
            Data::Srv { priority, weight, port, target } => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("priority", priority)?;
                map.serialize_entry("weight", weight)?;
                map.serialize_entry("port", port)?;
                map.serialize_entry("name", &Bytes(target.read(&mut NameBuffer::new())))?;
                map.end()
            }
            Data::Sshfp { algorithm, kind, fingerprint } => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("fingerprint", &Text(Hex(fingerprint)))?;
                map.serialize_entry("algo", algorithm)?;
                map.serialize_entry("type", kind)?;
                map.end()
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
