//! The files that are generated from tables, so that they cannot differ from the code.
//!
//! `cargo xtask generate` writes them and `cargo xtask check` fails where they are stale, both through
//! `examples/generate.rs`.

use crate::counters;

/// The generated files: the path from the root of the repository, and the content.
pub const GENERATED: &[(&str, fn() -> String)] =
    &[("deploy/prometheus/mirror-xdp.yml", counters::rules), ("docs/counters.md", counters::document)];
