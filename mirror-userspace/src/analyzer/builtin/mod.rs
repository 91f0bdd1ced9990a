//! The analyzers that are built in.

mod dns;

pub use dns::Dns;

/// The kinds of events that the analyzers here emit.
pub const EVENT_TYPES: [&str; 1] = [dns::DNS.name];
