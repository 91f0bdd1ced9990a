//! Boots a guest, and derives the outcome of each case from its output on the serial line.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::directory;
use super::image::Image;
use super::packages::Kernel;
use super::scenarios::{Case, Expect, Guest};

/// Time limit for a guest; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(400);

/// The outcome of a case.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) kernel: String,
    pub(super) device: &'static str,
    pub(super) case: &'static str,
    pub(super) asked: &'static str,
    pub(super) got: String,
    pub(super) frames: u64,
    /// The difference from the expected result, if there is one.
    pub(super) failure: Option<String>,
}

/// The output of a guest for one case.
#[derive(Debug, Default)]
struct Said {
    /// Lines of standard error.
    lines: Vec<String>,
    exit: Option<i32>,
    account: Option<Value>,
}

/// Boots a guest, waits for its end and returns the outcomes of its cases.
pub(super) fn run(guest: &Guest, qemu: &Path, kernel: &Kernel, image: &Image) -> Result<Vec<Outcome>> {
    let log = directory().join(format!("{}.log", guest.name));
    let _ = fs::remove_file(&log);
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-smp", "2", "-m", "1024"])
        .args(["-display", "none", "-nodefaults", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&image.path)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0"]);
    for (number, nic) in guest.nics.iter().enumerate() {
        // Each NIC has a root port of its own: on one bus they would collide.
        command.arg("-device").arg(format!("pcie-root-port,id=port{number},chassis={}", number + 1));
        command.arg("-netdev").arg(format!("hubport,id=hub{number},hubid=0"));
        command.arg("-device").arg(format!(
            "{nic},netdev=hub{number},romfile=,bus=port{number},mac=52:54:00:00:00:{:02x}",
            number + 1
        ));
    }
    // QEMU warns that the hub is connected to no network, which is intended.
    let mut child =
        command.stderr(Stdio::null()).spawn().with_context(|| format!("cannot start {}", qemu.display()))?;
    let deadline = Instant::now() + PATIENCE;
    let mut hangs = false;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            hangs = true;
            break;
        }
        sleep(Duration::from_millis(100));
    }
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    Ok(outcomes(guest, kernel, &text, hangs, &log))
}

fn outcomes(guest: &Guest, kernel: &Kernel, text: &str, hangs: bool, log: &Path) -> Vec<Outcome> {
    let mut said: Vec<(&str, Said)> = Vec::new();
    let mut complaints = Vec::new();
    let mut ended = false;
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        let Some((key, value)) =
            line.strip_prefix("::").map(|line| line.split_once(' ').unwrap_or((line, "")))
        else {
            continue;
        };
        if key == "case" {
            said.push((value, Said::default()));
        }
        let current = said.last_mut().map(|(_, said)| said);
        match (key, current) {
            ("kernel", _) => complaints.push(format!("the guest's kernel complains: {value}")),
            ("unprepared", _) => complaints.push(format!("`{value}` failed in the guest")),
            ("end", _) => ended = true,
            ("said", Some(said)) => said.lines.push(value.to_owned()),
            ("exit", Some(said)) => said.exit = value.parse().ok(),
            ("account", Some(said)) => said.account = serde_json::from_str(value).ok(),
            _ => {}
        }
    }
    let mut outcomes: Vec<_> = guest
        .cases
        .iter()
        .map(|case| {
            let said = said.iter().find(|(name, _)| *name == case.name).map(|(_, said)| said);
            outcome(case, kernel, said)
        })
        .collect();
    if let Some(last) = outcomes.last_mut() {
        let log = log.display();
        let failure = if hangs {
            Some(format!("the guest did not end within {} s, see {log}", PATIENCE.as_secs()))
        } else if let Some(complaint) = complaints.first() {
            Some(format!("{complaint}; see {log}"))
        } else {
            (!ended).then(|| format!("the guest did not come to its end, see {log}"))
        };
        last.failure = last.failure.take().or(failure);
    }
    outcomes
}

fn outcome(case: &Case, kernel: &Kernel, said: Option<&Said>) -> Outcome {
    let account = said.and_then(|said| said.account.as_ref());
    let interface = account.map(|account| &account["interfaces"][0]);
    let frames = account.map_or(0, |account| {
        let workers = account["workers"].as_array().map_or(&[][..], Vec::as_slice);
        workers.iter().filter_map(|worker| worker["analysed"].as_u64()).sum()
    });
    let mode = interface.and_then(|interface| interface["mode"].as_str());
    let is_zero_copy = interface.is_some_and(|interface| interface["zero_copy"].as_bool() == Some(true));
    let got = match mode {
        Some(mode) => format!("{mode}, {}", if is_zero_copy { "zero-copy" } else { "copy" }),
        None if said.is_some_and(|said| said.exit == Some(1)) => "refused".to_owned(),
        None if matches!(case.expect, Expect::Mended(_)) => "mended".to_owned(),
        None => "nothing".to_owned(),
    };
    let failure = match said {
        None => Some("the guest did not reach this case".to_owned()),
        Some(said) => failure(case, said, mode, is_zero_copy, frames),
    };
    let Case { name, device, asked, .. } = *case;
    Outcome { kernel: kernel.version.clone(), device, case: name, asked, got, frames, failure }
}

/// Returns a description of the first difference from the expected result.
fn failure(case: &Case, said: &Said, mode: Option<&str>, zero_copy: bool, frames: u64) -> Option<String> {
    let lines = said.lines.join(" / ");
    match case.expect {
        Expect::Refusal(says) => {
            let refused = said.exit == Some(1) && said.lines.len() == 1 && lines.contains(says);
            (!refused)
                .then(|| format!("exit code {:?}, and not a single line with `{says}`: {lines}", said.exit))
        }
        Expect::Mended(names) => {
            let checks = said.account.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let mended = |name: &str| {
                let fine = |check: &Value| check["check"] == name && check["state"] == "fine";
                lines.contains(&format!("{name} mended:")) && checks.iter().any(fine)
            };
            let not = names.iter().find(|name| !mended(name));
            not.map(|name| format!("`{name}` is not mended: {lines}"))
        }
        Expect::Frames { mode: wanted, zero_copy: wants_zero_copy, says } => {
            let unaccounted = said.account.as_ref().and_then(|account| account["unaccounted"].as_u64());
            if said.exit != Some(0) {
                Some(format!("exit code {:?}: {lines}", said.exit))
            } else if mode != Some(wanted) || zero_copy != wants_zero_copy {
                Some(format!("not {wanted}, zero-copy {wants_zero_copy}: {lines}"))
            } else if unaccounted != Some(0) {
                Some(format!("unaccounted: {unaccounted:?}"))
            } else if frames == 0 {
                Some("no frame was analysed".to_owned())
            } else {
                let missing = says.iter().find(|&&says| !lines.contains(says));
                missing.map(|says| format!("the output lacks `{says}`: {lines}"))
            }
        }
    }
}
