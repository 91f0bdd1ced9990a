//! Follows one flow until the hellos of both sides are known.

use std::ops::Range;

use super::frames::{Crypto, crypto_frames};
use super::google;
use super::keys::SideKeys;
use super::packet::{self, Kind, MAX_CONNECTION_ID, Packet};
use super::version::Version;
use crate::protocol::Direction;
use crate::protocol::tls::{ClientHello, ServerHello};

/// Initial packets that are tried of one flow. A handshake takes a few in each direction; one that nobody
/// can open costs the derivation of keys, too.
const MAX_INITIALS: u8 = 64;
/// Datagrams that are looked at of one flow.
const MAX_DATAGRAMS: u8 = 128;

/// One flow of QUIC. Each side keeps at most [`MAX_CRYPTO`](super::MAX_CRYPTO) bytes.
#[derive(Debug, Default)]
pub struct Connection {
    version: Option<Version>,
    origin: Option<Origin>,
    client: Side,
    server: Side,
    initials: u8,
    datagrams: u8,
    /// The server has asked the client to come again.
    retried: bool,
    /// A hello was given out.
    heard: bool,
}

/// What the protection of Initial packets follows from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    version: Version,
    /// The connection ID that the client chose for the server, in a buffer of the greatest length.
    destination: [u8; MAX_CONNECTION_ID],
    destination_len: u8,
    /// The keys of both sides, once something of them was to be opened.
    keys: [Option<SideKeys>; 2],
}

impl Origin {
    fn new(version: Version, destination: &[u8]) -> Option<Self> {
        let mut buffer = [0; MAX_CONNECTION_ID];
        buffer.get_mut(..destination.len())?.copy_from_slice(destination);
        let destination_len = destination.len() as u8;
        Some(Self { version, destination: buffer, destination_len, keys: [None; 2] })
    }

    /// The same in another version: a server may go on in one that the client knows, too (RFC 9368).
    fn in_version(&self, version: Version) -> Self {
        Self { version, keys: [None; 2], ..*self }
    }

    fn open(
        &mut self,
        direction: Direction,
        packet: &Packet<'_>,
        scratch: &mut Vec<u8>,
    ) -> Option<Range<usize>> {
        let keys = &mut self.keys[direction as usize];
        if let Some(keys) = keys {
            return keys.open(packet, scratch);
        }
        let destination = self.destination.get(..usize::from(self.destination_len))?;
        let (derived, frames) =
            SideKeys::derive_and_open(self.version, destination, direction, packet, scratch)?;
        *keys = Some(derived);
        Some(frames)
    }
}

#[derive(Debug, Default)]
struct Side {
    crypto: Crypto,
    /// Its hello was given out.
    done: bool,
}

/// A hello that has come as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The version of the connection.
    pub version: Version,
    /// Who sent it.
    pub direction: Direction,
    /// The body of the TLS message; in Google's versions, their own message.
    pub body: &'a [u8],
}

impl Connection {
    /// A flow of which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes ready for another flow, keeping the memory, or most of it.
    pub fn clear(&mut self) {
        let mut crypto = [std::mem::take(&mut self.client.crypto), std::mem::take(&mut self.server.crypto)];
        crypto.iter_mut().for_each(Crypto::clear);
        let [client, server] = crypto.map(|crypto| Side { crypto, done: false });
        *self = Self { client, server, ..Self::default() };
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.client.crypto.room() + self.server.crypto.room()
    }

    /// The version, where that is all that is known: packets with long headers came, and no hello of them.
    #[must_use]
    pub fn version_alone(&self) -> Option<Version> {
        self.version.filter(|_| !self.heard)
    }

    /// Whether nothing more can come of this flow: both hellos were given out, or none comes.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.client.done && self.server.done
            || self.initials >= MAX_INITIALS
            || self.datagrams >= MAX_DATAGRAMS
    }

    /// Takes the payload of a datagram. Gives out a hello when it has come as a whole; `scratch` is what
    /// packets are decrypted in, and only of use during the call.
    pub fn push(
        &mut self,
        direction: Direction,
        datagram: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Option<Hello<'_>> {
        if self.is_done() {
            return None;
        }
        self.datagrams += 1;
        let mut rest = datagram;
        let mut found = false;
        while !found && let Some((packet, behind)) = packet::split(rest) {
            rest = behind;
            // All packets of a datagram are of one connection (RFC 9000, section 12.2): where one cannot be
            // opened, keys are not derived for the others, too.
            let Some(whole) = self.packet(direction, &packet, scratch) else { break };
            found = whole;
        }
        let version = self.version.filter(|_| found)?;
        self.heard = true;
        let side = self.side(direction);
        // A client of Google's says more in its next hello, which the server has asked for.
        side.done = !version.is_google();
        let body = if version.is_google() { side.crypto.begin() } else { hello(&side.crypto, direction)? };
        Some(Hello { version, direction, body })
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::ToServer => &mut self.client,
            Direction::ToClient => &mut self.server,
        }
    }

    /// Takes a packet; answers whether the side's hello has come as a whole by it. `None` where it cannot be opened.
    fn packet(&mut self, direction: Direction, packet: &Packet<'_>, scratch: &mut Vec<u8>) -> Option<bool> {
        if packet.version.is_known() {
            self.version = Some(packet.version);
        }
        let whole = match packet.kind {
            Kind::Initial if self.side(direction).done => false,
            Kind::Initial if packet.version.protection().is_none() => {
                let frames = packet.bytes.get(packet.number_at..).unwrap_or_default();
                self.google(direction, google::client_hello(frames))
            }
            Kind::Initial => self.initial(direction, packet, scratch)?,
            Kind::Retry if direction == Direction::ToClient && !self.retried => {
                // The client begins again, and may do so once (RFC 9000, 17.2.5.2).
                self.retried = true;
                self.client.done = false;
                self.client.crypto.clear();
                false
            }
            Kind::Retry | Kind::Other => false,
        };
        Some(whole)
    }

    fn google(&mut self, direction: Direction, hello: Option<&[u8]>) -> bool {
        let Some(hello) = hello.filter(|_| direction == Direction::ToServer) else { return false };
        self.client.crypto.clear();
        self.client.crypto.insert(0, hello);
        true
    }

    fn initial(&mut self, direction: Direction, packet: &Packet<'_>, scratch: &mut Vec<u8>) -> Option<bool> {
        if self.initials >= MAX_INITIALS {
            return None;
        }
        self.initials += 1;
        let frames = self.open(direction, packet, scratch)?;
        let frames = scratch.get(frames).unwrap_or_default();
        if packet.version.is_google() {
            return Some(self.google(direction, google::protected_client_hello(frames)));
        }
        let crypto = &mut self.side(direction).crypto;
        crypto_frames(frames, |offset, data| crypto.insert(offset, data));
        Some(hello(crypto, direction).is_some())
    }

    /// Removes the protection; answers where in `scratch` the frames are.
    fn open(
        &mut self,
        direction: Direction,
        packet: &Packet<'_>,
        scratch: &mut Vec<u8>,
    ) -> Option<Range<usize>> {
        if let Some(origin) = self.origin {
            let same = origin.version == packet.version;
            let mut origin = if same { origin } else { origin.in_version(packet.version) };
            let frames = origin.open(direction, packet, scratch);
            if same || frames.is_some() {
                self.origin = Some(origin);
            }
            if frames.is_some() {
                return frames;
            }
        }
        // The client's first packet, or its first after a retry or a negotiation of versions.
        if direction == Direction::ToClient {
            return None;
        }
        let mut origin = Origin::new(packet.version, packet.destination)?;
        let frames = origin.open(direction, packet, scratch)?;
        self.origin = Some(origin);
        self.client.crypto.clear();
        self.server.crypto.clear();
        Some(frames)
    }
}

/// The hello in what a side has sent.
fn hello(crypto: &Crypto, direction: Direction) -> Option<&[u8]> {
    const CLIENT_HELLO: u8 = 1;
    const SERVER_HELLO: u8 = 2;
    crypto.messages().find_map(|(kind, body)| {
        let meant = match direction {
            Direction::ToServer => kind == CLIENT_HELLO && ClientHello::parse(body).is_some(),
            Direction::ToClient => kind == SERVER_HELLO && ServerHello::parse(body).is_some(),
        };
        meant.then_some(body)
    })
}
