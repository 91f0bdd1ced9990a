//! The two directions of a flow.

/// The side of a flow that sent the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client, the side that opened the flow.
    ToServer,
    /// From the server.
    ToClient,
}

impl Direction {
    /// Returns the other direction.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}
