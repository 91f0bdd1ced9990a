//! The limit of events per byte of a stream. A stream can hold a request every few bytes, and each becomes a line of
//! many hundred bytes: without a limit, a sender of little would fill the disk of the log. The same holds for the alerts
//! that names in a flow raise.

use std::marker::PhantomData;

use mirror_protocols::eve::{EveEvent, EveWriter, Packer, Unpacker};
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
    /// Adds the credit for data of this many bytes.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.events.earn(bytes, A_BYTE);
        self.alerts.earn(bytes, ALERTS_A_BYTE);
    }

    /// Ends the flow. If events of type `E` or alerts were omitted, an event of this type reports their numbers.
    pub(super) fn end<E: EveEvent>(&mut self, context: &mut Context<'_>) {
        let [events, alerts] = [&mut self.events, &mut self.alerts].map(|of| std::mem::take(&mut of.omitted));
        if events > 0 || alerts > 0 {
            context.record(&Omitted::<E> { events, alerts, of: PhantomData });
        }
    }
}

/// Bytes of records that may still be written, and the number of records omitted because they exceeded it.
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

    /// Returns true if a record of this many bytes may be written; if not, the record counts as omitted.
    #[must_use]
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.unwrap_or(self.left);
        if left.is_none() {
            self.omit();
        }
        left.is_some()
    }

    /// Returns true if a record of this many bytes may be written.
    pub(super) const fn has(self, bytes: usize) -> bool {
        bytes <= self.left as usize
    }

    /// Counts a record as omitted.
    pub(super) const fn omit(&mut self) {
        self.omitted = self.omitted.saturating_add(1);
    }
}

/// The numbers of events of type `E`, and of alerts, that were omitted.
struct Omitted<E> {
    events: u32,
    alerts: u32,
    of: PhantomData<E>,
}

impl<E: EveEvent> EveEvent for Omitted<E> {
    const TYPE: &'static str = E::TYPE;
    type Unpacked<'a> = Self;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u32(self.events);
        packer.u32(self.alerts);
    }

    fn unpack(unpacker: &mut Unpacker<'_>) -> Option<Self> {
        Some(Self { events: unpacker.u32()?, alerts: unpacker.u32()?, of: PhantomData })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Object {
            #[serde(skip_serializing_if = "is_zero")]
            omitted: u32,
            #[serde(skip_serializing_if = "is_zero")]
            alerts_omitted: u32,
        }
        writer.line(&Object { omitted: self.events, alerts_omitted: self.alerts })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
