//! The abilities of each version of the ENA driver. The driver has two sources: the kernel tree, where it has
//! the version of the kernel, and <https://github.com/amzn/amzn-drivers>, which has its own version numbers.

use super::State;

/// The meaning of a version of the ENA driver for a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ena {
    /// The verdict on it.
    pub(super) state: State,
    /// XDP programs receive frames of more than one buffer.
    pub(super) multi_buffer: bool,
    /// XDP runs on all channels, and not just on half of them.
    pub(super) all_channels: bool,
    /// The consequences, in words.
    pub(super) meaning: &'static str,
}

/// The largest MTU with which ENA accepts XDP programs that need each frame in one buffer.
pub(super) const MAX_MTU: u32 = 3498;

/// Returns the abilities of the driver of this version, on a kernel of version `release`.
pub(super) fn of(version: &str, release: &str) -> Ena {
    let ena = |state, multi_buffer, all_channels, meaning| Ena { state, multi_buffer, all_channels, meaning };
    let Some(version) = parse(version).filter(|_| version != release) else {
        return ena(
            State::Warning,
            false,
            false,
            "the kernel's own driver: no zero-copy, half of the channels, MTU up to 3498; amzn-drivers 2.17 or \
             newer has all three",
        );
    };
    match version {
        (0..=1, ..) | (2, 0..=2, _) => ena(
            State::Warning,
            false,
            false,
            "before 2.3.0: no XDP in the driver, only the slow generic mode; install 2.17 or newer",
        ),
        (2, 3..=6, _) => ena(
            State::Warning,
            false,
            false,
            "before 2.7.0: no zero-copy, half of the channels; install 2.17 or newer",
        ),
        (2, 7, 0..=2) => ena(
            State::Warning,
            false,
            false,
            "2.7.0 to 2.7.2: the first zero-copy, withdrawn in 2.7.3; install 2.17 or newer",
        ),
        (2, 7..=12, _) => ena(
            State::Warning,
            false,
            false,
            "2.7.3 to 2.12: zero-copy is switched off; install 2.17 or newer",
        ),
        (2, 13, 0..=1) => ena(
            State::Warning,
            false,
            false,
            "2.13.0 and 2.13.1: zero-copy with defects that 2.13.2 fixes; install 2.17 or newer",
        ),
        (2, 13, _) => ena(
            State::Fine,
            false,
            false,
            "2.13.2 to 2.13: zero-copy; half of the channels, no frames of several buffers",
        ),
        (2, 14..=16, _) => ena(
            State::Fine,
            true,
            false,
            "2.14 to 2.16: zero-copy, frames of several buffers; half of the channels",
        ),
        _ => {
            ena(State::Fine, true, true, "2.17 or newer: zero-copy, frames of several buffers, all channels")
        }
    }
}

/// Parses a version such as `2.13.2g`.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = version.trim_end_matches('g').split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_says_what_it_means() {
        let release = "6.1.119-129.201.amzn2023.x86_64";
        let cases = [
            (release, State::Warning, false, false, "kernel's own"),
            ("2.2.11g", State::Warning, false, false, "generic"),
            ("2.6.1g", State::Warning, false, false, "no zero-copy"),
            ("2.7.0g", State::Warning, false, false, "withdrawn"),
            ("2.7.3g", State::Warning, false, false, "switched off"),
            ("2.12.3g", State::Warning, false, false, "switched off"),
            ("2.13.0g", State::Warning, false, false, "2.13.2 fixes"),
            ("2.13.2g", State::Fine, false, false, "zero-copy"),
            ("2.14.0g", State::Fine, true, false, "several buffers"),
            ("2.16.1g", State::Fine, true, false, "several buffers"),
            ("2.17.0g", State::Fine, true, true, "all channels"),
            ("3.0.0g", State::Fine, true, true, "all channels"),
        ];
        for (version, state, multi_buffer, all_channels, meaning) in cases {
            let ena = of(version, release);
            assert_eq!(
                (ena.state, ena.multi_buffer, ena.all_channels),
                (state, multi_buffer, all_channels),
                "{version}"
            );
            assert!(ena.meaning.contains(meaning), "{version}: {}", ena.meaning);
        }
    }
}
