//! The facts about an interface and its machine.

use std::fs;

use caps::{CapSet, Capability};
use mirror_base::meminfo;
use mirror_device::nic::interrupt::{Interrupt, cpu_list, interrupts, numa_node};
use mirror_device::nic::ioctl::{Device, Driver};
use mirror_device::nic::losses::{Counters, select};
use mirror_device::nic::rss::Rss;
use mirror_device::nic::{self, Channels, Feature, Interface, Netlink, Rings, XdpFeatures};
use mirror_device::xdp::attached;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;

use super::Intent;
use crate::host::port::ReservedPort;
use crate::host::{cpus, memory, privilege};

/// The machine, as far as this process may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The kernel's release, as `uname` reports it.
    pub release: String,
    /// Capabilities that a capture needs and this process lacks.
    pub missing: Vec<&'static str>,
    /// Bytes that the process may lock; `None` without a limit.
    pub lockable: Option<u64>,
    /// Bytes of memory.
    pub memory: u64,
    /// Huge pages; `None` if the kernel does not support them.
    pub huge_pages: Option<HugePages>,
    /// CPUs that the process may run on.
    pub cpus: Vec<usize>,
    /// CPUs that are online.
    pub online: Vec<usize>,
    /// CPUs that are given to the workers or isolated for them; empty if the capture chooses.
    pub workers: Vec<usize>,
}

/// Huge pages of the default size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes of one huge page.
    pub bytes: u64,
    /// The number of huge pages.
    pub total: u64,
    /// The number of free ones that are not reserved either.
    pub free: u64,
}

/// The NUMA node of the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numa {
    /// The number of the node.
    pub node: u32,
    /// The CPUs of the node.
    pub cpus: Vec<usize>,
}

/// An XDP program on the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// A description for people.
    pub description: String,
    /// `true` if it belongs to a running capture.
    pub ours: bool,
}

/// The facts about an interface and its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The machine.
    pub machine: Machine,
    /// The interface.
    pub interface: Interface,
    /// Its driver; here and below, `None` means that it is not reported.
    pub driver: Option<Driver>,
    /// The XDP features of the driver.
    pub xdp: Option<XdpFeatures>,
    /// Its queues.
    pub channels: Option<Channels>,
    /// Its rings.
    pub rings: Option<Rings>,
    /// The other features of the driver.
    pub features: Vec<Feature>,
    /// The hash that spreads frames over the queues.
    pub rss: Option<Rss>,
    /// The hashed fields of UDP over IPv4 and over IPv6.
    pub udp_hash: Option<[u64; 2]>,
    /// The number of rules that send certain frames to certain queues.
    pub steering_rules: u32,
    /// Losses since the machine started.
    pub losses: Counters,
    /// The interrupts.
    pub interrupts: Vec<Interrupt>,
    /// Its NUMA node.
    pub numa: Option<Numa>,
    /// XDP programs on it.
    pub attached: Vec<Attached>,
    /// UDP ports of mirror traffic that are in use on this host, with their users.
    pub taken_ports: Vec<(u16, String)>,
}

impl Facts {
    /// Gathers all facts, in the network namespace of the calling thread.
    pub async fn gather(netlink: &Netlink, name: &str, intent: Intent<'_>) -> Result<Self, nic::Error> {
        let interface = netlink.interface(name).await?;
        let device = Device::open(name).ok();
        let driver = device.as_ref().and_then(|device| device.driver().ok());
        let kernel = netlink.receive_errors(interface.index).await?;
        let theirs = device.as_ref().and_then(|device| device.statistics().ok()).unwrap_or_default();
        let of = driver.as_ref().map_or("", |driver| driver.name.as_str());
        let losses = select(of, &theirs, &kernel);
        let attached = attached::on(&interface);
        let attached = attached.iter().map(|a| Attached { description: a.to_string(), ours: a.is_ours() });
        Ok(Self {
            machine: Machine::gather(intent),
            xdp: netlink.xdp_features(interface.index).await.ok().flatten(),
            channels: netlink.channels(name).await,
            rings: netlink.rings(name).await,
            features: netlink.features(name).await,
            rss: device.as_ref().and_then(|device| device.rss().ok()),
            udp_hash: device.as_ref().and_then(|device| device.udp_hash().ok()),
            steering_rules: device.as_ref().and_then(|device| device.steering_rules().ok()).unwrap_or(0),
            losses,
            interrupts: interrupts(&interface),
            numa: numa_node(&interface).map(Numa::of),
            attached: attached.collect(),
            taken_ports: taken_ports(netlink, intent.ports).await?,
            driver,
            interface,
        })
    }

    /// Returns the number of receive queues in use.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.channels.map_or(1, |channels| channels.receiving()).max(1)
    }
}

impl Machine {
    fn gather(intent: Intent<'_>) -> Self {
        let unlimited = caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).unwrap_or(false);
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(u64::MAX, |(_, hard)| hard);
        Self {
            release: uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
            missing: privilege::missing(),
            lockable: (!unlimited && limit != u64::MAX).then_some(limit),
            memory: memory::of_machine(),
            huge_pages: huge_pages(&meminfo::read()),
            cpus: cpus::allowed(),
            online: cpus::online(),
            workers: intent.cpus.map_or_else(cpus::isolated, |list| list.cpus().to_vec()),
        }
    }
}

impl Numa {
    fn of(node: u32) -> Self {
        let cpus = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
        Self { node, cpus: cpu_list(&cpus.unwrap_or_default()) }
    }
}

/// Parses `HugePages_Total: 64` and the like from `/proc/meminfo`.
fn huge_pages(meminfo: &str) -> Option<HugePages> {
    let field = |name| meminfo::field(meminfo, name);
    let reserved = field("HugePages_Rsvd")?;
    Some(HugePages {
        bytes: field("Hugepagesize")?.saturating_mul(1024),
        total: field("HugePages_Total")?,
        free: field("HugePages_Free")?.saturating_sub(reserved),
    })
}

async fn taken_ports(netlink: &Netlink, ports: &[u16]) -> Result<Vec<(u16, String)>, nic::Error> {
    let mut taken = Vec::new();
    for &port in ports {
        if let Some(interface) = netlink.vxlan_on_port(port).await? {
            taken.push((port, format!("the VXLAN interface {interface}")));
        } else if ReservedPort::take(port).is_err_and(|error| error == Errno::EADDRINUSE) {
            taken.push((port, "another program (`ss -ulpn` names it)".to_owned()));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_those_that_are_not_promised_yet() {
        let meminfo = "MemTotal: 9 kB\nHugePages_Total:      64\nHugePages_Free:       60\n\
                       HugePages_Rsvd:        8\nHugePages_Surp:        0\nHugepagesize:       2048 kB\n";
        let pages = huge_pages(meminfo).unwrap();
        assert_eq!(pages, HugePages { bytes: 2 << 20, total: 64, free: 52 });
        assert_eq!(huge_pages("MemTotal: 9 kB\n"), None);
    }
}
