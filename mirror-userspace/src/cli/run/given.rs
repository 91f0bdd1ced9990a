//! The flags of `run` that were given, as opposed to those that have their default.

use std::collections::BTreeSet;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command, FromArgMatches};
use mirror_control::config::settings::Setting;

use crate::cli::run;

/// The flags that the command line has, such as `--ring`.
///
/// It defines no flags itself. In the arguments of `run`, it must be the first field, because each field takes
/// its values away.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(BTreeSet<String>);

impl Given {
    /// Returns the flag of a setting, if it was given.
    pub(super) fn flag(&self, setting: &Setting) -> Option<&'static str> {
        setting.flag.filter(|flag| self.0.contains(*flag))
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let command = run::Args::augment_args(Command::new("run"));
        let is_given = |argument: &&Arg| {
            matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let flags = command.get_arguments().filter(is_given).filter_map(Arg::get_long);
        Ok(Self(flags.map(|flag| format!("--{flag}")).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use mirror_control::config::{self, Config, settings};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        run: run::Args,
    }

    fn rows() -> impl Iterator<Item = (&'static Setting, &'static str)> {
        settings::all().filter_map(|row| Some((row, row.flag?)))
    }

    /// Returns a value of the file as the flag takes it.
    fn argument(toml: &str) -> String {
        toml.trim_matches(['[', ']']).replace('"', "").replace(", ", ",")
    }

    #[test]
    fn each_flag_in_the_table_exists_and_takes_help_and_default_from_its_row() {
        let command = run::Args::augment_args(Command::new("run"));
        for (row, flag) in rows() {
            let is_it = |argument: &&Arg| argument.get_long().is_some_and(|long| format!("--{long}") == flag);
            let argument = command.get_arguments().find(is_it).unwrap_or_else(|| panic!("{flag} is missing"));
            // A default of the argument would override the file.
            let default = argument.get_default_values();
            assert!(default.is_empty() || default == ["false"], "{flag}: {default:?}");
            // The usage shows this one; without a file, it is required.
            if flag != "--interface" {
                assert_eq!(argument.get_help().unwrap().to_string(), row.help(), "{flag}");
            }
        }
    }

    #[test]
    fn a_flag_sets_the_value_that_its_key_sets_and_is_named_as_its_origin() {
        for (row, flag) in rows() {
            let (section, key) = row.path.rsplit_once('.').unwrap();
            let mut words = vec!["run".to_owned(), "--store=packets".to_owned(), flag.to_owned()];
            let mut value = row.example_value();
            if flag == "--replace" {
                value = "\"on\"".to_owned();
            } else if row.needs_file || value != "[]" {
                words.push(argument(&value));
            } else {
                words.push("none".to_owned());
            }
            let args = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}")).run;
            let file = format!("[{section}]\n{key} = {value}\n");
            let file = config::parse(Path::new("x"), file.as_bytes()).unwrap();
            let settings = args.settings(Config::default());
            assert_eq!(row.value(&settings), row.value(&file), "{words:?}");
            for (key, _, origin) in args.in_force(&settings) {
                if key != "log.level" {
                    assert_eq!(origin, (key == row.path).then_some(flag), "{words:?}: {key}");
                }
            }
        }
    }

    #[test]
    fn numbers_out_of_the_range_of_their_row_are_refused() {
        for (row, flag) in rows() {
            let settings::Kind::Number { most, .. } = row.kind else { continue };
            let words = ["run".to_owned(), format!("{flag}={}", most + 1)];
            assert!(Cli::try_parse_from(&words).is_err(), "{words:?}");
        }
    }
}
