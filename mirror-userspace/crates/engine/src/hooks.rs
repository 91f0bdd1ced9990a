//! The parts of a capture that the engine calls and does not know: the packet store ([`Recorder`]), the driver's table
//! of flows that it counts itself ([`Offload`]), and observers of frames ([`Observer`]).
//!
//! A [`Worker`] is generic over its recorder and its offload, so calls to them are direct. `()` stands for none.
//!
//! [`Worker`]: crate::worker::Worker

use std::convert::Infallible;
use std::fmt::{Debug, Display};
use std::num::NonZeroU32;

use mirror_packet::{FlowKey, FrameInfo, LinkType};
use mirror_xdp_common::filter::ShuntKey;
use mirror_xdp_common::hash::FlowHash;

use crate::meta::FlowIndex;

/// Observes frames. It runs on the worker's thread: it neither allocates, locks nor waits.
pub trait Observer: Debug + Send {
    /// Observes a frame that the worker is about to analyse.
    fn frame(&mut self, info: &FrameInfo, frame: &[u8]);
}

/// Keeps frames. It runs on the worker's thread: it neither allocates, locks nor waits.
///
/// For each frame the worker calls [`begin_frame`], then [`flow`] and [`alert`] for each flow that the frame has a
/// packet of, then [`end_frame`].
///
/// [`begin_frame`]: Recorder::begin_frame
/// [`flow`]: Recorder::flow
/// [`alert`]: Recorder::alert
/// [`end_frame`]: Recorder::end_frame
pub trait Recorder: Debug {
    /// Returns whether frames are kept, so that the reader of capture files computes the hash of each.
    fn is_recording(&self) -> bool;

    /// Receives a frame before the worker analyses it. `rule` is the identifier of the filter's rule that accepted
    /// the frame, 0 for none; `link` is `None` for a link layer that is not known.
    fn begin_frame(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]);

    /// Receives a flow that the frame has a packet of. `begins` reports the flow's first packet, `findable` that the
    /// flow's addresses are in the frame's outermost IP packet, where a filter looks for them.
    fn flow(&mut self, index: FlowIndex, begins: bool, key: &FlowKey, findable: bool);

    /// Receives an alert about a flow.
    fn alert(&mut self, index: FlowIndex);

    /// Unites two flows; the conversation goes on at `kept`.
    fn unite(&mut self, gone: FlowIndex, kept: FlowIndex);

    /// Returns whether the driver must not count the rest of a flow, because the recorder keeps its packets.
    fn wants_rest_of(&self, index: FlowIndex) -> bool;

    /// Ends the frame that [`Recorder::begin_frame`] began.
    fn end_frame(&mut self, info: &FrameInfo, frame: &[u8]);

    /// Advances the recorder's timers to `now`, in nanoseconds since the Unix epoch.
    fn tick(&mut self, now: u64);

    /// Hands everything on, and waits until it is written.
    fn finish(&mut self);
}

/// No recorder.
impl Recorder for () {
    #[inline(always)]
    fn is_recording(&self) -> bool {
        false
    }
    #[inline(always)]
    fn begin_frame(&mut self, _: u32, _: &FrameInfo, _: Option<LinkType>, _: &[u8]) {}
    #[inline(always)]
    fn flow(&mut self, _: FlowIndex, _: bool, _: &FlowKey, _: bool) {}
    #[inline(always)]
    fn alert(&mut self, _: FlowIndex) {}
    #[inline(always)]
    fn unite(&mut self, _: FlowIndex, _: FlowIndex) {}
    #[inline(always)]
    fn wants_rest_of(&self, _: FlowIndex) -> bool {
        false
    }
    #[inline(always)]
    fn end_frame(&mut self, _: &FrameInfo, _: &[u8]) {}
    #[inline(always)]
    fn tick(&mut self, _: u64) {}
    #[inline(always)]
    fn finish(&mut self) {}
}

/// Decided at run time.
impl<R: Recorder> Recorder for Option<R> {
    #[inline]
    fn is_recording(&self) -> bool {
        self.as_ref().is_some_and(Recorder::is_recording)
    }

    #[inline]
    fn begin_frame(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        if let Some(recorder) = self {
            recorder.begin_frame(rule, info, link, frame);
        }
    }

    #[inline]
    fn flow(&mut self, index: FlowIndex, begins: bool, key: &FlowKey, findable: bool) {
        if let Some(recorder) = self {
            recorder.flow(index, begins, key, findable);
        }
    }

    #[inline]
    fn alert(&mut self, index: FlowIndex) {
        if let Some(recorder) = self {
            recorder.alert(index);
        }
    }

    #[inline]
    fn unite(&mut self, gone: FlowIndex, kept: FlowIndex) {
        if let Some(recorder) = self {
            recorder.unite(gone, kept);
        }
    }

    #[inline]
    fn wants_rest_of(&self, index: FlowIndex) -> bool {
        self.as_ref().is_some_and(|recorder| recorder.wants_rest_of(index))
    }

    #[inline]
    fn end_frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        if let Some(recorder) = self {
            recorder.end_frame(info, frame);
        }
    }

    #[inline]
    fn tick(&mut self, now: u64) {
        if let Some(recorder) = self {
            recorder.tick(now);
        }
    }

    #[inline]
    fn finish(&mut self) {
        if let Some(recorder) = self {
            recorder.finish();
        }
    }
}

/// A flow that an [`Offload`] counts: its place among those of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShuntId(NonZeroU32);

impl ShuntId {
    /// The flow at a place, from 0 on.
    #[must_use]
    pub const fn at(place: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(place as u32))
    }

    /// The flow's place, from 0 on.
    #[must_use]
    pub const fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The counters of one direction of a shunted flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shunted {
    /// Packets that did not reach the worker.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// The time of the last of them, in nanoseconds of the worker's clock; without any, the time at which the flow
    /// was shunted.
    pub last: u64,
}

/// Counts flows in the driver, so that their packets do not reach the worker. Times are nanoseconds of the worker's
/// clock.
pub trait Offload: Debug {
    /// Why the driver's tables could not be read or written.
    type Error: Display;

    /// Sets how far the worker's clock is ahead of the driver's, in nanoseconds.
    fn set_clock(&mut self, ahead: u64);

    /// Returns how many flows the driver counts.
    fn active(&self) -> usize;

    /// Shunts a flow whose two directions have these keys. Returns `None` if there is no room.
    fn shunt(
        &mut self,
        keys: [ShuntKey; 2],
        hash: FlowHash,
        now: u64,
    ) -> Result<Option<ShuntId>, Self::Error>;

    /// Returns the counters so far, of each direction.
    fn counted(&self, id: ShuntId) -> Result<[Shunted; 2], Self::Error>;

    /// Takes a flow out of the driver's table. Its final counters come by [`Offload::cooled`].
    fn release(&mut self, id: ShuntId, now: u64) -> Result<(), Self::Error>;

    /// Returns the next flow whose counters are final, with them.
    fn cooled(&mut self, now: u64) -> Result<Option<(ShuntId, [Shunted; 2])>, Self::Error>;
}

/// No offload: it has room for no flow.
impl Offload for () {
    type Error = Infallible;

    fn set_clock(&mut self, _: u64) {}

    fn active(&self) -> usize {
        0
    }

    fn shunt(&mut self, _: [ShuntKey; 2], _: FlowHash, _: u64) -> Result<Option<ShuntId>, Infallible> {
        Ok(None)
    }

    fn counted(&self, _: ShuntId) -> Result<[Shunted; 2], Infallible> {
        Ok([Shunted::default(); 2])
    }

    fn release(&mut self, _: ShuntId, _: u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn cooled(&mut self, _: u64) -> Result<Option<(ShuntId, [Shunted; 2])>, Infallible> {
        Ok(None)
    }
}
