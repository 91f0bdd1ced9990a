//! Retention: deletes whole segments, the oldest first, when the store is too large or they are too old.
//! Segments that are held, that have yet to be uploaded, or that the manifest does not list are never
//! deleted.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::hold::Hold;
use super::manifest::Segment;
use super::names::SegmentName;

/// The limits beyond which segments are deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Maximum size of all segments and indexes together, in bytes.
    pub max_size: Option<u64>,
    /// Bytes that stay free on the file system.
    pub min_free: Option<u64>,
    /// Maximum age of the latest packet of a segment.
    pub max_age: Option<Duration>,
    /// Maximum ages of some VNIs. A segment is deleted when the age of each VNI in it has expired.
    pub ages: Vec<(Vec<RangeInclusive<u32>>, Duration)>,
}

/// The segments to delete, and those that stay for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Files of segments to delete, with the reason.
    pub(super) delete: Vec<(SegmentName, String)>,
    /// Segments that would be deleted if they were not held.
    pub(super) held: usize,
    /// Segments that would be deleted if they were uploaded.
    pub(super) waiting: usize,
}

impl Retention {
    fn age(&self, vni: u32) -> Option<Duration> {
        let own = self.ages.iter().find(|(vnis, _)| vnis.iter().any(|range| range.contains(&vni)));
        own.map(|(_, age)| *age).or(self.max_age)
    }

    /// Returns whether the age of all packets in a segment has expired.
    fn is_over(&self, segment: &Segment, now: u64) -> bool {
        let over = |limit: Option<Duration>| {
            limit.is_some_and(|limit| u128::from(now.saturating_sub(segment.last)) > limit.as_nanos())
        };
        if segment.vnis.is_empty() {
            over(self.max_age)
        } else {
            segment.vnis.iter().all(|&vni| over(self.age(vni)))
        }
    }

    /// Plans the deletions at the time `now`, when `free` bytes are free and leftover segments take
    /// `unfinished` bytes. With `uploaded`, only segments in that set are deleted.
    pub(super) fn plan(
        &self,
        segments: &[Segment],
        holds: &[Hold],
        uploaded: Option<&HashSet<SegmentName>>,
        now: u64,
        (unfinished, free): (u64, u64),
    ) -> Plan {
        let mut plan = Plan::default();
        let mut oldest: Vec<&Segment> = segments.iter().collect();
        oldest.sort_by_key(|segment| segment.last);
        // The sizes in a manifest may add up to more than 64 bits.
        let stored = segments.iter().map(|segment| u128::from(segment.stored()));
        let mut total = stored.sum::<u128>() + u128::from(unfinished);
        let mut free = free;
        for segment in oldest {
            let reason = if self.is_over(segment, now) {
                "older than it is to be kept"
            } else if self.max_size.is_some_and(|limit| total > limit.into()) {
                "the store was larger than it is to be"
            } else if self.min_free.is_some_and(|limit| free < limit) {
                "less was free than is to be"
            } else {
                continue;
            };
            if holds.iter().any(|hold| hold.covers(segment)) {
                plan.held += 1;
                continue;
            }
            if uploaded.is_some_and(|uploaded| !uploaded.contains(&segment.file)) {
                plan.waiting += 1;
                continue;
            }
            total -= u128::from(segment.stored());
            free = free.saturating_add(segment.stored());
            plan.delete.push((segment.file.clone(), reason.to_owned()));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000_000_000;

    fn name(day: u64) -> SegmentName {
        SegmentName::new(day, 0, None, ".pcapng").unwrap()
    }

    /// A segment of 100 bytes whose latest packet is of this day.
    fn segment(day: u64, vnis: &[u32]) -> Segment {
        Segment {
            file: name(day),
            size: 90,
            sha256: String::new(),
            index_size: 10,
            index_sha256: String::new(),
            packets: 1,
            bytes: 1,
            first: day * DAY,
            last: day * DAY,
            vnis: vnis.to_vec(),
            flows: 1,
            recovered: false,
        }
    }

    fn deleted(retention: &Retention, segments: &[Segment], holds: &[Hold], free: u64) -> Vec<String> {
        let plan = retention.plan(segments, holds, None, 100 * DAY, (0, free));
        plan.delete.into_iter().map(|(file, _)| file.number().to_string()).collect()
    }

    fn days(days: u64) -> Duration {
        Duration::from_nanos(days * DAY)
    }

    #[test]
    fn the_oldest_go_until_the_rest_is_within_bounds() {
        let segments = [segment(30, &[1]), segment(10, &[1]), segment(20, &[1])];
        let of = |retention: Retention| deleted(&retention, &segments, &[], 1000);
        assert_eq!(of(Retention::default()), [""; 0]);
        assert_eq!(of(Retention { max_size: Some(300), ..Retention::default() }), [""; 0]);
        assert_eq!(of(Retention { max_size: Some(299), ..Retention::default() }), ["10"]);
        assert_eq!(of(Retention { max_size: Some(0), ..Retention::default() }), ["10", "20", "30"]);
        assert_eq!(of(Retention { min_free: Some(1150), ..Retention::default() }), ["10", "20"]);
        assert_eq!(of(Retention { max_age: Some(days(75)), ..Retention::default() }), ["10", "20"]);
    }

    #[test]
    fn a_segment_lives_as_long_as_any_of_its_vnis() {
        let retention = Retention {
            max_age: Some(days(10)),
            ages: vec![(vec![7..=7], days(85))],
            ..Retention::default()
        };
        let segments = [segment(10, &[1, 7]), segment(20, &[1, 7]), segment(21, &[1]), segment(22, &[])];
        assert_eq!(deleted(&retention, &segments, &[], 0), ["10", "21", "22"]);
    }

    #[test]
    fn what_is_held_stays_whatever_the_bounds() {
        let retention = Retention { max_size: Some(0), max_age: Some(days(1)), ..Retention::default() };
        let segments = [segment(10, &[1]), segment(20, &[2]), segment(30, &[3])];
        let hold = |vnis: Option<RangeInclusive<u32>>, from, to| Hold {
            number: 1,
            vnis,
            from,
            to,
            reason: String::new(),
        };
        let of = |hold| deleted(&retention, &segments, &[hold], 0);
        assert_eq!(of(hold(Some(2..=2), 0, u64::MAX)), ["10", "30"]);
        assert_eq!(of(hold(None, 15 * DAY, u64::MAX)), ["10"]);
        assert_eq!(of(hold(Some(1..=3), 15 * DAY, 25 * DAY)), ["10", "30"]);
        assert_eq!(retention.plan(&segments, &[hold(None, 0, u64::MAX)], None, 100 * DAY, (0, 0)).held, 3);
    }
    #[test]
    fn what_is_to_be_uploaded_first_stays_until_it_was() {
        let retention = Retention { max_size: Some(100), ..Retention::default() };
        let segments = [segment(10, &[1]), segment(20, &[1]), segment(30, &[1])];
        let plan = |uploaded: &[u64]| {
            let uploaded = uploaded.iter().map(|&day| name(day)).collect();
            let plan = retention.plan(&segments, &[], Some(&uploaded), 100 * DAY, (0, 0));
            (plan.delete.into_iter().map(|(file, _)| file.number()).collect::<Vec<_>>(), plan.waiting)
        };
        assert_eq!(plan(&[]), (vec![], 3));
        assert_eq!(plan(&[20]), (vec![20], 2));
        assert_eq!(plan(&[10, 20]), (vec![10, 20], 0));
    }

    #[test]
    fn segments_that_are_left_over_count_for_the_size() {
        let retention = Retention { max_size: Some(300), ..Retention::default() };
        let segments = [segment(10, &[1]), segment(20, &[1])];
        let deleted =
            |unfinished| retention.plan(&segments, &[], None, 100 * DAY, (unfinished, 0)).delete.len();
        assert_eq!((deleted(100), deleted(101), deleted(u64::MAX)), (0, 1, 2));
    }
}
