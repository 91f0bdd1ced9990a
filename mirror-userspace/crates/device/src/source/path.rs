//! The way to the target, as the kernel knows it: route, outgoing interface, hardware address of the
//! next hop.

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
    /// Set up by the administrator.
    pub(super) up: bool,
    /// Whether frames on it begin with an Ethernet header.
    pub(super) ethernet: bool,
    /// Bytes of the largest network packet, Ethernet header not counted.
    pub(super) mtu: u32,
    mac: Option<[u8; 6]>,
    /// Frames that were sent.
    pub(super) tx_packets: u64,
    /// Frames that were not sent.
    pub(super) tx_dropped: u64,
    /// Whether it is an end of a veth pair.
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

/// The interface that a route leads over, and who takes the packets there.
struct NextHop {
    interface: Link,
    address: IpAddr,
    /// The address that packets to the target have as their source.
    source: IpAddr,
    mac: [u8; 6],
}

const CANNOT_ASK: &str = "the kernel does not tell of its interfaces and routes";

impl Network {
    pub(super) const fn new(handle: Handle) -> Self {
        Self { handle }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All interfaces.
    pub(super) async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<_> =
            self.handle.link().get().execute().try_collect().await.map_err(Error::kernel(CANNOT_ASK))?;
        Ok(messages.iter().map(Link::from).collect())
    }

    /// The names of all interfaces.
    pub(super) async fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.links().await?.into_iter().map(|link| link.name).collect())
    }

    /// The interface of this name, if there is one.
    pub(super) async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    /// The interface with this index.
    pub(super) async fn link(&self, index: u32) -> Result<Link, Error> {
        let mut answer = self.handle.link().get().match_index(index).execute().boxed();
        match answer.next().await {
            Some(Ok(message)) => Ok(Link::from(&message)),
            Some(Err(error)) => Err(Error::kernel(CANNOT_ASK)(error)),
            None => Err(Error::Kernel { what: CANNOT_ASK, cause: format!("interface {index} is gone") }),
        }
    }

    /// The way to `target` as the kernel's tables are now. Where the hardware address is missing, the
    /// kernel is asked to find it out, and will tell of it.
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

    /// The same, waiting for the hardware address.
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

    /// Tells the kernel that the neighbour's entry is in use, so that it verifies it from time to time,
    /// or finds the hardware address out in the first place.
    pub(super) async fn touch(&self, interface: u32, next_hop: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(interface, next_hop)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        // Where the interface has just gone, the next look at the routes says so.
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
                // A router of the other family (RFC 5549).
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

    /// The route that a packet to `target` takes.
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
                // The kernel says so of what is unreachable, prohibited, or thrown away.
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Err(Error::NoRoute(target))
                }
                _ => Err(Error::kernel(CANNOT_ASK)(error)),
            },
        }
    }

    /// The hardware address of a neighbour, where the kernel knows it.
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

/// Whether the kernel would send by this entry (`NUD_VALID`).
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
