//! The event of a message.

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::{Event, Message};
use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};

/// A message, as an event of its flow.
#[derive(Clone, Copy, Debug)]
pub struct MessageEvent<'a> {
    /// The number of the message in its flow ([`super::Transactions`]).
    pub number: u32,
    /// Nanoseconds from the query to this response.
    pub latency: Option<u64>,
    /// The message.
    pub message: Message<'a>,
}

impl EveEvent for MessageEvent<'_> {
    const TYPE: &'static str = "dns";
    type Unpacked<'a> = MessageEvent<'a>;

    #[inline]
    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u32(self.number);
        packer.duration(self.latency);
        packer.rest(self.message.bytes());
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<MessageEvent<'a>> {
        let (number, latency) = (unpacker.u32()?, unpacker.duration()?);
        // The worker has parsed the message before, so this does not fail: either it is whole, or its rest is cut off.
        let bytes = unpacker.rest();
        let message = Message::parse(bytes).or_else(|_| Message::parse_captured(bytes, true)).ok()?;
        Some(MessageEvent { number, latency, message })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        let Self { number, latency, message } = *self;
        message.events(number).try_for_each(|event| {
            if writer.line_within(message.most(), &Object { event, latency })? {
                return Ok(());
            }
            writer.line(&Object { event: event.shortened(), latency })
        })
    }

    /// Measures a response, which ends a request. Error codes other than "no such name" count as errors.
    fn measured(&self) -> Option<Measured> {
        const NO_ERROR: u8 = 0;
        const NO_SUCH_NAME: u8 = 3;
        let header = self.message.header();
        let error = !matches!(header.rcode(), NO_ERROR | NO_SUCH_NAME);
        header.is_response().then_some(Measured { latency: self.latency, error })
    }
}

/// The object `dns`.
struct Object<'a> {
    event: Event<'a>,
    latency: Option<u64>,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("dns", 1)?;
        self.event.fields(&mut object)?;
        if let Some(latency) = self.latency {
            object.serialize_field("latency_ms", &(latency as f64 / 1e6))?;
        }
        object.end()
    }
}
