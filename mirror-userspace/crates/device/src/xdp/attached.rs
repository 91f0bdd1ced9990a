//! XDP programs that were already attached to an interface.

use aya::programs::links::LinkType;
use aya::programs::{loaded_links, loaded_programs};

use super::Mode;
use super::link::XdpLink;
use crate::nic::{AttachedXdp, Interface, Netlink};

/// The kind of attachment.
#[derive(Debug)]
enum How {
    /// By a BPF link, which its owner holds open.
    Link(XdpLink),
    /// Over netlink: it stays until it is detached explicitly.
    Netlink,
}

/// An XDP program on an interface, in a form for people.
#[derive(Debug)]
pub struct Attached {
    interface: u32,
    xdp: AttachedXdp,
    name: Option<String>,
    how: How,
}

/// The reasons why a program cannot be detached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The NIC runs it.
    #[error(
        "the XDP program on the interface is offloaded to the NIC; take it off with `ip link set dev IF xdpoffload off`"
    )]
    Offloaded,
    /// The kernel refuses to detach the link.
    #[error("the kernel refuses to detach the XDP program's link: {0}")]
    Link(#[from] std::io::Error),
    /// The kernel refuses to detach the program.
    #[error(transparent)]
    Netlink(#[from] crate::nic::Error),
}

/// Returns the programs that are attached to `interface`.
#[must_use]
pub fn on(interface: &Interface) -> Vec<Attached> {
    interface.xdp.iter().map(|&xdp| Attached::new(interface.index, xdp)).collect()
}

impl Attached {
    fn new(interface: u32, xdp: AttachedXdp) -> Self {
        // Both iterators skip objects that disappear while they are read.
        let name = loaded_programs()
            .flatten()
            .find(|program| program.id() == xdp.program)
            .and_then(|program| program.name_as_str().map(str::to_owned))
            .filter(|name| !name.is_empty());
        let link = loaded_links()
            .flatten()
            .filter(|link| link.program_id() == xdp.program && link.link_type().ok() == Some(LinkType::Xdp))
            .filter_map(|link| XdpLink::by_id(link.id()))
            .find(|link| link.interface() == interface);
        Self { interface, xdp, name, how: link.map_or(How::Netlink, How::Link) }
    }

    /// Returns whether it is the program of a capture of this appliance.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.is_held() && self.name.as_deref() == Some(super::program::PROGRAM_NAME)
    }

    /// Returns whether the program stays only as long as a process or a pin holds its link.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self.how, How::Link(_))
    }

    /// Detaches the program.
    pub async fn detach(self, netlink: &Netlink) -> Result<(), Error> {
        match (self.how, self.xdp.mode) {
            (How::Link(link), _) => Ok(link.detach()?),
            (How::Netlink, Some(mode)) => Ok(netlink.detach_xdp(self.interface, mode).await?),
            (How::Netlink, None) => Err(Error::Offloaded),
        }
    }
}

impl std::fmt::Display for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.as_deref().unwrap_or("without a name");
        let mode = self.xdp.mode.map_or("offloaded", Mode::name);
        let how = match self.how {
            How::Link(_) => "by a BPF link of a running process or a pin",
            How::Netlink => "over netlink",
        };
        write!(f, "program {name}, id {}, {mode}, attached {how}", self.xdp.program)
    }
}
