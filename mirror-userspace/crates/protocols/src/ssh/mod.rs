//! SSH: one event reports the software of both sides (RFC 4253, section 4.2), and their HASSH if a rule inspects it.

mod banner;
mod event;
mod kex;

pub use banner::{Banner, Look, banner};
pub use event::BannersEvent;
pub use kex::{Hassh, Next, packet};

use crate::Direction::{self, ToClient, ToServer};
use crate::detect::{AppProto, Endpoints, Signature, Test, Transport};
use crate::pack;
use crate::protocol::{Consumed, Event, Example, Output, Protocol};

/// Emits an event of the banners of an SSH connection.
#[derive(Clone, Debug, Default)]
pub struct Ssh {
    /// Buffers that no flow uses.
    spare: Vec<Vec<u8>>,
}

/// The buffers that are made from the lists of algorithms, by side.
const OF_LISTS: [[&str; 2]; 2] =
    [["ssh.hassh", "ssh.hassh.string"], ["ssh.hassh.server", "ssh.hassh.server.string"]];

/// The state of a flow.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// The values of [`BannersEvent`].
    values: Vec<u8>,
    heard: [bool; 2],
    /// Nothing more is wanted of a side.
    over: [bool; 2],
}

impl Protocol for Ssh {
    type Flow = Flow;

    const SIGNATURES: &'static [Signature] =
        &[Signature::stream(AppProto::Ssh, None, &[], Test::Begins(&[b"SSH-"]))];

    const EXAMPLE: Example = Example {
        endpoints: Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: 22 },
        payloads: &[
            (ToClient, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
            (ToServer, b"SSH-2.0-PuTTY_Release_0.78\r\n"),
        ],
    };

    fn data(
        &mut self,
        flow: &mut Flow,
        direction: Direction,
        event: Event<'_>,
        output: &mut impl Output,
    ) -> Consumed {
        let Event::Data { bytes, .. } = event else { return end_side(flow, direction, output) };
        let side = direction as usize;
        let mut used = 0;
        if !flow.heard[side] {
            let banner = match banner(bytes) {
                Look::More => return Consumed::Used(0),
                Look::No => return Consumed::Close,
                Look::Found(banner) => banner,
            };
            if flow.values.capacity() == 0 {
                flow.values = self.spare.pop().unwrap_or_default();
            }
            let [protocol_tag, software_tag, ..] = event::tags(direction);
            pack::put(&mut flow.values, protocol_tag, banner.protocol);
            pack::put(&mut flow.values, software_tag, banner.software);
            flow.heard[side] = true;
            if !OF_LISTS.iter().flatten().any(|name| output.wants(name)) {
                return end_side(flow, direction, output);
            }
            used = banner.len;
        }
        let rest = bytes.get(used..).unwrap_or_default();
        let payload = match packet(rest) {
            Next::More => return Consumed::Used(used),
            Next::No => &[],
            Next::Packet(payload, _) => payload,
        };
        // The lists are the first packet of either side.
        if let Some(Hassh { hash, string }) = Hassh::of(payload, direction) {
            let [.., hash_tag, string_tag] = event::tags(direction);
            pack::put(&mut flow.values, hash_tag, hash.as_bytes());
            pack::put(&mut flow.values, string_tag, &string);
        }
        end_side(flow, direction, output)
    }

    fn end(&mut self, flow: &mut Flow, output: &mut impl Output) {
        for direction in [ToServer, ToClient] {
            hand_over(flow, direction, output);
        }
        if !flow.values.is_empty() {
            output.record(&BannersEvent { values: &flow.values });
        }
        let mut values = std::mem::take(&mut flow.values);
        if values.capacity() > 0 {
            values.clear();
            self.spare.push(values);
        }
    }

    fn held(flow: &Flow) -> usize {
        flow.values.capacity()
    }
}

/// Ends a side, of which nothing more is wanted, and the flow with the second one.
fn end_side(flow: &mut Flow, direction: Direction, output: &mut impl Output) -> Consumed {
    hand_over(flow, direction, output);
    if flow.over != [true; 2] {
        return Consumed::Close;
    }
    output.record(&BannersEvent { values: &flow.values });
    flow.values.clear();
    Consumed::Done
}

/// Hands over the buffers of a side to the rules, once.
fn hand_over(flow: &mut Flow, direction: Direction, output: &mut impl Output) {
    let side = direction as usize;
    if !flow.heard[side] || flow.over[side] {
        return;
    }
    flow.over[side] = true;
    let [of_hash, of_string] = OF_LISTS[side];
    let names = ["ssh.proto", "ssh.software", of_hash, of_string];
    if names.iter().any(|name| output.wants(name)) {
        for (name, tag) in names.into_iter().zip(event::tags(direction)) {
            if let Some(value) = pack::get(&flow.values, tag) {
                output.buffer(name, value);
            }
        }
        output.transaction(0, direction);
    }
}
