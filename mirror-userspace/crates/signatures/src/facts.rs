//! The facts about a flow and a packet that rules ask for beside content. The caller sets them; nothing is parsed here
//! but single fields of headers.

use mirror_packet::{Direction, SECOND};
use mirror_xdp_common::Address;

use crate::buffer::Application;

/// The facts about a flow, at the time of the packet in hand.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// The identifier of the flow.
    pub flow: u64,
    /// Nanoseconds since the epoch at which the flow began.
    pub start: u64,
    /// Number of the transport protocol.
    pub transport: u8,
    /// True for IPv6.
    pub ipv6: bool,
    /// Address and port of the client and of the server.
    pub ends: [(Address, u16); 2],
    /// Both sides were seen; for TCP, the handshake is complete.
    pub is_established: bool,
    /// The packet belongs to no flow: a fragment, an ICMP error, the header of a tunnel.
    pub is_lone: bool,
    /// The recognised protocol.
    pub application: Option<Application>,
    /// The protocol that the flow had before it, as STARTTLS.
    pub original: Option<Application>,
    /// Recognition failed.
    pub is_unknown: bool,
    /// The VNI of the mirror session.
    pub vni: Option<u32>,
    /// The outer source address of the mirror session.
    pub session: Option<Address>,
    /// Packets of the client and of the server.
    pub packets: [u64; 2],
    /// Bytes of these packets.
    pub bytes: [u64; 2],
    /// Sequence numbers that each side has used, SYN included.
    pub sent: [u64; 2],
}

impl Facts {
    /// Returns address and port of the sender.
    #[must_use]
    pub const fn sender(&self, direction: Direction) -> (Address, u16) {
        let [client, server] = self.ends;
        match direction {
            Direction::ToServer => client,
            Direction::ToClient => server,
        }
    }

    /// Returns the age of the flow in seconds.
    #[must_use]
    pub const fn age(&self) -> u64 {
        self.time.saturating_sub(self.start) / SECOND
    }
}

/// A packet, with the parts that rules inspect.
#[derive(Clone, Copy, Debug)]
pub struct PacketView<'a> {
    /// The direction in its flow.
    pub direction: Direction,
    /// The IP header and what follows, as captured; empty if it is not known.
    pub network: &'a [u8],
    /// The transport header and what follows, as captured.
    pub transport: &'a [u8],
    /// The captured payload.
    pub payload: &'a [u8],
    /// Bytes of the payload on the wire.
    pub payload_len: usize,
    /// False for a segment with data that is part of no stream: rules of streams are tried on it.
    pub in_stream: bool,
}

impl PacketView<'_> {
    /// Returns a byte of the IP header.
    #[must_use]
    pub fn network_byte(&self, at: usize) -> Option<u8> {
        self.network.get(at).copied()
    }

    /// Returns 16 bits of a header.
    #[must_use]
    pub fn short(bytes: &[u8], at: usize) -> Option<u16> {
        bytes.get(at..)?.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
    }

    /// Returns 32 bits of a header.
    #[must_use]
    pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
        bytes.get(at..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
    }
}

/// A fact about a transaction that is no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionFact {
    /// The kind of a DNS message.
    DnsOpcode(u8),
    /// The response code of a DNS message.
    DnsRcode(u16),
    /// The type of a DNS question or answer; a message has one for each.
    DnsType(u16),
    /// The version of TLS that was negotiated, or of the record.
    TlsVersion(u16),
    /// A value in a frame of HTTP/2.
    Http2(Http2Fact, u32),
}

/// The values in frames of HTTP/2 that rules ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Http2Fact {
    /// The type of the frame.
    FrameType,
    /// The code of an error.
    Error,
    /// The weight of a stream.
    Priority,
    /// The increment of a window.
    Window,
    /// The new size of the table of fields.
    TableSize,
    /// The setting with this identifier.
    Setting(u16),
}
