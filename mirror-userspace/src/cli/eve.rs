//! The destination of the records: the arguments that `run` and `read` share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use mirror_base::text;
use mirror_control::config::EveSettings;
use mirror_records::sink::{Destination, EventTypes, Sink, SinkError, StallPolicy};

use super::{help, number, set, set_some};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct EveArgs {
    #[arg(long, help = help("eve.output"), value_name = "WHERE")]
    #[arg(value_parser = OsStringValueParser::new().try_map(output))]
    eve_output: Option<PathBuf>,

    #[arg(long, value_name = "KIND,…", value_delimiter = ',', help = help("eve.types"))]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(EventTypes::KNOWN))]
    eve_types: Option<Vec<String>>,

    #[arg(long, help = help("eve.names"), value_name = "FILE,…", value_delimiter = ',')]
    names: Vec<PathBuf>,

    #[arg(long, help = help("eve.rotate_size"), value_name = "BYTES", value_parser = bytes)]
    rotate_size: Option<u64>,

    #[arg(long, help = help("eve.rotate_interval"), value_name = "TIME", value_parser = super::seconds)]
    rotate_interval: Option<Duration>,

    #[arg(long, help = help("eve.rotate_keep"), value_name = "N")]
    #[arg(value_parser = number::<usize>("eve.rotate_keep"))]
    rotate_keep: Option<usize>,
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
    /// Replaces the settings whose flags are given.
    pub(super) fn apply(&self, settings: &mut EveSettings) {
        set(&mut settings.output, self.eve_output.as_ref());
        set(&mut settings.types, self.eve_types.clone().map(EventTypes::only).as_ref());
        if !self.names.is_empty() {
            settings.names.clone_from(&self.names);
        }
        set_some(&mut settings.rotation.size, self.rotate_size.as_ref());
        set_some(&mut settings.rotation.interval, self.rotate_interval.as_ref());
        set_some(&mut settings.rotation.keep, self.rotate_keep.as_ref());
    }
}

/// Returns the destination of the records.
pub(super) fn destination(settings: &EveSettings, log_dir: &Path) -> Destination {
    Destination::named(&settings.output, log_dir, settings.rotation.clone(), settings.modes)
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
