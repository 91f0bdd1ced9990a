//! Observers of frames while a capture runs: `mirror-xdp tail` and the tap.
//!
//! Observers have [`copy`](mirror_store::copy) in common: a filter, a bounded ring that frames are copied into, and counters of the frames
//! that it had no room for. Other threads process the copies: [`control`] sends them to `mirror-xdp tail`, [`tap`] out
//! of an interface.

pub mod control;
pub mod rules;
pub mod summary;
pub mod tap;

pub use mirror_engine::hooks::Observer;
pub use mirror_engine::observers::{MAX_OBSERVERS, Mailbox, Observers, Subscription, TooMany, Workers};
