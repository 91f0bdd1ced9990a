//! Inspects a buffer: a pure function of its bytes and the requirements of a rule.

pub mod verify;

pub use verify::{Values, Verdict, verify};
