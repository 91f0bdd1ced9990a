//! Protocol code without input or output: bytes in, values out. Nothing here knows a clock, a socket or
//! a flow table, and nothing panics or works longer than in proportion to its input, whatever the bytes.
//! What a worker calls allocates nothing, except for the buffers of handshakes, which are used again;
//! what the thread of the sink calls to write a record may.

pub mod detect;
pub mod dns;
pub mod http;
pub mod quic;
mod reader;
pub mod ssh;
pub mod text;
pub mod tls;

pub use mirror_packet::Direction;
