//! Shared parts of the end-to-end tests and the lab: network namespaces, processes that end with the test
//! that started them, frames, and mirror-xdp as a test runs it. The tests themselves are in
//! `tests/tests/e2e`, one module for each capability.
#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "a helper panics where the test that called it has failed")]

pub mod appliance;
pub mod bench;
pub mod browser;
pub mod calls;
pub mod frames;
pub mod http;
pub mod huge_pages;
pub mod inject;
pub mod lab;
pub mod netns;
pub mod process;
pub mod promtool;
pub mod require;
pub mod rules;
#[cfg(feature = "schema")]
pub mod schema;
pub mod secret;
pub mod sniffer;
pub mod tls;
mod turns;
