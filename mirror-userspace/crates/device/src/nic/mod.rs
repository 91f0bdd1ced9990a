//! Network interfaces: the state that the kernel and the drivers report, and the settings.
//!
//! This file has the interface itself, over rtnetlink: state, MTU, attached XDP programs, counters. The
//! submodules are:
//!
//! * `settings`: channels, rings and features, by ethtool's netlink family;
//! * `netdev`: the driver's XDP features, by the kernel's netdev family;
//! * `ioctl`: driver and version, its own counters, and the hash, which only the ioctl reports;
//! * `rss`: the effect of that hash on mirror traffic;
//! * `interrupt`: the CPUs that handle the NIC's interrupts;
//! * `changes`: changes of settings, and their undoing;
//! * `link`: the link state of the captured interfaces;
//! * `losses`: the counters of frames that the device lost;
//! * `watch`: these counters during a capture.

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

#[cfg(any(test, feature = "recorded"))]
pub mod recorded {
    //! Recorded answers of the kernel and its drivers, parsed by the production code.

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
    /// The mode in which it runs; `None` if the NIC itself runs it.
    pub mode: Option<Mode>,
    /// The kernel's identifier of the program.
    pub program: u32,
}

/// The kernel's description of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The MTU: bytes of the largest network packet, without the Ethernet header.
    pub mtu: u32,
    /// `true` if the administrator has set it up.
    pub up: bool,
    /// The state of its link.
    pub link: Link,
    /// `true` if its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Its hardware address, if it has one of Ethernet's form.
    pub mac: Option<[u8; 6]>,
    /// XDP programs attached to it.
    pub xdp: Vec<AttachedXdp>,
}

/// An interface's counters of frames to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transmitted {
    /// Frames sent.
    pub packets: u64,
    /// Frames not sent, because the queue was full or because of an error.
    pub dropped: u64,
}

impl Transmitted {
    /// Returns the increase since `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(earlier.packets),
            dropped: self.dropped.wrapping_sub(earlier.dropped),
        }
    }

    /// Returns the number of all frames.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.packets.saturating_add(self.dropped)
    }
}

/// An interface's counters of received frames, and its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Received {
    /// `true` if it is up and has a carrier.
    pub running: bool,
    /// The MTU: bytes of the largest network packet.
    pub mtu: u32,
    /// Frames received.
    pub packets: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Frames dropped by the kernel, or by the device for lack of buffers.
    pub dropped: u64,
    /// Frames with errors.
    pub errors: u64,
    /// Frames missed by the device because they were not taken out in time.
    pub missed: u64,
}

/// The reasons why a request about an interface fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no interface of this name.
    #[error("no such interface; there are: {}", available.join(", "))]
    NotFound {
        /// The names of the existing interfaces.
        available: Vec<String>,
    },
    /// The netlink socket fails.
    #[error("cannot ask the kernel for its interfaces: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel refuses the request.
    #[error("the kernel refuses a request on the interface: {0}")]
    Request(#[from] rtnetlink::Error),
    /// The driver refuses the request.
    #[error("the driver refuses {what}")]
    Refused {
        /// The request.
        what: &'static str,
        /// The error of the kernel.
        source: std::io::Error,
    },
}

/// A netlink connection for the interfaces in the network namespace of the thread that made it.
///
/// Needs a tokio runtime, which drives the sockets.
#[derive(Debug)]
pub struct Netlink {
    links: Handle,
    ethtool: EthtoolHandle,
}

impl Netlink {
    /// Connects to the kernel.
    pub fn connect() -> Result<Self, Error> {
        let (connection, links, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (connection, ethtool, _) = ethtool::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { links, ethtool })
    }

    /// Returns the description of the interface of this name.
    pub async fn interface(&self, name: &str) -> Result<Interface, Error> {
        let mut answer = self.links.link().get().match_name(name).execute().boxed();
        match answer.try_next().await {
            Ok(Some(link)) => Ok(interface(&link)),
            // ENODEV; EINVAL and ERANGE for text that cannot be a name.
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => {
                Err(Error::NotFound { available: self.names().await? })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the description of the interface with this index; `None` if it is gone.
    pub async fn interface_by_index(&self, index: u32) -> Result<Option<Interface>, Error> {
        let mut answer = self.links.link().get().match_index(index).execute().boxed();
        match answer.try_next().await {
            Ok(link) => Ok(link.as_ref().map(interface)),
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the send counters of the interface with this index; all 0 if it is gone.
    pub async fn transmitted(&self, index: u32) -> Result<Transmitted, Error> {
        let counters = self.counters(index).await?;
        Ok(counters.map_or_else(Transmitted::default, |counters| Transmitted {
            packets: counters.tx_packets,
            dropped: counters.tx_dropped + counters.tx_errors,
        }))
    }

    /// Returns the counters of receive errors of the interface with this index, by the kernel's names; empty
    /// if it is gone.
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

    /// Returns the receive counters of the interface with this index; all 0 if it is gone.
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

    /// Returns the names of all interfaces.
    pub async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.all().await?.iter().map(|link| interface(link).name).collect())
    }

    /// Returns the name of a VXLAN interface of this host that uses this UDP port.
    pub async fn vxlan_on_port(&self, port: u16) -> Result<Option<String>, Error> {
        Ok(self
            .all()
            .await?
            .iter()
            .find(|link| vxlan_port(link) == Some(port))
            .map(|link| interface(link).name))
    }

    /// Returns the number of receive queues in use, which are numbered from 0.
    ///
    /// The driver reports it with its channels. A driver without channels may still have several queues,
    /// which `/sys` shows.
    pub async fn rx_queues(&self, interface: &Interface) -> u32 {
        match self.channels(&interface.name).await.map(|channels| channels.receiving()) {
            Some(count) if count > 0 => count,
            _ => rx_queues_in_sys(interface).unwrap_or(1),
        }
    }

    /// Detaches the XDP program that was attached over netlink in this mode.
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

/// Counts `/sys/class/net/NAME/queues/rx-*`; `None` if `/sys` belongs to another network namespace.
fn rx_queues_in_sys(interface: &Interface) -> Option<u32> {
    let queues = std::fs::read_dir(interrupt::sys(interface)?.join("queues")).ok()?;
    let rx = queues.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    u32::try_from(rx.count()).ok().filter(|&count| count > 0)
}
