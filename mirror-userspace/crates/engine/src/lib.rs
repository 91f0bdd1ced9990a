//! The engine: inner frames in, flows and records out. Live capture and the reading of capture files run this code.
//!
//! It owns connections ([`tcp`], [`performance`], [`stream`]), the flow table ([`flow`]), analyzers ([`analyzer`]),
//! indicators ([`indicators`]), rules ([`inspection`]), the [`worker`] that puts them together, and the reading of
//! capture files ([`offline`]). What it calls and does not know is in [`hooks`]: the packet store, the driver's list of
//! shunted flows, observers. It uses `mirror-packet`, `mirror-protocols`, `mirror-records`, `mirror-signatures` and
//! `mirror-base`; it opens no socket and knows no network interface.

pub mod analyzer;
pub mod flow;
pub mod hooks;
pub mod indicators;
pub mod inspection;
mod meta;
pub mod observers;
pub mod offline;
pub mod performance;
mod sequence;
pub mod stream;
pub mod tcp;
pub mod worker;

pub use meta::{FlowIndex, FlowMeta};
