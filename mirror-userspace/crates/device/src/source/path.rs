//! The way to the target in the kernel's tables: route, outgoing interface, hardware address of the next hop.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use mirror_xdp_common::source::Path;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, Stats64};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Changes, Error, Way};

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    /// `true` if the administrator has set it up.
    pub(super) up: bool,
    /// `true` if its frames begin with an Ethernet header.
    pub(super) ethernet: bool,
    /// The MTU: bytes of the largest network packet, without the Ethernet header.
    pub(super) mtu: u32,
    mac: Option<[u8; 6]>,
    /// Frames that were sent.
    pub(super) tx_packets: u64,
    /// Frames that were not sent.
    pub(super) tx_dropped: u64,
    /// `true` if it is an end of a veth pair.
    pub(super) veth: bool,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        use rtnetlink::packet_route::link::{InfoKind, LinkInfo};
        let mut link = Self {
            name: String::new(),
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ethernet: matches!(
                message.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
            mtu: 0,
            mac: None,
            tx_packets: 0,
            tx_dropped: 0,
            veth: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
                LinkAttribute::Stats64(Stats64 { tx_packets, tx_dropped, .. }) => {
                    (link.tx_packets, link.tx_dropped) = (*tx_packets, *tx_dropped);
                }
                LinkAttribute::LinkInfo(info) => {
                    link.veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
                }
                _ => {}
            }
        }
        link
    }
}

/// The kernel's tables of interfaces, routes and neighbours.
#[derive(Clone, Debug)]
pub(super) struct Network {
    handle: Handle,
}

/// The outgoing interface of a route, and the next hop on it.
struct NextHop {
    interface: Link,
    address: IpAddr,
    /// The source address of packets to the target.
    source: IpAddr,
    mac: [u8; 6],
}

const CANNOT_ASK: &str = "the kernel does not report its interfaces and routes";

impl Network {
    pub(super) const fn new(handle: Handle) -> Self {
        Self { handle }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns all interfaces.
    pub(super) async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<_> =
            self.handle.link().get().execute().try_collect().await.map_err(Error::kernel(CANNOT_ASK))?;
        Ok(messages.iter().map(Link::from).collect())
    }

    /// Returns the names of all interfaces.
    pub(super) async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.links().await?.into_iter().map(|link| link.name).collect())
    }

    /// Returns the interface of this name, if it exists.
    pub(super) async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    /// Returns the interface with this index.
    pub(super) async fn link(&self, index: u32) -> Result<Link, Error> {
        let mut answer = self.handle.link().get().match_index(index).execute().boxed();
        match answer.next().await {
            Some(Ok(message)) => Ok(Link::from(&message)),
            Some(Err(error)) => Err(Error::kernel(CANNOT_ASK)(error)),
            None => Err(Error::Kernel { what: CANNOT_ASK, cause: format!("interface {index} is gone") }),
        }
    }

    /// Returns the way to `target` by the current tables of the kernel. If the hardware address is missing,
    /// the kernel is asked to resolve it, and sends a notification when it has.
    pub(super) async fn resolve(&self, target: IpAddr) -> Result<Way, Error> {
        let NextHop { interface, address: next_hop, source, mac } = self.next_hop(target).await?;
        let Some(destination_mac) = self.neighbour(interface.index, next_hop).await? else {
            self.touch(interface.index, next_hop).await;
            return Err(Error::NoNeighbour { target, next_hop, interface: interface.name });
        };
        let path = Path {
            interface: interface.index,
            mtu: interface.mtu,
            source_mac: mac,
            destination_mac,
            source,
            destination: target,
        };
        Ok(Way { interface: interface.name, next_hop, path })
    }

    /// Like [`Self::resolve`], but waits for the hardware address.
    pub(super) async fn resolve_within(
        &self,
        patience: Duration,
        target: IpAddr,
        changes: &mut Changes,
    ) -> Result<Way, Error> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let error = match self.resolve(target).await {
                Err(error @ Error::NoNeighbour { .. }) => error,
                result => return result,
            };
            if !matches!(tokio::time::timeout_at(deadline, changes.next()).await, Ok(Some(_))) {
                return Err(error);
            }
        }
    }

    /// Tells the kernel that the neighbour's entry is in use, so that it verifies the entry from time to
    /// time, or resolves the hardware address in the first place.
    pub(super) async fn touch(&self, interface: u32, next_hop: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(interface, next_hop)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        // If the interface has just disappeared, the next query of the routes reports it.
        let _ = request.execute().await;
    }

    async fn next_hop(&self, target: IpAddr) -> Result<NextHop, Error> {
        if target.is_unspecified() || target.is_multicast() || target.is_loopback() {
            return Err(Error::NotRemote(target));
        }
        let route = self.route(target).await?;
        if route.header.kind != RouteType::Unicast {
            return match route.header.kind {
                RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
                    Err(Error::NotRemote(target))
                }
                _ => Err(Error::NoRoute(target)),
            };
        }
        let (mut index, mut hop, mut source) = (None, target, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = Some(*oif),
                RouteAttribute::Gateway(address) => hop = ip(address).unwrap_or(hop),
                // A router of the other address family (RFC 5549).
                RouteAttribute::Via(RouteVia::Inet(address)) => hop = (*address).into(),
                RouteAttribute::Via(RouteVia::Inet6(address)) => hop = (*address).into(),
                RouteAttribute::PrefSource(address) => source = ip(address),
                _ => {}
            }
        }
        let (Some(index), Some(source)) = (index, source) else { return Err(Error::NoRoute(target)) };
        let interface = self.link(index).await?;
        match interface.mac {
            Some(mac) if interface.ethernet => Ok(NextHop { interface, address: hop, source, mac }),
            _ => Err(Error::NotEthernetRoute { target, interface: interface.name }),
        }
    }

    /// Returns the route that a packet to `target` takes.
    async fn route(&self, target: IpAddr) -> Result<RouteMessage, Error> {
        let prefix = if target.is_ipv4() { 32 } else { 128 };
        let request = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(target, prefix)
            .map_err(Error::kernel(CANNOT_ASK))?
            .build();
        let mut answer = self.handle.route().get(request).execute().boxed();
        match answer.next().await {
            Some(Ok(route)) => Ok(route),
            None => Err(Error::NoRoute(target)),
            Some(Err(error)) => match super::errno(&error) {
                // The kernel's errors for unreachable, prohibited and blackhole routes.
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Err(Error::NoRoute(target))
                }
                _ => Err(Error::kernel(CANNOT_ASK)(error)),
            },
        }
    }

    /// Returns the hardware address of a neighbour, if the kernel knows it.
    async fn neighbour(&self, interface: u32, address: IpAddr) -> Result<Option<[u8; 6]>, Error> {
        let all: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(Error::kernel(CANNOT_ASK))?;
        Ok(all
            .iter()
            .filter(|entry| entry.header.ifindex == interface && is_valid(entry.header.state))
            .find(|entry| destination(entry) == Some(address))
            .and_then(mac))
    }
}

/// Returns whether the kernel would send by this entry (`NUD_VALID`).
const fn is_valid(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Permanent | Noarp | Reachable | Probe | Stale | Delay)
}

fn destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn mac(entry: &NeighbourMessage) -> Option<[u8; 6]> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => address.as_slice().try_into().ok(),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
