//! `mirror-xdp filter`: checks and explains the rules of a configuration file, with or without a running
//! capture.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use mirror_control::config::{self, Config, Diagnostic};
use mirror_rules::analysis::{Analysis, Overlap};
use mirror_rules::policy::{Decision, Policy, Rule, RuleDirection, RuleSet, UnknownVnis};
use mirror_rules::probe::{Explanation, Probe, Verdict};
use mirror_rules::text::{self, condition, range_text, ranges_text, vni_ranges};
use mirror_rules::{import, limits};
use serde::Serialize;

use super::progress::grouped;
use super::{print, print_json};

/// The default path of the configuration.
pub(super) const CONFIG: &str = "/etc/mirror-xdp/mirror-xdp.toml";

const EXAMPLES: &str = "\
Examples:
  mirror-xdp filter check mirror-xdp.toml
  mirror-xdp filter test 'tcp 10.1.2.3:4000 > 10.9.0.1:443 vni 7'
  aws ec2 describe-traffic-mirror-filters | mirror-xdp filter import - > filter.toml";

/// Check, test and import the rules that select the traffic to capture
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    Test(Test),
    Import(Import),
}

/// Show what a configuration file contains, or everything that is wrong with it
///
/// Warns about rules of valid files that can never match, and about rules that overlap with different
/// actions.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp filter check                               the file of the service
  mirror-xdp filter check --json new.toml | jq .never_match

Exit code 0 if the file is valid, even with warnings; 1 if it is not.")]
struct Check {
    /// Configuration file
    #[arg(value_name = "FILE", default_value = CONFIG)]
    file: PathBuf,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Show which rule decides on a packet, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A packet is a protocol, the source, > and the destination, followed by, in any order:
  vni N                    its VNI
  ingress, egress          its direction, or, to derive it:
  mac SOURCE > DESTINATION its hardware addresses
  fragment                 a later fragment, which has no ports
  from ADDRESS             outer source of the mirrored frame, to test admission as well
`not-ip vni N` is a frame that is not IP.

Examples:
  mirror-xdp filter test 'tcp 10.1.2.3:4000 > 10.9.0.1:443 vni 7'
  mirror-xdp filter test 'icmpv6 fd00::1 > fd00::2 vni 7 egress from 10.0.1.17'
  mirror-xdp filter test --config new.toml 'udp [fd00::1]:53 > [fd00::2]:4000 vni 7' --json")]
struct Test {
    /// The packet
    #[arg(value_name = "PACKET", value_parser = probe)]
    packet: Probe,

    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Turn traffic mirror filters of AWS into a section of the configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  aws ec2 describe-traffic-mirror-filters > filters.json
  mirror-xdp filter import filters.json > filter.toml

Each filter becomes a set with the filter's name; afterwards, bind the sets to the VNIs of the sessions.")]
struct Import {
    /// Output of `aws ec2 describe-traffic-mirror-filters`; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

fn probe(text: &str) -> Result<Probe, String> {
    Probe::parse(text).map_err(|wrong| wrong.to_string())
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::confined::to_reading()?;
    match &args.command {
        Command::Check(args) => check(args),
        Command::Test(args) => test(args),
        Command::Import(args) => import(args),
    }
}

/// Loads the configuration; prints a line on standard error for each mistake, and returns `None` if there are
/// any.
pub(super) fn load(
    path: &Path,
    mistakes: impl FnOnce(&[Diagnostic]) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Config>> {
    match config::load(path) {
        Ok(config) => Ok(Some(config)),
        Err(config::Error::Wrong(wrong)) => {
            for line in wrong.lines() {
                super::complain(line);
            }
            mistakes(wrong.all())?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The output of `check --json` for a file that is not valid.
#[derive(Serialize)]
struct Invalid<'a> {
    valid: bool,
    mistakes: &'a [Diagnostic],
}

fn check(args: &Check) -> anyhow::Result<ExitCode> {
    let print_mistakes = |mistakes: &[Diagnostic]| {
        if args.json { print_json(&Invalid { valid: false, mistakes }) } else { Ok(()) }
    };
    let Some(config) = load(&args.file, print_mistakes)? else { return Ok(ExitCode::FAILURE) };
    let analysis = Analysis::of(&config.policy);
    if args.json {
        print_json(&Report::new(&args.file, &config, &analysis))?;
    } else {
        print(&report(&args.file, &config, &analysis))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A rule for scripts; the values are in the notation of a configuration file.
#[derive(Serialize)]
struct RuleView {
    number: u32,
    direction: &'static str,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ports: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_ports: Option<String>,
}

impl From<&Rule> for RuleView {
    fn from(rule: &Rule) -> Self {
        let ports = |range: &Option<RangeInclusive<u16>>| range.as_ref().map(range_text);
        Self {
            number: rule.number,
            direction: rule.direction.name(),
            action: rule.action.to_string(),
            protocol: rule.protocol,
            source: rule.source.map(|net| net.to_string()),
            destination: rule.destination.map(|net| net.to_string()),
            source_ports: ports(&rule.source_ports),
            destination_ports: ports(&rule.destination_ports),
        }
    }
}

/// The output of `check --json` for a valid file.
#[derive(Serialize)]
struct Report<'a> {
    valid: bool,
    file: &'a Path,
    ports: PortsView<'a>,
    admission: AdmissionView,
    shunt: ShuntView,
    capacity: BTreeMap<&'static str, Capacity>,
    sets: Vec<SetView<'a>>,
    never_match: Vec<NeverMatch<'a>>,
    not_determined: Vec<InSet<'a>>,
    conflicts: Vec<OverlapView<'a>>,
    conflicts_total: usize,
    exceptions: Vec<OverlapView<'a>>,
    exceptions_total: usize,
    notes: &'a [String],
}

#[derive(Serialize)]
struct PortsView<'a> {
    vxlan: &'a [u16],
    geneve: &'a [u16],
    vxlan_gpe: &'a [u16],
}

#[derive(Serialize)]
struct AdmissionView {
    mode: &'static str,
    sources: Option<Vec<String>>,
    vnis: Vec<String>,
    macs: Vec<String>,
}

#[derive(Serialize)]
struct ShuntView {
    after: Option<u64>,
    max_flows: u32,
}

/// The number of entries in use, and the maximum.
#[derive(Serialize)]
struct Capacity {
    /// The name for people.
    #[serde(skip)]
    of: &'static str,
    used: usize,
    most: usize,
}

#[derive(Serialize)]
struct SetView<'a> {
    name: &'a str,
    default: bool,
    vnis: Vec<String>,
    rules: Vec<RuleView>,
}

#[derive(Serialize)]
struct InSet<'a> {
    set: &'a str,
    rule: RuleView,
}

#[derive(Serialize)]
struct NeverMatch<'a> {
    set: &'a str,
    rule: RuleView,
    covered_by: Vec<RuleView>,
}

#[derive(Serialize)]
struct OverlapView<'a> {
    set: &'a str,
    earlier: RuleView,
    later: RuleView,
    both: String,
}

const fn mode(unknown: UnknownVnis) -> &'static str {
    match unknown {
        UnknownVnis::Learn => "learn",
        UnknownVnis::Drop => "strict",
    }
}

/// Returns the capacities with their names for scripts, in the order for people.
fn capacity(policy: &Policy) -> [(&'static str, Capacity); 5] {
    let listed: usize = policy.vnis.iter().map(|range| (range.end() - range.start() + 1) as usize).sum();
    let bound =
        policy.bindings.keys().filter(|vni| !policy.vnis.iter().any(|range| range.contains(&vni.get())));
    let item = |of, used, most| Capacity { of, used, most };
    [
        ("rules", item("rules", policy.sets.iter().map(|set| set.rules.len()).sum(), limits::RULES)),
        ("sets", item("sets", policy.sets.len(), limits::SETS)),
        ("vnis", item("VNIs", listed + bound.count(), limits::VNIS)),
        ("macs", item("hardware addresses", policy.macs.len(), limits::MACS)),
        ("sources", item("sources", policy.sources.as_ref().map_or(0, Vec::len), limits::SOURCES)),
    ]
}

/// Returns the VNIs that are bound to a set.
fn bound_to(policy: &Policy, set: usize) -> Vec<RangeInclusive<u32>> {
    vni_ranges(policy.bindings.iter().filter(|(_, bound)| **bound == set).map(|(vni, _)| *vni))
}

impl<'a> Report<'a> {
    fn new(file: &'a Path, config: &'a Config, analysis: &'a Analysis) -> Self {
        let policy = &config.policy;
        let set = |index: usize| &policy.sets[index];
        let view = |index: usize, rule: usize| RuleView::from(&set(index).rules[rule]);
        let overlap = |overlap: &Overlap| OverlapView {
            set: &set(overlap.set).name,
            earlier: view(overlap.set, overlap.earlier),
            later: view(overlap.set, overlap.later),
            both: condition(&overlap.both),
        };
        let texts = |ranges: &[RangeInclusive<u32>]| ranges.iter().map(range_text).collect::<Vec<_>>();
        Self {
            valid: true,
            file,
            ports: PortsView {
                vxlan: &config.ports.vxlan,
                geneve: &config.ports.geneve,
                vxlan_gpe: &config.ports.vxlan_gpe,
            },
            admission: AdmissionView {
                mode: mode(policy.unknown_vnis),
                sources: policy.sources.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect()),
                vnis: texts(&policy.vnis),
                macs: policy.macs.iter().map(|mac| text::mac_text(*mac)).collect(),
            },
            shunt: ShuntView { after: config.shunt.after, max_flows: config.shunt.max_flows },
            capacity: capacity(policy).into(),
            sets: policy
                .sets
                .iter()
                .enumerate()
                .map(|(index, set)| SetView {
                    name: &set.name,
                    default: policy.default_set == Some(index),
                    vnis: texts(&bound_to(policy, index)),
                    rules: set.rules.iter().map(RuleView::from).collect(),
                })
                .collect(),
            never_match: analysis
                .unreachable
                .iter()
                .map(|found| NeverMatch {
                    set: &set(found.set).name,
                    rule: view(found.set, found.rule),
                    covered_by: found.covered_by.iter().map(|rule| view(found.set, *rule)).collect(),
                })
                .collect(),
            not_determined: analysis
                .undetermined
                .iter()
                .map(|&(index, rule)| InSet { set: &set(index).name, rule: view(index, rule) })
                .collect(),
            conflicts: analysis.conflicts.iter().map(overlap).collect(),
            conflicts_total: analysis.conflicts_total,
            exceptions: analysis.exceptions.iter().map(overlap).collect(),
            exceptions_total: analysis.exceptions_total,
            notes: &analysis.notes,
        }
    }
}

/// Formats the output of `check` for people.
fn report(file: &Path, config: &Config, analysis: &Analysis) -> String {
    let policy = &config.policy;
    let mut text = format!("{} is valid\n\n", file.display());
    let list =
        |items: Vec<String>, none: &str| if items.is_empty() { none.to_owned() } else { items.join(", ") };
    let ports = |ports: &[u16]| list(ports.iter().map(ToString::to_string).collect(), "none");
    let sources = match &policy.sources {
        Some(nets) => list(nets.iter().map(ToString::to_string).collect(), "none"),
        None => "any".to_owned(),
    };
    let unknown = match policy.unknown_vnis {
        UnknownVnis::Learn => "learned",
        UnknownVnis::Drop => "dropped",
    };
    let shunt = match config.shunt.after {
        Some(bytes) => format!("after {} bytes", grouped(bytes)),
        None => "by rules alone".to_owned(),
    };
    let capacity: Vec<_> = capacity(policy)
        .iter()
        .map(|(_, item)| {
            format!("{} of {} {}", grouped(item.used as u64), grouped(item.most as u64), item.of)
        })
        .collect();
    let flows = grouped(config.shunt.max_flows.into());
    for (name, value) in [
        ("VXLAN ports", ports(&config.ports.vxlan)),
        ("GENEVE ports", ports(&config.ports.geneve)),
        ("VXLAN-GPE ports", ports(&config.ports.vxlan_gpe)),
        ("sources", sources),
        ("known VNIs", list(policy.vnis.iter().map(range_text).collect(), "those of the sets")),
        ("unknown VNIs", unknown.to_owned()),
        ("shunt", format!("{shunt}, {flows} flows at most")),
        ("capacity", capacity.join(", ")),
    ] {
        let _ = writeln!(text, "{name:<16} {value}");
    }
    if policy.default_set.is_none() {
        text.push_str("\nVNIs that are bound to no set: everything is accepted\n");
    }
    for (index, set) in policy.sets.iter().enumerate() {
        text.push('\n');
        text.push_str(&set_text(policy, index, set));
    }
    let warnings = warnings(policy, analysis);
    if !warnings.is_empty() {
        text.push('\n');
        text.push_str(&warnings);
    }
    text
}

fn set_text(policy: &Policy, index: usize, set: &RuleSet) -> String {
    let bound = bound_to(policy, index);
    let of = match (policy.default_set == Some(index), bound.is_empty()) {
        (true, true) => "the default".to_owned(),
        (true, false) => format!("the default, and VNIs {}", ranges_text(&bound)),
        (false, false) => format!("VNIs {}", ranges_text(&bound)),
        (false, true) => "not used".to_owned(),
    };
    let mut text = format!("set {}: {of}\n", set.name);
    let number = set.rules.last().map_or(1, |rule| rule.number.to_string().len());
    let action = set.rules.iter().map(|rule| rule.action.to_string().len()).chain([6]).max().unwrap_or(0);
    for rule in &set.rules {
        let action_text = rule.action.to_string();
        let _ = writeln!(text, "  {:>number$}  {action_text:<action$}  {}", rule.number, condition(rule));
    }
    let _ = writeln!(text, "  {:>number$}  {:<action$}  everything else", "-", "reject");
    text
}

fn warnings(policy: &Policy, analysis: &Analysis) -> String {
    let mut text = String::new();
    let rule = |set: usize, rule: usize| &policy.sets[set].rules[rule];
    let name = |set: usize| policy.sets[set].name.as_str();
    for note in &analysis.notes {
        let _ = writeln!(text, "warning: {note}");
    }
    for found in &analysis.unreachable {
        let numbers: Vec<_> = found.covered_by.iter().map(|index| short(rule(found.set, *index))).collect();
        let by = match &numbers[..] {
            [one] => format!("rule {one} matches"),
            [first @ .., last] => format!("rules {} and {last} together match", first.join(", ")),
            [] => "earlier rules match".to_owned(),
        };
        let _ = writeln!(
            text,
            "never matches: set {}, rule {}: {by} all of it",
            name(found.set),
            rule(found.set, found.rule)
        );
    }
    for &(set, index) in analysis.undetermined.iter().take(Analysis::PAIRS) {
        let _ = writeln!(
            text,
            "not determined: set {}, rule {}: finding out whether it can match takes too much work",
            name(set),
            rule(set, index)
        );
    }
    if let Some(more) = analysis.undetermined.len().checked_sub(Analysis::PAIRS).filter(|more| *more > 0) {
        let _ = writeln!(text, "not determined: {} more", grouped(more as u64));
    }
    let mut pairs = |kind: &str, list: &[Overlap], total: usize, relation: &str| {
        for found in list {
            let (earlier, later) = (rule(found.set, found.earlier), rule(found.set, found.later));
            let _ = writeln!(
                text,
                "{kind}: set {}, rule {} {} {relation} rule {} {}: {}",
                name(found.set),
                short(earlier),
                earlier.action,
                short(later),
                later.action,
                condition(&found.both)
            );
        }
        if total > list.len() {
            let _ = writeln!(text, "{kind}: {} more", grouped((total - list.len()) as u64));
        }
    };
    pairs("conflict", &analysis.conflicts, analysis.conflicts_total, "comes before");
    pairs("exception", &analysis.exceptions, analysis.exceptions_total, "is an exception to");
    text
}

/// Formats the number of a rule, with its direction if it applies to one only.
fn short(rule: &Rule) -> String {
    match rule.direction {
        RuleDirection::Both => rule.number.to_string(),
        direction => format!("{} ({})", rule.number, direction.name()),
    }
}

/// The output of `test --json`.
#[derive(Serialize)]
struct Outcome<'a> {
    verdict: String,
    decided_by: &'static str,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    admitted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<RuleView>,
    passed_over: Vec<PassedOver>,
}

#[derive(Serialize)]
struct PassedOver {
    rule: RuleView,
    why: String,
}

fn test(args: &Test) -> anyhow::Result<ExitCode> {
    let Some(config) = load(&args.config, |_| Ok(()))? else { return Ok(ExitCode::FAILURE) };
    let policy = &config.policy;
    let explanation = policy.explain(&args.packet);
    if args.json {
        print_json(&outcome(policy, &explanation))?;
    } else {
        print(&explained(policy, &args.packet, &explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the set and the rule of a decision.
fn decided(policy: &Policy, decision: Decision) -> (Option<&RuleSet>, Option<&Rule>) {
    match decision {
        Decision::UnknownVni | Decision::NoSet => (None, None),
        Decision::NoRule { set } => (Some(&policy.sets[set]), None),
        Decision::Rule { set, rule } => (Some(&policy.sets[set]), Some(&policy.sets[set].rules[rule])),
    }
}

fn outcome<'a>(policy: &'a Policy, explanation: &Explanation) -> Outcome<'a> {
    let verdict = policy.verdict(explanation);
    let (set, rule) = decided(policy, explanation.decision);
    let decided_by = match (verdict, explanation.decision) {
        (Verdict::SourceNotAdmitted, _) => "admission_source",
        (_, Decision::UnknownVni) => "admission_vni",
        (_, Decision::NoSet) => "no_set",
        (_, Decision::NoRule { .. }) => "no_rule",
        (_, Decision::Rule { .. }) => "rule",
    };
    let passed_over = explanation.passed_over.iter().filter_map(|&(index, mismatch)| {
        let rule = &set?.rules[index];
        Some(PassedOver { rule: rule.into(), why: explanation.facts.reason(rule, mismatch) })
    });
    Outcome {
        verdict: match verdict {
            Verdict::SourceNotAdmitted | Verdict::UnknownVni => "drop".to_owned(),
            Verdict::Action(action) => action.to_string(),
        },
        decided_by,
        direction: explanation.facts.direction.name(),
        admitted: explanation.admitted,
        set: set.map(|set| set.name.as_str()),
        rule: rule.map(RuleView::from),
        passed_over: passed_over.collect(),
    }
}

/// Formats the output of `test` for people.
fn explained(policy: &Policy, probe: &Probe, explanation: &Explanation) -> String {
    let Explanation { facts, decision, .. } = explanation;
    let vni = probe.vni;
    let mut text = String::new();
    let mut line = |words: &str| {
        text.push_str(words);
        text.push('\n');
    };
    if let Some(source) = probe.outer_source {
        let sources = policy.sources.as_ref();
        if explanation.admitted == Some(false) {
            line(&format!("drop: source {source} is not in admission.sources"));
            return text;
        }
        let why = if sources.is_some() { "is in admission.sources" } else { "is admitted, as any is" };
        line(&format!("source {source} {why}"));
    }
    line(&format!("direction is {}", facts.direction.name()));
    let (set, rule) = decided(policy, *decision);
    let Some(set) = set else {
        line(&match decision {
            Decision::UnknownVni => {
                format!("drop: VNI {vni} is not known, and admission.mode is \"strict\"")
            }
            _ => format!("accept: VNI {vni} is bound to no set, and there is no filter.default"),
        });
        return text;
    };
    let why = if policy.bindings.contains_key(&vni) { "is bound to it" } else { "gets the default" };
    line(&format!("set {}: VNI {vni} {why}", set.name));
    for &(index, mismatch) in &explanation.passed_over {
        let rule = &set.rules[index];
        line(&format!("rule {rule}: {}", facts.reason(rule, mismatch)));
    }
    line(&match rule {
        Some(rule) => {
            format!("rule {rule}: matches\n{}: rule {} of set {}", rule.action, short(rule), set.name)
        }
        None => format!("reject: no rule of set {} matches", set.name),
    });
    text
}

fn import(args: &Import) -> anyhow::Result<ExitCode> {
    let (name, json) = if args.file.as_os_str() == "-" {
        ("standard input".to_owned(), read_all(io::stdin().lock()))
    } else {
        (args.file.display().to_string(), File::open(&args.file).and_then(read_all))
    };
    let json = json.with_context(|| format!("cannot read {name}"))?;
    let filters = import::read(&json).with_context(|| name.clone())?;
    print(&import::to_toml(&filters))?;
    Ok(ExitCode::SUCCESS)
}

fn read_all(input: impl io::Read) -> io::Result<Vec<u8>> {
    const LONGEST: u64 = 64 << 20;
    let mut bytes = Vec::new();
    input.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other("longer than 64 MiB; name a list of filters"));
    }
    Ok(bytes)
}
