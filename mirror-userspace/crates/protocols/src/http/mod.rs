//! HTTP/1.x (RFC 9112): where messages begin and end, and what their heads say. Bodies are counted and
//! skipped.

mod body;
mod head;
#[cfg(test)]
mod tests;

pub use body::{Body, Taken};
pub use head::{Request, Response, begins_request, begins_response, head_end};
