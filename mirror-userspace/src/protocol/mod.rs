//! Protocol code without input or output: bytes in, values out. Nothing here knows a clock, a socket or
//! a flow table, nothing allocates, and nothing panics or works longer than in proportion to its
//! input, whatever the bytes.

pub mod detect;
pub mod dns;
pub mod http;
pub mod ssh;
pub(crate) mod text;

/// Which side of a flow sent the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client, the side that opened the flow.
    ToServer,
    /// From the server.
    ToClient,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}
