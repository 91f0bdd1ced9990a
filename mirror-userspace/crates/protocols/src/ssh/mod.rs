//! SSH: one event reports the software of both sides (RFC 4253, section 4.2).

mod banner;
mod event;

pub use banner::{Banner, Look, banner};
pub use event::BannersEvent;

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

/// The state of a flow.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// The values of [`BannersEvent`].
    values: Vec<u8>,
    heard: [bool; 2],
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
        let Event::Data { bytes, .. } = event else { return Consumed::Close };
        let Banner { protocol, software } = match banner(bytes) {
            Look::More => return Consumed::Used(0),
            Look::No => return Consumed::Close,
            Look::Found(banner) => banner,
        };
        if flow.values.capacity() == 0 {
            flow.values = self.spare.pop().unwrap_or_default();
        }
        let [protocol_tag, software_tag] = event::tags(direction);
        pack::put(&mut flow.values, protocol_tag, protocol);
        pack::put(&mut flow.values, software_tag, software);
        flow.heard[direction as usize] = true;
        if output.wants("ssh.proto") || output.wants("ssh.software") {
            output.buffer("ssh.proto", protocol);
            output.buffer("ssh.software", software);
            output.transaction(0, direction);
        }
        if flow.heard != [true; 2] {
            return Consumed::Close;
        }
        output.record(&BannersEvent { values: &flow.values });
        flow.values.clear();
        Consumed::Done
    }

    fn end(&mut self, flow: &mut Flow, output: &mut impl Output) {
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
