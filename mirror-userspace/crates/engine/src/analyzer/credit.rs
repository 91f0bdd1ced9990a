//! How many events the bytes of a stream may become. A stream can hold a request every few bytes, and each becomes a
//! line of many hundred: without a bound, a sender of little would fill the disk of the log.

use mirror_records::EventType;
use mirror_records::eve::Lines;
use serde::Serialize;

use super::Context;

/// Bytes of records that a flow may come to, besides what its data allow.
const FIRST: u32 = 4096;
/// What each call with data allows, of which there is one a packet: an event.
const A_PACKET: u32 = 1024;
/// What each byte of data allows.
const A_BYTE: u32 = 8;
/// What is allowed and not used is kept up to so much.
const MOST: u32 = 64 * 1024;
/// What an event takes besides the texts in it.
pub(super) const EVENT: usize = 720;

/// What a flow may still become, and how many events were left out since it was too little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    left: u32,
    omitted: u32,
}

impl Default for Credit {
    fn default() -> Self {
        Self { left: FIRST, omitted: 0 }
    }
}

impl Credit {
    /// Data came, of so many bytes.
    pub(super) fn earn(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = A_PACKET.saturating_add(bytes.saturating_mul(A_BYTE));
        self.left = self.left.saturating_add(earned).min(MOST);
    }

    /// Whether an event of so many bytes is to be written; where it is not, it counts as left out.
    #[must_use]
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.unwrap_or(self.left);
        self.omitted = self.omitted.saturating_add(u32::from(left.is_none()));
        left.is_some()
    }

    /// Whether there is as much left.
    #[must_use]
    pub(super) const fn covers(self, bytes: usize) -> bool {
        self.left as usize >= bytes
    }

    /// The flow ends: an event of this kind says how many were left out, if any.
    pub(super) fn end(&mut self, event_type: &'static EventType, context: &mut Context<'_>) {
        let omitted = std::mem::take(&mut self.omitted);
        if omitted > 0 {
            context.emit(event_type, &[&omitted.to_ne_bytes()]);
        }
    }
}

/// Renders an event that says how many were left out.
pub(super) fn render_omitted(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Object {
        omitted: u32,
    }
    let Some(omitted) = bytes.first_chunk() else { return Ok(()) };
    lines.line(&Object { omitted: u32::from_ne_bytes(*omitted) })
}
