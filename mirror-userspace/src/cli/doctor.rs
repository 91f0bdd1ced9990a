//! `mirror-xdp doctor`: finds the obstacles to a capture, and fixes them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use mirror_base::one_line;
use mirror_control::api::Token;
use mirror_control::config;
use mirror_control::config::listen::Address;
use mirror_control::doctor::{self, Check, Intent, Mended, State};
use mirror_control::host::CpuList;
use mirror_device::nic::{Change, Changes, Deferral, Netlink};
use mirror_device::xdp::program::LogLevel;
use mirror_xdp_common::outer::Ports;

use super::top::Notice;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp doctor --interface ens6
  mirror-xdp doctor --interface ens6 --fix
  mirror-xdp doctor --interface ens6 --fix --cpus 2-7
  mirror-xdp doctor --interface ens6 --json | jq '.[] | select(.state != \"fine\")'

Checks all that decides whether and how well a capture works: the kernel, rights, memory, the driver and
its version, XDP, MTU, queues, rings, the hash that spreads frames over the queues, interrupts, and what
the device has lost. Asks a running capture for flows of which two mirror sessions have one side each. JSON
is an array of {\"check\",\"state\",\"found\",\"fix\"}, where `fix` is the command to run, or null. Changing
queues, rings or MTU may take the interface down for a moment.

Exit code 0 if nothing is broken, 1 otherwise.";

/// Check that an interface is ready for a capture, and fix problems
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Interface that receives mirrored traffic
    #[arg(short, long, value_name = "IF")]
    interface: String,

    /// Fix what can be fixed, then check again; the changes last until the machine restarts
    #[arg(long)]
    fix: bool,

    /// Print one JSON array on stdout
    #[arg(long)]
    json: bool,

    /// CPUs for the workers, such as 2-7,10; interrupts are kept off them [default: the configured ones, or
    /// those that are isolated]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// Configuration with the UDP ports of mirror traffic and the workers' CPUs
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::log::init(LogLevel::Off, Some(super::log::Format::Text))?;
    let configured = args.config.as_deref().map(config::load).transpose()?.unwrap_or_default();
    let split = split_flows(&configured.api);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run(args, configured, split))
}

/// Asks a running capture, if there is one, for flows of which another mirror session has the other side.
fn split_flows(api: &config::ApiSettings) -> Option<Check> {
    let Address::At(address) = api.listen else { return None };
    let token = api.token_file.as_deref().and_then(|file| Token::read(file).ok());
    split_check(&super::top::notices(address, token))
}

fn split_check(notices: &[Notice]) -> Option<Check> {
    let split: Vec<_> = notices.iter().filter(|notice| notice.reason == "split_flows").collect();
    let flows: u64 = split.iter().map(|notice| notice.count).sum();
    let vnis = split.iter().filter_map(|notice| notice.place.split_once("vni ")).map(|(_, vni)| vni);
    let vnis: Vec<_> = vnis.collect::<BTreeSet<_>>().into_iter().take(8).collect();
    (flows > 0).then(|| Check {
        check: "flow scope",
        state: State::Warning,
        found: format!(
            "{flows} flows have one side only, and another mirror session has the other: VNI {}",
            vnis.join(", ")
        ),
        fix: Some("mirror-xdp run --flow-scope vni, if each VNI is one network".to_owned()),
        change: None,
    })
}

async fn run(args: &Args, configured: config::Config, split: Option<Check>) -> anyhow::Result<ExitCode> {
    let ports = [configured.ports.vxlan, configured.ports.geneve, configured.ports.vxlan_gpe].concat();
    let cpus = args.cpus.as_ref().or(configured.receive.cpus.as_ref());
    let intent = Intent { ports: &ports, cpus };
    let netlink = Netlink::connect()?;
    let interface = args.interface.as_str();
    let unknown = || interface.to_owned();
    if args.fix {
        let changes = doctor::mend(&netlink, interface, intent, |mended| tell(interface, mended));
        changes.await.with_context(unknown)?.keep();
    }
    let mut checks = doctor::examine(&netlink, interface, intent).await.with_context(unknown)?;
    checks.extend(split);
    let text = if args.json {
        serde_json::to_string(&checks)?
    } else {
        table(&checks, io::stdout().is_terminal()) + &summary(interface, &checks)
    };
    super::print(&(text + "\n"))?;
    let broken = checks.iter().any(|check| check.state == State::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Fixes what can be fixed on each interface, for a capture. Dropping the returned values undoes the changes.
pub(super) async fn prepare(
    interfaces: &[String],
    ports: &Ports,
    cpus: Option<&CpuList>,
) -> anyhow::Result<Vec<Changes>> {
    let netlink = Netlink::connect()?;
    let ports: Vec<u16> = ports.iter().collect();
    let intent = Intent { ports: &ports, cpus };
    let mut changes = Vec::new();
    for name in interfaces {
        let mended = doctor::mend(&netlink, name, intent, |mended| tell(name, mended)).await;
        changes.push(mended.with_context(|| name.clone())?);
    }
    Ok(changes)
}

/// Defers the interrupts of the interfaces, for workers that poll. Dropping the returned values undoes the
/// changes. If an interface does not support deferral, its workers poll in addition to the interrupts.
pub(super) async fn defer_interrupts(interfaces: &[String]) -> anyhow::Result<Vec<Changes>> {
    let netlink = Netlink::connect()?;
    let mut all = Vec::new();
    for name in interfaces {
        let mut changes = Changes::new(name);
        if let Err(error) = changes.make(&netlink, &Change::Deferral(Deferral::OF_BUSY_POLLING)).await {
            tracing::warn!("{name}: interrupts continue in addition to busy polling: {}", one_line(&error));
        }
        all.push(changes);
    }
    Ok(all)
}

/// Prints the result of a fix.
fn tell(interface: &str, mended: &Mended<'_>) {
    let Mended { check, result } = mended;
    let command = check.fix.as_deref().unwrap_or_default();
    match result {
        Ok(()) => eprintln!("{interface}: {} mended: {command}", check.check),
        Err(error) => eprintln!("{interface}: {} not mended: {}", check.check, one_line(error)),
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Fine => "fine",
        State::Warning => "warning",
        State::Broken => "broken",
    }
}

/// Formats a line for each check, and a second one for its fix.
fn table(checks: &[Check], coloured: bool) -> String {
    let mut text = String::new();
    for Check { check, state, found, fix, .. } in checks {
        let (colour, plain) = match (coloured, state) {
            (false, _) => ("", ""),
            (true, State::Fine) => ("\x1b[32m", "\x1b[0m"),
            (true, State::Warning) => ("\x1b[33m", "\x1b[0m"),
            (true, State::Broken) => ("\x1b[31m", "\x1b[0m"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{colour}{:7}{plain}  {check:13}  {found}", word(*state));
        if let Some(fix) = fix {
            let _ = writeln!(text, "{:24}→ {fix}", "");
        }
    }
    text
}

fn summary(interface: &str, checks: &[Check]) -> String {
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let (broken, warnings) = (count(State::Broken), count(State::Warning));
    if broken + warnings == 0 {
        return format!("{interface} is ready");
    }
    let plural = if warnings == 1 { "" } else { "s" };
    let mut text = format!("{interface}: {broken} broken, {warnings} warning{plural}");
    let mendable = checks.iter().filter(|check| check.change.is_some()).count();
    if mendable > 0 {
        let _ = write!(text, "; --fix mends {mendable}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        let check = |check, state, fix: Option<&str>| Check {
            check,
            state,
            found: "so".to_owned(),
            fix: fix.map(str::to_owned),
            change: None,
        };
        vec![check("kernel", State::Fine, None), check("mtu", State::Broken, Some("ip link set"))]
    }

    #[test]
    fn people_see_a_line_a_check_with_what_mends_it() {
        let text = table(&checks(), false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("broken   mtu"), "{text}");
        assert!(lines[2].trim_end().ends_with("ip link set"), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(table(&checks(), true).contains("\x1b[31mbroken"));
    }

    #[test]
    fn halves_of_conversations_are_a_warning_with_the_flag_that_helps() {
        let notice = |place: &str, reason: &str, count| Notice {
            place: place.to_owned(),
            reason: reason.to_owned(),
            count,
        };
        assert_eq!(split_check(&[notice("worker 0", "duplicates", 5)]), None);
        let split = [("worker 0 vni 7", 2), ("worker 1 vni 7", 3), ("worker 1 vni other", 1)];
        let split = split.map(|(place, count)| notice(place, "split_flows", count));
        let check = split_check(&split).unwrap();
        assert_eq!(check.state, State::Warning);
        assert!(check.found.starts_with("6 flows") && check.found.ends_with("VNI 7, other"));
        assert!(check.fix.unwrap().contains("--flow-scope vni"));
    }

    #[test]
    fn the_summary_counts() {
        assert_eq!(summary("e0", &checks()), "e0: 1 broken, 0 warnings");
        assert_eq!(summary("e0", &checks()[..1]), "e0 is ready");
    }

    #[test]
    fn scripts_see_four_fields() {
        let json = serde_json::to_value(checks()).unwrap();
        let expected = serde_json::json!([
            {"check": "kernel", "state": "fine", "found": "so", "fix": null},
            {"check": "mtu", "state": "broken", "found": "so", "fix": "ip link set"},
        ]);
        assert_eq!(json, expected);
    }
}
