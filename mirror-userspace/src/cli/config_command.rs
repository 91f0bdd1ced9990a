//! `mirror-xdp config`: checks a configuration file, shows the settings in force, and prints an example.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use mirror_base::escaped;
use mirror_control::config::settings::render;
use mirror_control::config::{self, Checked, Config, Diagnostics};
use serde::Serialize;
use serde_json::{Value, json};

use super::filter::{CONFIG, load};
use super::{print, print_json, run};

const EXAMPLES: &str = "\
Examples:
  mirror-xdp config example > mirror-xdp.toml
  mirror-xdp config check mirror-xdp.toml
  mirror-xdp config show --config mirror-xdp.toml --xdp-mode generic";

/// Check, show and create a configuration
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    // Boxed because it is larger than the others.
    Show(Box<Show>),
    Example(Example),
}

/// Report everything that is wrong with a configuration file: line, key, and the accepted values
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp config check                               the file of the service
  mirror-xdp config check --json new.toml | jq .mistakes

Files that it names, such as a key or a token, are checked; interfaces and ports of this machine are not.
Exit code 0 if `run` would accept the file, even with warnings; 1 if it would not.")]
struct Check {
    /// Configuration file
    #[arg(value_name = "FILE", default_value = CONFIG)]
    file: PathBuf,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Show the settings that are in force with the flags of `run`, and the origin of each
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp config show                                              the defaults
  mirror-xdp config show --config mirror-xdp.toml --json | jq '.[\"api.listen\"]'")]
struct Show {
    #[command(flatten)]
    run: run::Args,
}

/// Print a configuration file with every key explained
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  mirror-xdp config example > mirror-xdp.toml")]
struct Example {}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    super::confined::to_reading()?;
    match &args.command {
        Command::Check(args) => check(args),
        Command::Show(args) => show(args),
        Command::Example(Example {}) => {
            print(&render::example())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(args: &Check) -> anyhow::Result<ExitCode> {
    let Checked { config, mistakes, warnings, .. } = config::check(&args.file, |_| false)?;
    let mistakes = Diagnostics::of(mistakes);
    for line in mistakes.iter().flat_map(Diagnostics::lines) {
        super::complain(line);
    }
    for warning in &warnings {
        super::complain(format_args!("warning: {warning}"));
    }
    if let Some(mistakes) = mistakes {
        if args.json {
            print_json(&json!({ "valid": false, "mistakes": mistakes.all(), "warnings": warnings }))?;
        }
        return Ok(ExitCode::FAILURE);
    }
    let sets = &config.policy.sets;
    let rules: usize = sets.iter().map(|set| set.rules.len()).sum();
    if args.json {
        print_json(&json!({ "valid": true, "sets": sets.len(), "rules": rules, "warnings": warnings }))?;
    } else {
        print(&format!("{}: valid, {rules} rules\n", args.file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A setting and its origin.
#[derive(Serialize)]
struct Setting {
    value: Value,
    from: String,
}

fn show(args: &Show) -> anyhow::Result<ExitCode> {
    let (config, lines) = match args.run.config() {
        None => (Config::default(), BTreeMap::new()),
        Some(path) => {
            let Some(config) = load(path, |_| Ok(()))? else { return Ok(ExitCode::FAILURE) };
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the configuration {}", path.display()))?;
            (config, config::lines(&text))
        }
    };
    let from = |key: &str, flag: Option<&str>| match (flag, lines.get(key), args.run.config()) {
        (Some(flag), ..) => flag.to_owned(),
        (None, Some(line), Some(path)) => format!("{}:{line}", path.display()),
        _ => "default".to_owned(),
    };
    let settings = args.run.in_force(&args.run.settings(config)).into_iter();
    let settings: Vec<_> =
        settings.map(|(key, value, flag)| (key, Setting { value, from: from(key, flag) })).collect();
    if args.run.json() {
        let object: BTreeMap<_, _> = settings.into_iter().collect();
        print_json(&object)?;
    } else {
        print(&table(&settings))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats one line for each setting, in TOML notation except for unset values.
fn table(settings: &[(&'static str, Setting)]) -> String {
    let written =
        |value: &Value| if value.is_null() { "not set".to_owned() } else { escaped(&value.to_string()) };
    let width = |of: &dyn Fn(&(&'static str, Setting)) -> usize| settings.iter().map(of).max().unwrap_or(0);
    let key_width = width(&|(key, _)| key.len());
    let value_width = width(&|(_, setting)| written(&setting.value).chars().count()).min(40);
    let mut text = String::new();
    for (key, Setting { value, from }) in settings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key:key_width$} = {:value_width$}  # {}", written(value), escaped(from));
    }
    text
}
