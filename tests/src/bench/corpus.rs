//! Merges the real captures of the corpus into one, in which all run at the same time, in several rounds.
//! Each capture has a VLAN of its own, because many captures use the same addresses. A round begins when the
//! round before is over.

use std::path::Path;
use std::{fs, io};

use super::traffic::Timed;

/// Nanoseconds from the first frame of a capture to that of the next capture.
const STEP: u64 = 10_000_000;
/// The longest gap, in nanoseconds, between two frames of a capture, and the gap between rounds: some frames
/// are years apart.
const MAX_GAP: u64 = 60_000_000_000;
/// The number of VLAN identifiers, after which they repeat.
const VLANS: usize = 4094;

/// Captures with attacks on Suricata 7.0.10 itself: it crashes on them, so there would be no comparison.
const LEFT_OUT: &str = "suricata-verify/tests/security-8510/";

/// Returns the frames of all captures listed by `MANIFEST.tsv` in `corpus`, ordered by time. Only pcap files
/// with the link type of Ethernet or of IP without a link layer are used.
pub fn merged(corpus: &Path) -> io::Result<Vec<Timed>> {
    let manifest = fs::read_to_string(corpus.join("MANIFEST.tsv"))?;
    let mut frames = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let name = line.split('\t').next().unwrap_or_default();
        if name.starts_with(LEFT_OUT) {
            continue;
        }
        let bytes = fs::read(corpus.join(name))?;
        let Some(capture) = Capture::new(&bytes) else { continue };
        let tag = [0x81, 0, ((1 + index % VLANS) >> 8) as u8, (1 + index % VLANS) as u8];
        let mut time = index as u64 * STEP;
        let mut before = None;
        for (captured, frame) in capture {
            time += captured.saturating_sub(before.unwrap_or(captured)).min(MAX_GAP);
            before = Some(captured);
            frames.push(Timed { time, frame: [&frame[..12], &tag, &frame[12..]].concat() });
        }
    }
    frames.sort_by_key(|frame| frame.time);
    Ok(frames)
}

/// Repeats the frames in `rounds` rounds.
pub fn rounds(frames: &[Timed], rounds: u64) -> impl Iterator<Item = Timed> {
    let round = frames.last().map_or(0, |last| last.time) + MAX_GAP;
    (0..rounds).flat_map(move |number| {
        frames
            .iter()
            .map(move |Timed { time, frame }| Timed { time: time + number * round, frame: frame.clone() })
    })
}

/// A pcap file up to its first unreadable record: an iterator over the time of each frame in nanoseconds, and
/// the frame.
struct Capture<'a> {
    rest: &'a [u8],
    number: fn([u8; 4]) -> u32,
    unit: u64,
    /// Bytes of link-layer header in front of the IP header.
    skipped: usize,
    /// True if frames begin with an IP header after those bytes.
    bare: bool,
}

impl<'a> Capture<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (number, unit): (fn([u8; 4]) -> u32, u64) = match u32::from_le_bytes(*magic) {
            0xa1b2_c3d4 => (u32::from_le_bytes, 1000),
            0xa1b2_3c4d => (u32::from_le_bytes, 1),
            0xd4c3_b2a1 => (u32::from_be_bytes, 1000),
            0x4d3c_b2a1 => (u32::from_be_bytes, 1),
            _ => return None,
        };
        let (link, rest) = rest.get(16..)?.split_first_chunk()?;
        let (skipped, bare) = match number(*link) & 0xffff {
            1 => (0, false),
            // BSD loopback (`DLT_NULL`): the address family.
            0 => (4, true),
            101 | 228 | 229 => (0, true),
            _ => return None,
        };
        Some(Self { rest, number, unit, skipped, bare })
    }
}

impl Iterator for Capture<'_> {
    type Item = (u64, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.rest.split_first_chunk::<16>()?;
        let [seconds, fraction, captured, _] = [0, 4, 8, 12]
            .map(|at| (self.number)([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let (frame, rest) = rest.split_at_checked(captured as usize)?;
        self.rest = rest;
        let frame = frame.get(self.skipped..).unwrap_or_default();
        let mut ethernet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.bare {
            let ipv6 = frame.first().is_some_and(|first| first >> 4 == 6);
            ethernet.extend(if ipv6 { [0x86, 0xdd] } else { [8, 0] });
        } else {
            ethernet.clear();
        }
        ethernet.extend_from_slice(frame);
        ethernet.resize(ethernet.len().max(14), 0);
        Some((u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit, ethernet))
    }
}
