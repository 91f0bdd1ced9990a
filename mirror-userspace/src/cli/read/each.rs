//! `mirror-xdp read --each`: each file apart, as if a command of its own had read it. One process loads indicators once,
//! and one thread writes the logs, one after the other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use mirror_base::one_line;
use mirror_control::config::Config;
use mirror_control::stats::{Named, Records};
use mirror_records::sink::{Destination, Modes, Rotation, Sink, StallPolicy};
use serde::Serialize;

use super::super::progress::{grouped, listed, summed, with_unit};
use super::{Args, Reader, Shared, Totals, is_whole, open_file, sink_settings};

/// Ends the process with a usage error if the records of the files would not go to a log for each.
pub(super) fn check(args: &Args, settings: &Config) {
    if let Err(wrong) = is_apart(&args.files, &settings.eve.output) {
        super::super::Cli::command().error(ErrorKind::ArgumentConflict, wrong + "\n").exit();
    }
}

/// Checks that each file has a log of its own.
fn is_apart(files: &[PathBuf], output: &Path) -> Result<(), String> {
    // A name without directories, of a file and of no socket.
    let is_name = output.file_name() == Some(output.as_os_str())
        && matches!(
            Destination::named(output, Path::new(""), Rotation::default(), Modes::default()),
            Destination::File { .. }
        );
    if !is_name {
        let output = output.display();
        return Err(format!(
            "--each writes a file for each capture: name it without a directory, not `{output}`"
        ));
    }
    let mut names = HashMap::new();
    for file in files {
        if let Some(other) = names.insert(directory_name(file), file) {
            let (one, two) = (other.display(), file.display());
            return Err(format!("--each would write the records of {one} and {two} to the same directory"));
        }
    }
    Ok(())
}

/// Returns the name of a file's directory: its path with `__` for each `/`.
fn directory_name(file: &Path) -> OsString {
    let parts: Vec<_> = file.as_os_str().as_bytes().split(|&byte| byte == b'/').collect();
    OsString::from_vec(parts.join(&b"__"[..]))
}

/// Reads the files.
pub(super) fn read(args: &Args, settings: &Config, shared: &Shared) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut logs = Logs { args, settings, sink: None };
    let mut sum = Sum::default();
    for path in &args.files {
        match one(path, &mut logs, shared) {
            Ok(Some((totals, whole))) => {
                let lost = totals.records.lost > 0;
                if args.json {
                    super::super::print_json(&OfFile { file: &path.display().to_string(), totals: &totals })?;
                }
                sum.add(totals, whole && !lost);
            }
            Ok(None) => sum.failed += 1,
            Err(error) => {
                sum.failed += 1;
                super::super::complain(format_args!("{}: {}", path.display(), one_line(error.as_ref())));
            }
        }
    }
    if !args.json {
        sum.print(start);
    }
    Ok(if sum.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads one file. Returns its totals and whether it is whole; `None` if it cannot be opened, which is reported.
fn one(path: &Path, logs: &mut Logs<'_>, shared: &Shared) -> anyhow::Result<Option<(Totals, bool)>> {
    let start = Instant::now();
    let file = match open_file(path) {
        Ok(file) => file,
        Err(error) => {
            super::super::complain(one_line(&error));
            return Ok(None);
        }
    };
    let sink = logs.begin(&directory_name(path))?;
    let mut reader = Reader::new(logs.args, logs.settings, shared, sink)?;
    let read = reader.read(file);
    let totals = reader.account(start.elapsed()).map(|totals| Totals {
        // With the event of the totals.
        records: Records::new(reader.frames.counters().records_lost, &reader.sink.flush()),
        ..totals
    });
    logs.sink = Some(reader.sink);
    let whole = is_whole(logs.args, path, read);
    Ok(Some((totals?, whole)))
}

/// The logs, of which one is open at a time.
struct Logs<'a> {
    args: &'a Args,
    settings: &'a Config,
    /// The sink of the last log, which the next one takes over.
    sink: Option<Sink>,
}

impl Logs<'_> {
    /// Begins the log in a directory below that of all logs.
    fn begin(&mut self, directory: &OsStr) -> anyhow::Result<Sink> {
        let Self { args, settings, sink } = self;
        let eve = &settings.eve;
        let destination = super::super::eve::destination(eve, &args.log_dir.join(directory));
        let sink = match sink.take() {
            Some(last) => {
                if let Err(error) = last.begin(destination, StallPolicy::Endless) {
                    *sink = Some(last);
                    return Err(error.into());
                }
                last
            }
            None => Sink::to(destination, eve.types.clone(), StallPolicy::Endless)?,
        };
        sink.set(sink_settings(settings));
        Ok(sink)
    }
}

/// The totals of a file, as one JSON object.
#[derive(Serialize)]
struct OfFile<'a> {
    file: &'a str,
    #[serde(flatten)]
    totals: &'a Totals,
}

/// The sums over all files.
#[derive(Default)]
struct Sum {
    files: u64,
    failed: u64,
    frames: u64,
    bytes: u64,
    flows: u64,
    written: Named,
    lost: u64,
    unaccounted: u64,
}

impl Sum {
    fn add(&mut self, totals: Totals, whole: bool) {
        let [worker] = &totals.workers;
        self.files += 1;
        self.failed += u64::from(!whole);
        self.frames += totals.frames.seen;
        self.bytes += totals.frames.bytes;
        self.flows += worker.flows_total;
        self.written = summed([std::mem::take(&mut self.written), totals.records.written].iter());
        self.lost += totals.records.lost;
        self.unaccounted += totals.unaccounted;
    }

    fn print(&self, start: Instant) {
        eprintln!(
            "read {} files, {} failed: {} frames, {}, {} flows in {:.1} s",
            grouped(self.files),
            grouped(self.failed),
            grouped(self.frames),
            with_unit(self.bytes as f64, "B"),
            grouped(self.flows),
            start.elapsed().as_secs_f64(),
        );
        let (written, lost) = (&self.written, grouped(self.lost));
        eprintln!("records: {} written{}, {lost} lost", grouped(written.sum()), listed(written));
        if self.unaccounted > 0 {
            eprintln!("UNACCOUNTED: {} frames; this is a bug of mirror-xdp", grouped(self.unaccounted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_like_the_files_as_given() {
        let named = |path: &str| directory_name(Path::new(path)).into_string().unwrap();
        assert_eq!(named("a.pcap"), "a.pcap");
        assert_eq!(named("/data/day/a.pcap"), "__data__day__a.pcap");
        assert_eq!(named("../x//a.pcap"), "..__x____a.pcap");
    }

    #[test]
    fn logs_that_would_meet_are_refused() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let eve = Path::new("eve.json");
        assert!(is_apart(&files(&["a", "b", "x/a"]), eve).is_ok());
        for same in [["a", "a"], ["x/a", "x__a"]] {
            assert!(is_apart(&files(&same), eve).is_err(), "{same:?}");
        }
        for output in ["-", "/tmp/eve.json", "logs/eve.json", "unix-stream:eve.sock", "unix-dgram:eve.sock"] {
            assert!(is_apart(&files(&["a"]), Path::new(output)).is_err(), "{output}");
        }
    }
}
