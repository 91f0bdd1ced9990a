//! The level `read`: how long it takes to read the mixed capture with one worker and with several, with all records and
//! with none of them written.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use mirror_xdp_tests::bench::traffic::{each_microsecond, mixed_anew, write_timed};
use mirror_xdp_tests::frames::mirrored;

use super::report::Reading;
use super::worker::cpu_time;
use super::{median, step};

/// Frames of the capture.
const FRAMES: usize = 4_000_000;
const FRAMES_QUICK: usize = 500_000;

/// Reads a capture, from memory where the page cache holds it, with each number of workers in turn.
pub(super) fn measure(binary: &Path, quick: bool) -> Result<Vec<Reading>> {
    let (frames, rounds) = if quick { (FRAMES_QUICK, 3) } else { (FRAMES, 5) };
    let directory = tempfile::tempdir_in(super::workspace().join("target"))?;
    let capture = directory.path().join("mixed.pcap");
    let session = mirrored(1);
    step(&format!("read: writing a capture of {frames} frames"));
    write_timed(&capture, each_microsecond(mixed_anew().take(frames).map(|inner| session.carrying(&inner))))?;
    let cases: Vec<_> =
        [true, false].into_iter().flat_map(|all| [1_u64, 2, 4].map(|workers| (all, workers))).collect();
    let mut times = vec![(Vec::new(), Vec::new()); cases.len()];
    for _ in 0..rounds {
        for (&(all, workers), (walls, users)) in cases.iter().zip(&mut times) {
            let logs = tempfile::tempdir_in(directory.path())?;
            let mut command = Command::new(binary);
            command.args(["read", "--json", "--workers", &workers.to_string()]).arg(&capture);
            command.arg("--log-dir").arg(logs.path());
            if !all {
                command.args(["--eve-types", "stats"]);
            }
            let start = Instant::now();
            users.push(cpu_time(&mut command)?.as_secs_f64());
            walls.push(start.elapsed().as_secs_f64());
        }
    }
    let reading = |((records, workers), (walls, users)): ((bool, u64), (Vec<f64>, Vec<f64>))| Reading {
        workers,
        records,
        frames: frames as u64,
        seconds: median(walls).unwrap_or_default(),
        user_seconds: median(users).unwrap_or_default(),
    };
    Ok(cases.into_iter().zip(times).map(reading).collect())
}
