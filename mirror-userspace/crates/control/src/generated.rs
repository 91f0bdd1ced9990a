//! The files that are generated from tables, so that they cannot differ from the code.
//!
//! `cargo xtask generate` writes them and `cargo xtask check` fails where they are stale, both through
//! `examples/generate.rs`.

use crate::counters;

/// A generated file: the path from the root of the repository, and the function that returns the content.
pub type Generated = (&'static str, fn() -> String);

/// The generated files.
pub const GENERATED: &[Generated] =
    &[("deploy/prometheus/mirror-xdp.yml", counters::rules), ("docs/counters.md", counters::document)];
