//! SSH: one event reports the software of both sides.

use mirror_packet::Direction;
use mirror_protocols::ssh::{self, Banner, Look};
use mirror_protocols::text::Bytes;
use mirror_records::eve::Lines;
use mirror_records::{EventType, pack};
use serde::Serialize;

use crate::analyzer::{Analyzer, Consumed, Context, Event};

/// The banners of both sides.
pub(super) static SSH: EventType = EventType::new("ssh", render);

/// Tags of each side's protocol version. The software has the next tag.
const TAGS: [u8; 2] = [0, 2];

#[derive(Serialize)]
struct Object<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Side<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Side<'a>>,
}

#[derive(Serialize)]
struct Side<'a> {
    proto_version: Bytes<'a>,
    software_version: Bytes<'a>,
}

fn render(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    let [client, server] = TAGS.map(|tag| {
        let [proto_version, software_version] = [tag, tag + 1].map(|tag| pack::get(bytes, tag).map(Bytes));
        Some(Side { proto_version: proto_version?, software_version: software_version? })
    });
    lines.line(&Object { client, server })
}

/// Emits an event of the banners of an SSH connection.
#[derive(Clone, Debug, Default)]
pub struct Ssh {
    /// Buffers that no flow uses.
    spare: Vec<Vec<u8>>,
}

/// The state of a flow.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    packed: Vec<u8>,
    heard: [bool; 2],
}

impl Analyzer for Ssh {
    type Flow = Flow;

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        let Event::Data { bytes, .. } = event else { return Consumed::Close };
        let Banner { protocol, software } = match ssh::banner(bytes) {
            Look::More => return Consumed::Used(0),
            Look::No => return Consumed::Close,
            Look::Found(banner) => banner,
        };
        if flow.packed.capacity() == 0 {
            flow.packed = self.spare.pop().unwrap_or_default();
        }
        let tag = TAGS[direction as usize];
        pack::put(&mut flow.packed, tag, protocol);
        pack::put(&mut flow.packed, tag + 1, software);
        flow.heard[direction as usize] = true;
        if flow.heard != [true; 2] {
            return Consumed::Close;
        }
        context.emit(&SSH, &[&flow.packed]);
        flow.packed.clear();
        Consumed::Done
    }

    fn held(flow: &Flow) -> usize {
        flow.packed.capacity()
    }

    fn end(&mut self, flow: &mut Flow, context: &mut Context<'_>) {
        if !flow.packed.is_empty() {
            context.emit(&SSH, &[&flow.packed]);
        }
        let mut packed = std::mem::take(&mut flow.packed);
        if packed.capacity() > 0 {
            packed.clear();
            self.spare.push(packed);
        }
    }
}
