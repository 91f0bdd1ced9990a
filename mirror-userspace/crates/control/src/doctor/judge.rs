//! The judgement of the facts: one function per check, in the order in which the checks are shown.

use std::fmt::Write as _;

use mirror_device::afxdp;
use mirror_device::nic::Change;
use mirror_device::nic::interrupt::Interrupt;
use mirror_device::nic::ioctl::{HASH_ALL, HASH_SOURCE_PORT};
use mirror_device::nic::losses::Kind;
use mirror_device::nic::rss::MIRROR_PORTS;
use mirror_xdp_common::wire::{ETHERNET_LEN, Ipv6Header, UDP_LEN, VXLAN_LEN};

use super::ena::{self, Ena};
use super::{Check, Facts, Machine, State};
use crate::host::memory;

/// The oldest Linux on which everything works, and the oldest whose XDP programs receive frames of several
/// buffers.
const KERNEL: (u32, u32) = (6, 1);
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// The MTU that the longest frame of an interface with an MTU of 1500 needs after mirroring over IPv6.
const LEAST_MTU: u32 = 1500 + (ETHERNET_LEN + Ipv6Header::LEN + UDP_LEN + VXLAN_LEN) as u32;

/// An MTU with which every driver accepts XDP programs and every frame fits into one buffer.
const GOOD_MTU: u32 = ena::MAX_MTU;

const _: () = assert!(GOOD_MTU <= afxdp::MAX_MTU && GOOD_MTU > LEAST_MTU);

/// Makes all checks.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let ena = ena(facts);
    let checks = [
        kernel(facts),
        capabilities(facts),
        locked_memory(facts),
        interface(facts),
        driver(facts, ena),
        xdp(facts),
        programs(facts),
        ports(facts),
        mtu(facts, ena),
        channels(facts, ena),
        rings(facts),
        offloads(facts),
        udp_hash(facts),
        rss(facts),
        steering(facts),
        interrupts(facts),
        numa(facts),
        huge_pages(facts),
        losses(facts),
    ];
    checks
        .into_iter()
        .map(|Judged { check, state, found, fix }| {
            let (fix, change) = match fix {
                Fix::None => (None, None),
                Fix::Command(command) => (Some(command), None),
                Fix::Change(change) => (Some(change.command(&facts.interface.name)), Some(change)),
            };
            Check { check, state, found, fix, change }
        })
        .collect()
}

/// The remedy of a finding.
enum Fix {
    None,
    /// A command that is left to the user.
    Command(String),
    Change(Change),
}

struct Judged {
    check: &'static str,
    state: State,
    found: String,
    fix: Fix,
}

impl Judged {
    fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Fine, found: found.into(), fix: Fix::None }
    }

    fn warning(check: &'static str, found: impl Into<String>, fix: Fix) -> Self {
        Self { check, state: State::Warning, found: found.into(), fix }
    }

    fn broken(check: &'static str, found: impl Into<String>, fix: Fix) -> Self {
        Self { check, state: State::Broken, found: found.into(), fix }
    }
}

fn ena(facts: &Facts) -> Option<Ena> {
    let driver = facts.driver.as_ref().filter(|driver| driver.name == "ena")?;
    Some(ena::of(&driver.version, &facts.machine.release))
}

/// Parses the first two numbers of a release: `6.1.119-129` is 6.1.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(facts: &Facts) -> Judged {
    const NAME: &str = "kernel";
    let release = &facts.machine.release;
    match version(release) {
        Some(version) if version >= KERNEL => Judged::fine(NAME, release),
        Some(version) if version < OLDEST_KERNEL => Judged::broken(
            NAME,
            format!("{release}: XDP lacks features before 5.18; boot 6.1 or newer"),
            Fix::None,
        ),
        _ => Judged::warning(NAME, format!("{release}: tested only with 6.1 and newer"), Fix::None),
    }
}

fn capabilities(facts: &Facts) -> Judged {
    const NAME: &str = "capabilities";
    let missing = &facts.machine.missing;
    if missing.is_empty() {
        return Judged::fine(NAME, "all that a capture needs");
    }
    let command = format!("sudo mirror-xdp doctor --interface {}", facts.interface.name);
    Judged::broken(NAME, format!("missing: {}", missing.join(", ")), Fix::Command(command))
}

fn locked_memory(facts: &Facts) -> Judged {
    const NAME: &str = "locked_memory";
    let needed = memory::buffer_bytes(facts.machine.memory, facts.queues());
    match facts.machine.lockable {
        None => Judged::fine(NAME, "no limit"),
        Some(limit) if limit >= needed => {
            Judged::fine(NAME, format!("{} for buffers of {}", mib(limit), mib(needed)))
        }
        Some(limit) => Judged::broken(
            NAME,
            format!("{} may be locked, the buffers need {}", mib(limit), mib(needed)),
            Fix::Command("ulimit -l unlimited".to_owned()),
        ),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn is_veth(facts: &Facts) -> bool {
    facts.driver.as_ref().is_some_and(|driver| driver.name == "veth")
}

fn is_captured(facts: &Facts) -> bool {
    facts.attached.iter().any(|attached| attached.ours)
}

fn huge_pages(facts: &Facts) -> Judged {
    const NAME: &str = "huge_pages";
    let Some(pages) = facts.machine.huge_pages.filter(|pages| pages.bytes > 0) else {
        return Judged::warning(NAME, "this kernel has none: more TLB misses with each frame", Fix::None);
    };
    let needed = memory::buffer_bytes(facts.machine.memory, facts.queues()).div_ceil(pages.bytes);
    let size = mib(pages.bytes);
    if is_captured(facts) {
        return Judged::fine(
            NAME,
            format!("{} of {size}, {} of them free, while a capture runs", pages.total, pages.free),
        );
    }
    let found = format!("{} of {size} free, the buffers take {needed}", pages.free);
    if pages.free >= needed {
        return Judged::fine(NAME, found);
    }
    Judged::warning(NAME, found, Fix::Change(Change::HugePages(pages.total + needed - pages.free)))
}

fn interface(facts: &Facts) -> Judged {
    const NAME: &str = "interface";
    if !facts.interface.ethernet {
        return Judged::broken(NAME, "not an Ethernet interface, which mirror traffic needs", Fix::None);
    }
    if !facts.interface.up {
        return Judged::broken(NAME, "down", Fix::Change(Change::Up(true)));
    }
    Judged::fine(NAME, "up")
}

fn driver(facts: &Facts, ena: Option<Ena>) -> Judged {
    const NAME: &str = "driver";
    let Some(driver) = &facts.driver else {
        return Judged::warning(NAME, "the driver does not report its name", Fix::None);
    };
    let mut found = format!("{} {}", driver.name, driver.version);
    for (word, text) in [("firmware", &driver.firmware), ("at", &driver.bus)] {
        if !text.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(found, ", {word} {text}");
        }
    }
    match ena {
        Some(Ena { state, meaning, .. }) => {
            Judged { check: NAME, state, found: format!("{found}: {meaning}"), fix: Fix::None }
        }
        None => Judged::fine(NAME, found),
    }
}

fn xdp(facts: &Facts) -> Judged {
    const NAME: &str = "xdp";
    let Some(features) = facts.xdp else {
        return Judged::fine(
            NAME,
            "unknown: Linux 6.3 and newer report the features of a driver; `run` tries them",
        );
    };
    if !features.native() {
        let why = if is_veth(facts) { "; a veth needs as many queues as its peer sends by" } else { "" };
        return Judged::warning(NAME, format!("not in the driver: generic mode, slower{why}"), Fix::None);
    }
    let mut can = vec!["native"];
    if features.redirect() {
        can.push("redirect");
    }
    if features.zero_copy() {
        can.push("zero-copy");
    }
    if features.multi_buffer() {
        can.push("frames of several buffers");
    }
    if !features.redirect() {
        let found = format!("{}; it cannot redirect: generic mode, slower", can.join(", "));
        return Judged::warning(NAME, found, Fix::None);
    }
    Judged::fine(NAME, can.join(", "))
}

fn programs(facts: &Facts) -> Judged {
    const NAME: &str = "programs";
    if is_captured(facts) {
        return Judged::fine(NAME, "a capture is running");
    }
    let Some(program) = facts.attached.first() else { return Judged::fine(NAME, "no other XDP program") };
    // The owner is unknown here, and it may be a firewall, so this is left to the user.
    let command = format!("ip link set dev {} xdp off", facts.interface.name);
    Judged::broken(NAME, program.description.clone(), Fix::Command(command))
}

fn ports(facts: &Facts) -> Judged {
    const NAME: &str = "ports";
    let Some((port, by)) = facts.taken_ports.first() else {
        return Judged::fine(NAME, "the UDP ports of mirror traffic are free on this host");
    };
    let fix = match by.strip_prefix("the VXLAN interface ") {
        Some(interface) => Fix::Command(format!("ip link delete {interface}")),
        None => Fix::None,
    };
    Judged::broken(NAME, format!("UDP port {port} is in use by {by}"), fix)
}

fn mtu(facts: &Facts, ena: Option<Ena>) -> Judged {
    const NAME: &str = "mtu";
    let mtu = facts.interface.mtu;
    let fix = || Fix::Change(Change::Mtu(GOOD_MTU));
    if mtu > afxdp::MAX_JUMBO_MTU {
        let most = afxdp::MAX_JUMBO_MTU;
        return Judged::broken(NAME, format!("{mtu}: captured up to {most} only"), fix());
    }
    if mtu > ena::MAX_MTU && ena.is_some_and(|ena| !ena.multi_buffer) {
        let found = format!(
            "{mtu}: beyond {} this driver accepts no XDP program, only generic mode remains",
            ena::MAX_MTU
        );
        return Judged::warning(NAME, found, fix());
    }
    if mtu > afxdp::MAX_JUMBO_MTU {
        return Judged::broken(NAME, format!("{mtu}: captured up to {} only", afxdp::MAX_JUMBO_MTU), fix());
    }
    let refused = match (ena, facts.xdp) {
        (Some(ena), _) => !ena.multi_buffer && mtu > ena::MAX_MTU,
        (None, Some(xdp)) => xdp.native() && !xdp.multi_buffer() && mtu > afxdp::MAX_MTU,
        (None, None) => false,
    };
    if refused {
        let found = format!(
            "{mtu}: this driver accepts no XDP program with it, only the slower generic mode remains"
        );
        return Judged::warning(NAME, found, fix());
    }
    if mtu > afxdp::MAX_MTU {
        let found = format!(
            "{mtu}: jumbo profile, each frame copied into several buffers; zero-copy with one buffer up to {}",
            afxdp::MAX_MTU
        );
        return Judged::warning(NAME, found, fix());
    }
    if mtu < LEAST_MTU {
        let found = format!(
            "{mtu}: AWS cuts mirrored frames to it; those of an interface with an MTU of 1500 need {LEAST_MTU}"
        );
        return Judged::warning(NAME, found, fix());
    }
    Judged::fine(NAME, format!("{mtu}: every frame fits into one buffer; longer ones are truncated"))
}

fn channels(facts: &Facts, ena: Option<Ena>) -> Judged {
    const NAME: &str = "channels";
    let cpus = u32::try_from(facts.machine.cpus.len()).unwrap_or(u32::MAX).max(1);
    let Some(channels) = facts.channels else {
        return Judged::fine(NAME, "the driver does not report its queues");
    };
    let (queues, most) = (channels.receiving(), channels.most());
    let set = |count| Fix::Change(Change::Channels { word: channels.word(), count });
    let usable = match ena {
        Some(Ena { all_channels: false, .. }) => most / 2,
        _ => most,
    };
    let found = format!("{} of at most {most}, {}", counted(queues, "queue"), counted(cpus, "CPU"));
    if usable > 0 && queues > usable {
        let found = format!("{found}: XDP runs in this driver with at most {usable}");
        return Judged::warning(NAME, found, set(usable.min(cpus)));
    }
    if is_veth(facts) && queues < most && facts.xdp.is_some_and(|features| !features.native()) {
        let found = format!("{found}: fewer than its peer sends by, which native XDP does not accept");
        return Judged::warning(NAME, found, set(most));
    }
    if queues >= cpus {
        return Judged::fine(NAME, found);
    }
    if queues >= usable {
        if queues > 1 {
            return Judged::fine(NAME, found);
        }
        let how = if is_veth(facts) {
            ": it was made with one (`ip link add … numrxqueues N numtxqueues N type veth`)"
        } else {
            ""
        };
        return Judged::warning(NAME, format!("{found}: one queue cannot feed all of them{how}"), Fix::None);
    }
    Judged::warning(NAME, format!("{found}: more queues feed more of them"), set(usable.min(cpus)))
}

/// Writes a count with its noun: `1 queue`, `2 queues`.
fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn rings(facts: &Facts) -> Judged {
    const NAME: &str = "rings";
    match facts.rings.map(|rings| rings.rx) {
        Some(rx) if rx.current < rx.maximum => Judged::warning(
            NAME,
            format!("{} of {} received frames can wait", rx.current, rx.maximum),
            Fix::Change(Change::RxRing(rx.maximum)),
        ),
        Some(rx) if rx.maximum > 0 => Judged::fine(NAME, format!("{} received frames can wait", rx.current)),
        _ => Judged::fine(NAME, "this driver's ring sizes cannot be set"),
    }
}

/// Features that join frames into longer ones, which do not fit into buffers and are not the frames that were
/// mirrored.
const JOINING: [&str; 2] = ["rx-lro", "rx-gro-hw"];

fn offloads(facts: &Facts) -> Judged {
    const NAME: &str = "offloads";
    let on = facts.features.iter().find(|feature| feature.active && JOINING.contains(&feature.name.as_str()));
    let Some(feature) = on else { return Judged::fine(NAME, "no LRO, no GRO by the NIC") };
    let fix = Change::Feature { name: feature.name.clone(), active: false };
    let fix = if feature.changeable { Fix::Change(fix) } else { Fix::None };
    Judged::warning(NAME, format!("{} joins frames before they are captured", feature.name), fix)
}

fn udp_hash(facts: &Facts) -> Judged {
    const NAME: &str = "udp_hash";
    let Some(fields) = facts.udp_hash else {
        return Judged::fine(NAME, "the driver does not report the hashed fields");
    };
    if facts.queues() == 1 {
        return Judged::fine(NAME, "one queue");
    }
    let lacking: Vec<_> = [("IPv4", fields[0]), ("IPv6", fields[1])]
        .into_iter()
        .filter(|(_, fields)| fields & HASH_SOURCE_PORT == 0)
        .map(|(name, _)| name)
        .collect();
    if lacking.is_empty() {
        return Judged::fine(NAME, "addresses and ports");
    }
    Judged::warning(
        NAME,
        format!(
            "no UDP ports over {}: all frames of a mirrored interface go to one queue",
            lacking.join(" and ")
        ),
        Fix::Change(Change::UdpHash([HASH_ALL; 2])),
    )
}

fn rss(facts: &Facts) -> Judged {
    const NAME: &str = "rss";
    let queues = facts.queues();
    if queues == 1 {
        return Judged::fine(NAME, "one queue");
    }
    let Some(rss) = facts.rss.as_ref().filter(|rss| rss.is_known()) else {
        return Judged::fine(
            NAME,
            "the driver does not report its hash: a capture shows how evenly it fills the queues",
        );
    };
    let spread = rss.spread();
    let reached = spread.values().filter(|count| **count > 0).count();
    let (least, most) =
        (spread.values().min().copied().unwrap_or(0), spread.values().max().copied().unwrap_or(0));
    let found = format!(
        "rank {} of {}: the {} ports of a mirrored interface reach {reached} of {queues} queues, {least} to {most} each",
        rss.rank(),
        rss.full_rank(),
        MIRROR_PORTS.len(),
    );
    if rss.rank() < rss.full_rank() {
        return Judged::warning(NAME, found, Fix::Change(Change::RssKey(rss.better_key())));
    }
    if spread.len() < queues as usize {
        let command = format!("ethtool -X {} equal {queues}", facts.interface.name);
        return Judged::warning(NAME, format!("{found}; the table leaves queues out"), Fix::Command(command));
    }
    Judged::fine(NAME, found)
}

fn steering(facts: &Facts) -> Judged {
    const NAME: &str = "steering";
    match facts.steering_rules {
        0 => Judged::fine(NAME, "no rules send frames to queues of their own"),
        rules => Judged::warning(
            NAME,
            format!("{rules} rules send certain frames to queues of their own, whatever the hash says"),
            Fix::Command(format!("ethtool -u {}", facts.interface.name)),
        ),
    }
}

fn interrupts(facts: &Facts) -> Judged {
    const NAME: &str = "interrupts";
    let of_queues: Vec<&Interrupt> =
        facts.interrupts.iter().filter(|interrupt| interrupt.is_of_queue()).collect();
    let Machine { cpus, online, workers, .. } = &facts.machine;
    if of_queues.is_empty() || cpus.is_empty() {
        return Judged::fine(NAME, "none of its own");
    }
    let others: Vec<usize> = online.iter().copied().filter(|cpu| !workers.contains(cpu)).collect();
    // Reception and workers are apart if workers have CPUs of their own and there are others; otherwise each
    // queue is received on the CPU of a worker.
    let apart = !workers.is_empty() && !others.is_empty();
    let targets = match (apart, workers.is_empty()) {
        (true, _) => &others,
        (false, true) => cpus,
        (false, false) => workers,
    };
    let mut used: Vec<usize> = of_queues.iter().flat_map(|interrupt| interrupt.taken_by()).collect();
    used.sort_unstable();
    used.dedup();
    let mut found = counted(of_queues.len() as u32, "interrupt");
    // Writing to a string does not fail.
    let _ = write!(found, " on {} of {} CPUs", used.len(), online.len().max(cpus.len()));
    let disturbed = used.iter().filter(|cpu| apart && workers.contains(cpu)).count();
    if disturbed > 0 {
        let _ = write!(found, ", {disturbed} of them workers'");
    } else if used.len() >= of_queues.len().min(targets.len()) {
        let rest = if apart { ", none of them a worker's" } else { "" };
        return Judged::fine(NAME, found + rest);
    }
    let one_each = of_queues.iter().zip(targets.iter().cycle());
    let affinity = one_each.map(|(interrupt, cpu)| (interrupt.number, cpu.to_string())).collect();
    Judged::warning(NAME, found, Fix::Change(Change::Affinity(affinity)))
}

fn numa(facts: &Facts) -> Judged {
    const NAME: &str = "numa";
    let Some(numa) = &facts.numa else { return Judged::fine(NAME, "all memory is equally near") };
    let near = facts.machine.cpus.iter().filter(|cpu| numa.cpus.contains(cpu)).count();
    if near > 0 || numa.cpus.is_empty() {
        return Judged::fine(NAME, format!("node {}, {near} of its CPUs to run on", numa.node));
    }
    Judged::warning(
        NAME,
        format!("none of the CPUs to run on is next to node {}, where the NIC is", numa.node),
        Fix::Command(format!("numactl --cpunodebind={} mirror-xdp run …", numa.node)),
    )
}

fn losses(facts: &Facts) -> Judged {
    const NAME: &str = "losses";
    // The number of frames that programs have dropped since the machine started is unknown, so counters that
    // include them prove nothing.
    let lost = facts.losses.0.iter().filter(|(known, count)| known.kind == Kind::Lost && *count > 0);
    let told: Vec<_> = lost
        .map(|(known, count)| format!("{} {count} ({}; remedy: {})", known.name, known.meaning, known.advice))
        .collect();
    if told.is_empty() {
        return Judged::fine(NAME, "the device has lost nothing since it started");
    }
    Judged::warning(NAME, format!("lost by the device since it started: {}", told.join("; ")), Fix::None)
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
