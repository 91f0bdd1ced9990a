//! The private veth pair through which the copies go.
//!
//! The transmit path of its near end is essential: without offloads, the kernel segments large packets into
//! packets as they appear on a wire, and fills in checksums and VLAN tags, before it passes them to the far
//! end.
//!
//! The number in its name ties a pair to a running source. The source that has bound the abstract Unix socket
//! of that number owns the pair. Such a socket belongs, like the interfaces, to the network namespace, and it
//! disappears with its process. A pair whose socket can be bound is therefore the leftover of a source that
//! was killed.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::path::{Link, Network};
use super::{Error, offload};

/// Large enough for the largest packet of any interface.
const MTU: u32 = 65535;

const CANNOT_CREATE: &str = "cannot create the veth pair for the copies";
const CANNOT_REMOVE: &str = "cannot remove the veth pair of the copies";

/// A veth pair, down at first.
#[derive(Debug)]
pub(super) struct Pair {
    /// The end into which the copies are sent.
    pub(super) near: u32,
    /// The end that receives them.
    pub(super) far: Link,
    /// `true` if no other source runs in this namespace.
    pub(super) alone: bool,
    /// Marks the pair as owned by a running process.
    _owner: UnixDatagram,
}

/// Parses the number in the name of a near end.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix("mxdp")?.parse().ok()
}

fn near(number: u32) -> String {
    format!("mxdp{number}")
}

fn far(number: u32) -> String {
    format!("mxdp{number}-far")
}

/// Takes ownership of a number; `None` if a running source owns it.
fn own(number: u32) -> io::Result<Option<UnixDatagram>> {
    let address = SocketAddr::from_abstract_name(format!("mirror-xdp/source/{number}"))?;
    match UnixDatagram::bind_addr(&address) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

impl Pair {
    /// Creates a pair, after removing those of sources that were killed.
    pub(super) async fn create(network: &Network) -> Result<Self, Error> {
        let mut alone = true;
        for link in network.links().await?.iter().filter(|link| link.veth) {
            let Some(number) = number(&link.name) else { continue };
            // The number is owned during the removal, so that no other source takes it meanwhile.
            match own(number).map_err(Error::kernel(CANNOT_CREATE))? {
                Some(_owner) => remove(network, link.index).await?,
                None => alone = false,
            }
        }
        let mut number = 0;
        let owner = loop {
            match own(number).map_err(Error::kernel(CANNOT_CREATE))? {
                Some(owner) => break owner,
                None => number += 1,
            }
        };
        let link = network.handle().link();
        link.add(message(number)).execute().await.map_err(Error::kernel(CANNOT_CREATE))?;
        let near = end(network, &near(number)).await?.index;
        let far = end(network, &far(number)).await?;
        Ok(Self { near, far, alone, _owner: owner })
    }

    /// Makes the kernel complete all frames before it passes them to the far end, and sets both ends up. A
    /// program that has to see every frame of the pair must be attached before.
    pub(super) async fn set_up(&self, network: &Network) -> Result<(), Error> {
        offload::switch_off(&self.near(network).await?.name).await?;
        for index in [self.far.index, self.near] {
            let up = LinkUnspec::new_with_index(index).up().build();
            network.handle().link().set(up).execute().await.map_err(Error::kernel(CANNOT_CREATE))?;
        }
        Ok(())
    }

    /// Returns the near end as it is now. Its counters are the frames that it sent, and those that found the
    /// queue between the ends full.
    pub(super) async fn near(&self, network: &Network) -> Result<Link, Error> {
        network.link(self.near).await
    }

    /// Removes both ends.
    pub(super) async fn remove(self, network: &Network) -> Result<(), Error> {
        remove(network, self.near).await
    }
}

/// Makes the request for a pair: without ARP, or anything else that would make the kernel send frames on it.
fn message(number: u32) -> LinkMessage {
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(far(number)).mtu(MTU).arp(false).build();
    LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(near(number))
        .mtu(MTU)
        .arp(false)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build()
}

/// Returns an end that has just been created.
async fn end(network: &Network, name: &str) -> Result<Link, Error> {
    let missing = || Error::Kernel { what: CANNOT_CREATE, cause: "another process removed it".to_owned() };
    network.link_by_name(name).await?.ok_or_else(missing)
}

async fn remove(network: &Network, index: u32) -> Result<(), Error> {
    match network.handle().link().del(index).execute().await {
        Err(error) if super::errno(&error) != Some(libc::ENODEV) => Err(Error::kernel(CANNOT_REMOVE)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_interface_and_only_near_ends_have_a_number() {
        for n in [0, 7, 9999] {
            assert_eq!(number(&near(n)), Some(n));
            assert_eq!(number(&far(n)), None);
            // IFNAMSIZ, with the terminating zero.
            assert!(far(n).len() < 16);
        }
        assert_eq!(number("eth0"), None);
    }
}
