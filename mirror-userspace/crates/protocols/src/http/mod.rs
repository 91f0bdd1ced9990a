//! HTTP/1.x (RFC 9112): the delimitation of messages, and the fields of their heads. Bodies are counted and
//! skipped.

mod body;
mod event;
mod head;
#[cfg(test)]
mod tests;

pub use body::{Body, Taken};
pub use event::{Fixed, TransactionEvent, tag};
pub use head::{Request, Response, begins_request, begins_response, head_end};
