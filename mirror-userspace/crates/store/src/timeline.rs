//! The overall timeline of a store: which times have packets, how many, of which VNIs, and where they are
//! now. It is made of the manifest alone, so it is as quick for a year as for a day.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hold::Hold;
use super::manifest::{Contents, Event, Segment};

/// Where packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whereabouts {
    /// In the directory, and nowhere else.
    Here,
    /// In the directory, and uploaded.
    HereAndUploaded,
    /// Uploaded, and deleted from the directory since.
    Uploaded,
    /// Deleted.
    Deleted,
}

/// A time with packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Time of the earliest packet, in nanoseconds since the epoch.
    pub first: u64,
    /// Time of the latest.
    pub last: u64,
    /// Where they are.
    pub whereabouts: Whereabouts,
    /// Retention must not delete them.
    pub held: bool,
    /// Segments that they are in.
    pub segments: u64,
    /// Bytes of these and their indexes.
    pub stored_bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes of them that are kept.
    pub bytes: u64,
    /// Flows, counted anew in each segment that they have packets in.
    pub flows: u64,
    /// VNIs, in ascending order.
    pub vnis: Vec<u32>,
}

/// A time without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Time of the packet before.
    pub from: u64,
    /// Time of the packet after.
    pub to: u64,
}

/// A time in which packets were lost: the disk was full or failed, or was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// From this time on.
    pub from: u64,
    /// Until this time.
    pub to: u64,
    /// How many packets.
    pub packets: u64,
}

/// A VNI with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vni {
    /// The VNI.
    pub vni: u32,
    /// Time of the earliest packet of the segments that it has packets in.
    pub first: u64,
    /// Time of the latest.
    pub last: u64,
    /// How many segments these are.
    pub segments: u64,
}

/// What there is, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Times with packets.
    pub spans: Vec<Span>,
    /// Times without.
    pub gaps: Vec<Gap>,
    /// Times in which packets were lost.
    pub losses: Vec<Loss>,
    /// VNIs with packets that are not deleted everywhere.
    pub vnis: Vec<Vni>,
    /// Lines of the manifest that are not as they were written: there may be more than is told.
    pub wrong_lines: usize,
}

impl Timeline {
    /// Makes the timeline. Where for `gap` nanoseconds there are no packets, nothing was kept; times are also
    /// parted at multiples of `every` nanoseconds.
    #[must_use]
    pub fn new(contents: &Contents, holds: &[Hold], gap: u64, every: Option<u64>) -> Self {
        let (deleted, uploaded) = (contents.deleted(), contents.uploaded());
        let mut segments: Vec<&Segment> = contents.written().filter(|segment| segment.packets > 0).collect();
        segments.sort_by_key(|segment| (segment.first, segment.last));
        let mut timeline = Self { wrong_lines: contents.wrong.len(), ..Self::default() };
        let mut vnis: BTreeMap<u32, Vni> = BTreeMap::new();
        let mut until = segments.first().map_or(0, |segment| segment.first);
        let mut part = None;
        for segment in segments {
            let file = segment.file.as_str();
            let whereabouts = match (deleted.contains_key(file), uploaded.contains_key(file)) {
                (false, false) => Whereabouts::Here,
                (false, true) => Whereabouts::HereAndUploaded,
                (true, true) => Whereabouts::Uploaded,
                (true, false) => Whereabouts::Deleted,
            };
            let here = matches!(whereabouts, Whereabouts::Here | Whereabouts::HereAndUploaded);
            let held = here && holds.iter().any(|hold| hold.covers(segment));
            let is_gap = segment.first > until.saturating_add(gap);
            if is_gap {
                timeline.gaps.push(Gap { from: until, to: segment.first });
            }
            until = until.max(segment.last);
            let this = (whereabouts, held, every.map(|every| segment.first / every.max(1)));
            if part.replace(this) != Some(this) || is_gap {
                timeline.spans.push(Span::new(segment.first, whereabouts, held));
            }
            if let Some(span) = timeline.spans.last_mut() {
                span.add(segment);
            }
            if whereabouts != Whereabouts::Deleted {
                for &vni in &segment.vnis {
                    let none = Vni { vni, first: segment.first, last: segment.last, segments: 0 };
                    let entry = vnis.entry(vni).or_insert(none);
                    entry.last = entry.last.max(segment.last);
                    entry.segments += 1;
                }
            }
        }
        timeline.vnis = vnis.into_values().collect();
        let losses = contents.lines.iter().filter_map(|line| match line.event {
            Event::Lost { from, to, packets } => Some(Loss { from, to, packets }),
            _ => None,
        });
        timeline.losses = losses.collect();
        timeline
    }
}

impl Span {
    const fn new(first: u64, whereabouts: Whereabouts, held: bool) -> Self {
        Self {
            first,
            last: first,
            whereabouts,
            held,
            segments: 0,
            stored_bytes: 0,
            packets: 0,
            bytes: 0,
            flows: 0,
            vnis: Vec::new(),
        }
    }

    fn add(&mut self, segment: &Segment) {
        self.last = self.last.max(segment.last);
        self.segments += 1;
        // What a manifest from elsewhere says may add up to anything.
        self.stored_bytes = self.stored_bytes.saturating_add(segment.stored());
        self.packets = self.packets.saturating_add(segment.packets);
        self.bytes = self.bytes.saturating_add(segment.bytes);
        self.flows = self.flows.saturating_add(segment.flows);
        for vni in &segment.vnis {
            if let Err(place) = self.vnis.binary_search(vni) {
                self.vnis.insert(place, *vni);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Line;
    use super::super::names::SegmentName;
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MINUTE: u64 = 60 * SECOND;

    /// The name of the segment that is called by this letter here.
    fn name(letter: &str) -> SegmentName {
        SegmentName::new(letter.as_bytes()[0].into(), 0, None, ".pcapng").unwrap()
    }

    /// A segment of ten packets, with packets of these seconds.
    fn segment(file: &str, seconds: std::ops::RangeInclusive<u64>, vnis: &[u32]) -> Event {
        Event::Segment(Segment {
            file: name(file),
            size: 90,
            sha256: String::new(),
            index_size: 10,
            index_sha256: String::new(),
            packets: 10,
            bytes: 80,
            first: seconds.start() * SECOND,
            last: seconds.end() * SECOND,
            vnis: vnis.to_vec(),
            flows: 2,
            recovered: false,
        })
    }

    fn deleted(file: &str) -> Event {
        Event::Deleted { file: name(file), reason: String::new() }
    }

    fn uploaded(file: &str) -> Event {
        Event::Uploaded { file: name(file), to: "file:///copy".to_owned() }
    }

    fn contents(events: impl IntoIterator<Item = Event>) -> Contents {
        let line = |event| Line { number: 0, time: 0, previous: String::new(), event, digest: String::new() };
        let mut contents = Contents::default();
        contents.lines = events.into_iter().map(line).collect();
        contents
    }

    #[test]
    fn times_are_joined_where_nothing_parts_them() {
        let contents = contents([
            segment("a", 0..=100, &[7]),
            segment("b", 100..=200, &[8, 7]),
            // Of another worker, written late.
            segment("c", 50..=150, &[9]),
            segment("d", 210..=300, &[7]),
            segment("e", 400..=500, &[7]),
        ]);
        let timeline = Timeline::new(&contents, &[], MINUTE, None);
        let [first, second] = &timeline.spans[..] else { panic!("{timeline:?}") };
        assert_eq!((first.first, first.last), (0, 300 * SECOND));
        assert_eq!((first.segments, first.packets, first.bytes, first.flows), (4, 40, 320, 8));
        assert_eq!((first.stored_bytes, &first.vnis[..]), (400, &[7, 8, 9][..]));
        assert_eq!((second.first, second.segments), (400 * SECOND, 1));
        assert_eq!(timeline.gaps, [Gap { from: 300 * SECOND, to: 400 * SECOND }]);
        let vnis: Vec<_> = timeline.vnis.iter().map(|vni| (vni.vni, vni.segments)).collect();
        assert_eq!(vnis, [(7, 4), (8, 1), (9, 1)]);
        assert_eq!(Timeline::new(&contents, &[], 200 * SECOND, None).gaps, []);
        let parts = Timeline::new(&contents, &[], 200 * SECOND, Some(100 * SECOND)).spans;
        assert_eq!(parts.iter().map(|span| span.segments).collect::<Vec<_>>(), [2, 1, 1, 1]);
    }

    #[test]
    fn where_packets_are_and_what_holds_them_parts_times() {
        let contents = contents([
            segment("a", 0..=10, &[7]),
            segment("b", 10..=20, &[7]),
            segment("c", 20..=30, &[7]),
            segment("d", 30..=40, &[8]),
            segment("e", 40..=50, &[8]),
            uploaded("b"),
            uploaded("c"),
            deleted("a"),
            deleted("b"),
        ]);
        let hold = Hold { number: 1, vnis: None, from: 45 * SECOND, to: u64::MAX, reason: String::new() };
        let timeline = Timeline::new(&contents, &[hold], MINUTE, None);
        let spans: Vec<_> = timeline.spans.iter().map(|span| (span.whereabouts, span.held)).collect();
        assert_eq!(
            spans,
            [
                (Whereabouts::Deleted, false),
                (Whereabouts::Uploaded, false),
                (Whereabouts::HereAndUploaded, false),
                (Whereabouts::Here, false),
                (Whereabouts::Here, true),
            ]
        );
        assert_eq!((timeline.vnis[0].first, timeline.vnis[0].segments), (10 * SECOND, 2));
    }
}
