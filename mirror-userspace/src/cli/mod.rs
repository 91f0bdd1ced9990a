//! The command line, with one file for each subcommand.

mod aws;
mod config_command;
mod confined;
mod doctor;
mod eve;
mod extcap;
mod extract;
mod filter;
mod fleet;
mod gate;
mod generate;
mod hold;
mod inspect;
mod log;
mod pktgen;
mod progress;
mod read;
mod receive;
mod rules;
mod run;
mod service;
mod source;
mod store;
mod tail;
mod timeline;
mod top;
mod verify;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use mirror_base::{escaped, one_line};
use mirror_control::config;
use mirror_control::config::settings::{self, Setting};
use mirror_engine::analyzer::{Register, register_everywhere};
use mirror_packet::{FlowScope, TunnelPorts};
use mirror_xdp_common::outer::{MAX_GENEVE_PORTS, MAX_VXLAN_GPE_PORTS, MAX_VXLAN_PORTS, Ports};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp run --interface ens6                           capture until Ctrl-C
  mirror-xdp doctor --interface ens6                        check an interface, and how to fix it
  mirror-xdp read mirrored.pcap --log-dir records            the same records, from a file
  mirror-xdp source --interface eth0 --to 10.0.0.2 --vni 7   feed an appliance from any Linux host
  mirror-xdp pktgen --interface eth1 --to 10.0.0.2 day.pcap  replay a capture as mirror traffic
  mirror-xdp filter check mirror-xdp.toml                    check and summarize the rules of a file
  mirror-xdp rules check suricata.rules                      which of Suricata's rules load, and why not
  mirror-xdp config show --config mirror-xdp.toml            the effective settings and their origin
  mirror-xdp extract --store DIR 'host 10.1.2.3 and vni 7'   packets kept by `run --store DIR`
  mirror-xdp tail 'tcp port 443' --vni 7                     show frames of a running capture
  mirror-xdp top                                             its rates, flows, services, losses
  mirror-xdp aws sessions                                    which instances are mirrored, from AWS

`mirror-xdp COMMAND --help` shows all options.";

/// Captures AWS VPC Traffic Mirroring sessions with XDP, tracks flows and writes EVE JSON.
#[derive(Debug, Parser)]
#[command(name = "mirror-xdp", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Boxed because it is larger than the others, as is `Pktgen`.
    Run(Box<run::Args>),
    Read(Box<read::Args>),
    Source(source::Args),
    Pktgen(Box<pktgen::Args>),
    Filter(filter::Args),
    Rules(rules::Args),
    // Contains the flags of `run`.
    Config(Box<config_command::Args>),
    Extract(extract::Args),
    Timeline(timeline::Args),
    Verify(verify::Args),
    Hold(hold::Args),
    Doctor(doctor::Args),
    Aws(aws::Args),
    Fleet(fleet::Args),
    Tail(tail::Args),
    Top(top::Args),
    #[command(hide = true)]
    Extcap(extcap::Args),
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Runs [`main`] with analyzers in addition to the built-in ones.
#[must_use]
pub fn main_with(register: Register) -> ExitCode {
    match register_everywhere(register) {
        Ok(()) => main(),
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Prints a message on standard error. What is quoted in it may come from a file: no character of it controls the
/// terminal.
fn complain(message: impl Display) {
    eprintln!("mirror-xdp: {}", escaped(&message.to_string()));
}

/// Parses the command line and runs the subcommand.
///
/// Exit codes: 0 success, 1 failure, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(*args),
        Command::Read(args) => read::main(&args),
        Command::Source(args) => source::main(args),
        Command::Pktgen(args) => pktgen::main(*args),
        Command::Filter(args) => filter::main(&args),
        Command::Rules(args) => rules::main(&args),
        Command::Config(args) => config_command::main(&args),
        Command::Extract(args) => extract::main(&args),
        Command::Timeline(args) => timeline::main(&args),
        Command::Verify(args) => verify::main(&args),
        Command::Hold(args) => hold::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Aws(args) => aws::main(&args),
        Command::Fleet(args) => fleet::main(&args),
        Command::Tail(args) => tail::main(&args),
        Command::Top(args) => top::main(args),
        Command::Extcap(args) => extcap::main(&args),
        Command::Generate(args) => generate::main(&args),
    };
    log::tell_rest();
    match result {
        Ok(code) => code,
        Err(error) => {
            complain(one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. A reader that closes the pipe is not an error.
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

/// The UDP ports of mirror traffic and of tunnels within it.
#[derive(Clone, Debug, clap::Args)]
struct PortArgs {
    #[arg(long = "vxlan-port", help = help("ports.vxlan"), value_name = "PORT,…|none")]
    #[arg(value_parser = port_list::<MAX_VXLAN_PORTS>)]
    vxlan: Option<PortList>,

    #[arg(long = "geneve-port", help = help("ports.geneve"), value_name = "PORT,…|none")]
    #[arg(value_parser = port_list::<MAX_GENEVE_PORTS>)]
    geneve: Option<PortList>,

    #[arg(long = "vxlan-gpe-port", help = help("ports.vxlan_gpe"), value_name = "PORT,…|none")]
    #[arg(value_parser = port_list::<MAX_VXLAN_GPE_PORTS>)]
    vxlan_gpe: Option<PortList>,

    #[arg(long = "inner-vxlan-port", help = help("analysis.inner_vxlan_ports"), value_name = "PORT,…|none")]
    #[arg(value_parser = port_list::<{ TunnelPorts::MAX_VXLAN }>)]
    inner_vxlan: Option<PortList>,
}

impl PortArgs {
    /// Replaces the lists that arguments name.
    fn apply(&self, settings: &mut config::Config) {
        let inner = self.inner_vxlan.as_ref().and_then(|PortList(ports)| TunnelPorts::new(ports));
        set(&mut settings.analysis.tunnel_ports, inner.as_ref());
        let ports = &mut settings.ports;
        let lists = [
            (&self.vxlan, &mut ports.vxlan),
            (&self.geneve, &mut ports.geneve),
            (&self.vxlan_gpe, &mut ports.vxlan_gpe),
        ];
        for (argument, list) in lists {
            if let Some(PortList(ports)) = argument {
                list.clone_from(ports);
            }
        }
    }
}

/// Returns ports as the parser takes them. A port in two lists belongs to the first of them.
fn parser_ports(config::Ports { vxlan, geneve, vxlan_gpe }: &config::Ports) -> Ports {
    Ports::new(vxlan, geneve, vxlan_gpe).expect("the parser bounds the length of each list")
}

/// UDP ports in the notation of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortList(Vec<u16>);

/// Parses a list of at most `MAX` UDP ports, separated by commas; `none` is an empty list.
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

/// The value of an on/off argument.
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

/// Returns a parser of scopes of flows.
fn flow_scope() -> impl TypedValueParser<Value = FlowScope> {
    let names = FlowScope::ALL.map(FlowScope::name);
    PossibleValuesParser::new(names).map(|name| FlowScope::named(&name).unwrap_or_default())
}

/// Parses a time greater than zero.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("must be greater than zero".to_owned()) } else { Ok(time) }
}

/// Returns the help of the flag of a setting, such as `receive.ring`.
fn help(path: &str) -> String {
    settings::get(path).map(Setting::help).unwrap_or_default()
}

/// Returns a parser of numbers in the range of a setting, such as `receive.ring`.
fn number<T: TryFrom<u64>>(path: &str) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(range(path))
}

/// Returns the range of a setting.
fn range(path: &str) -> RangeInclusive<u64> {
    settings::get(path).map_or(0..=u64::MAX, Setting::range)
}

/// Replaces a setting if its flag is given.
fn set<T: Clone>(setting: &mut T, flag: Option<&T>) {
    if let Some(value) = flag {
        setting.clone_from(value);
    }
}

/// Replaces a setting that may be absent if its flag is given.
fn set_some<T: Clone>(setting: &mut Option<T>, flag: Option<&T>) {
    if flag.is_some() {
        *setting = flag.cloned();
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
