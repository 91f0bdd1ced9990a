//! The arguments that control how frames are received. They take precedence over the configuration file.

use clap::ValueEnum as _;
use clap::builder::PossibleValue;
use mirror_control::config::{ModeChoice, ReceiveSettings, limits};
use mirror_control::host::CpuList;
use mirror_device::afxdp::{BusyPoll, ZeroCopy};
use serde_json::json;

use super::run::InForce;

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Reception settings; those not given are as configured
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reception (each also in the configuration, section [receive])")]
pub(super) struct ReceiveArgs {
    /// XDP mode: the place where the XDP program runs [default: auto]
    #[arg(long, value_enum, value_name = "MODE")]
    xdp_mode: Option<ModeChoice>,

    /// Zero-copy reception: the NIC writes frames directly to the memory where they are analysed [default:
    /// auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    zero_copy: Option<ZeroCopy>,

    /// CPUs for the workers, such as 2-7,10 [default: those that the process may use; isolated ones first,
    /// without those that serve the interface's interrupts]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// Sockets of each queue, with a worker each [default: enough to give each CPU a worker]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(limits::SOCKETS_PER_QUEUE))]
    sockets_per_queue: Option<u32>,

    /// Let one worker analyse all packets of a flow, whichever queue they arrive on [default: on]
    #[arg(long, value_enum, value_name = "ON|OFF")]
    flow_affinity: Option<Switch>,

    /// Number of frames that may wait for a worker, a power of two [default: by the machine's memory]
    #[arg(long, value_name = "N", value_parser = ring)]
    ring: Option<u32>,

    /// Workers poll for frames all the time, for this many microseconds a call; 0: they wait for interrupts
    /// [default: 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(limits::BUSY_POLL))]
    busy_poll: Option<u32>,
}

fn ring(text: &str) -> Result<u32, String> {
    let ring = text.parse().ok().filter(|ring: &u32| ring.is_power_of_two() && limits::RING.contains(ring));
    ring.ok_or_else(|| format!("must be a power of two, {} to {}", limits::RING.start(), limits::RING.end()))
}

impl ReceiveArgs {
    /// Returns the settings in force, see [`InForce`].
    pub(super) fn in_force(&self, configured: &ReceiveSettings) -> Vec<InForce> {
        let name = |value: Option<PossibleValue>| value.map(|value| value.get_name().to_owned());
        let settings = self.clone().settings(configured);
        let microseconds = self.busy_poll.or(configured.busy_poll.map(BusyPoll::microseconds));
        let flag = |given: bool, flag: &'static str| given.then_some(flag);
        vec![
            (
                "receive.xdp_mode",
                json!(name(settings.xdp_mode.to_possible_value())),
                flag(self.xdp_mode.is_some(), "--xdp-mode"),
            ),
            (
                "receive.zero_copy",
                json!(name(settings.zero_copy.to_possible_value())),
                flag(self.zero_copy.is_some(), "--zero-copy"),
            ),
            (
                "receive.cpus",
                json!(settings.cpus.as_ref().map(ToString::to_string)),
                flag(self.cpus.is_some(), "--cpus"),
            ),
            (
                "receive.sockets_per_queue",
                json!(settings.sockets_per_queue),
                flag(self.sockets_per_queue.is_some(), "--sockets-per-queue"),
            ),
            (
                "receive.flow_affinity",
                json!(if settings.flow_affinity { "on" } else { "off" }),
                flag(self.flow_affinity.is_some(), "--flow-affinity"),
            ),
            ("receive.ring", json!(settings.ring), flag(self.ring.is_some(), "--ring")),
            (
                "receive.busy_poll",
                json!(microseconds.unwrap_or(0)),
                flag(self.busy_poll.is_some(), "--busy-poll"),
            ),
        ]
    }

    /// Merges the arguments with the configuration; the arguments take precedence.
    pub(super) fn settings(self, configured: &ReceiveSettings) -> ReceiveSettings {
        ReceiveSettings {
            xdp_mode: self.xdp_mode.unwrap_or(configured.xdp_mode),
            zero_copy: self.zero_copy.unwrap_or(configured.zero_copy),
            cpus: self.cpus.or_else(|| configured.cpus.clone()),
            sockets_per_queue: self.sockets_per_queue.or(configured.sockets_per_queue),
            flow_affinity: self.flow_affinity.map_or(configured.flow_affinity, |is| is == Switch::On),
            ring: self.ring.or(configured.ring),
            busy_poll: match self.busy_poll {
                Some(microseconds) => BusyPoll::of(microseconds),
                None => configured.busy_poll,
            },
        }
    }
}
