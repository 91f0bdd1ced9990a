//! Detection of a flow's application protocol from the first bytes of each direction. Most protocols are
//! recognised by their content on any port; those whose messages could be anything, only on their own port.
//!
//! The names and the rules are those of Suricata 7, so that `app_proto` means the same in the records of
//! both, except for protocols that are off by default ([`OptIn`]). `signatures` is the table; this module searches it and stores the outcome in the few bytes that each
//! flow has for it.

mod signatures;
#[cfg(test)]
mod tests;

use super::Direction;
use signatures::{DATAGRAMS, STREAMS};
pub use signatures::{Probe, Signature, Test};

macro_rules! app_proto {
    (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine { $($engine_variant:ident $engine_name:ident, $engine_content:literal;)* }
     detected { $($detected_variant:ident $detected_name:literal, $description:literal;)* }) => {
        /// An application protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum AppProto {
            $(#[doc = concat!("`", stringify!($engine_name), "`: ", $engine_content, ".")] $engine_variant,)*
            $(#[doc = concat!("`", stringify!($name), "`: ", $content, ".")] $variant,)*
            $(#[doc = concat!($description, ".")] $detected_variant,)*
        }

        impl AppProto {
            /// Returns the name in records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$engine_variant => stringify!($engine_name),)*
                    $(Self::$variant => stringify!($name),)*
                    $(Self::$detected_variant => $detected_name,)*
                }
            }

            /// Returns true if flows are recognised as this protocol only on request, see [`OptIn`].
            #[must_use]
            pub const fn is_opt_in(self) -> bool {
                match self {
                    $(Self::$variant => !$crate::on_or_off!($default),)*
                    _ => false,
                }
            }
        }
    };
}
crate::protocols! { app_proto () }

/// The protocols that are recognised although they are off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptIn(u64);

impl OptIn {
    /// Returns this set with a protocol added.
    #[must_use]
    pub const fn with(self, protocol: AppProto) -> Self {
        Self(self.0 | 1 << protocol as u8)
    }

    /// Returns true if flows are recognised as this protocol.
    const fn allows(self, protocol: AppProto) -> bool {
        !protocol.is_opt_in() || self.0 & 1 << protocol as u8 != 0
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

/// The transport and the ports of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Transport protocol.
    pub transport: Transport,
    /// The client's port.
    pub client_port: u16,
    /// The server's port.
    pub server_port: u16,
}

/// The result of detection, for a direction or for the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detection {
    /// No data was seen yet, or too little.
    #[default]
    Unknown,
    /// The protocol was recognised.
    Found(AppProto),
    /// No known protocol was recognised. Further data is ignored.
    Failed,
}

impl Detection {
    /// Returns the name in records, or `None` if there is nothing to record yet.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Found(protocol) => Some(protocol.name()),
            Self::Failed => Some("failed"),
        }
    }
}

/// The state of detection of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detector {
    sides: [Side; 2],
    datagrams: bool,
}

/// The state of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Side {
    found: Detection,
    /// The first bytes of a stream whose first segments were too short for detection.
    held: [u8; Side::HELD],
    held_len: u8,
}

impl Side {
    /// Enough for a segment that has nothing but the length of a DNS message or of a record, or for a request
    /// line typed slowly. A sender that splits the beginning of its data more than once intends to hide it.
    const HELD: usize = 5;

    /// Bytes searched if some are held.
    const JOINED: usize = 64;

    fn feed(&mut self, opt_in: OptIn, endpoints: Endpoints, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() || self.found != Detection::Unknown {
            return;
        }
        let held = usize::from(self.held_len);
        let mut joined = [0; Self::JOINED];
        let seen = if held == 0 {
            bytes
        } else {
            let len = (held + bytes.len()).min(Self::JOINED);
            for (to, from) in joined.iter_mut().zip(self.held.iter().take(held).chain(bytes)) {
                *to = *from;
            }
            joined.get(..len).unwrap_or_default()
        };
        self.found = look(opt_in, endpoints, direction, seen);
        if self.found == Detection::Unknown {
            if endpoints.transport == Transport::Tcp && seen.len() <= Self::HELD {
                self.held.iter_mut().zip(seen).for_each(|(to, from)| *to = *from);
                self.held_len = seen.len() as u8;
            } else {
                self.found = Detection::Failed;
            }
        }
    }
}

/// Searches the table.
fn look(opt_in: OptIn, endpoints: Endpoints, direction: Direction, bytes: &[u8]) -> Detection {
    let table = match endpoints.transport {
        Transport::Tcp => &STREAMS,
        Transport::Udp => &DATAGRAMS,
    };
    // The server's port counts; the client's port counts too, since the flow may be seen in reverse.
    let ports = [(endpoints.server_port, false), (endpoints.client_port, true)];
    let on_ports = ports.into_iter().filter(|&(port, _)| table.has(port)).flat_map(|(port, reverse)| {
        table.on_ports.iter().filter(move |it| it.ports.contains(&port) && !(reverse && it.weak))
    });
    let mut more = false;
    for signature in table.everywhere.iter().chain(on_ports) {
        if signature.from.is_some_and(|from| from != direction) {
            continue;
        }
        match signature.look(bytes) {
            Probe::No => {}
            _ if !opt_in.allows(signature.protocol) => {}
            Probe::More => more = true,
            Probe::Yes => return Detection::Found(signature.protocol),
        }
    }
    if more { Detection::Unknown } else { Detection::Failed }
}

impl Detector {
    /// Processes payload of a direction: a datagram, or the next bytes of a stream in order, from its first
    /// byte on. Returns the detection of the direction.
    pub fn feed(&mut self, endpoints: Endpoints, direction: Direction, bytes: &[u8]) -> Detection {
        self.feed_with(OptIn::default(), endpoints, direction, bytes)
    }

    /// Processes payload as [`Detector::feed`] does. Recognises these protocols in addition to those that are
    /// on by default.
    pub fn feed_with(
        &mut self,
        opt_in: OptIn,
        endpoints: Endpoints,
        direction: Direction,
        bytes: &[u8],
    ) -> Detection {
        self.datagrams = endpoints.transport == Transport::Udp;
        let [to_server, to_client] = &mut self.sides;
        let side = match direction {
            Direction::ToServer => to_server,
            Direction::ToClient => to_client,
        };
        side.feed(opt_in, endpoints, direction, bytes);
        side.found
    }

    /// Gives up detection in a direction, since the next bytes of the stream are missing.
    pub const fn give_up(&mut self, direction: Direction) {
        let [to_server, to_client] = &mut self.sides;
        let side = match direction {
            Direction::ToServer => to_server,
            Direction::ToClient => to_client,
        };
        if matches!(side.found, Detection::Unknown) {
            side.found = Detection::Failed;
        }
    }

    /// Returns the detection of one direction.
    #[must_use]
    pub const fn direction(&self, direction: Direction) -> Detection {
        let [to_server, to_client] = &self.sides;
        match direction {
            Direction::ToServer => to_server.found,
            Direction::ToClient => to_client.found,
        }
    }

    /// Returns the flow's protocol: that of either direction, the client's first. `Failed` if both directions
    /// failed. As long as one direction has sent nothing, it may still be recognised; for datagrams, one
    /// failed direction is enough.
    #[must_use]
    pub const fn flow(&self) -> Detection {
        match self.directions() {
            (Detection::Found(found), _) | (_, Detection::Found(found)) => Detection::Found(found),
            (Detection::Failed, Detection::Failed) => Detection::Failed,
            (Detection::Failed, _) | (_, Detection::Failed) if self.datagrams => Detection::Failed,
            _ => Detection::Unknown,
        }
    }

    const fn directions(&self) -> (Detection, Detection) {
        (self.direction(Direction::ToServer), self.direction(Direction::ToClient))
    }

    /// Returns true if both directions are decided. More data changes nothing.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        let (to_server, to_client) = self.directions();
        !matches!(to_server, Detection::Unknown) && !matches!(to_client, Detection::Unknown)
    }

    /// Returns true if the direction and the flow are decided. More data of the direction changes nothing.
    #[must_use]
    pub const fn is_over(&self, direction: Direction) -> bool {
        !matches!(self.direction(direction), Detection::Unknown) && !matches!(self.flow(), Detection::Unknown)
    }

    /// Swaps the directions, after client and server were mistaken for each other.
    pub const fn reverse(&mut self) {
        let [to_server, to_client] = self.sides;
        self.sides = [to_client, to_server];
    }
}

const _: () = assert!(size_of::<Detector>() <= 16, "every entry of the flow table holds one");
