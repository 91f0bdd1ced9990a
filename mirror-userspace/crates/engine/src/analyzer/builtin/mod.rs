//! The built-in analyzers that use more than [`Protocol`](mirror_protocols::Protocol) offers.

mod dns;
mod http;
mod quic;
mod tls;

pub use dns::Dns;
pub use http::Http;
pub use quic::Quic;
pub use tls::{StartTls, Tls};
