//! The latest packets, in memory, of flows that have raised no alert so far. When a flow raises an alert, its
//! earlier packets are kept from here.
//!
//! Three rings: one of the frames' bytes, one of entries that describe the frames, and one of links. A frame
//! has a link for each of its flows (several, if it is a tunnel's), and each link refers to the preceding one
//! of the same flow. So adding a packet costs a copy and a few words, and finding a flow's packets takes as
//! many steps as it has packets here. All memory is allocated and touched at the start. The oldest frames
//! make room for new ones.

use mirror_packet::FrameInfo;
use mirror_xdp_common::Address;

use super::chunk::{FLOWS_A_FRAME, FlowRef};

/// Maximum number of links of one frame: those of its flows, and the one by which it is found otherwise.
pub(super) const LINKS_A_FRAME: usize = FLOWS_A_FRAME + 1;
/// Bytes of the ring per entry. With small frames, the entries run out before the bytes do.
const BYTES_A_FRAME: usize = 640;

/// The number of a link, which only ever increases; 0 is none.
pub(super) type LinkNumber = u64;

/// The entry of a frame.
#[derive(Clone, Copy, Debug)]
struct Entry {
    info: FrameInfo,
    /// Offset of the frame's bytes.
    start: u32,
    len: u32,
    /// The frame's first link, and the number of its links.
    link: LinkNumber,
    links: u8,
    /// The frame was handed to the store.
    gone: bool,
}

/// The link of a frame to one of its flows.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Number of the frame's entry.
    entry: u64,
    before: LinkNumber,
    flow: FlowRef,
}

/// A frame that was taken out.
pub(super) struct Taken<'r> {
    pub(super) info: FrameInfo,
    pub(super) frame: &'r [u8],
    pub(super) flows: [Option<FlowRef>; LINKS_A_FRAME],
    /// The flow by which it was found.
    pub(super) flow: FlowRef,
}

/// The three rings, see the module.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    links: Vec<Link>,
    /// Numbers of the oldest entry and of the next; they only ever increase.
    oldest: u64,
    next: u64,
    oldest_link: LinkNumber,
    next_link: LinkNumber,
    /// Offset of the next frame.
    head: usize,
    /// Frames that were overwritten without an alert.
    overwritten: u64,
    /// Scratch memory for sorting a flow's frames: numbers of the flow's links, which increase with the frames.
    found: Vec<LinkNumber>,
}

impl Ring {
    /// Creates a ring that takes about `size` bytes of memory, at least one MiB and at most two GiB.
    pub(super) fn new(size: u64) -> Self {
        let size = size.clamp(1 << 20, 2 << 30) as usize;
        let count = size / BYTES_A_FRAME;
        let links = count + count / 4;
        let known = count * size_of::<Entry>() + links * (size_of::<Link>() + size_of::<u64>());
        let info = FrameInfo {
            time: 0,
            original_len: 0,
            flow_hash: mirror_xdp_common::hash::FlowHash(0),
            mirror: None,
            side: None,
        };
        let nothing =
            FlowRef { interface: 0, addresses: [Address::default(); 2], ports: [0; 2], protocol: 0, kind: 0 };
        let mut found = vec![1; links];
        found.clear();
        Self {
            // The kernel provides zeros without touching the memory, so the fill is ones.
            bytes: vec![1; size - known],
            entries: vec![Entry { info, start: 0, len: 0, link: 0, links: 0, gone: false }; count],
            links: vec![Link { entry: 0, before: 0, flow: nothing }; links],
            oldest: 0,
            next: 0,
            oldest_link: 1,
            next_link: 1,
            head: 0,
            overwritten: 0,
            found,
        }
    }

    /// Returns the number of frames that were not kept: they made room for others, or nothing more came.
    pub(super) const fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Adds a frame of these flows. `latest` receives the flow's index and its new latest link, that of this
    /// frame, and returns the previous one. `other` is the reference by which the frame is found otherwise.
    pub(super) fn push(
        &mut self,
        info: &FrameInfo,
        frame: &[u8],
        other: Option<FlowRef>,
        flows: impl Iterator<Item = (usize, FlowRef)>,
        mut latest: impl FnMut(usize, LinkNumber) -> LinkNumber,
    ) {
        self.make_room(frame.len());
        let start = self.head;
        let Some(place) = self.bytes.get_mut(start..start + frame.len()) else {
            // No frame is longer than the ring.
            self.overwritten += 1;
            return;
        };
        place.copy_from_slice(frame);
        self.head += frame.len();
        let first = self.next_link;
        for (at, flow) in flows {
            let before = latest(at, self.next_link);
            self.link(Link { entry: self.next, before, flow });
        }
        if let Some(flow) = other {
            self.link(Link { entry: self.next, before: 0, flow });
        }
        let links = (self.next_link - first) as u8;
        let (start, len) = (start as u32, frame.len() as u32);
        let at = self.next as usize % self.entries.len();
        self.entries[at] = Entry { info: *info, start, len, link: first, links, gone: false };
        self.next += 1;
    }

    /// Finds the frames of a flow with these latest links, the earliest first, and returns their number.
    /// [`Ring::take`] takes them by their positions from 0 on.
    pub(super) fn find(&mut self, latest: [LinkNumber; 2]) -> usize {
        self.found.clear();
        for mut number in latest {
            while number >= self.oldest_link
                && let Some(link) = self.links.get(number as usize % self.links.len())
            {
                self.found.push(number);
                number = link.before;
            }
        }
        self.found.sort_unstable();
        self.found.len()
    }

    /// Takes out a frame that was found; returns `None` if it was already taken.
    pub(super) fn take(&mut self, place: usize) -> Option<Taken<'_>> {
        let number = *self.found.get(place)?;
        let Link { entry, flow, .. } = *self.links.get(number as usize % self.links.len())?;
        let at = entry as usize % self.entries.len();
        let entry = self.entries.get_mut(at)?;
        if std::mem::replace(&mut entry.gone, true) {
            return None;
        }
        let Entry { info, start, len, link, links, .. } = *entry;
        let mut flows = [None; LINKS_A_FRAME];
        for (flow, number) in flows.iter_mut().take(links.into()).zip(link..) {
            *flow = Some(self.links[number as usize % self.links.len()].flow);
        }
        let frame = self.bytes.get(start as usize..(start + len) as usize).unwrap_or_default();
        Some(Taken { info, frame, flows, flow })
    }

    /// Drops all frames that are left.
    pub(super) fn clear(&mut self) {
        while self.drop_oldest() {}
    }

    fn link(&mut self, link: Link) {
        let at = self.next_link as usize % self.links.len();
        self.links[at] = link;
        self.next_link += 1;
    }

    /// Makes room for a frame of this length, which then begins at the head.
    fn make_room(&mut self, len: usize) {
        if self.head + len > self.bytes.len() {
            // The frame goes to the beginning. The frames behind the head are the oldest.
            while self.oldest_lies_within(self.head, usize::MAX) && self.drop_oldest() {}
            self.head = 0;
        }
        while self.oldest_lies_within(self.head, self.head + len) && self.drop_oldest() {}
        let is_full = |this: &Self| {
            this.next - this.oldest == this.entries.len() as u64
                || this.next_link - this.oldest_link + LINKS_A_FRAME as u64 > this.links.len() as u64
        };
        while is_full(self) && self.drop_oldest() {}
    }

    /// Returns whether the oldest frame begins within this range. The frames in front of the head are newer.
    fn oldest_lies_within(&self, from: usize, to: usize) -> bool {
        let entry = self.entries[self.oldest as usize % self.entries.len()];
        self.oldest < self.next && (from..to).contains(&(entry.start as usize))
    }

    /// Drops the oldest frame; returns `false` if there is none.
    fn drop_oldest(&mut self) -> bool {
        if self.oldest == self.next {
            return false;
        }
        let entry = self.entries[self.oldest as usize % self.entries.len()];
        self.overwritten += u64::from(!entry.gone);
        self.oldest += 1;
        self.oldest_link = entry.link + LinkNumber::from(entry.links);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use mirror_xdp_common::hash::FlowHash;
    use proptest::prelude::*;

    use super::*;

    fn info(time: u64) -> FrameInfo {
        FrameInfo { time, original_len: 0, flow_hash: FlowHash(0), mirror: None, side: None }
    }

    fn flow(number: usize) -> FlowRef {
        FlowRef {
            interface: 0,
            addresses: [Address::from_v4(number as u32); 2],
            ports: [0; 2],
            protocol: 17,
            kind: 0,
        }
    }

    const FLOWS: usize = 5;

    proptest! {
        /// Compares the ring with plain lists: for each flow it returns the list's frames, in order, except
        /// for the oldest ones that were overwritten.
        #[test]
        fn what_is_still_there_of_a_flow_is_the_latest_of_it_in_order(
            steps in prop::collection::vec((0..FLOWS, 0_usize..60_000, 0..FLOWS, 0_u8..8), 1..300)
        ) {
            let mut ring = Ring::new(1 << 20);
            let mut latest = [0; FLOWS];
            let mut all: [VecDeque<(u64, usize)>; FLOWS] = Default::default();
            let (mut pushed, mut taken) = (0_u64, 0_u64);
            for (time, (one, len, other, action)) in (1..).zip(steps) {
                let frame = vec![time as u8; len];
                let of = if one == other { vec![one] } else { vec![one, other] };
                let flows = of.iter().map(|&number| (number, flow(number)));
                ring.push(&info(time), &frame, None, flows, |at, link| std::mem::replace(&mut latest[at], link));
                pushed += 1;
                for &number in &of {
                    all[number].push_back((time, len));
                }
                if action == 0 {
                    let found = ring.find([std::mem::take(&mut latest[one]), 0]);
                    let mut times = Vec::new();
                    for place in 0..found {
                        let Some(frame) = ring.take(place) else { continue };
                        prop_assert!(frame.frame.iter().all(|&byte| byte == frame.info.time as u8));
                        prop_assert!(frame.flows.contains(&Some(flow(one))));
                        prop_assert_eq!(frame.flow, flow(one));
                        times.push((frame.info.time, frame.frame.len()));
                    }
                    taken += times.len() as u64;
                    prop_assert!(times.iter().any(|&(last, _)| last == time), "the last one is there");
                    prop_assert!(times.is_sorted());
                    let expected: Vec<_> =
                        all[one].iter().copied().filter(|(time, _)| *time >= times[0].0).collect();
                    prop_assert_eq!(&times, &expected);
                    for list in &mut all {
                        list.retain(|frame| !times.contains(frame));
                    }
                    all[one].clear();
                }
            }
            ring.clear();
            prop_assert_eq!(ring.overwritten() + taken, pushed);
        }
    }

    #[test]
    fn small_frames_and_tunnels_run_out_of_places_before_bytes() {
        let mut ring = Ring::new(1 << 20);
        let places = ring.entries.len() as u64;
        let mut latest = [0; LINKS_A_FRAME];
        for time in 0..2 * places {
            let flows = (0..1).map(|number| (number, flow(number)));
            ring.push(&info(time), b"frame", None, flows, |at, link| {
                std::mem::replace(&mut latest[at], link)
            });
        }
        assert_eq!((ring.overwritten(), ring.find([latest[0], 0])), (places, places as usize));
        for time in 0..places {
            let flows = (0..FLOWS_A_FRAME).map(|number| (number, flow(number)));
            let other = Some(flow(77));
            ring.push(&info(time), b"frame", other, flows, |at, link| {
                std::mem::replace(&mut latest[at], link)
            });
        }
        let left = ring.find([latest[3], 0]);
        assert_eq!(left, ring.links.len() / LINKS_A_FRAME);
        assert!(ring.take(0).is_some_and(|frame| frame.flows.iter().all(Option::is_some)));
        ring.clear();
        assert_eq!(ring.overwritten(), 3 * places - 1);
    }

    #[test]
    fn it_takes_the_memory_that_it_is_given() {
        let ring = Ring::new(64 << 20);
        let sum = ring.bytes.len()
            + size_of_val(&ring.entries[..])
            + size_of_val(&ring.links[..])
            + ring.found.capacity() * size_of::<u64>();
        assert!((64 << 20).max(sum) - sum.min(64 << 20) < 4096, "{sum}");
        assert!(ring.bytes.len() > 32 << 20, "most of it is for frames: {}", ring.bytes.len());
    }
}
