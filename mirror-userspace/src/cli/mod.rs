//! The command line: a file a subcommand.

mod config_command;
mod confined;
mod doctor;
mod eve;
mod extcap;
mod extract;
mod filter;
mod generate;
mod hold;
mod log;
mod pktgen;
mod progress;
mod read;
mod receive;
mod reload;
mod run;
mod service;
mod source;
mod store;
mod tail;
mod timeline;
mod top;
mod verify;

use std::io::{self, Write as _};
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mirror_base::one_line;
use mirror_control::config;
use mirror_engine::analyzer::{Register, register_everywhere};
use mirror_xdp_common::outer::{MAX_GENEVE_PORTS, MAX_VXLAN_GPE_PORTS, MAX_VXLAN_PORTS, Ports};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp run --interface ens6                           capture until Ctrl-C
  mirror-xdp doctor --interface ens6                        what stands in its way, and what mends it
  mirror-xdp read mirrored.pcap --log-dir records            the same records, from a file
  mirror-xdp source --interface eth0 --to 10.0.0.2 --vni 7   feed an appliance from any Linux host
  mirror-xdp pktgen --interface eth1 --to 10.0.0.2 day.pcap  replay a capture as mirror traffic
  mirror-xdp filter check mirror-xdp.toml                    what the rules of a file amount to
  mirror-xdp config show --config mirror-xdp.toml            what is in force, and who says so
  mirror-xdp extract --store DIR 'host 10.1.2.3 and vni 7'   packets that `run --store DIR` has kept
  mirror-xdp tail 'tcp port 443' --vni 7                     look on at a running capture
  mirror-xdp top                                             its rates, flows, services, losses

`mirror-xdp COMMAND --help` says more.";

/// Captures AWS VPC Traffic Mirroring sessions with XDP, keeps flows, writes EVE JSON.
#[derive(Debug, Parser)]
#[command(name = "mirror-xdp", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Larger than the others, as are those of `pktgen`.
    Run(Box<run::Args>),
    Read(read::Args),
    Source(source::Args),
    Pktgen(Box<pktgen::Args>),
    Filter(filter::Args),
    // Has the flags of `run`.
    Config(Box<config_command::Args>),
    Extract(extract::Args),
    Timeline(timeline::Args),
    Verify(verify::Args),
    Hold(hold::Args),
    Doctor(doctor::Args),
    Tail(tail::Args),
    Top(top::Args),
    #[command(hide = true)]
    Extcap(extcap::Args),
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Does what [`main`] does, with analyzers beside those that are built in.
#[must_use]
pub fn main_with(register: Register) -> ExitCode {
    match register_everywhere(register) {
        Ok(()) => main(),
        Err(error) => {
            eprintln!("mirror-xdp: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line and runs the subcommand.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(*args),
        Command::Read(args) => read::main(&args),
        Command::Source(args) => source::main(args),
        Command::Pktgen(args) => pktgen::main(*args),
        Command::Filter(args) => filter::main(&args),
        Command::Config(args) => config_command::main(&args),
        Command::Extract(args) => extract::main(&args),
        Command::Timeline(args) => timeline::main(&args),
        Command::Verify(args) => verify::main(&args),
        Command::Hold(args) => hold::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Tail(args) => tail::main(&args),
        Command::Top(args) => top::main(args),
        Command::Extcap(args) => extcap::main(&args),
        Command::Generate(args) => generate::main(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mirror-xdp: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output; a reader that has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the result")
        }
        _ => Ok(()),
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}

/// Which UDP ports are mirror traffic.
#[derive(Clone, Debug, clap::Args)]
struct PortArgs {
    /// UDP ports of VXLAN: mirror sessions to an interface or a Network Load Balancer; 4789 unless the
    /// configuration says otherwise
    #[arg(long = "vxlan-port", value_name = "PORT,…")]
    #[arg(value_parser = port_list::<MAX_VXLAN_PORTS>)]
    vxlan: Option<PortList>,

    /// UDP ports of GENEVE: mirror sessions to a Gateway Load Balancer, other clouds; `none` for none; 6081
    /// unless the configuration says otherwise
    #[arg(long = "geneve-port", value_name = "PORT,…")]
    #[arg(value_parser = port_list::<MAX_GENEVE_PORTS>)]
    geneve: Option<PortList>,

    /// UDP ports of VXLAN-GPE; none unless the configuration says otherwise
    #[arg(long = "vxlan-gpe-port", value_name = "PORT,…")]
    #[arg(value_parser = port_list::<MAX_VXLAN_GPE_PORTS>)]
    vxlan_gpe: Option<PortList>,
}

impl PortArgs {
    /// The ports: those of the arguments, else those that are configured. One in two lists is taken for
    /// that of the first.
    fn ports(&self, configured: &config::Ports) -> Ports {
        let config::Ports { vxlan, geneve, vxlan_gpe } = self.lists(configured);
        Ports::new(&vxlan, &geneve, &vxlan_gpe).expect("no list is longer than its parser lets it be")
    }

    /// The ports as lists.
    fn lists(&self, configured: &config::Ports) -> config::Ports {
        let list = |argument: &Option<PortList>, configured: &Vec<u16>| {
            argument.as_ref().map_or_else(|| configured.clone(), |list| list.0.clone())
        };
        config::Ports {
            vxlan: list(&self.vxlan, &configured.vxlan),
            geneve: list(&self.geneve, &configured.geneve),
            vxlan_gpe: list(&self.vxlan_gpe, &configured.vxlan_gpe),
        }
    }
}

/// UDP ports as an argument lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortList(Vec<u16>);

/// Reads a list of at most `MAX` UDP ports, separated by commas; `none` is an empty one.
fn port_list<const MAX: usize>(text: &str) -> Result<PortList, String> {
    if text == "none" {
        return Ok(PortList(Vec::new()));
    }
    let port = |text: &str| {
        let port = text.trim().parse::<NonZeroU16>();
        port.map(NonZeroU16::get).map_err(|_| format!("`{text}` is not a UDP port (1 to 65535)"))
    };
    let ports: Vec<u16> = text.split(',').map(port).collect::<Result<_, _>>()?;
    if ports.len() > MAX { Err(format!("at most {MAX} ports")) } else { Ok(PortList(ports)) }
}

/// A switch that is given as a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    #[default]
    Off,
    On,
}

impl Switch {
    fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Reads a time that is not nothing.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(time) }
}

/// Reads the number that `--max-flows` takes.
fn max_flows(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a number of at least 1".to_owned()),
        Ok(flows) => Ok(flows),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn port_lists_are_read_and_wrong_ones_refused() {
        assert_eq!(port_list::<2>("4789, 8472").unwrap().0, [4789, 8472]);
        assert!(port_list::<2>("none").unwrap().0.is_empty());
        for wrong in ["", "0", "65536", "4789,", "vxlan", "1,2,3"] {
            assert!(port_list::<2>(wrong).is_err(), "{wrong}");
        }
    }
}
