//! Prometheus' promtool, which checks metrics and rules.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `promtool ARGUMENTS` with an input; panics with its output if it finds errors.
///
/// # Panics
///
/// Also if it cannot be started.
#[track_caller]
pub fn accepts(promtool: &Path, arguments: &[&str], input: &str) {
    let mut command = Command::new(promtool);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    if let Some(mut stdin) = child.stdin.take() {
        // If it has ended already, its output contains the reason.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}
