//! Changes to an interface and its machine, which can be undone.

use std::fmt::{self, Write as _};
use std::{fs, io, thread};

use mirror_base::one_line;

use super::interrupt::{set_affinity, sys};
use super::ioctl::Device;
use super::{Error, Interface, Netlink};

/// The file that sets the number of huge pages.
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// Each attempt takes a tenth of a second if memory is fragmented.
const RESERVE_ATTEMPTS: u32 = 10;

/// A setting to be changed. Its textual form is the command that changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The interface up or down.
    Up(bool),
    /// The MTU.
    Mtu(u32),
    /// The number of receive queues.
    Channels {
        /// The keyword of `ethtool -L` that sets it.
        word: &'static str,
        /// The number.
        count: u32,
    },
    /// Frames in each receive ring.
    RxRing(u32),
    /// A feature, on or off.
    Feature {
        /// The kernel's name of the feature.
        name: String,
        /// The feature is on.
        active: bool,
    },
    /// The RSS hash key.
    RssKey(Vec<u8>),
    /// The hashed fields of UDP over IPv4 and over IPv6, `RXH_…`.
    UdpHash([u64; 2]),
    /// The CPUs of each interrupt, as a list such as `0,2-3`.
    Affinity(Vec<(u32, String)>),
    /// The number of huge pages of the machine.
    HugePages(u64),
    /// The deferral of the interface's interrupts in favour of busy polling.
    Deferral(Deferral),
}

/// The deferral of interrupts. Busy polling needs these settings of an interface; without them, the
/// interrupts continue beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Number of polls in a row without frames before interrupts are enabled again (`napi_defer_hard_irqs`).
    pub rounds: u64,
    /// Nanoseconds after which the kernel polls if nothing else does (`gro_flush_timeout`).
    pub nanoseconds: u64,
}

impl Deferral {
    const FILES: [&str; 2] = ["napi_defer_hard_irqs", "gro_flush_timeout"];

    /// The values of the kernel's documentation of busy polling.
    pub const OF_BUSY_POLLING: Self = Self { rounds: 2, nanoseconds: 200_000 };

    /// Applies the settings, and returns the previous ones.
    fn set(self, interface: &Interface) -> io::Result<Self> {
        let directory = sys(interface).ok_or_else(|| {
            io::Error::other("/sys belongs to another network namespace than the interface")
        })?;
        let [rounds, nanoseconds] = Self::FILES.map(|file| directory.join(file));
        let read = |path| fs::read_to_string(path)?.trim().parse().map_err(io::Error::other);
        let before = Self { rounds: read(&rounds)?, nanoseconds: read(&nanoseconds)? };
        fs::write(rounds, self.rounds.to_string())?;
        fs::write(nanoseconds, self.nanoseconds.to_string())?;
        Ok(before)
    }
}

impl Change {
    /// Returns the command that makes this change to an interface.
    #[must_use]
    pub fn command(&self, interface: &str) -> String {
        match self {
            Self::Up(up) => format!("ip link set dev {interface} {}", if *up { "up" } else { "down" }),
            Self::Mtu(mtu) => format!("ip link set dev {interface} mtu {mtu}"),
            Self::Channels { word, count } => format!("ethtool -L {interface} {word} {count}"),
            Self::RxRing(frames) => format!("ethtool -G {interface} rx {frames}"),
            Self::Feature { name, active } => {
                format!("ethtool -K {interface} {name} {}", if *active { "on" } else { "off" })
            }
            Self::RssKey(key) => {
                let mut text = format!("ethtool -X {interface} hkey ");
                for (index, byte) in key.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ":" };
                    // Writing to a string does not fail.
                    let _ = write!(text, "{separator}{byte:02x}");
                }
                text
            }
            Self::UdpHash([v4, v6]) => {
                let [v4, v6] = [letters(*v4), letters(*v6)];
                format!(
                    "ethtool -N {interface} rx-flow-hash udp4 {v4}; ethtool -N {interface} rx-flow-hash udp6 {v6}"
                )
            }
            Self::Affinity(interrupts) => {
                let one = |(number, cpus): &(u32, String)| {
                    format!("echo {cpus} > /proc/irq/{number}/smp_affinity_list")
                };
                interrupts.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Self::HugePages(pages) => format!("sysctl -w vm.nr_hugepages={pages}"),
            Self::Deferral(Deferral { rounds, nanoseconds }) => {
                let [first, second] =
                    Deferral::FILES.map(|file| format!("/sys/class/net/{interface}/{file}"));
                format!("echo {rounds} > {first}; echo {nanoseconds} > {second}")
            }
        }
    }

    /// Makes the change, and returns the change that undoes it.
    async fn make(&self, netlink: &Netlink, name: &str) -> Result<Self, Error> {
        let refused = |what| move |source| Error::Refused { what, source };
        let unknown = || io::Error::other("the driver does not report the current value");
        let before = netlink.interface(name).await?;
        Ok(match self {
            Self::Up(up) => {
                netlink.set_up(before.index, *up).await?;
                Self::Up(before.up)
            }
            Self::Mtu(mtu) => {
                netlink.set_mtu(before.index, *mtu).await?;
                Self::Mtu(before.mtu)
            }
            Self::Channels { word, count } => {
                let channels = netlink.channels(name).await;
                let channels = channels.ok_or_else(unknown).map_err(refused("to set the channels"))?;
                netlink.set_channels(name, &channels, *count).await?;
                let before = if *word == "combined" { channels.combined } else { channels.rx };
                Self::Channels { word, count: before.current }
            }
            Self::RxRing(frames) => {
                let rings = netlink.rings(name).await;
                let rings = rings.ok_or_else(unknown).map_err(refused("to set the size of the rings"))?;
                netlink.set_rx_ring(name, *frames).await?;
                Self::RxRing(rings.rx.current)
            }
            Self::Feature { name: feature, active } => {
                netlink.set_feature(name, feature, *active).await?;
                Self::Feature { name: feature.clone(), active: !active }
            }
            Self::RssKey(key) => {
                let device = Device::open(name).map_err(refused("to set the key of its hash"))?;
                let before = device.rss().map_err(refused("to report the key of its hash"))?;
                device.set_rss_key(key).map_err(refused("to set the key of its hash"))?;
                Self::RssKey(before.key)
            }
            Self::UdpHash(fields) => {
                let device = Device::open(name).map_err(refused("to hash other fields"))?;
                let before = device.udp_hash().map_err(refused("to report the fields that it hashes"))?;
                device.set_udp_hash(*fields).map_err(refused("to hash other fields"))?;
                Self::UdpHash(before)
            }
            Self::Affinity(interrupts) => Self::Affinity(affinities(interrupts)?),
            Self::HugePages(pages) => {
                let before = huge_pages().map_err(refused("to reserve huge pages"))?;
                let got = reserve(*pages).map_err(refused("to reserve huge pages"))?;
                if got < *pages {
                    // Memory is fragmented. A part of the pages is of no use.
                    let _ = fs::write(HUGE_PAGES, before.to_string());
                    let source = io::Error::other(format!(
                        "memory for {got} of {pages} is free in one piece; reserve them at boot (hugepages={pages})"
                    ));
                    return Err(Error::Refused { what: "to reserve huge pages", source });
                }
                Self::HugePages(before)
            }
            Self::Deferral(deferral) => {
                Self::Deferral(deferral.set(&before).map_err(refused("to defer interrupts"))?)
            }
        })
    }
}

/// Reserves this many huge pages, and returns the number that are reserved. The kernel compacts memory for
/// some of them and gives up; when asked again, it continues.
fn reserve(pages: u64) -> io::Result<u64> {
    let mut got = 0;
    for _ in 0..RESERVE_ATTEMPTS {
        fs::write(HUGE_PAGES, pages.to_string())?;
        got = huge_pages()?;
        if got >= pages {
            break;
        }
    }
    Ok(got)
}

/// Returns the letters by which `ethtool -N` names fields of the hash.
fn letters(fields: u64) -> String {
    let known = [
        (1 << 1, 'm'),
        (1 << 2, 'v'),
        (1 << 3, 't'),
        (1 << 4, 's'),
        (1 << 5, 'd'),
        (1 << 6, 'f'),
        (1 << 7, 'n'),
    ];
    known.iter().filter(|(bit, _)| fields & bit != 0).map(|(_, letter)| letter).collect()
}

fn huge_pages() -> io::Result<u64> {
    fs::read_to_string(HUGE_PAGES)?.trim().parse().map_err(io::Error::other)
}

/// Sets the CPUs of each interrupt, and returns the previous ones.
fn affinities(interrupts: &[(u32, String)]) -> Result<Vec<(u32, String)>, Error> {
    let mut before = Vec::new();
    for (number, cpus) in interrupts {
        let now = fs::read_to_string(format!("/proc/irq/{number}/smp_affinity_list"));
        let set = now.and_then(|now| {
            set_affinity(*number, cpus)?;
            Ok(now.trim().to_owned())
        });
        match set {
            Ok(now) => before.push((*number, now)),
            Err(source) => {
                for (number, cpus) in &before {
                    let _ = set_affinity(*number, cpus);
                }
                return Err(Error::Refused { what: "to move an interrupt", source });
            }
        }
    }
    Ok(before)
}

/// The changes made to an interface. Dropping this undoes them, the last first; a process that is killed
/// undoes nothing.
#[derive(Debug)]
pub struct Changes {
    interface: String,
    undo: Vec<Change>,
}

impl Changes {
    /// Makes an empty list of changes.
    #[must_use]
    pub fn new(interface: &str) -> Self {
        Self { interface: interface.to_owned(), undo: Vec::new() }
    }

    /// Makes a change, and remembers how to undo it.
    pub async fn make(&mut self, netlink: &Netlink, change: &Change) -> Result<(), Error> {
        self.undo.push(change.make(netlink, &self.interface).await?);
        Ok(())
    }

    /// Returns whether there is nothing to undo.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.undo.is_empty()
    }

    /// Leaves everything as it is now.
    pub fn keep(mut self) {
        self.undo.clear();
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if self.undo.is_empty() {
            return;
        }
        let (interface, undo) = (&self.interface, std::mem::take(&mut self.undo));
        // The runtime on which the changes were made may be shutting down and must not block, so this uses a
        // runtime of its own. A new thread is in the network namespace of this one.
        let undone = thread::scope(|scope| scope.spawn(|| take_back(interface, &undo)).join());
        if let Ok(Err(error)) = undone {
            tracing::warn!("{interface}: could not undo all changes: {}", one_line(&error));
        }
    }
}

fn take_back(interface: &str, undo: &[Change]) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let mut result = Ok(());
        for change in undo.iter().rev() {
            // A failure does not prevent the other changes from being undone.
            result = result.and(change.make(&netlink, interface).await.map(drop));
        }
        result
    })
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commands: Vec<_> = self.undo.iter().rev().map(|change| change.command(&self.interface)).collect();
        f.write_str(&commands.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_the_command_that_makes_it() {
        let feature = Change::Feature { name: "rx-lro".to_owned(), active: false };
        let cases = [
            (Change::Up(true), "ip link set dev e0 up"),
            (Change::Mtu(3498), "ip link set dev e0 mtu 3498"),
            (Change::Channels { word: "combined", count: 4 }, "ethtool -L e0 combined 4"),
            (Change::RxRing(8192), "ethtool -G e0 rx 8192"),
            (feature, "ethtool -K e0 rx-lro off"),
            (Change::RssKey(vec![0x6d, 0x05]), "ethtool -X e0 hkey 6d:05"),
            (
                Change::UdpHash([0xf0, 0x30]),
                "ethtool -N e0 rx-flow-hash udp4 sdfn; ethtool -N e0 rx-flow-hash udp6 sd",
            ),
            (
                Change::Affinity(vec![(27, "0".to_owned()), (28, "1".to_owned())]),
                "echo 0 > /proc/irq/27/smp_affinity_list; echo 1 > /proc/irq/28/smp_affinity_list",
            ),
            (Change::HugePages(64), "sysctl -w vm.nr_hugepages=64"),
            (
                Change::Deferral(Deferral::OF_BUSY_POLLING),
                "echo 2 > /sys/class/net/e0/napi_defer_hard_irqs; echo 200000 > \
                 /sys/class/net/e0/gro_flush_timeout",
            ),
        ];
        for (change, command) in cases {
            assert_eq!(change.command("e0"), command);
        }
    }
}
