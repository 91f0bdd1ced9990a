//! HTTP/2 (RFC 9113): frames, the compression of fields (HPACK, RFC 7541), and the events of streams.

mod event;
mod frame;
mod hpack;
mod huffman;
#[cfg(test)]
mod tests;

pub(crate) use event::field;
pub use event::{Control, ControlEvent, LossEvent, Losses, Stream, StreamEvent, request_field, tag};
pub use frame::{HEAD, Head, PREFACE, begins, flag, kind, number, resumes, settings, unpadded};
pub use hpack::{Broken, FieldList, Table};
