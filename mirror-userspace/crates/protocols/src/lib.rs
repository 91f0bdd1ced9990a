//! Protocol code without I/O: bytes in, values out. Nothing here uses a clock, a socket or a flow table. For
//! any input, nothing panics, and the work is at most proportional to the input's length. Functions that a
//! worker calls allocate nothing, except for the buffers of handshakes, which are reused. Functions that the
//! sink's thread calls to write a record may allocate.

pub mod detect;
pub mod dns;
pub mod http;
pub mod quic;
mod reader;
pub mod ssh;
pub mod text;
pub mod tls;

pub use mirror_packet::Direction;
