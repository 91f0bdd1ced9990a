//! HTTP/1.x (RFC 9112): the delimitation of messages, the fields of their heads, and for rules the parts of heads in
//! their normal forms and the decoding of bodies.

mod body;
mod coding;
mod event;
mod fields;
mod head;
mod parts;
mod target;
#[cfg(test)]
mod tests;

pub use body::{Body, Taken};
pub use coding::{Decoder, Decoding};
pub use event::{Fixed, TransactionEvent, tag};
pub use fields::Fields;
pub use head::{Request, Response, begins_request, begins_response, head_end, upgrades_to_http2};
pub use parts::{FieldParts, RequestParts, ResponseParts, normal_host, normal_uri};
