//! Frames on their way to a worker: copied into a buffer, with what is known of them. The buffers circulate.

use mirror_packet::fragment::Fragments;
use mirror_packet::{DecodeError, FrameInfo, LinkType, Vlans};

use crate::hooks::Recorder;
use crate::worker::duplicates::{Place, Verdict};
use crate::worker::{Fragmented, Worker};

/// Entries of a buffer.
const ENTRIES: usize = 1024;
/// Bytes of frames in a buffer, unless a single frame has more.
pub(super) const BYTES: usize = 256 * 1024;

/// A step of the reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Its position among all steps.
    pub(super) position: u64,
    /// The time that timers have, in nanoseconds since the epoch.
    pub(super) now: u64,
}

impl Moment {
    #[inline]
    fn enter<R: Recorder>(self, worker: &mut Worker<R>) {
        worker.advance(self.now);
        worker.set_position(self.position);
    }
}

/// A frame of the file, and what its worker needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed {
    pub(super) moment: Moment,
    pub(super) info: FrameInfo,
    pub(super) rule: u32,
    pub(super) link: Option<LinkType>,
    /// Length in bytes.
    pub(super) len: u32,
    pub(super) special: Option<Special>,
}

/// A frame that is not analysed as any other: its place among those of its buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Special {
    Judged(u32),
    Waiting,
    Refused(DecodeError),
    Whole(u32),
}

/// A reassembled datagram. Its bytes are behind those of the frame that completed it.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) place: Place,
    pub(super) vlans: Vlans,
    pub(super) before: Fragments,
    pub(super) len: usize,
}

#[derive(Debug)]
enum Entry {
    Frame(Framed),
    /// The timers advance.
    Tick(Moment),
    /// The files end.
    Finish(Moment),
}

/// A buffer of frames. It shares no cache line with what another thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Work {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    verdicts: Vec<Verdict>,
    wholes: Vec<Whole>,
    /// The position behind those of all entries, of this buffer and of those that other workers got with it.
    end: u64,
}

impl Work {
    /// Returns true if a frame of this length should go into another buffer.
    pub(super) fn is_full_for(&self, len: usize) -> bool {
        self.entries.len() >= ENTRIES || !self.bytes.is_empty() && self.bytes.len() + len > BYTES
    }

    /// Returns true if it takes more memory than it should keep.
    pub(super) const fn is_oversized(&self) -> bool {
        self.bytes.capacity() > 2 * BYTES
    }

    pub(super) fn add(&mut self, frame: Framed, bytes: &[u8]) {
        self.entries.push(Entry::Frame(frame));
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn add_judged(&mut self, frame: Framed, bytes: &[u8], verdict: Verdict) {
        let special = Some(Special::Judged(self.verdicts.len() as u32));
        self.verdicts.push(verdict);
        self.add(Framed { special, ..frame }, bytes);
    }

    pub(super) fn add_whole(&mut self, frame: Framed, bytes: &[u8], whole: Whole, datagram: &[u8]) {
        let special = Some(Special::Whole(self.wholes.len() as u32));
        self.wholes.push(whole);
        self.add(Framed { special, ..frame }, bytes);
        self.bytes.extend_from_slice(datagram);
    }

    pub(super) fn add_tick(&mut self, moment: Moment) {
        self.entries.push(Entry::Tick(moment));
    }

    pub(super) fn add_finish(&mut self, moment: Moment) {
        self.entries.push(Entry::Finish(moment));
    }

    /// Sets the position behind those of all entries.
    pub(super) const fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Has a worker do the work. Returns true if it has finished, too.
    pub(super) fn run<R: Recorder>(&self, worker: &mut Worker<R>) -> bool {
        let mut rest = self.bytes.as_slice();
        let mut is_finished = false;
        for entry in &self.entries {
            match entry {
                Entry::Frame(frame) => rest = self.frame(worker, frame, rest),
                &Entry::Tick(moment) => {
                    moment.enter(worker);
                    worker.tick(moment.now);
                }
                &Entry::Finish(moment) => {
                    moment.enter(worker);
                    worker.finish();
                    is_finished = true;
                }
            }
        }
        worker.set_position(self.end);
        is_finished
    }

    /// Has a worker process the frame at the beginning of `bytes`. Returns the bytes behind it.
    #[inline]
    fn frame<'b, R: Recorder>(&self, worker: &mut Worker<R>, frame: &Framed, bytes: &'b [u8]) -> &'b [u8] {
        let Framed { moment, ref info, rule, link, len, special } = *frame;
        let (bytes, mut rest) = bytes.split_at_checked(len as usize).unwrap_or((bytes, &[]));
        moment.enter(worker);
        match special {
            None => worker.link_frame_of(rule, info, link, bytes),
            Some(Special::Judged(index)) => {
                if let Some(verdict) = self.verdicts.get(index as usize) {
                    worker.judged_frame(rule, info, link, bytes, verdict);
                }
            }
            Some(Special::Waiting) => worker.fragment_frame(rule, info, link, bytes, &Fragmented::Waiting),
            Some(Special::Refused(refusal)) => {
                worker.fragment_frame(rule, info, link, bytes, &Fragmented::Refused(refusal));
            }
            Some(Special::Whole(index)) => {
                if let Some(&Whole { place, vlans, before, len }) = self.wholes.get(index as usize) {
                    let datagram;
                    (datagram, rest) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                    let whole = Fragmented::Whole { place, vlans, datagram, before };
                    worker.fragment_frame(rule, info, link, bytes, &whole);
                }
            }
        }
        rest
    }

    /// Empties the buffer for the next frames.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.bytes.shrink_to(2 * BYTES);
        self.verdicts.clear();
        self.wholes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_two_workers_share_no_cache_line() {
        // Processors fetch lines of 64 bytes in pairs.
        assert_eq!((align_of::<Work>() % 128, size_of::<Work>() % 128), (0, 0));
    }

    #[test]
    fn a_frame_is_described_in_two_cache_lines() {
        assert!(size_of::<Entry>() <= 128, "{}", size_of::<Entry>());
    }
}
