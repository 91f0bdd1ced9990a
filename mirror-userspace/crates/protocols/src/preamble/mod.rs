//! The preambles of a protocol: the PROXY header of a load balancer, a SOCKS dialogue, and the plain text
//! in which a protocol negotiates TLS.
//!
//! [`Preamble`] is the state of a flow. It is asked with the first bytes of each direction, until the protocol
//! begins there. PROXY headers and SOCKS dialogues end at a known byte, and detection starts behind it. The plain
//! text in front of TLS has no such end: it is a conversation of its own protocol, as any other, and
//! [`tls_begins`] finds the hello in it.

mod proxy;
mod relay;
mod socks;
mod starttls;
#[cfg(test)]
mod tests;

use mirror_packet::Direction;

pub use proxy::Proxy;
pub use relay::{Relayed, write_relayed};
pub use socks::{Request, Target};
pub use starttls::{Opening, TlsBegin, tls_begins};

use crate::detect::{AppProto, Detection, Detector, Endpoints, Probe};

/// Preambles of one flow, one behind the other. A load balancer in front of another takes two.
const MAX_LAYERS: u8 = 4;

/// The state of the preambles of a flow, in the byte that each flow has for it: see `State::pack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preamble(u8);

/// The same, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    sides: [Phase; 2],
    /// Preambles that have been passed.
    layers: u8,
    socks: Socks,
}

/// The state of a SOCKS dialogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Socks {
    /// There is none yet.
    #[default]
    Idle,
    /// A request was made, and not answered yet.
    Asked,
    /// The server's answers are not those of a SOCKS server.
    Never,
}

/// The state of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The next bytes may begin a preamble.
    #[default]
    Begin,
    /// The next bytes are the answers of a SOCKS server, if the client has really asked for them.
    Socks(socks::Version),
    /// The protocol has begun.
    Over,
}

/// The verdict on the next bytes of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// More bytes are needed.
    More,
    /// The protocol begins here.
    Protocol,
    /// A protocol begins here that may negotiate TLS.
    Opening(Opening),
    /// A preamble of this many bytes. The next question is about the bytes behind it.
    Preamble {
        /// Number of bytes.
        len: usize,
        /// The value to record.
        relayed: Option<Relayed<'a>>,
        /// The protocol that the preamble belongs to, if it is one of its own.
        protocol: Option<AppProto>,
    },
}

impl Preamble {
    const CLIENT_IS_OVER: u8 = 1;
    const SERVER: u8 = 6;
    const SERVER_IS_OVER: u8 = 6;

    /// The state of a flow whose protocol has begun in both directions.
    pub const OVER: Self = State { sides: [Phase::Over; 2], layers: MAX_LAYERS, socks: Socks::Never }.pack();

    /// Returns true if the protocol has not begun in a direction.
    #[inline]
    #[must_use]
    pub const fn is_open(self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.0 & Self::CLIENT_IS_OVER == 0,
            Direction::ToClient => self.0 & Self::SERVER != Self::SERVER_IS_OVER,
        }
    }

    /// Returns true if bytes of a direction that waited for the other one are no preamble, as the other has shown.
    #[must_use]
    pub fn is_rejected(self, direction: Direction) -> bool {
        let State { sides: [_, server], socks, .. } = self.state();
        match direction {
            Direction::ToServer => socks == Socks::Never,
            Direction::ToClient => socks == Socks::Idle && server == Phase::Begin,
        }
    }

    /// Gives up a direction: its next bytes are missing, or there are no more.
    pub const fn close(&mut self, direction: Direction) {
        self.0 |= match direction {
            Direction::ToServer => Self::CLIENT_IS_OVER,
            Direction::ToClient => Self::SERVER_IS_OVER,
        };
    }

    /// Begins again, where a protocol has switched to another one.
    pub const fn restart(&mut self) {
        let layers = self.state().layers + 1;
        *self = if layers <= MAX_LAYERS {
            State { sides: [Phase::Begin; 2], layers, socks: Socks::Idle }.pack()
        } else {
            Self::OVER
        };
    }

    /// Checks the next bytes of a direction: all bytes that were not used yet.
    pub fn look<'a>(&mut self, endpoints: Endpoints, direction: Direction, bytes: &'a [u8]) -> Verdict<'a> {
        let mut state = self.state();
        let verdict = match (direction, state.sides[direction as usize]) {
            (_, Phase::Over) => Verdict::Protocol,
            (Direction::ToServer, _) => state.client(endpoints, bytes),
            (Direction::ToClient, Phase::Socks(version)) => state.answer(version, bytes),
            (Direction::ToClient, Phase::Begin) => state.server(endpoints, bytes),
        };
        *self = state.pack();
        match verdict {
            Verdict::Preamble { .. } if state.layers >= MAX_LAYERS => self.close(direction),
            Verdict::Protocol | Verdict::Opening(_) => self.close(direction),
            Verdict::More | Verdict::Preamble { .. } => {}
        }
        verdict
    }

    const fn state(self) -> State {
        let client = if self.0 & Self::CLIENT_IS_OVER == 0 { Phase::Begin } else { Phase::Over };
        let server = match self.0 & Self::SERVER {
            0 => Phase::Begin,
            2 => Phase::Socks(socks::Version::Four),
            4 => Phase::Socks(socks::Version::Five),
            _ => Phase::Over,
        };
        let socks = match self.0 >> 6 {
            0 => Socks::Idle,
            1 => Socks::Asked,
            _ => Socks::Never,
        };
        State { sides: [client, server], layers: self.0 >> 3 & 7, socks }
    }
}

impl State {
    /// The largest number of layers in three bits.
    const MOST_LAYERS: u8 = 7;

    /// Packs the state: one bit for the client's side, two for the server's, three for the layers, two for SOCKS.
    const fn pack(self) -> Preamble {
        let [client, server] = self.sides;
        let client = matches!(client, Phase::Over) as u8;
        let server = match server {
            Phase::Begin => 0,
            Phase::Socks(socks::Version::Four) => 2,
            Phase::Socks(socks::Version::Five) => 4,
            Phase::Over => Preamble::SERVER_IS_OVER,
        };
        let socks = match self.socks {
            Socks::Idle => 0,
            Socks::Asked => 1,
            Socks::Never => 2,
        };
        let layers = if self.layers > Self::MOST_LAYERS { Self::MOST_LAYERS } else { self.layers };
        Preamble(client | server | layers << 3 | socks << 6)
    }

    fn client<'a>(&mut self, endpoints: Endpoints, bytes: &'a [u8]) -> Verdict<'a> {
        match proxy::parse(bytes) {
            proxy::Parsed::More => return Verdict::More,
            proxy::Parsed::Header { len, proxy } => {
                self.layers += 1;
                return Verdict::Preamble { len, relayed: Some(Relayed::Proxy(proxy)), protocol: None };
            }
            proxy::Parsed::None => {}
        }
        let answers = self.sides[Direction::ToClient as usize];
        // The client speaks first.
        let may_be_socks = self.socks == Socks::Idle && answers != Phase::Over;
        let parsed = if may_be_socks { socks::request(bytes) } else { socks::Parsed::None };
        if parsed != socks::Parsed::None && !is_recognised(endpoints, bytes) {
            let Some(version) = socks::Version::of(bytes) else { return Verdict::Protocol };
            self.sides[Direction::ToClient as usize] = Phase::Socks(version);
            if let socks::Parsed::Request { len, request } = parsed {
                self.layers += 1;
                self.socks = Socks::Asked;
                return Verdict::Preamble {
                    len,
                    relayed: Some(Relayed::Socks(request)),
                    protocol: Some(AppProto::Socks),
                };
            }
            return Verdict::More;
        }
        if self.socks == Socks::Idle && matches!(answers, Phase::Socks(_)) {
            // It looked like a SOCKS client until now.
            self.sides[Direction::ToClient as usize] = Phase::Begin;
        }
        self.protocol(Direction::ToServer, bytes)
    }

    fn answer<'a>(&mut self, version: socks::Version, bytes: &'a [u8]) -> Verdict<'a> {
        match socks::answer(version, bytes) {
            Probe::More => Verdict::More,
            Probe::Yes => {
                self.sides[Direction::ToClient as usize] = Phase::Begin;
                self.socks = Socks::Idle;
                let len = socks::answer_len(version, bytes);
                Verdict::Preamble { len, relayed: None, protocol: Some(AppProto::Socks) }
            }
            Probe::No => {
                self.socks = Socks::Never;
                self.protocol(Direction::ToClient, bytes)
            }
        }
    }

    /// Checks the first bytes of a server to whose client no answer is due. The answers of SOCKS show that the
    /// client's direction is not mirrored.
    fn server<'a>(&mut self, endpoints: Endpoints, bytes: &'a [u8]) -> Verdict<'a> {
        let is_unasked =
            self.sides[Direction::ToServer as usize] == Phase::Begin && self.socks == Socks::Idle;
        let version = if is_unasked { socks::Version::of_answer(bytes) } else { None };
        let Some(version) = version else { return self.protocol(Direction::ToClient, bytes) };
        let len = socks::answer_len(version, bytes);
        let probe = match (version, socks::answer(version, bytes)) {
            // Other messages begin like an answer of version 4, so the protocol behind it decides.
            (socks::Version::Four, Probe::Yes) => {
                behind_answer(endpoints, bytes.get(len..).unwrap_or_default())
            }
            (_, probe) => probe,
        };
        match probe {
            Probe::More => Verdict::More,
            Probe::Yes => {
                self.layers += 1;
                Verdict::Preamble { len, relayed: None, protocol: Some(AppProto::Socks) }
            }
            Probe::No => self.protocol(Direction::ToClient, bytes),
        }
    }

    fn protocol(self, direction: Direction, bytes: &[u8]) -> Verdict<'_> {
        match starttls::opening(direction, bytes) {
            _ if self.layers >= MAX_LAYERS => Verdict::Protocol,
            (Probe::More, _) => Verdict::More,
            (Probe::Yes, Some(opening)) => Verdict::Opening(opening),
            _ => Verdict::Protocol,
        }
    }
}

/// Returns true if the first bytes of a client are recognised as those of a protocol.
fn is_recognised(endpoints: Endpoints, bytes: &[u8]) -> bool {
    let found = Detector::default().feed(endpoints, Direction::ToServer, bytes);
    matches!(found, Detection::Found(_))
}

/// Returns whether the bytes behind a server's answer begin a protocol.
fn behind_answer(endpoints: Endpoints, bytes: &[u8]) -> Probe {
    match Detector::default().feed(endpoints, Direction::ToClient, bytes) {
        _ if bytes.is_empty() => Probe::More,
        Detection::Found(_) => Probe::Yes,
        Detection::Unknown => Probe::More,
        Detection::Failed => Probe::No,
    }
}

/// Bytes of a direction that may wait for the rest of a preamble.
pub const MAX_PREAMBLE: usize = 16 + proxy::MAX_BLOCK;
