//! Which application protocol a flow speaks: told by the first bytes of each direction and, for
//! protocols whose messages look like anything, the port.

use super::{Direction, dns};

/// An application protocol, or that there is none that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppProto {
    /// Data was seen and not recognised.
    Failed,
    /// DNS.
    Dns,
}

impl AppProto {
    /// The name that Suricata uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Dns => "dns",
        }
    }
}

/// Transport protocol of a flow that carries application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What is known of a flow besides its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Transport protocol.
    pub transport: Transport,
    /// The client's port.
    pub client_port: u16,
    /// The server's port.
    pub server_port: u16,
}

/// What feeding bytes to a [`Detector`] told about their direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// More bytes are needed.
    Unknown,
    /// The direction speaks this protocol.
    Found(AppProto),
    /// The direction speaks none that is known; further bytes are not looked at.
    Failed,
}

/// The state of detection of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detector {
    found: [Option<AppProto>; 2],
}

impl Detector {
    /// Takes the next payload bytes of a direction: a datagram, or the bytes of a stream in order.
    pub fn feed(&mut self, endpoints: Endpoints, direction: Direction, bytes: &[u8]) -> Detection {
        let side = &mut self.found[direction as usize];
        if side.is_none() && !bytes.is_empty() {
            let dns_port = endpoints.client_port == 53 || endpoints.server_port == 53;
            let is_dns = match endpoints.transport {
                Transport::Udp => dns::probe(bytes),
                Transport::Tcp => dns::probe_tcp(bytes),
            };
            *side = Some(if dns_port && is_dns { AppProto::Dns } else { AppProto::Failed });
        }
        match *side {
            None => Detection::Unknown,
            Some(AppProto::Failed) => Detection::Failed,
            Some(found) => Detection::Found(found),
        }
    }

    /// What one direction told.
    #[must_use]
    pub const fn direction(&self, direction: Direction) -> Option<AppProto> {
        self.found[direction as usize]
    }

    /// The flow's protocol: what either direction was recognised as; `failed` where data was seen in one
    /// or both and not recognised; `None` where there was none, or not enough.
    #[must_use]
    pub fn app_proto(&self) -> Option<AppProto> {
        let recognised = self.found.iter().flatten().find(|found| **found != AppProto::Failed);
        recognised.or(self.found.iter().flatten().next()).copied()
    }
}
