//! Network interfaces: what the kernel and their drivers say of them, and what can be set.
//!
//! This file has the interface itself, over rtnetlink: state, MTU, attached XDP programs, counters. Beside it:
//!
//! * `settings`: channels, rings and features, ethtool's part of netlink;
//! * `netdev`: what the driver can do with XDP, the kernel's netdev family;
//! * `ioctl`: driver and version, its own counters, and the hash, which only the ioctl tells;
//! * `rss`: what that hash does to mirror traffic;
//! * `interrupt`: which CPUs take the NIC's interrupts;
//! * `changes`: what is set, and taken back;
//! * `link`: whether the links of a capture are up;
//! * `losses`: which counters tell of frames that the device lost;

mod changes;
mod generic;
pub mod interrupt;
pub mod ioctl;
mod link;
pub mod losses;
mod netdev;
pub mod rss;
mod settings;

use ethtool::EthtoolHandle;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, Stats64,
};
use rtnetlink::{Handle, LinkUnspec};
use serde::Serialize;

#[cfg(test)]
pub mod recorded {
    //! Answers of the kernel and its drivers as bytes, read by what reads them otherwise.

    pub use super::ioctl::recorded::{driver, rss, statistics, udp_hash};
    pub use super::netdev::recorded::features as xdp_features;
    pub use super::settings::recorded::{channels, features, rings};
}

pub use self::changes::{Change, Changes, Deferral};
pub use self::link::{Link, Links};
pub use self::netdev::XdpFeatures;
pub use self::settings::{Channels, Feature, Rings, Setting};
use crate::Mode;

/// Flags of `IFLA_XDP_FLAGS`, `include/uapi/linux/if_link.h`.
mod xdp_flags {
    pub(super) const SKB_MODE: u32 = 1 << 1;
    pub(super) const DRV_MODE: u32 = 1 << 2;
}

/// An XDP program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Where it runs; `None` on the NIC itself.
    pub mode: Option<Mode>,
    /// The kernel's identifier of the program.
    pub program: u32,
}

/// What the kernel says of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Bytes of the largest network packet, Ethernet header not counted.
    pub mtu: u32,
    /// Whether it was set up by the administrator.
    pub up: bool,
    /// How its link stands.
    pub link: Link,
    /// Whether frames on it begin with an Ethernet header.
    pub ethernet: bool,
    /// Its hardware address, where it has one as Ethernet has it.
    pub mac: Option<[u8; 6]>,
    /// XDP programs attached to it.
    pub xdp: Vec<AttachedXdp>,
}

/// What an interface has counted of the frames that it was to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transmitted {
    /// Sent.
    pub packets: u64,
    /// Not sent: its queue was full, or it could not.
    pub dropped: u64,
}

impl Transmitted {
    /// What was counted since `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(earlier.packets),
            dropped: self.dropped.wrapping_sub(earlier.dropped),
        }
    }

    /// All frames.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.packets.saturating_add(self.dropped)
    }
}

/// What an interface has counted of the frames that came, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Received {
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// Bytes of the largest network packet.
    pub mtu: u32,
    /// Frames that came.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Dropped by the kernel, or by the device for want of buffers.
    pub dropped: u64,
    /// Broken.
    pub errors: u64,
    /// Missed by the device: nobody took them out in time.
    pub missed: u64,
}

/// Why an interface is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of this name.
    #[error("no such interface; there are: {}", available.join(", "))]
    NotFound {
        /// The names that there are.
        available: Vec<String>,
    },
    /// The kernel does not answer.
    #[error("cannot ask the kernel for its interfaces: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel refuses.
    #[error("the kernel refuses a request on the interface: {0}")]
    Request(#[from] rtnetlink::Error),
    /// The driver refuses.
    #[error("the driver refuses {what}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A connection to the kernel's interfaces, in the network namespace of the thread that made it.
///
/// Lives within a tokio runtime, which drives the sockets.
#[derive(Debug)]
pub struct Netlink {
    links: Handle,
    ethtool: EthtoolHandle,
}

impl Netlink {
    /// Connects.
    pub fn connect() -> Result<Self, Error> {
        let (connection, links, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (connection, ethtool, _) = ethtool::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { links, ethtool })
    }

    /// What there is to know of the interface of this name.
    pub async fn interface(&self, name: &str) -> Result<Interface, Error> {
        let mut answer = self.links.link().get().match_name(name).execute().boxed();
        match answer.try_next().await {
            Ok(Some(link)) => Ok(interface(&link)),
            // ENODEV, or EINVAL and ERANGE for what cannot be a name.
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => {
                Err(Error::NotFound { available: self.names().await? })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What there is to know of the interface with this index; `None` where it is gone.
    pub async fn interface_by_index(&self, index: u32) -> Result<Option<Interface>, Error> {
        let mut answer = self.links.link().get().match_index(index).execute().boxed();
        match answer.try_next().await {
            Ok(link) => Ok(link.as_ref().map(interface)),
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the interface with this index has counted of what it sent; nothing where it is gone.
    pub async fn transmitted(&self, index: u32) -> Result<Transmitted, Error> {
        let counters = self.counters(index).await?;
        Ok(counters.map_or_else(Transmitted::default, |counters| Transmitted {
            packets: counters.tx_packets,
            dropped: counters.tx_dropped + counters.tx_errors,
        }))
    }

    /// What the interface with this index has counted of what it could not receive, by the kernel's names;
    /// nothing where it is gone.
    pub async fn receive_errors(&self, index: u32) -> Result<Vec<(&'static str, u64)>, Error> {
        let counters = self.counters(index).await?;
        Ok(counters.map_or_else(Vec::new, |counters| {
            vec![
                ("rx_missed_errors", counters.rx_missed_errors),
                ("rx_over_errors", counters.rx_over_errors),
                ("rx_fifo_errors", counters.rx_fifo_errors),
                ("rx_length_errors", counters.rx_length_errors),
                ("rx_crc_errors", counters.rx_crc_errors),
            ]
        }))
    }

    async fn counters(&self, index: u32) -> Result<Option<Stats64>, Error> {
        let mut answer = self.links.link().get().match_index(index).execute().boxed();
        let link = match answer.try_next().await {
            Ok(link) => link,
            Err(rtnetlink::Error::NetlinkError(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(link.iter().flat_map(|link| &link.attributes).find_map(|attribute| match attribute {
            LinkAttribute::Stats64(counters) => Some(*counters),
            _ => None,
        }))
    }

    /// What the interface with this index has counted of what came; nothing where it is gone.
    pub async fn received(&self, index: u32) -> Result<Received, Error> {
        let mut answer = self.links.link().get().match_index(index).execute().boxed();
        let link = match answer.try_next().await {
            Ok(Some(link)) => link,
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(Received::default()),
            Err(error) => return Err(error.into()),
        };
        let running = link.header.flags.contains(LinkFlags::LowerUp);
        let mut received = Received { running, ..Received::default() };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => received.mtu = *mtu,
                LinkAttribute::Stats64(stats) => {
                    received.packets = stats.rx_packets;
                    received.bytes = stats.rx_bytes;
                    received.dropped = stats.rx_dropped;
                    received.errors = stats.rx_errors;
                    received.missed = stats.rx_missed_errors;
                }
                _ => {}
            }
        }
        Ok(received)
    }

    async fn all(&self) -> Result<Vec<LinkMessage>, Error> {
        Ok(self.links.link().get().execute().try_collect().await?)
    }

    /// The names of all interfaces.
    pub async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.all().await?.iter().map(|link| interface(link).name).collect())
    }

    /// The name of a VXLAN interface of this host that takes this UDP port for itself.
    pub async fn vxlan_on_port(&self, port: u16) -> Result<Option<String>, Error> {
        Ok(self
            .all()
            .await?
            .iter()
            .find(|link| vxlan_port(link) == Some(port))
            .map(|link| interface(link).name))
    }

    /// How many receive queues are in use, numbered from 0.
    ///
    /// That is what the driver says of its channels. A driver that says nothing may still have several
    /// queues, which `/sys` shows.
    pub async fn rx_queues(&self, interface: &Interface) -> u32 {
        match self.channels(&interface.name).await.map(|channels| channels.receiving()) {
            Some(count) if count > 0 => count,
            _ => rx_queues_in_sys(interface).unwrap_or(1),
        }
    }

    /// Takes the XDP program off that was attached over netlink in this mode.
    pub async fn detach_xdp(&self, interface: u32, mode: Mode) -> Result<(), Error> {
        let flags = match mode {
            Mode::Native => xdp_flags::DRV_MODE,
            Mode::Generic => xdp_flags::SKB_MODE,
        };
        let message = LinkUnspec::new_with_index(interface)
            .append_extra_attribute(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(flags)]))
            .build();
        Ok(self.links.link().change(message).execute().await?)
    }
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        name: String::new(),
        index: link.header.index,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        link: Link { up: link.header.flags.contains(LinkFlags::LowerUp), losses: 0 },
        ethernet: matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
        mac: None,
        xdp: Vec::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::CarrierDownCount(losses) => interface.link.losses = *losses,
            LinkAttribute::Address(address) => interface.mac = address.as_slice().try_into().ok(),
            LinkAttribute::Xdp(attributes) => {
                interface.xdp.extend(attributes.iter().filter_map(|attribute| match *attribute {
                    LinkXdp::DrvProgId(program) => Some(AttachedXdp { mode: Some(Mode::Native), program }),
                    LinkXdp::SkbProgId(program) => Some(AttachedXdp { mode: Some(Mode::Generic), program }),
                    LinkXdp::HwProgId(program) => Some(AttachedXdp { mode: None, program }),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    interface
}

fn vxlan_port(link: &LinkMessage) -> Option<u16> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return None };
        infos.iter().find_map(|info| {
            let LinkInfo::Data(InfoData::Vxlan(data)) = info else { return None };
            data.iter().find_map(|info| match info {
                InfoVxlan::Port(port) => Some(*port),
                _ => None,
            })
        })
    })
}

/// Counts `/sys/class/net/NAME/queues/rx-*`; `None` where `/sys` is not that of this network namespace.
fn rx_queues_in_sys(interface: &Interface) -> Option<u32> {
    let queues = std::fs::read_dir(interrupt::sys(interface)?.join("queues")).ok()?;
    let rx = queues.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    u32::try_from(rx.count()).ok().filter(|&count| count > 0)
}
