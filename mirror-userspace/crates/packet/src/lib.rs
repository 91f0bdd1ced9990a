//! Frames: where a frame came from, which IP packets it carries, which flow a packet belongs to, and the capture
//! files that frames are read from.
//!
//! It owns the words that every other part speaks ([`MirrorSession`], [`FrameInfo`], [`Direction`], [`FlowKey`],
//! [`Conversation`], [`CommunityId`]), decoding ([`decode()`]), defragmentation ([`fragment`]) and capture files
//! (`capture_file`, with the feature `capture-file`). It keeps no flows and knows no application protocol. It
//! uses `mirror-base` and `mirror-xdp-common`.
//!
//! ```
//! use mirror_packet::{Decoded, Layer, LinkType, decode};
//!
//! // Ethernet and the first bytes of an IPv4 header: the decoder names the reason for a refusal.
//! let frame = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45];
//! let refusal = decode(Layer::frame(LinkType::Ethernet, &frame, frame.len())).unwrap_err();
//! assert_eq!(refusal.name(), "ip_header");
//! ```

#[cfg(feature = "capture-file")]
pub mod capture_file;
pub mod community_id;
mod conversation;
mod decode;
mod direction;
pub mod fair;
pub mod flow_key;
mod mirror;
mod scope;
pub mod text;
mod vlan;

pub use community_id::{CommunityId, NoCommunityId};
pub use conversation::Conversation;
pub use decode::*;
pub use direction::Direction;
pub use flow_key::{FlowKey, FlowKeyHasher, KeyHash, SessionKey};
pub use mirror::{FrameInfo, MirrorDirection, MirrorSession};
pub use scope::{FlowScope, Source, SourceNumber, Sources};
pub use vlan::Vlans;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
