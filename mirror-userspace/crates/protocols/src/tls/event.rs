//! The event of a handshake.

use std::borrow::Cow;

use serde::Serialize;

use super::names::alert;
use super::{Alert, Event, Messages, Outline};
use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};

/// A handshake, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeEvent<'a> {
    /// Nanoseconds until the server answered.
    pub latency: Option<u64>,
    /// The protocol that was spoken before; empty if none. At most 255 bytes.
    pub original: &'a str,
    /// The alert that ended the handshake.
    pub alert: Option<Alert>,
    /// It is unknown whether the server answered: its direction is not mirrored, or there is a gap in it.
    pub answer_unknown: bool,
    /// The messages.
    pub messages: Messages<'a>,
}

impl EveEvent for HandshakeEvent<'_> {
    const TYPE: &'static str = "tls";
    type Unpacked<'a> = HandshakeEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.duration(self.latency);
        packer.rest(&[
            u8::from(self.answer_unknown),
            u8::from(self.alert.is_some()),
            self.alert.map_or(0, |it| it.0),
        ]);
        packer.u8(self.original.len() as u8);
        packer.rest(self.original.as_bytes());
        packer.rest(&self.messages.outline().pack());
        self.messages.parts().into_iter().for_each(|part| packer.rest(part));
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<HandshakeEvent<'a>> {
        let latency = unpacker.duration()?;
        let &[answer_unknown, alerted, description] = unpacker.array()?;
        let (answer_unknown, alert) = (answer_unknown != 0, (alerted != 0).then_some(Alert(description)));
        let len = unpacker.u8()?;
        let original = str::from_utf8(unpacker.take(usize::from(len))?).ok()?;
        let outline = Outline::unpack(unpacker.array()?);
        let messages = outline.messages(unpacker.rest());
        Some(HandshakeEvent { latency, original, alert, answer_unknown, messages })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Object<'a> {
            #[serde(flatten)]
            event: Event<'a>,
            #[serde(skip_serializing_if = "str::is_empty")]
            from_proto: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            last_alert: Option<Cow<'static, str>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            latency_ms: Option<f64>,
        }
        writer.line(&Object {
            event: Event::new(&self.messages),
            from_proto: self.original,
            last_alert: self.alert.map(alert),
            latency_ms: self.latency.map(|latency| latency as f64 / 1e6),
        })
    }

    /// Measures a handshake. It failed if the server did not answer it with a hello.
    fn measured(&self) -> Option<Measured> {
        let error = self.messages.server_hello.is_none() && !self.answer_unknown;
        Some(Measured { latency: self.latency, error })
    }
}
