//! The committed files that are generated from tables in the code.
//!
//! `cargo xtask generate` writes them, and `cargo xtask check` fails if one of them is stale.

use crate::config::settings::render;

/// A generated file: its path from the root of the workspace, and the function that returns its content.
pub type File = (&'static str, fn() -> String);

/// All generated files.
pub const GENERATED: &[File] =
    &[("deploy/mirror-xdp.toml", render::example), ("docs/configuration.md", render::documentation)];
