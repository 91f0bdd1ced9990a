//! The event of a hello.

use mirror_packet::Direction;

use super::{Event, Hello, Version};
use crate::eve::{EveEvent, EveWriter, Packer, Unpacker};

/// A hello, or the version of a flow that ended without one.
#[derive(Clone, Copy, Debug)]
pub enum HelloEvent<'a> {
    /// A hello.
    Hello(Hello<'a>),
    /// Only the version is known.
    Version(Version),
}

/// The senders of a hello in packed events.
const OF_CLIENT: u8 = 0;
const OF_SERVER: u8 = 1;
const OF_NOBODY: u8 = 2;

impl EveEvent for HelloEvent<'_> {
    const TYPE: &'static str = "quic";
    type Unpacked<'a> = HelloEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        let (version, of, body): (_, _, &[u8]) = match *self {
            Self::Hello(Hello { version, direction: Direction::ToServer, body }) => {
                (version, OF_CLIENT, body)
            }
            Self::Hello(Hello { version, direction: Direction::ToClient, body }) => {
                (version, OF_SERVER, body)
            }
            Self::Version(version) => (version, OF_NOBODY, &[]),
        };
        packer.u32(version.0);
        packer.u8(of);
        packer.rest(body);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<HelloEvent<'a>> {
        let (version, of) = (Version(unpacker.u32()?), unpacker.u8()?);
        let hello = |direction, body| HelloEvent::Hello(Hello { version, direction, body });
        Some(match of {
            OF_CLIENT => hello(Direction::ToServer, unpacker.rest()),
            OF_SERVER => hello(Direction::ToClient, unpacker.rest()),
            _ => HelloEvent::Version(version),
        })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.line(&match *self {
            Self::Hello(Hello { version, direction, body }) => Event::new(version, direction, body),
            Self::Version(version) => Event::of_version(version),
        })
    }
}
