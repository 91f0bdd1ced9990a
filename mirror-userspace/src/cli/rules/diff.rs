//! `mirror-xdp rules diff`: two sets of rules, compared by number.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mirror_signatures::rule::RuleId;
use mirror_signatures::update::{Difference, difference};
use serde::Serialize;

use super::files::rule_files;
use crate::cli::progress::grouped;
use crate::cli::{print, print_json};

/// Compare two sets of rules: what is added, removed and changed
///
/// Rules are compared by group and number, whatever their files and order. A disabled rule counts as absent, and spaces
/// do not count.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp rules diff yesterday.rules today.rules
  mirror-xdp rules diff /etc/suricata/rules emerging.rules.tar.gz
  mirror-xdp rules diff --json old new | jq -r '.added[] | [.sid, .msg] | @tsv'

Exit code 0, also if there are differences; 1 if a file cannot be read; 2 for wrong usage.")]
pub(super) struct Args {
    /// Rule file, directory of *.rules, or .tar.gz with them
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The same, to compare it with
    #[arg(value_name = "NEW")]
    new: PathBuf,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    crate::cli::confined::to_reading()?;
    let of = |path: &Path| rule_files(path);
    let differences = difference(&of(&args.old)?, &of(&args.new)?);
    if args.json {
        print_json(&View::of(&differences))?;
    } else {
        print(&text(&differences))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The output of `--json`.
#[derive(Serialize)]
struct View<'a> {
    added: Vec<Side<'a>>,
    removed: Vec<Side<'a>>,
    changed: Vec<Changed<'a>>,
}

#[derive(Serialize)]
struct Side<'a> {
    gid: u32,
    sid: u32,
    rev: u32,
    msg: &'a str,
}

#[derive(Serialize)]
struct Changed<'a> {
    gid: u32,
    sid: u32,
    before: Version<'a>,
    after: Version<'a>,
}

#[derive(Serialize)]
struct Version<'a> {
    rev: u32,
    msg: &'a str,
}

impl<'a> View<'a> {
    fn of(differences: &'a [Difference]) -> Self {
        let mut view = Self { added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
        for Difference { before, after } in differences {
            let side = |(id, msg): &'a (RuleId, String)| Side { gid: id.gid, sid: id.sid, rev: id.rev, msg };
            let version = |(id, msg): &'a (RuleId, String)| Version { rev: id.rev, msg };
            match (before, after) {
                (Some(before), Some(after)) => {
                    let RuleId { gid, sid, .. } = after.0;
                    view.changed.push(Changed { gid, sid, before: version(before), after: version(after) });
                }
                (Some(before), None) => view.removed.push(side(before)),
                (None, Some(after)) => view.added.push(side(after)),
                (None, None) => {}
            }
        }
        view
    }
}

/// Formats the differences for people: a line for each, and their numbers.
pub(super) fn text(differences: &[Difference]) -> String {
    let mut text = String::new();
    let (mut added, mut removed, mut changed) = (0, 0, 0);
    for Difference { before, after } in differences {
        // Writing to a string cannot fail.
        let _ = match (before, after) {
            (Some((old, _)), Some((new, msg))) => {
                changed += 1;
                writeln!(text, "~ {} rev {} → {} {msg}", number(*new), old.rev, new.rev)
            }
            (Some((id, msg)), None) => {
                removed += 1;
                writeln!(text, "- {} rev {} {msg}", number(*id), id.rev)
            }
            (None, Some((id, msg))) => {
                added += 1;
                writeln!(text, "+ {} rev {} {msg}", number(*id), id.rev)
            }
            (None, None) => Ok(()),
        };
    }
    text + &format!("{} added, {} removed, {} changed\n", grouped(added), grouped(removed), grouped(changed))
}

/// Formats the number of a rule: without the usual group.
fn number(id: RuleId) -> String {
    if id.gid == 1 { id.sid.to_string() } else { format!("{}:{}", id.gid, id.sid) }
}
