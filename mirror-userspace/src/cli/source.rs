//! `mirror-xdp source`: its arguments, its output for people and scripts, and the events that stop it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::process::ExitCode;

use anyhow::Context as _;
use mirror_base::one_line;
use mirror_device::source::{Event, Options, Totals, run};
use mirror_xdp_common::Vni;
use mirror_xdp_common::source::SourceCounter;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

const EXAMPLES: &str = "\
Examples:
  mirror-xdp source --interface eth0 --to 10.0.0.2 --vni 7
  mirror-xdp source --interface br0 --to fd00::2 --vni 7 --packet-length 256
  mirror-xdp source --interface eth0 --to 10.0.0.2 --vni 7 --duration 1min --json > account.json

Needs root, or CAP_NET_ADMIN and CAP_BPF. ARP, DHCP and mirror traffic itself are not mirrored. Frames are
cut to the outgoing interface's MTU minus the encapsulation (36 bytes over IPv4, 56 over IPv6).";

/// The minimum packet length: Ethernet with a VLAN tag, IPv4 and TCP, or IPv6 and the ports.
const MIN_PACKET_LENGTH: u32 = 64;

/// Mirror an interface of this host to a capture appliance, like AWS
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Interface to mirror, in both directions
    #[arg(short, long, value_name = "IF")]
    interface: String,

    /// Address of the appliance: the mirror target
    #[arg(long, value_name = "IP")]
    to: IpAddr,

    /// VXLAN network identifier of the session, 0 to 16777215
    #[arg(long, value_name = "N", value_parser = vni)]
    vni: Vni,

    /// Bytes to mirror of each frame
    #[arg(long, value_name = "N", default_value_t = u32::from(u16::MAX))]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(MIN_PACKET_LENGTH)..=65535))]
    packet_length: u32,

    /// UDP port of the appliance
    #[arg(long, value_name = "PORT", default_value = "4789")]
    port: NonZeroU16,

    /// Stop after this time, such as 90s, 10min or 1h
    #[arg(long, value_name = "TIME")]
    duration: Option<humantime::Duration>,

    /// Print the counts as one JSON object on stdout at the end
    #[arg(long)]
    json: bool,
}

fn vni(text: &str) -> Result<Vni, String> {
    let range = || format!("a VNI is a number from 0 to {}", Vni::MAX);
    text.parse().ok().and_then(Vni::new).ok_or_else(range)
}

pub(super) fn main(args: Args) -> anyhow::Result<ExitCode> {
    // The frames stay in the kernel; this thread handles signals, timers and netlink.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(mirror(args))
}

/// The account that `--json` prints.
#[derive(Serialize)]
struct Account<'a> {
    seconds: f64,
    interface: &'a str,
    target: IpAddr,
    vni: u32,
    #[serde(flatten)]
    totals: &'a Totals,
}

async fn mirror(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let duration = args.duration.map(Into::into);
    let stop = async {
        let timeout = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = timeout => {}
        }
    };
    let options = Options {
        interface: args.interface,
        target: args.to,
        vni: args.vni,
        packet_length: args.packet_length,
        port: args.port.get(),
    };
    let Options { interface, target, vni, .. } = &options;
    let mut start = Instant::now();
    let totals = run(&options, stop, |event| match event {
        Event::Ready { way, truncated } => {
            start = Instant::now();
            let hop = hop(*target, way.next_hop);
            if let Some(bytes) = truncated {
                eprintln!(
                    "mirror-xdp: longer frames are cut to {bytes} bytes: raise the MTU of {} (now {}) to mirror \
                     them whole",
                    way.interface, way.path.mtu,
                );
            }
            eprintln!("mirroring {interface} to {target}, VNI {vni}, by {}{hop}", way.interface);
        }
        Event::Rerouted(way) => {
            let hop = hop(*target, way.next_hop);
            eprintln!("mirror-xdp: mirror traffic goes by {}{hop} now", way.interface);
        }
        Event::Lost(error) => eprintln!("mirror-xdp: frames are lost: {}", one_line(error)),
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let account = Account { seconds, interface, target: *target, vni: vni.get(), totals: &totals };
        super::print_json(&account)?;
    } else {
        print_totals(seconds, &totals);
    }
    Ok(ExitCode::SUCCESS)
}

fn hop(target: IpAddr, next_hop: IpAddr) -> String {
    if next_hop == target { String::new() } else { format!(" and router {next_hop}") }
}

fn print_totals(seconds: f64, totals: &Totals) {
    let get = |counter| totals.counts.get(counter);
    eprintln!("mirrored for {seconds:.1} s");
    let line = |count: u64, what: &str| eprintln!("{count:>12}  {what}");
    line(get(SourceCounter::Mirrored), "frames mirrored");
    line(get(SourceCounter::MirroredBytes), "bytes mirrored");
    line(get(SourceCounter::Truncated), "of the frames truncated");
    for (name, count) in totals.skipped().filter(|&(_, count)| count != 0) {
        line(count, &format!("skipped: {name}"));
    }
    let failed: u64 = totals.failed().map(|(_, count)| count).sum();
    line(failed, "lost");
    for (name, count) in totals.failed().filter(|&(_, count)| count != 0) {
        line(count, &format!("lost: {name}"));
    }
    if totals.pair_full != 0 {
        eprintln!("the kernel's queue for copies was full: raise net.core.netdev_max_backlog with sysctl");
    }
}
