//! `mirror-xdp generate`: writes manual pages and completions, from the single definition of the flags. It is
//! used to build packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Shells, and the path below `/usr/share` of their completions on Debian.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/mirror-xdp"),
    (Shell::Fish, "fish/vendor_completions.d/mirror-xdp.fish"),
    (Shell::Zsh, "zsh/vendor-completions/_mirror-xdp"),
];

/// Write manual pages and completions
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory to use as /usr/share
    #[arg(value_name = "DIR")]
    share: PathBuf,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    for (shell, path) in SHELLS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "mirror-xdp", &mut text);
        write(&args.share.join(path), &text)?;
    }
    let mut command = Cli::command();
    command.build();
    write_pages(command, &args.share.join("man/man1"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for a command, and one for each of its visible subcommands.
fn write_pages(command: clap::Command, directory: &Path) -> anyhow::Result<()> {
    for subcommand in command.get_subcommands() {
        if !subcommand.is_hide_set() && subcommand.get_name() != "help" {
            write_pages(subcommand.clone(), directory)?;
        }
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    write(&directory.join(format!("{name}.1")), &page)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_and_each_shell_completions() {
        let directory = tempfile::tempdir().unwrap();
        main(&Args { share: directory.path().to_owned() }).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join("man/man1").join(name)).unwrap();
        assert!(page("mirror-xdp.1").contains("mirror\\-xdp"));
        assert!(page("mirror-xdp-run.1").contains("\\-\\-interface"));
        assert!(page("mirror-xdp-tail.1").contains("\\-\\-vni"));
        for (_, path) in SHELLS {
            assert!(fs::read_to_string(directory.path().join(path)).unwrap().contains("interface"), "{path}");
        }
    }
}
