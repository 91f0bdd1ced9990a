//! Tracks one flow until the hellos of both sides are known.

use std::ops::Range;

use mirror_packet::Direction;

use super::frames::{Crypto, crypto_frames};
use super::google;
use super::keys::SideKeys;
use super::packet::{self, Kind, MAX_CONNECTION_ID, Packet};
use super::version::Version;
use crate::tls::{ClientHello, ServerHello};

/// Initial packets of one flow that are processed. A handshake takes a few in each direction; even a packet
/// that cannot be decrypted costs the derivation of keys.
const MAX_INITIALS: u8 = 64;
/// Datagrams of one flow that are processed.
const MAX_DATAGRAMS: u8 = 128;

/// One QUIC flow. Each side buffers at most [`MAX_CRYPTO`](super::MAX_CRYPTO) bytes.
#[derive(Debug, Default)]
pub struct Connection {
    version: Option<Version>,
    origin: Option<Origin>,
    client: Side,
    server: Side,
    initials: u8,
    datagrams: u8,
    /// The server has sent a Retry.
    retried: bool,
    /// A hello was returned.
    heard: bool,
}

/// The input for the keys of Initial packets.
#[derive(Clone, Copy, Debug)]
struct Origin {
    version: Version,
    /// The connection ID that the client chose for the server, in a buffer of the maximum length.
    destination: [u8; MAX_CONNECTION_ID],
    destination_len: u8,
    /// The keys of both sides, each derived when a packet of that side has to be opened.
    keys: [Option<SideKeys>; 2],
}

impl Origin {
    fn new(version: Version, destination: &[u8]) -> Option<Self> {
        let mut buffer = [0; MAX_CONNECTION_ID];
        buffer.get_mut(..destination.len())?.copy_from_slice(destination);
        let destination_len = destination.len() as u8;
        Some(Self { version, destination: buffer, destination_len, keys: [None; 2] })
    }

    /// Returns the same for another version: a server may switch to one that the client supports, too (RFC
    /// 9368).
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
    /// The side's hello was returned.
    done: bool,
}

/// Memory for a hello.
#[derive(Debug)]
pub struct Buffer(Crypto);

/// A complete hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The version of the connection.
    pub version: Version,
    /// The direction in which it was sent.
    pub direction: Direction,
    /// The body of the TLS message; in Google's versions, that of their own message.
    pub body: &'a [u8],
}

impl Connection {
    /// Creates the state of a flow without packets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Resets the state for another flow. Most of the memory stays.
    pub fn clear(&mut self) {
        let mut crypto = [std::mem::take(&mut self.client.crypto), std::mem::take(&mut self.server.crypto)];
        crypto.iter_mut().for_each(Crypto::clear);
        let [client, server] = crypto.map(|crypto| Side { crypto, done: false });
        *self = Self { client, server, ..Self::default() };
    }

    /// Returns the bytes of memory that the connection holds.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.client.crypto.room() + self.server.crypto.room()
    }

    /// Returns true if the side has no memory for its hello.
    #[must_use]
    pub const fn lacks_buffer(&self, direction: Direction) -> bool {
        let side = match direction {
            Direction::ToServer => &self.client,
            Direction::ToClient => &self.server,
        };
        side.crypto.room() == 0 && !side.done
    }

    /// Gives memory to a side, which has none.
    pub fn lend(&mut self, direction: Direction, buffer: Buffer) {
        self.side(direction).crypto = buffer.0;
    }

    /// Takes back the memory of a side that has returned its hello, or has nothing of it.
    pub fn take_unused(&mut self, direction: Direction) -> Option<Buffer> {
        let side = self.side(direction);
        if side.crypto.room() == 0 || !side.done && !side.crypto.is_empty() {
            return None;
        }
        let mut crypto = std::mem::take(&mut side.crypto);
        crypto.clear();
        Some(Buffer(crypto))
    }

    /// Returns the version if nothing else is known: packets with long headers came, but no hello.
    #[must_use]
    pub fn version_alone(&self) -> Option<Version> {
        self.version.filter(|_| !self.heard)
    }

    /// Returns true if no more hellos can come from this flow: both were returned, or a limit was reached.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.client.done && self.server.done
            || self.initials >= MAX_INITIALS
            || self.datagrams >= MAX_DATAGRAMS
    }

    /// Processes the payload of a datagram. Returns a hello when it is complete. `scratch` is memory for the
    /// decryption of packets, used only during the call.
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
            // All packets of a datagram belong to one connection (RFC 9000, section 12.2). If one of them
            // cannot be opened, no keys are derived for the others.
            let Some(whole) = self.packet(direction, &packet, scratch) else { break };
            found = whole;
        }
        let version = self.version.filter(|_| found)?;
        self.heard = true;
        let side = self.side(direction);
        // In Google's versions, the client's next hello has more values, which the server has asked for.
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

    /// Processes a packet. Returns true if it completes the side's hello, or `None` if it cannot be opened.
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
            Kind::Retry | Kind::Negotiation if direction == Direction::ToClient && !self.retried => {
                // The client begins again, and may do so once (RFC 9000, sections 6.2 and 17.2.5.2).
                self.retried = true;
                self.client.done = false;
                self.client.crypto.clear();
                false
            }
            Kind::Retry | Kind::Negotiation | Kind::Other => false,
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

    /// Removes the protection. Returns the position of the frames in `scratch`.
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
        // The client's first packet, or its first after a Retry or a version negotiation.
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

/// Finds the hello in the handshake bytes of a side.
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
