//! How many events the bytes of a stream may become. A stream can hold a request every few bytes, and each becomes a
//! line of many hundred: without a bound, a sender of little would fill the disk of the log. So it is with the alerts
//! that names in a flow raise.

use serde::Serialize;

use super::Context;
use crate::record::EventType;
use crate::record::eve::Lines;

/// Bytes of records that a flow may come to, besides what its data allow.
const FIRST: u32 = 4096;
/// What each call with data allows, of which there is one a packet: an event.
const A_PACKET: u32 = 1024;
/// What each byte of data allows of events, and of alerts.
const A_BYTE: u32 = 8;
const ALERTS_A_BYTE: u32 = 2;
/// What is allowed and not used is kept up to so much.
const MOST: u32 = 64 * 1024;
/// What an event takes besides the texts in it.
pub(super) const EVENT: usize = 720;

/// What a flow may still become: events of its messages, and alerts. Neither takes from the other, so messages by the
/// hundred keep no alert from being raised.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    pub(super) events: Allowance,
    pub(super) alerts: Allowance,
}

impl Credit {
    /// Data came, of so many bytes.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.events.earn(bytes, A_BYTE);
        self.alerts.earn(bytes, ALERTS_A_BYTE);
    }

    /// The flow ends: an event of this kind says how many were left out, if any.
    pub(super) fn end(&mut self, event_type: &'static EventType, context: &mut Context<'_>) {
        let [events, alerts] = [&mut self.events, &mut self.alerts].map(|of| std::mem::take(&mut of.omitted));
        if events > 0 || alerts > 0 {
            context.emit(event_type, &[&events.to_ne_bytes(), &alerts.to_ne_bytes()]);
        }
    }
}

/// Bytes of records that may still be written, and how many records were left out since that was too little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    left: u32,
    omitted: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: FIRST, omitted: 0 }
    }
}

impl Allowance {
    fn earn(&mut self, bytes: usize, a_byte: u32) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = A_PACKET.saturating_add(bytes.saturating_mul(a_byte));
        self.left = self.left.saturating_add(earned).min(MOST);
    }

    /// Whether a record of so many bytes is to be written; where it is not, it counts as left out.
    #[must_use]
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.unwrap_or(self.left);
        if left.is_none() {
            self.omit();
        }
        left.is_some()
    }

    /// Counts a record as left out.
    pub(super) const fn omit(&mut self) {
        self.omitted = self.omitted.saturating_add(1);
    }
}

/// Renders an event that says how many were left out.
pub(super) fn render_omitted(bytes: &[u8], lines: &mut Lines<'_>) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Object {
        #[serde(skip_serializing_if = "is_zero")]
        omitted: u32,
        #[serde(skip_serializing_if = "is_zero")]
        alerts_omitted: u32,
    }
    let Some((omitted, alerts)) = bytes.split_first_chunk() else { return Ok(()) };
    let Some(alerts) = alerts.first_chunk() else { return Ok(()) };
    lines.line(&Object { omitted: u32::from_ne_bytes(*omitted), alerts_omitted: u32::from_ne_bytes(*alerts) })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
