//! The timeline of a store: its periods with packets, the number, VNIs and present location of these packets.
//! It is computed from the manifest alone, so it is as fast for a year as for a day.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hold::Hold;
use super::manifest::{Contents, Event, Segment};

/// The location of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whereabouts {
    /// Only in the directory.
    Here,
    /// In the directory, and uploaded.
    HereAndUploaded,
    /// Uploaded, and since deleted from the directory.
    Uploaded,
    /// Deleted.
    Deleted,
}

/// A period with packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Time of the earliest packet, in nanoseconds since the epoch.
    pub first: u64,
    /// Time of the latest packet.
    pub last: u64,
    /// Location of the packets.
    pub whereabouts: Whereabouts,
    /// Whether a hold keeps retention from deleting the packets.
    pub held: bool,
    /// Segments that contain the packets.
    pub segments: u64,
    /// Bytes of these segments and their indexes.
    pub stored_bytes: u64,
    /// Number of packets.
    pub packets: u64,
    /// Bytes of the packets that are kept.
    pub bytes: u64,
    /// Number of flows; a flow is counted once for each segment with packets of it.
    pub flows: u64,
    /// VNIs, in ascending order.
    pub vnis: Vec<u32>,
}

/// A period without packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Time of the preceding packet.
    pub from: u64,
    /// Time of the following packet.
    pub to: u64,
}

/// A period in which packets were lost: the disk was full, failed, or was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Start of the period, in nanoseconds since the epoch.
    pub from: u64,
    /// End of the period.
    pub to: u64,
    /// Number of lost packets.
    pub packets: u64,
}

/// A VNI with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vni {
    /// The VNI.
    pub vni: u32,
    /// Time of the earliest packet in the segments that contain packets of this VNI.
    pub first: u64,
    /// Time of the latest packet in these segments.
    pub last: u64,
    /// Number of these segments.
    pub segments: u64,
}

/// The timeline of a store, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Periods with packets.
    pub spans: Vec<Span>,
    /// Periods without packets.
    pub gaps: Vec<Gap>,
    /// Periods in which packets were lost.
    pub losses: Vec<Loss>,
    /// VNIs with packets that are not deleted everywhere.
    pub vnis: Vec<Vni>,
    /// Number of invalid lines in the manifest. If it is not 0, the timeline may be incomplete.
    pub wrong_lines: usize,
}

impl Timeline {
    /// Computes the timeline. A period of more than `gap` nanoseconds without packets is a gap. Spans are
    /// also split at multiples of `every` nanoseconds.
    #[must_use]
    pub fn new(contents: &Contents, holds: &[Hold], gap: u64, every: Option<u64>) -> Self {
        let (deleted, uploaded) = (contents.deleted(), contents.uploaded());
        let mut segments: Vec<&Segment> = contents.written().filter(|segment| segment.packets > 0).collect();
        segments.sort_by_key(|segment| (segment.first, segment.last));
        let mut timeline = Self { wrong_lines: contents.faults, ..Self::default() };
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
        for span in &mut timeline.spans {
            span.vnis.sort_unstable();
            span.vnis.dedup();
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
        // The sizes in a manifest from elsewhere may add up to anything.
        self.stored_bytes = self.stored_bytes.saturating_add(segment.stored());
        self.packets = self.packets.saturating_add(segment.packets);
        self.bytes = self.bytes.saturating_add(segment.bytes);
        self.flows = self.flows.saturating_add(segment.flows);
        // These are sorted once the span is complete.
        self.vnis.extend_from_slice(&segment.vnis);
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Line;
    use super::super::names::SegmentName;
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MINUTE: u64 = 60 * SECOND;

    /// Returns the name of the segment that this letter denotes here.
    fn name(letter: &str) -> SegmentName {
        SegmentName::new(letter.as_bytes()[0].into(), 0, None, ".pcapng").unwrap()
    }

    /// Returns a segment of ten packets, with packets of these seconds.
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
            // A segment of another worker, written late.
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
