//! Prometheus' own tool, as a judge of metrics and rules.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `promtool ARGUMENTS` on an input; panics, with what it said, where it finds fault.
///
/// # Panics
///
/// Also where it cannot be started.
#[track_caller]
pub fn accepts(promtool: &Path, arguments: &[&str], input: &str) {
    let mut command = Command::new(promtool);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    if let Some(mut stdin) = child.stdin.take() {
        // Where it has ended already, it says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}
