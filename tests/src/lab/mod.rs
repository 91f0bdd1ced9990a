//! The lab: shows the product at work on one machine, with network namespaces only.
//!
//! Real programs communicate over the kernel's TCP/IP in a small VPC (`vpc`). `mirror-xdp source` mirrors the
//! server's interface to an appliance as AWS does; `mirror-xdp run` captures there. The display (`screen`)
//! and the final checks (`checks`) use only the appliance's records (`seen`) and the counters of both
//! programs. A browser can open the appliance's page meanwhile (`window`).

mod checks;
mod screen;
mod seen;
mod vpc;
mod window;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use self::screen::Screen;
use self::seen::Seen;
use self::vpc::Vpc;
use self::window::Window;
use crate::process::Process;

/// The time for which the programs communicate.
const DURATION: Duration = Duration::from_secs(18);
/// The interval between updates of the display.
const TICK: Duration = Duration::from_millis(250);
/// The time limit for a program to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// VXLAN network identifier of the lab's mirror session.
const VNI: u32 = 7;

/// The outcome of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All checks passed, and every frame is accounted for.
    Passed,
    /// A check failed; the summary on the screen lists it.
    Failed,
    /// A signal stopped it.
    Interrupted,
}

/// A function that uses the appliance's API, at this address, while the lab runs.
pub type Visitor<'a> = &'a (dyn Fn(SocketAddr) + Sync);

/// Runs the lab with this `mirror-xdp` and shows it on standard output. Needs root. Leaves nothing behind,
/// however it ends.
pub fn run(binary: &Path) -> io::Result<Outcome> {
    run_visited(binary, &|_| {})
}

/// Runs the lab, at least until `visitor` returns.
pub fn run_visited(binary: &Path, visitor: Visitor<'_>) -> io::Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let signals = [SIGINT, SIGTERM, SIGHUP].map(|signal| flag::register(signal, Arc::clone(&stop)));
    let result = show(binary, &stop, visitor);
    for signal in signals {
        low_level::unregister(signal?);
    }
    result
}

fn show(binary: &Path, stop: &AtomicBool, visitor: Visitor<'_>) -> io::Result<Outcome> {
    let mut screen = Screen::new();
    screen.title("a small VPC of network namespaces; no packet leaves this machine");
    let logs = tempfile::tempdir()?;
    let vpc = Vpc::new()?;
    // The appliance starts before the source, or the first frames would be lost.
    let mut appliance = start_appliance(&vpc, binary, logs.path())?;
    Screen::line(&appliance.wait_for_line("capturing on", PATIENCE)?);
    let mut source = start_source(&vpc, binary)?;
    Screen::line(&source.wait_for_line("mirroring", PATIENCE)?);
    let mut programs = vpc.start_programs()?;
    Screen::line("real programs talk: curl, dnsmasq, busybox httpd, openssl s_server");
    let window = Window::open(&vpc.appliance)?;
    Screen::line(&format!("while they do, the appliance's page is at http://{}/\n", window.address));

    let start = Instant::now();
    let mut seen = Seen::new(logs.path().join("eve.json"));
    let interrupted = thread::scope(|scope| {
        let visit = scope.spawn(|| visitor(window.address));
        while start.elapsed() < DURATION || !visit.is_finished() {
            thread::sleep(TICK);
            if stop.load(Ordering::Relaxed) {
                Screen::line("stopped");
                return Ok(true);
            }
            if !appliance.is_running() || !source.is_running() {
                break;
            }
            if let Some(ended) = programs.iter_mut().position(|program| !program.is_running()) {
                let output = programs.swap_remove(ended).wait(PATIENCE)?;
                let said = output.stderr.join("; ");
                let what = format!("one of the programs that talk ended, {}: {said}", output.status);
                return Err(io::Error::other(what));
            }
            seen.read()?;
            screen.show(&seen, DURATION.saturating_sub(start.elapsed()));
        }
        Ok(false)
    })?;
    if interrupted {
        return Ok(Outcome::Interrupted);
    }
    drop(programs);
    // The source stops before the appliance: every mirrored frame has arrived before the appliance's account
    // is made.
    let mirrored = account(source)?;
    vpc.drain_cable()?;
    let captured = account(appliance)?;
    seen.read()?;
    seen.average();
    screen.finish(&seen);
    let passed = screen.summary(&seen, &checks::checks(&seen, &mirrored, vpc.cable_drops()?, &captured));
    Ok(if passed { Outcome::Passed } else { Outcome::Failed })
}

fn start_appliance(vpc: &Vpc, binary: &Path, logs: &Path) -> io::Result<Process> {
    let mut command = vpc.appliance.command(&binary.to_string_lossy());
    command.args(["run", "--json", "--interface", vpc::CAPTURE, "--stats-interval", "500ms", "--log-dir"]);
    Process::spawn(command.arg(logs))
}

fn start_source(vpc: &Vpc, binary: &Path) -> io::Result<Process> {
    let mut command = vpc.server.command(&binary.to_string_lossy());
    let target = vpc::APPLIANCE.to_string();
    command.args(["source", "--json", "--interface", vpc::SERVER_INTERFACE, "--to", &target]);
    Process::spawn(command.args(["--vni", &VNI.to_string()]))
}

/// Stops a `mirror-xdp … --json` and returns its counters.
fn account(process: Process) -> io::Result<Value> {
    let output = process.interrupt(PATIENCE)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("mirror-xdp {}: {}", output.status, output.stderr.join("\n"))));
    }
    Ok(serde_json::from_str(&output.stdout)?)
}
