//! The command line: a file a subcommand.

mod log;
mod pktgen;
mod progress;
mod read;
mod run;
mod source;

use std::num::NonZeroU16;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mirror_xdp_common::outer::{MAX_PORTS, VxlanPorts};

use crate::error::one_line;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp run --interface ens6                           capture until Ctrl-C
  mirror-xdp read mirrored.pcap --log-dir records            the same records, from a file
  mirror-xdp source --interface eth0 --to 10.0.0.2 --vni 7   feed an appliance from any Linux host
  mirror-xdp pktgen --interface eth1 --to 10.0.0.2 day.pcap  replay a capture as mirror traffic

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
    Run(run::Args),
    Read(read::Args),
    Source(source::Args),
    // Larger than the others.
    Pktgen(Box<pktgen::Args>),
}

/// Parses the command line and runs the subcommand.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(args),
        Command::Read(args) => read::main(&args),
        Command::Source(args) => source::main(args),
        Command::Pktgen(args) => pktgen::main(*args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mirror-xdp: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Reads a list of UDP ports as `--vxlan-port` takes it.
fn vxlan_ports(text: &str) -> Result<VxlanPorts, String> {
    let mut ports = VxlanPorts([0; MAX_PORTS]);
    for (index, port) in text.split(',').enumerate() {
        let place = ports.0.get_mut(index).ok_or_else(|| format!("at most {MAX_PORTS} ports"))?;
        *place = port
            .trim()
            .parse::<NonZeroU16>()
            .map_err(|_| format!("`{port}` is not a UDP port (1 to 65535)"))?
            .get();
    }
    Ok(ports)
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
        assert_eq!(vxlan_ports("4789, 8472").unwrap().0, [4789, 8472, 0, 0, 0, 0, 0, 0]);
        for wrong in ["", "0", "65536", "4789,", "vxlan", "1,2,3,4,5,6,7,8,9"] {
            assert!(vxlan_ports(wrong).is_err(), "{wrong}");
        }
    }
}
