//! DNS (RFC 1035): messages, their EVE records, and their framing over TCP.
//!
//! The parser is the project's own. The kept libraries (hickory-proto, simple-dns, domain) are made for
//! resolvers and servers: they refuse a message as a whole for what a monitor must still report (names
//! beyond 255 bytes, compression that loops after the question, unknown record data, bytes that are
//! missing or left over). This one reads as much as Suricata 7 does, so that both log the same, borrows
//! from the packet and does not allocate, so that a worker may use it on every packet.
//!
//! A worker calls [`Message::parse`] and, where that succeeds, takes a number from the flow's
//! [`Transactions`] and copies the message's bytes. Whoever writes the record parses those bytes again
//! and serializes each of [`Message::events`].

mod eve;
mod message;
mod name;
mod registry;
mod tcp;

pub use eve::{Event, Events};
pub use message::{Data, Header, Malformed, Message, Question, Questions, Record, Records, probe};
pub use name::{Name, NameBuffer};
pub use registry::{rcode_name, rrtype_name};
pub use tcp::{Framing, Messages, probe_tcp};

/// Numbers the messages of one flow, as the field `tx_id` of queries does: from 0, queries and answers
/// alike, over both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    next: u32,
}

impl Transactions {
    /// The number of a message that was parsed just now.
    pub fn number(&mut self) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }
}
