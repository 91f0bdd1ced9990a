//! The rate of sending: as the user writes it, and the times at which frames are due.

use std::str::FromStr;

use mirror_xdp_common::pktgen::FRACTION_BITS;

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;

/// The rate of sending.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as possible.
    Max,
    /// Frames per second.
    Frames(f64),
    /// Bits per second, of the frames as they are handed to the interface.
    Bits(f64),
    /// The intervals between the frames of the capture, divided by this factor.
    Capture(f64),
}

/// Makes a rate of a number in this unit.
type Unit = fn(f64) -> Rate;

impl Rate {
    /// Splits off the unit at the end of a text in lower case.
    fn unit(text: &str) -> Option<(&str, Unit)> {
        let number = |unit: &str| text.strip_suffix(unit).map(str::trim_end);
        let frames = number("pps").map(|number| (number, Self::Frames as Unit));
        let bits = || number("bps").or_else(|| number("bit/s")).map(|number| (number, Self::Bits as _));
        let capture = || number("x").map(|number| (number, Self::Capture as _));
        frames.or_else(bits).or_else(capture)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a rate: give 1000pps, 1.5Mpps, 10Gbps, 2x (twice as fast as captured) or max"
            )
        };
        let lower = text.trim().to_ascii_lowercase();
        if lower == "max" {
            return Ok(Self::Max);
        }
        let (number, rate) = Self::unit(&lower).ok_or_else(wrong)?;
        let (number, factor) = match number.as_bytes().last() {
            Some(b'k') => (&number[..number.len() - 1], 1e3),
            Some(b'm') => (&number[..number.len() - 1], 1e6),
            Some(b'g') => (&number[..number.len() - 1], 1e9),
            _ => (number, 1.0),
        };
        let value = number.trim_end().parse::<f64>().map_err(|_| wrong())? * factor;
        if value.is_finite() && value > 0.0 { Ok(rate(value)) } else { Err(wrong()) }
    }
}

/// Returns the intervals from each frame of a sequence to the next, in the units of [`FRACTION_BITS`]; the
/// last one leads to the first frame of the next round. `times` are the times of capture in nanoseconds since
/// the first frame; `period` is the time from the start of a round to that of the next.
pub(super) fn gaps(rate: Rate, lengths: impl Iterator<Item = u32>, times: &[u64], period: u64) -> Vec<u64> {
    let units = |nanoseconds: f64| (nanoseconds * f64::from(1 << FRACTION_BITS)).round() as u64;
    match rate {
        Rate::Max => lengths.map(|_| 0).collect(),
        Rate::Frames(rate) => lengths.map(|_| units(SECOND / rate)).collect(),
        Rate::Bits(rate) => lengths.map(|length| units(f64::from(length) * 8.0 * SECOND / rate)).collect(),
        Rate::Capture(factor) => {
            let mut latest = 0;
            let next = times.iter().skip(1).copied().chain([period]);
            // Capture files are not always in chronological order.
            let gaps = next.map(|time| {
                let gap = time.saturating_sub(latest);
                latest = time.max(latest);
                units(gap as f64 / factor)
            });
            gaps.collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use mirror_xdp_common::pktgen::{CATCH_UP, State};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let good = [
            ("1000pps", Rate::Frames(1000.0)),
            ("1.5Mpps", Rate::Frames(1.5e6)),
            ("2 kpps", Rate::Frames(2000.0)),
            ("10Gbps", Rate::Bits(1e10)),
            ("10 Gbit/s", Rate::Bits(1e10)),
            ("0.5x", Rate::Capture(0.5)),
            ("max", Rate::Max),
        ];
        for (text, rate) in good {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
        for wrong in
            ["", "fast", "1000", "0pps", "-1pps", "infpps", "nanpps", "Mpps", "1Tpps", "1e400pps", "x"]
        {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    /// Returns the times at which the frames of some rounds are due, after the first.
    fn due(gaps: &[u64], rounds: usize) -> Vec<u64> {
        let mut state = State::default();
        let mut due = Vec::new();
        for gap in gaps.iter().cycle().take(gaps.len() * rounds) {
            due.push(state.due);
            state.advance(gaps.len() as u32, *gap);
        }
        due.push(state.due);
        due
    }

    proptest! {
        #[test]
        fn frames_are_due_at_the_rate(rate in 1.0..2e7_f64) {
            let due = due(&gaps(Rate::Frames(rate), [60; 7].into_iter(), &[0; 7], 0), 100);
            for (index, due) in due.iter().enumerate() {
                let exact = index as f64 * 1e9 / rate;
                prop_assert!((*due as f64 - exact).abs() <= 1.0 + index as f64 / 65536.0, "{index}: {due}, {exact}");
            }
        }

        #[test]
        fn bits_are_due_at_the_rate(rate in 1e3..1e11_f64, lengths in proptest::collection::vec(14_u32..9000, 1..20)) {
            let due = due(&gaps(Rate::Bits(rate), lengths.iter().copied(), &[], 0), 10);
            let mut bits = 0;
            for (index, due) in due.iter().enumerate() {
                let exact = f64::from(bits) * 1e9 / rate;
                prop_assert!((*due as f64 - exact).abs() <= 1.0 + index as f64 / 65536.0, "{index}: {due}, {exact}");
                bits += lengths[index % lengths.len()] * 8;
            }
        }

        /// However the times of a capture jump, no frame is due before its predecessor, or before its own
        /// time.
        #[test]
        fn a_captures_times_are_kept(mut times in proptest::collection::vec(0_u64..1_000_000_000, 1..20), factor in 0.1..10.0_f64) {
            times[0] = 0;
            let period = 2_000_000_000;
            let lengths = times.iter().map(|_| 60);
            let due = due(&gaps(Rate::Capture(factor), lengths, &times, period), 3);
            let mut latest = 0.0_f64;
            for (index, due) in due.iter().enumerate() {
                let round = (index / times.len()) as u64 * period;
                latest = latest.max((round + times[index % times.len()]) as f64 / factor);
                prop_assert!((*due as f64 - latest).abs() <= 2.0 + index as f64, "{index}: {due}, {latest}");
            }
        }
    }

    #[test]
    fn a_generator_that_is_far_behind_gives_up_what_it_cannot_catch_up_with() {
        let mut state = State { due: 1_000_000_000, ..State::default() };
        assert!(!state.is_due(999_999_999));
        assert!(state.is_due(1_000_000_000) && state.due == 1_000_000_000);
        assert!(state.is_due(1_000_500_000) && state.due == 1_000_000_000);
        assert!(state.is_due(2_000_000_000) && state.due == 2_000_000_000 - CATCH_UP);
    }
}
