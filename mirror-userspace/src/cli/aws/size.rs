//! `mirror-xdp aws size`: the instance types that can take an amount of mirrored traffic.

use std::process::ExitCode;

use mirror_aws::client::{Client, ClientSettings};
use mirror_aws::ec2::{self, InstanceType};
use serde_json::json;

use crate::cli::progress::columns;

/// Choose an instance type for an amount of mirrored traffic
///
/// The network comes first, then queues, then CPUs: AWS limits the bandwidth and the packets of an instance whatever its
/// CPUs could do. The types are those that the region offers, the smallest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp aws size --gbps 8 --pps 1.2M
  mirror-xdp aws size --gbps 2 --pps 300k --architecture arm64 --json | jq -r '.types[0].type'

The traffic is that of the mirrored interfaces, both directions of all sessions together, without the outer headers that
mirroring adds. It needs the action ec2:DescribeInstanceTypes.")]
pub(super) struct Args {
    /// Mirrored traffic in Gbit/s, at the busiest time
    #[arg(long, value_name = "GBPS", value_parser = gbps)]
    gbps: f64,

    /// Mirrored packets per second, at the busiest time
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pps: f64,

    /// Packets per second that one worker takes with head-room; measure yours with `cargo xtask bench path`
    #[arg(long, value_name = "RATE", value_parser = rate, default_value = "400k")]
    worker_pps: f64,

    /// Architecture of the CPUs
    #[arg(long, value_parser = ["x86_64", "arm64"], default_value = "x86_64")]
    architecture: String,

    /// Region; by default `AWS_REGION`, or that of this instance
    #[arg(long, value_name = "REGION", value_parser = super::region)]
    region: Option<String>,

    /// URL of the API of EC2, in place of that of the region
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// Number of types to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Bytes that mirroring adds to a packet: outer Ethernet, IPv4, UDP and VXLAN (RFC 7348).
const ENVELOPE: f64 = 50.0;
/// CPUs besides those of the workers: records, API, interrupts of other queues.
const OTHER_CPUS: u32 = 2;
/// The part of the baseline bandwidth that may be used: mirrored traffic comes in bursts.
const USABLE: f64 = 0.8;
/// Memory in MiB for each worker (buffers, flows, streams), and besides.
const WORKER_MEMORY: u64 = 1024;
const OTHER_MEMORY: u64 = 2048;

fn gbps(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "write a number such as 8".to_owned())?;
    if value > 0.0 && value <= 10_000.0 { Ok(value) } else { Err("must be from 0 to 10000".to_owned()) }
}

/// Parses a rate such as `1.2M`, `300k` or `5000`.
fn rate(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let value: f64 = digits.parse().map_err(|_| "write such as 300k or 1.2M".to_owned())?;
    if value > 0.0 && value * unit <= 1e12 {
        Ok(value * unit)
    } else {
        Err("must be greater than 0".to_owned())
    }
}

/// What the traffic needs of an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Need {
    /// Bandwidth in Gbit/s, with the outer headers.
    gbps: f64,
    workers: u32,
    cpus: u32,
    mebibytes: u64,
}

impl Need {
    fn of(gbps: f64, pps: f64, worker_pps: f64) -> Self {
        // At most 10¹² by one at least.
        let workers = (pps / worker_pps).ceil().clamp(1.0, f64::from(u16::MAX)) as u32;
        Self {
            gbps: gbps + pps * ENVELOPE * 8.0 / 1e9,
            workers,
            cpus: workers + OTHER_CPUS,
            mebibytes: u64::from(workers) * WORKER_MEMORY + OTHER_MEMORY,
        }
    }

    /// Returns whether a type has all of it.
    fn is_met_by(&self, kind: &InstanceType) -> bool {
        let Some(card) = kind.network_info.card() else { return false };
        let queues = card.maximum_ena_queue_count_per_interface.unwrap_or(0);
        kind.hypervisor.as_deref() == Some("nitro")
            && kind.current_generation
            && !kind.burstable_performance_supported
            && matches!(kind.network_info.ena_support.as_deref(), Some("required" | "supported"))
            && card.baseline_bandwidth_in_gbps.is_some_and(|gbps| gbps * USABLE >= self.gbps)
            && queues >= self.workers
            && kind.v_cpu_info.cpus >= self.cpus
            && kind.memory_info.mebibytes >= self.mebibytes
    }
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let mut types = super::runtime()?.block_on(async {
        let region = match &args.region {
            Some(region) => region.clone(),
            None => super::default_region().await?,
        };
        let mut settings = ClientSettings::of_region(&region);
        settings.endpoint = args.endpoint.clone().or(settings.endpoint);
        anyhow::Ok(ec2::instance_types(&Client::new(&settings)?).await?)
    })?;
    let need = Need::of(args.gbps, args.pps, args.worker_pps);
    types.retain(|kind| kind.processor_info.is(&args.architecture) && need.is_met_by(kind));
    types.sort_by(|a, b| {
        let key = |kind: &InstanceType| (kind.v_cpu_info.cpus, kind.memory_info.mebibytes);
        key(a).cmp(&key(b)).then_with(|| a.instance_type.cmp(&b.instance_type))
    });
    types.truncate(args.limit);
    if args.json {
        crate::cli::print_json(&json!({
            "need": {"gbps": need.gbps, "workers": need.workers, "vcpus": need.cpus, "mebibytes": need.mebibytes},
            "types": types.iter().map(described).collect::<Vec<_>>(),
        }))?;
    } else {
        crate::cli::print(&table(args, need, &types))?;
    }
    Ok(if types.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn described(kind: &InstanceType) -> serde_json::Value {
    let card = kind.network_info.card();
    json!({
        "type": kind.instance_type, "vcpus": kind.v_cpu_info.cpus, "cores": kind.v_cpu_info.cores,
        "mebibytes": kind.memory_info.mebibytes,
        "baseline_gbps": card.and_then(|card| card.baseline_bandwidth_in_gbps),
        "peak_gbps": card.and_then(|card| card.peak_bandwidth_in_gbps),
        "queues": card.and_then(|card| card.default_ena_queue_count_per_interface),
        "max_queues": card.and_then(|card| card.maximum_ena_queue_count_per_interface),
    })
}

/// The titles of the columns.
const TITLES: [&str; 7] = ["TYPE", "VCPUS", "GIB", "BASELINE GBPS", "PEAK GBPS", "QUEUES", "MAX QUEUES"];

fn cells(kind: &InstanceType) -> [String; 7] {
    let card = kind.network_info.card();
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    [
        kind.instance_type.clone(),
        kind.v_cpu_info.cpus.to_string(),
        (kind.memory_info.mebibytes / 1024).to_string(),
        number(card.and_then(|card| card.baseline_bandwidth_in_gbps)),
        number(card.and_then(|card| card.peak_bandwidth_in_gbps)),
        number(card.and_then(|card| card.default_ena_queue_count_per_interface).map(f64::from)),
        number(card.and_then(|card| card.maximum_ena_queue_count_per_interface).map(f64::from)),
    ]
}

fn table(args: &Args, need: Need, types: &[InstanceType]) -> String {
    let mut text = format!(
        "{:.2} Gbit/s with outer headers, {} workers of {:.0} packets/s, {} vCPUs, {} GiB of memory\n\n",
        need.gbps,
        need.workers,
        args.worker_pps,
        need.cpus,
        need.mebibytes.div_ceil(1024)
    );
    let mut rows = vec![TITLES.map(ToOwned::to_owned)];
    rows.extend(types.iter().map(cells));
    text.push_str(&columns(&rows, 1));
    if types.is_empty() {
        text.push_str("no type of the region has all of that: spread the sessions over several appliances\n");
    }
    text.push_str(
        "\nAssumed: four fifths of the baseline bandwidth may be used, a queue and a CPU for each worker, two more \
         CPUs, 1 GiB of memory for\neach worker and two besides. AWS does not publish the packets per second of a \
         type: watch pps_allowance_exceeded.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_need_includes_what_mirroring_adds() {
        let need = Need::of(8.0, 1_200_000.0, 400_000.0);
        assert!((need.gbps - 8.48).abs() < 1e-9, "{need:?}");
        assert_eq!((need.workers, need.cpus, need.mebibytes), (3, 5, 5120));
        assert_eq!(Need::of(1.0, 1.0, 400_000.0).workers, 1);
        assert_eq!(Need::of(1.0, 1e12, 1.0).workers, 65_535);
    }

    #[test]
    fn rates_are_written_with_units() {
        for (text, value) in [("1.2M", 1.2e6), ("300k", 3e5), ("5000", 5e3)] {
            assert!((rate(text).unwrap() - value).abs() < 1e-3, "{text}");
        }
        for text in ["", "k", "-1", "0", "1G", "NaN", "inf"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["", "0", "-3", "NaN", "1e9"] {
            assert!(gbps(text).is_err(), "{text}");
        }
    }
}
