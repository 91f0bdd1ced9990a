//! `mirror-xdp rules`: Suricata's rule files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use mirror_signatures::config::classification::Classes;
use mirror_signatures::config::reference::References;
use mirror_signatures::config::threshold::{self, Limit};
use mirror_signatures::diagnostic::Refusal;
use mirror_signatures::ruleset::{Loader, Report, RuleSet};
use mirror_signatures::variables::{Resolver, Variables};
use serde::Serialize;

use super::progress::grouped;
use super::{print, print_json};

/// Rules of each reason that the text for people names.
const NAMED: usize = 10;

/// Check Suricata's rule files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  mirror-xdp rules check /etc/suricata/rules/*.rules")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
}

/// Load rule files, and show what is refused and why, what is there twice, and what will be slow
///
/// Files named classification.config, reference.config and threshold.config are checked as what they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp rules check /etc/suricata/rules/*.rules
  mirror-xdp rules check --rules-var HOME_NET=10.0.0.0/8 --rules-var 'EXTERNAL_NET=!$HOME_NET' local.rules
  mirror-xdp rules check --json et.rules | jq '.refused[] | [.sid, .keyword, .reason]'

A rule that is refused does not refuse its file. Exit code 0 if the files are readable; 1 if one is not, or with
--strict if anything is refused; 2 for wrong usage.")]
struct Check {
    /// Rule files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Set a variable of addresses or ports; those of networks are `any` unless set
    #[arg(long = "rules-var", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,

    /// Fail if anything is refused
    #[arg(long)]
    strict: bool,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Variables::default().set(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::confined::to_reading()?;
    match &args.command {
        Command::Check(args) => check(args),
    }
}

fn check(args: &Check) -> anyhow::Result<ExitCode> {
    let mut variables = Variables::default();
    for (name, value) in &args.variables {
        variables.set(name, value).map_err(anyhow::Error::msg)?;
    }
    let mut classes = Classes::default();
    let mut refused = Vec::new();
    let mut rules = Vec::new();
    for path in &args.files {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let found = match name.as_str() {
            "classification.config" => classes.add(&read(path)?),
            "reference.config" => References::default().add(&read(path)?),
            "threshold.config" => thresholds(&read(path)?, &variables),
            _ => {
                rules.push(path);
                continue;
            }
        };
        refused.extend(found.into_iter().map(|refusal| (path.as_path(), refusal)));
    }
    let mut loader = Loader::new(&variables, &classes);
    for path in rules {
        loader.read(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let set = loader.finish();
    let of_rules =
        set.report.refused.iter().map(|(file, refusal)| (file_of(&set.report, *file), refusal.clone()));
    refused.extend(of_rules);
    if args.json {
        print_json(&View::new(&set, &refused))?;
    } else {
        print(&text(&set, &refused))?;
    }
    let count = refused.len() - set.report.refused.len() + set.report.refused_count;
    Ok(if args.strict && count > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    mirror_signatures::file::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Checks `threshold.config`, with the addresses in it.
fn thresholds(text: &[u8], variables: &Variables) -> Vec<Refusal> {
    let (entries, mut refused) = threshold::parse(text);
    let mut resolver = Resolver::new(variables);
    for entry in entries {
        let Limit::Suppress(Some(hosts)) = entry.limit else { continue };
        if let Err(reason) = resolver.addresses(&hosts.addresses) {
            let keyword = "suppress".to_owned();
            refused.push(Refusal {
                line: entry.at.line,
                column: entry.at.column,
                sid: Some(entry.sid),
                keyword,
                reason,
            });
        }
    }
    refused
}

fn file_of(report: &Report, index: u32) -> &Path {
    report.files.get(index as usize).map_or(Path::new(""), PathBuf::as_path)
}

/// The output of `check --json`.
#[derive(Serialize)]
struct View<'a> {
    rules: usize,
    loaded: usize,
    disabled: usize,
    refused: Vec<RefusalView<'a>>,
    skipped: Vec<RefusalView<'a>>,
    duplicates: Vec<DuplicateView<'a>>,
    slow: Vec<SlowView>,
}

#[derive(Serialize)]
struct RefusalView<'a> {
    file: &'a Path,
    line: u32,
    column: u32,
    sid: Option<u32>,
    keyword: &'a str,
    reason: &'a str,
}

impl<'a> RefusalView<'a> {
    fn new(file: &'a Path, refusal: &'a Refusal) -> Self {
        let Refusal { line, column, sid, keyword, reason } = refusal;
        Self { file, line: *line, column: *column, sid: *sid, keyword, reason }
    }
}

/// A rule that is not loaded, and the one of the same number that is.
#[derive(Serialize)]
struct DuplicateView<'a> {
    gid: u32,
    sid: u32,
    dropped: RevisionView<'a>,
    kept: RevisionView<'a>,
}

#[derive(Serialize)]
struct RevisionView<'a> {
    file: &'a Path,
    line: u32,
    rev: u32,
}

#[derive(Serialize)]
struct SlowView {
    gid: u32,
    sid: u32,
    reason: String,
}

impl<'a> View<'a> {
    fn new(set: &'a RuleSet, refused: &'a [(&'a Path, Refusal)]) -> Self {
        let report = &set.report;
        let revision = |(file, line, id): (u32, u32, mirror_signatures::rule::RuleId)| RevisionView {
            file: file_of(report, file),
            line,
            rev: id.rev,
        };
        Self {
            rules: report.total,
            loaded: set.signatures.len(),
            disabled: report.disabled,
            refused: refused.iter().map(|(file, refusal)| RefusalView::new(file, refusal)).collect(),
            skipped: report
                .skipped
                .iter()
                .map(|(file, refusal)| RefusalView::new(file_of(report, *file), refusal))
                .collect(),
            duplicates: report
                .duplicates
                .iter()
                .map(|found| DuplicateView {
                    gid: found.kept.2.gid,
                    sid: found.kept.2.sid,
                    dropped: revision(found.dropped),
                    kept: revision(found.kept),
                })
                .collect(),
            slow: report
                .slow
                .iter()
                .map(|(id, slow)| SlowView { gid: id.gid, sid: id.sid, reason: slow.to_string() })
                .collect(),
        }
    }
}

/// Formats the output for people.
fn text(set: &RuleSet, refused: &[(&Path, Refusal)]) -> String {
    let report = &set.report;
    let count = |number: usize| grouped(number as u64);
    let mut text = String::new();
    for (file, refusal) in refused {
        let _ = writeln!(text, "{}:{refusal}", file.display());
    }
    for (file, skipped) in &report.skipped {
        let _ = writeln!(text, "{}:{skipped}", file_of(report, *file).display());
    }
    for found in &report.duplicates {
        let (file, line, id) = found.dropped;
        let (kept_file, kept_line, kept) = found.kept;
        let _ = writeln!(
            text,
            "{}:{line}: sid {} is there twice; revision {} of {}:{kept_line} is loaded, not {}",
            file_of(report, file).display(),
            id.sid,
            kept.rev,
            file_of(report, kept_file).display(),
            id.rev,
        );
    }
    let mut slow: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (id, reason) in &report.slow {
        slow.entry(reason.to_string()).or_default().push(id.sid);
    }
    for (reason, sids) in slow {
        let named: Vec<_> = sids.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if sids.len() > NAMED { ", …" } else { "" };
        let _ = writeln!(text, "slow ({}): {reason}: sid {}{more}", count(sids.len()), named.join(", "));
    }
    let _ = writeln!(
        text,
        "{} of {} rules loaded, {} refused, {} skipped, {} there twice, {} slow, {} disabled",
        count(set.signatures.len()),
        count(report.total),
        count(report.refused_count),
        count(report.skipped_count),
        count(report.duplicates.len()),
        count(report.slow.len()),
        count(report.disabled),
    );
    text
}
