//! The event of a connection, as the `ssh` object that Suricata 7 writes.

use serde::Serialize;

use crate::Direction;
use crate::eve::{EveEvent, EveWriter, Packer, Unpacker};
use crate::pack;
use crate::text::Bytes;

/// The banners of both sides, or of one, as an event of their flow.
#[derive(Clone, Copy, Debug)]
pub struct BannersEvent<'a> {
    /// The banners, [packed](pack).
    pub(super) values: &'a [u8],
}

/// Returns the tags of a side's protocol version, software, HASSH, and the text of that.
pub(super) const fn tags(direction: Direction) -> [u8; 4] {
    match direction {
        Direction::ToServer => [0, 1, 4, 5],
        Direction::ToClient => [2, 3, 6, 7],
    }
}

#[derive(Serialize)]
struct Side<'a> {
    proto_version: Bytes<'a>,
    software_version: Bytes<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hassh: Option<Fingerprint<'a>>,
}

#[derive(Serialize)]
struct Fingerprint<'a> {
    hash: Bytes<'a>,
    string: Bytes<'a>,
}

impl EveEvent for BannersEvent<'_> {
    const TYPE: &'static str = "ssh";
    type Unpacked<'a> = BannersEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.rest(self.values);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<BannersEvent<'a>> {
        Some(BannersEvent { values: unpacker.rest() })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Object<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            client: Option<Side<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            server: Option<Side<'a>>,
        }
        let [client, server] = [Direction::ToServer, Direction::ToClient].map(|direction| {
            let [proto_version, software_version, hash, string] =
                tags(direction).map(|tag| pack::get(self.values, tag).map(Bytes));
            let fingerprint = hash.zip(string).map(|(hash, string)| Fingerprint { hash, string });
            Some(Side {
                proto_version: proto_version?,
                software_version: software_version?,
                hassh: fingerprint,
            })
        });
        writer.line(&Object { client, server })
    }
}
