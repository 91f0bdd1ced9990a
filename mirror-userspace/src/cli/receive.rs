//! The arguments that control how frames are received. They take precedence over the configuration file.

use mirror_control::config::{ModeChoice, ReceiveSettings};
use mirror_control::host::CpuList;
use mirror_device::afxdp::{BusyPoll, ZeroCopy};

use super::{Switch, help, number, range, set, set_some};

/// Reception settings; those not given are as configured
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reception (each also in the configuration, section [receive])")]
pub(super) struct ReceiveArgs {
    #[arg(long, help = help("receive.xdp_mode"), value_enum, value_name = "MODE")]
    xdp_mode: Option<ModeChoice>,

    #[arg(long, help = help("receive.zero_copy"), value_enum, value_name = "WHEN")]
    zero_copy: Option<ZeroCopy>,

    #[arg(long, help = help("receive.cpus"), value_name = "LIST")]
    cpus: Option<CpuList>,

    #[arg(long, help = help("receive.sockets_per_queue"), value_name = "N")]
    #[arg(value_parser = number::<u32>("receive.sockets_per_queue"))]
    sockets_per_queue: Option<u32>,

    #[arg(long, help = help("receive.flow_affinity"), value_enum, value_name = "ON|OFF")]
    flow_affinity: Option<Switch>,

    #[arg(long, help = help("receive.ring"), value_name = "N", value_parser = ring)]
    ring: Option<u32>,

    #[arg(long, help = help("receive.busy_poll"), value_name = "MICROSECONDS")]
    #[arg(value_parser = number::<u32>("receive.busy_poll"))]
    busy_poll: Option<u32>,
}

fn ring(text: &str) -> Result<u32, String> {
    let range = range("receive.ring");
    let ring =
        text.parse().ok().filter(|ring: &u32| ring.is_power_of_two() && range.contains(&(*ring).into()));
    ring.ok_or_else(|| format!("must be a power of two, {} to {}", range.start(), range.end()))
}

impl ReceiveArgs {
    /// Replaces the settings whose flags are given.
    pub(super) fn apply(&self, settings: &mut ReceiveSettings) {
        set(&mut settings.xdp_mode, self.xdp_mode.as_ref());
        set(&mut settings.zero_copy, self.zero_copy.as_ref());
        set_some(&mut settings.cpus, self.cpus.as_ref());
        set_some(&mut settings.sockets_per_queue, self.sockets_per_queue.as_ref());
        set(&mut settings.flow_affinity, self.flow_affinity.map(Switch::is_on).as_ref());
        set_some(&mut settings.ring, self.ring.as_ref());
        set(&mut settings.busy_poll, self.busy_poll.map(BusyPoll::of).as_ref());
    }
}
