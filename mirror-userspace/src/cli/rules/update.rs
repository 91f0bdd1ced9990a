//! `mirror-xdp rules update`: downloaded rules, chosen and edited, as one file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use mirror_base::file::directory_of;
use mirror_base::sandbox::{Files, Kind};
use mirror_records::sink::Modes;
use mirror_signatures::diagnostic::Refusal;
use mirror_signatures::file::read;
use mirror_signatures::update::{Changes, Counts, difference};
use serde::Serialize;

use super::files::rule_files;
use crate::cli::print_json;
use crate::cli::progress::grouped;

/// Join downloaded rules into one file, as enable.conf, disable.conf and modify.conf say
///
/// Takes what suricata-update downloads or writes, and its files. Rules are disabled first, then enabled, then modified.
/// The file is replaced as a whole, so a capture that loads it meanwhile gets the old or the new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp rules update emerging.rules.tar.gz --output /etc/mirror-xdp/rules/emerging.rules
  mirror-xdp rules update /var/lib/suricata/rules own.rules --output all.rules \\
      --disable-conf /etc/suricata/disable.conf --modify-conf /etc/suricata/modify.conf

A running capture loads the new file on SIGHUP. Exit code 0; 1 if a file cannot be read or written, or a line is not
understood; then nothing is written. 2 for wrong usage.")]
pub(super) struct Args {
    /// Rule files, directories of *.rules, or .tar.gz with them
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<PathBuf>,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Rules to disable: numbers, re:EXPRESSION, group:FILE, filename:PATH, metadata:KEY VALUE
    #[arg(long, value_name = "FILE")]
    disable_conf: Option<PathBuf>,

    /// Rules to enable, in the same form
    #[arg(long, value_name = "FILE")]
    enable_conf: Option<PathBuf>,

    /// Rules to edit: SELECTION "from" "to"
    #[arg(long, value_name = "FILE")]
    modify_conf: Option<PathBuf>,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let directory = directory_of(&args.output);
    crate::cli::confined::to(
        Kind::Read,
        Files { read: vec!["/".into()], write: vec![directory.clone()], ..Files::default() },
    )?;
    let mut changes = Changes::default();
    let mut refused = add(args.disable_conf.as_ref(), |text| changes.disable(text))?;
    refused.extend(add(args.enable_conf.as_ref(), |text| changes.enable(text))?);
    refused.extend(add(args.modify_conf.as_ref(), |text| changes.modify(text))?);
    if !refused.is_empty() {
        for (path, refusal) in &refused {
            eprintln!("mirror-xdp: {}:{refusal}", path.display());
        }
        return Ok(ExitCode::FAILURE);
    }
    let mut files = Vec::new();
    for source in &args.sources {
        files.extend(rule_files(source)?);
    }
    let (text, counts) = changes.apply(&files);
    let before = match read(&args.output) {
        Ok(text) => vec![(args.output.clone(), text)],
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", args.output.display())),
    };
    replace(&args.output, &directory, &text)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let differences = difference(&before, &[(args.output.clone(), text)]);
    let count = |of: fn(bool, bool) -> bool| {
        let is = |one: &&mirror_signatures::update::Difference| of(one.before.is_some(), one.after.is_some());
        differences.iter().filter(is).count()
    };
    let view = View {
        files: files.len(),
        rules: counts.rules,
        enabled: counts.enabled,
        newly_enabled: counts.newly_enabled,
        newly_disabled: counts.newly_disabled,
        modified: counts.modified,
        duplicates: counts.duplicates,
        added: count(|before, after| !before && after),
        removed: count(|before, after| before && !after),
        changed: count(|before, after| before && after),
    };
    if args.json {
        print_json(&view)?;
    } else {
        view.print(&counts, &args.output);
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a file of changes, if it is given. Returns the lines that are refused.
fn add(
    path: Option<&PathBuf>,
    add: impl FnOnce(&[u8]) -> Vec<Refusal>,
) -> anyhow::Result<Vec<(&PathBuf, Refusal)>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(add(&text).into_iter().map(|refusal| (path, refusal)).collect())
}

/// Replaces a file as a whole.
fn replace(path: &Path, directory: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let write = || {
        let mut file = Modes::default().create().write(true).truncate(true).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    let result = write();
    if result.is_err() {
        // It may not exist.
        let _ = fs::remove_file(&new);
    }
    result
}

/// The output of `--json`.
#[derive(Serialize)]
struct View {
    files: usize,
    rules: usize,
    enabled: usize,
    newly_enabled: usize,
    newly_disabled: usize,
    modified: usize,
    duplicates: usize,
    /// Compared with the file before.
    added: usize,
    removed: usize,
    changed: usize,
}

impl View {
    fn print(&self, counts: &Counts, output: &Path) {
        let number = |number: usize| grouped(number as u64);
        eprintln!(
            "{} rules of {} files, {} of them enabled: {} newly, {} disabled, {} modified, {} there twice",
            number(counts.rules),
            number(self.files),
            number(counts.enabled),
            number(counts.newly_enabled),
            number(counts.newly_disabled),
            number(counts.modified),
            number(counts.duplicates),
        );
        eprintln!(
            "{}: {} added, {} removed, {} changed",
            output.display(),
            number(self.added),
            number(self.removed),
            number(self.changed),
        );
    }
}
