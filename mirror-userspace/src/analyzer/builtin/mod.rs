//! The analyzers that are built in.

mod dns;
mod http;
mod ssh;

pub use dns::Dns;
pub use http::Http;
pub use ssh::Ssh;

/// The kinds of events that the analyzers here emit.
pub const EVENT_TYPES: [&str; 3] = [dns::DNS.name, http::HTTP.name, ssh::SSH.name];
