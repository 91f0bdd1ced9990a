//! A limit on the events that the bytes of a stream may become. A stream can hold a request every few bytes,
//! and each becomes a line of many hundred bytes. Without a limit, a sender of little data would fill the
//! disk of the log.

use std::marker::PhantomData;

use mirror_protocols::eve::{EveEvent, EveWriter, Packer, Unpacker};
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

    /// Ends the flow. If events of type `E` were omitted, an event of this type reports their number.
    pub(super) fn end<E: EveEvent>(&mut self, context: &mut Context<'_>) {
        let omitted = std::mem::take(&mut self.omitted);
        if omitted > 0 {
            context.record(&Omitted::<E> { omitted, of: PhantomData });
        }
    }
}

/// The number of events of type `E` that were omitted.
struct Omitted<E> {
    omitted: u32,
    of: PhantomData<E>,
}

impl<E: EveEvent> EveEvent for Omitted<E> {
    const TYPE: &'static str = E::TYPE;
    type Unpacked<'a> = Self;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u32(self.omitted);
    }

    fn unpack(unpacker: &mut Unpacker<'_>) -> Option<Self> {
        Some(Self { omitted: unpacker.u32()?, of: PhantomData })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        #[derive(Serialize)]
        struct Object {
            omitted: u32,
        }
        writer.line(&Object { omitted: self.omitted })
    }
}
