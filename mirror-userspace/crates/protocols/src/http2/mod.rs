//! HTTP/2 (RFC 9113): frames, the compression of fields (HPACK, RFC 7541), and the events of streams, also as calls of
//! gRPC.

mod event;
mod frame;
mod grpc;
mod hpack;
mod huffman;
#[cfg(test)]
mod tests;

pub use event::{Control, ControlEvent, LossEvent, Losses, Stream, StreamEvent, request_field, tag};
pub use frame::{HEAD, Head, PREFACE, begins, flag, kind, number, resumes, settings, unpadded};
pub use grpc::{CallEvent, is_grpc};
pub use hpack::{Broken, FieldList, Table};
