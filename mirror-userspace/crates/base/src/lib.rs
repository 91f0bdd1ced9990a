//! The ground floor that has nothing to do with packets: what every crate needs of the process it runs in and the
//! standard library lacks.
//!
//! It owns the opening of files whose names come from outside ([`mod@file`], [`secret`]), the sandbox of threads
//! ([`sandbox`]), hints about the use of memory ([`memory_hints`]), the hand-over of settings to threads that
//! must not wait ([`Slot`]), and the texts of values and errors ([`text`], [`one_line`]). It uses no other crate of
//! this project.
//!
//! ```
//! use mirror_base::text;
//!
//! assert_eq!(text::bytes("64KiB"), Ok(65_536));
//! let error = text::bytes("64 apples").unwrap_err();
//! assert_eq!(error.what, "`64 apples` is not a number of bytes");
//! ```

mod error;
pub mod file;
pub mod meminfo;
pub mod memory_hints;
pub mod sandbox;
pub mod secret;
mod slot;
pub mod text;

pub use error::{escaped, one_line};
pub use slot::Slot;
pub use text::ParseError;
