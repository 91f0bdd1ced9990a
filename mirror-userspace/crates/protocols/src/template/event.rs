//! The event of an answer: the object `ident`.

use serde::Serialize;

use super::message::{Answer, Ports};
use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};
use crate::text::Bytes;

/// A question with its answer, as an event of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerEvent<'a> {
    /// The connection that the question is about.
    pub ports: Ports,
    /// Nanoseconds from the question to the answer; `None` without one of them.
    pub latency: Option<u64>,
    /// The answer.
    pub answer: Answer<'a>,
}

/// The kinds of packed answers.
const USER: u8 = 0;
const ERROR: u8 = 1;
const NONE: u8 = 2;

impl EveEvent for AnswerEvent<'_> {
    const TYPE: &'static str = "ident";
    type Unpacked<'a> = AnswerEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u16(self.ports.user);
        packer.u16(self.ports.service);
        packer.duration(self.latency);
        match self.answer {
            Answer::User { system, name } => {
                packer.u8(USER);
                packer.bytes(system);
                packer.bytes(name);
            }
            Answer::Error(reason) => {
                packer.u8(ERROR);
                packer.bytes(reason);
            }
            Answer::None => packer.u8(NONE),
        }
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<AnswerEvent<'a>> {
        let ports = Ports { user: unpacker.u16()?, service: unpacker.u16()? };
        let latency = unpacker.duration()?;
        let answer = match unpacker.u8()? {
            USER => Answer::User { system: unpacker.bytes()?, name: unpacker.bytes()? },
            ERROR => Answer::Error(unpacker.bytes()?),
            _ => Answer::None,
        };
        Some(AnswerEvent { ports, latency, answer })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        #[derive(Default, Serialize)]
        struct Object<'a> {
            user_port: u16,
            service_port: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            user: Option<Bytes<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            system: Option<Bytes<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Bytes<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            latency_ms: Option<f64>,
        }
        let mut object = Object {
            user_port: self.ports.user,
            service_port: self.ports.service,
            latency_ms: self.latency.map(|latency| latency as f64 / 1e6),
            ..Object::default()
        };
        match self.answer {
            Answer::User { system, name } => {
                object.user = Some(Bytes(name));
                object.system = Some(Bytes(system));
            }
            Answer::Error(reason) => object.error = Some(Bytes(reason)),
            Answer::None => {}
        }
        writer.line(&object)
    }

    /// Measures a question, for the `metrics` events of its service.
    fn measured(&self) -> Option<Measured> {
        Some(Measured { latency: self.latency, error: self.answer == Answer::None })
    }
}
