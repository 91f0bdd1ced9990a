//! The regression gate: instructions a packet of the worker's stages, counted by callgrind, against figures
//! stored in the repository. Time is no gate on a shared machine; instructions are the same everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::worker::{STAGES, Target};
use crate::command::{cargo, cpus, output, side_by_side, step, workspace};

/// The largest share above the stored figure that passes.
const TOLERANCE: f64 = 0.05;

/// The stored figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Baseline {
    /// Instructions a packet, by stage.
    worker_instructions: BTreeMap<String, f64>,
    /// Instructions that the verifier processes for the XDP program.
    #[serde(skip_serializing_if = "Option::is_none")]
    program_verified: Option<f64>,
}

fn file() -> PathBuf {
    workspace().join("tests/benches/baseline.json")
}

/// Measures the figures that the gate compares.
fn measure() -> Result<Baseline> {
    let target = Target::build()?;
    step(&format!("Counting the instructions of the worker's stages {}", STAGES.join(", ")));
    // Instructions are counted, not timed: measurements in parallel do not disturb each other.
    let count = |stage: &&str| Ok(((*stage).to_owned(), target.instructions(stage)?.round()));
    let worker_instructions = side_by_side(&STAGES, cpus(), count).into_iter().collect::<Result<_>>()?;
    let mut baseline = Baseline { worker_instructions, ..Baseline::default() };
    step("Asking the verifier about the XDP program");
    let mut command = cargo();
    // The test profile, which is built anyway: the program is the same.
    command.args([
        "test",
        "--quiet",
        "--package",
        "mirror-xdp-tests",
        "--bench",
        "verifier",
        "--",
        "--bench",
    ]);
    // This needs privileges; without them the gate covers the worker alone.
    baseline.program_verified = output(&mut command).and_then(|text| text.trim().parse().ok());
    Ok(baseline)
}

/// Stores the present figures.
pub(super) fn update() -> Result<ExitCode> {
    let path = file();
    let text = serde_json::to_string_pretty(&measure()?)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    step(&format!("Stored in {}: commit it with the change that causes the difference", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Compares the present figures with the stored ones.
pub(super) fn check() -> Result<ExitCode> {
    let path = file();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let stored: Baseline =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let worse = compare(&stored, &measure()?);
    if worse.is_empty() {
        step("The number of instructions is within the stored figures");
        return Ok(ExitCode::SUCCESS);
    }
    for line in worse {
        eprintln!("    {line}");
    }
    eprintln!(
        "cargo xtask: more instructions than {} allows. If the change is worth them, store the new figures: \
         `cargo xtask bench --update-baseline`",
        path.display()
    );
    Ok(ExitCode::FAILURE)
}

/// Returns a line for each figure that exceeds the tolerance.
fn compare(stored: &Baseline, now: &Baseline) -> Vec<String> {
    let mut worse = Vec::new();
    let mut judge = |name: &str, stored: f64, now: f64| {
        if now > stored * (1.0 + TOLERANCE) {
            let more = (now / stored - 1.0) * 100.0;
            worse.push(format!("{name}: {now:.0} instructions, {more:.1} % more than {stored:.0}"));
        }
    };
    for (stage, &now) in &now.worker_instructions {
        match stored.worker_instructions.get(stage) {
            Some(&stored) => judge(&format!("worker, {stage}"), stored, now),
            None => judge(&format!("worker, {stage} (not stored yet)"), 0.0, now),
        }
    }
    if let (Some(stored), Some(now)) = (stored.program_verified, now.program_verified) {
        judge("XDP program, verifier", stored, now);
    }
    worse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(mixed: f64, program: Option<f64>) -> Baseline {
        Baseline {
            worker_instructions: BTreeMap::from([("mixed".to_owned(), mixed)]),
            program_verified: program,
        }
    }

    #[test]
    fn five_percent_more_instructions_pass_and_six_do_not() {
        let stored = baseline(1000.0, Some(10_000.0));
        assert!(compare(&stored, &baseline(1050.0, Some(10_500.0))).is_empty());
        assert!(compare(&stored, &baseline(500.0, None)).is_empty());
        let worse = compare(&stored, &baseline(1060.0, Some(10_600.0)));
        assert_eq!(worse.len(), 2, "{worse:?}");
        assert!(worse[0].contains("6.0 % more than 1000"), "{worse:?}");
    }

    #[test]
    fn a_stage_without_a_stored_figure_does_not_pass() {
        assert_eq!(compare(&Baseline::default(), &baseline(1.0, None)).len(), 1);
    }
}
