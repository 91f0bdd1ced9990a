//! The destination of the records: the arguments that `run` and `read` share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use mirror_control::config::EveSettings;
use mirror_records::sink::{Destination, EventTypes, FILE_NAME, Rotation, Sink, SinkError, StallPolicy};
use mirror_rules::text;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct EveArgs {
    /// Destination of the records: a file, by its name in the log directory or by its path, `-` for stdout,
    /// or a Unix socket, as unix-stream:PATH or unix-dgram:PATH
    #[arg(long, value_name = "WHERE", value_parser = OsStringValueParser::new().try_map(output))]
    eve_output: Option<PathBuf>,

    #[arg(long, value_name = "KIND,…", value_delimiter = ',', hide_possible_values = true, help = types_help())]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(EventTypes::KNOWN))]
    eve_types: Option<Vec<String>>,

    /// Rotate the file, to eve.json.20261125-051403, before it exceeds this size, such as 1GiB
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rotate_size: Option<u64>,

    /// Rotate the file at this interval, such as 1h: on the hour
    #[arg(long, value_name = "TIME", value_parser = super::seconds)]
    rotate_interval: Option<Duration>,

    /// Keep this many rotated files, and remove older ones
    #[arg(long, value_name = "N")]
    rotate_keep: Option<usize>,
}

fn types_help() -> String {
    let kinds = EventTypes::KNOWN.join(", ");
    format!("Write only events of these kinds, such as flow,dns,tls; the kinds are {kinds}")
}

/// Parses the destination. A name that is not UTF-8 is the name of a file.
fn output(name: OsString) -> Result<PathBuf, String> {
    name.to_str().map_or(Ok(()), Destination::check).map_err(|wrong| wrong.to_string())?;
    Ok(name.into())
}

fn bytes(text: &str) -> Result<u64, String> {
    match text::bytes(text) {
        Ok(0) => Err("must be greater than zero".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(wrong) => Err(format!("{}; {}", wrong.what, wrong.allowed)),
    }
}

impl EveArgs {
    /// Returns the destination of the records: that of the arguments, or else the configured one.
    pub(super) fn destination(&self, directory: &Path, configured: &EveSettings) -> Destination {
        Destination::named(self.output(configured), directory, self.rotation(configured), configured.modes)
    }

    /// Returns the name of the file or socket.
    pub(super) fn output<'a>(&'a self, configured: &'a EveSettings) -> &'a Path {
        let output = self.eve_output.as_ref().or(configured.output.as_ref());
        output.map_or(Path::new(FILE_NAME), PathBuf::as_path)
    }

    /// Returns the kinds of events to write.
    pub(super) fn types(&self, configured: &EveSettings) -> EventTypes {
        self.eve_types.clone().map_or_else(|| configured.types.clone(), EventTypes::only)
    }

    /// Returns the rotation of the file.
    pub(super) fn rotation(&self, configured: &EveSettings) -> Rotation {
        let Rotation { size, interval, keep } = configured.rotation;
        Rotation {
            size: self.rotate_size.or(size),
            interval: self.rotate_interval.or(interval),
            keep: self.rotate_keep.or(keep),
        }
    }

    /// Returns each flag, and whether it was given.
    pub(super) fn given(&self) -> [(&'static str, bool); 5] {
        [
            ("--eve-output", self.eve_output.is_some()),
            ("--eve-types", self.eve_types.is_some()),
            ("--rotate-size", self.rotate_size.is_some()),
            ("--rotate-interval", self.rotate_interval.is_some()),
            ("--rotate-keep", self.rotate_keep.is_some()),
        ]
    }
}

/// Opens the log. Fails if both the log and, with `json`, the account go to stdout.
pub(super) fn open(
    destination: Destination,
    types: EventTypes,
    patience: StallPolicy,
    json: bool,
) -> Result<Sink, SinkError> {
    if json && destination == Destination::Stdout {
        return Err(SinkError::Stdout);
    }
    Sink::to(destination, types, patience)
}
