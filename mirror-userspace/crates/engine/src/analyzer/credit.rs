//! A limit on the events that the bytes of a stream may become. A stream can hold a request every few bytes,
//! and each becomes a line of many hundred bytes. Without a limit, a sender of little data would fill the
//! disk of the log.

use mirror_records::EventType;
use mirror_records::eve::Lines;
use serde::Serialize;

use super::Context;

/// Bytes of records that a flow may emit in any case.
const FIRST: u32 = 4096;
/// Credit for each call with data, that is, for each packet: enough for one event.
const A_PACKET: u32 = 1024;
/// Credit for each byte of data.
const A_BYTE: u32 = 8;
/// The maximum of unused credit.
const MOST: u32 = 64 * 1024;
/// Bytes charged for an event, not counting the texts in it.
pub(super) const EVENT: usize = 720;

/// A flow's credit for events, and the number of events omitted for lack of it.
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
    /// Adds the credit for `bytes` bytes of data.
    pub(super) fn earn(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = A_PACKET.saturating_add(bytes.saturating_mul(A_BYTE));
        self.left = self.left.saturating_add(earned).min(MOST);
    }

    /// Spends credit for an event of this many bytes. Returns true if the event may be emitted; otherwise
    /// counts it as omitted.
    #[must_use]
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.unwrap_or(self.left);
        self.omitted = self.omitted.saturating_add(u32::from(left.is_none()));
        left.is_some()
    }

    /// Returns true if the credit covers this many bytes.
    #[must_use]
    pub(super) const fn covers(self, bytes: usize) -> bool {
        self.left as usize >= bytes
    }

    /// Ends the flow. If events were omitted, an event of this type reports their number.
    pub(super) fn end(&mut self, event_type: &'static EventType, context: &mut Context<'_>) {
        let omitted = std::mem::take(&mut self.omitted);
        if omitted > 0 {
            context.emit(event_type, &[&omitted.to_ne_bytes()]);
        }
    }
}

/// Renders an event that reports the number of omitted events.
pub(super) fn render_omitted(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Object {
        omitted: u32,
    }
    let Some(omitted) = bytes.first_chunk() else { return Ok(()) };
    lines.line(&Object { omitted: u32::from_ne_bytes(*omitted) })
}
