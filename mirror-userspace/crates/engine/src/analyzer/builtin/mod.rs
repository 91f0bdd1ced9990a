//! The built-in analyzers.

mod dns;
mod http;
mod quic;
mod ssh;
mod tls;

pub use dns::Dns;
pub use http::Http;
pub use quic::Quic;
pub use ssh::Ssh;
pub use tls::{StartTls, Tls};

/// The event types that the analyzers here emit.
pub const EVENT_TYPES: [&str; 6] =
    [super::alert::ALERT.name, dns::DNS.name, http::HTTP.name, tls::TLS.name, quic::QUIC.name, ssh::SSH.name];
