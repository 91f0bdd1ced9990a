//! How many events the bytes of a stream may become. A stream can hold a request every few bytes, and each becomes a
//! line of many hundred: without a bound, a sender of little would fill the disk of the log. So it is with the alerts
//! that names in a flow raise.

use mirror_records::EventType;
use mirror_records::eve::Lines;
use serde::Serialize;

use super::Context;

/// Bytes of records that a flow may emit in any case.
const FIRST: u32 = 4096;
/// Credit for each call with data, that is, for each packet: enough for one event.
const A_PACKET: u32 = 1024;
/// The credit that each byte of data adds, for events and for alerts.
const A_BYTE: u32 = 8;
const ALERTS_A_BYTE: u32 = 2;
/// The maximum of unused credit.
const MOST: u32 = 64 * 1024;
/// Bytes charged for an event, not counting the texts in it.
pub(super) const EVENT: usize = 720;

/// The credit of a flow: for events of its messages, and for alerts. Neither takes from the other, so that hundreds of
/// messages keep no alert from being raised.
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

    /// Counts a record as omitted.
    pub(super) const fn omit(&mut self) {
        self.omitted = self.omitted.saturating_add(1);
    }
}

/// Renders an event that reports the number of omitted events.
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
