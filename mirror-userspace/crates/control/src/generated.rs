//! The committed files that are generated from tables in the code, so that they cannot differ from it.
//!
//! `cargo xtask generate` writes them, and `cargo xtask check` fails if one of them is stale, both through
//! `examples/generate.rs`.

use crate::config::settings::render;
use crate::counters;

/// A generated file: its path from the root of the workspace, and the function that returns its content.
pub type File = (&'static str, fn() -> String);

/// All generated files.
pub const GENERATED: &[File] = &[
    ("deploy/mirror-xdp.toml", render::example),
    ("deploy/prometheus/mirror-xdp.yml", counters::rules),
    ("docs/configuration.md", render::documentation),
    ("docs/counters.md", counters::document),
];
