//! The mirror source: mirrors an interface of this host to a capture appliance, in the same way as AWS VPC
//! Traffic Mirroring, for hosts outside of AWS and for development.
//!
//! [`run`] is the entry point. Frames never reach user space: programs in the kernel copy them into a private
//! veth pair (`pair`) and send them on from its far end. User space finds the way to the target (`path`): it
//! queries the kernel's routing and neighbour tables, and watches them.

mod offload;
mod pair;
mod path;
mod programs;

use std::future::{Future, ready};
use std::net::IpAddr;
use std::time::Duration;

use caps::{CapSet, Capability};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use mirror_base::one_line;
use mirror_xdp_common::Vni;
use mirror_xdp_common::source::{Path, SourceCounter, SourceFate, Template};
use mirror_xdp_common::wire::ETHERNET_LEN;
use netlink_packet_core::NetlinkPayload;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use serde::{Serialize, Serializer};

use self::pair::Pair;
use self::path::{Link, Network};
pub use self::programs::Counts;
use self::programs::Programs;

/// The interval at which the neighbour entry of the target is used, so that the kernel keeps it fresh: the
/// programs bypass the neighbour table.
const REFRESH: Duration = Duration::from_secs(10);
/// The longest wait for the target's hardware address at the start: the kernel sends three requests, one per
/// second.
const RESOLVE: Duration = Duration::from_secs(4);
/// Changes of routes and neighbours within this time are handled together.
const SETTLE: Duration = Duration::from_millis(100);
/// The longest wait for copies in transit at the end, and the interval of the checks.
const DRAIN: Duration = Duration::from_secs(5);
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// The mirrored interface and the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The interface to mirror.
    pub interface: String,
    /// The target's address.
    pub target: IpAddr,
    /// VXLAN network identifier of the session.
    pub vni: Vni,
    /// The most bytes of a frame that are mirrored.
    pub packet_length: u32,
    /// UDP port of the target.
    pub port: u16,
}

/// The privileges that the kernel requires.
const PRIVILEGE: &str = "needs root (or CAP_NET_ADMIN and CAP_BPF): run it with sudo";

/// The reasons why mirroring cannot begin or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no interface of this name.
    #[error("there is no interface {name}; there are: {}", available.join(", "))]
    NoSuchInterface {
        /// The name as given.
        name: String,
        /// The names of the existing interfaces.
        available: Vec<String>,
    },
    /// The mirrored interface is down.
    #[error("interface {0} is down: set it up with `ip link set {0} up`")]
    InterfaceDown(String),
    /// The mirrored interface was removed.
    #[error("interface {0} is gone")]
    InterfaceGone(String),
    /// Frames on the interface have no Ethernet header.
    #[error("interface {0} carries no Ethernet frames; mirror the interface below it instead")]
    NotEthernet(String),
    /// The routing table has no route to the target.
    #[error("no route to {0}: add one, or give another target")]
    NoRoute(IpAddr),
    /// The target is not a single other host.
    #[error("{0} is not the address of another host: the target must be reached over a network")]
    NotRemote(IpAddr),
    /// The route leads over an interface without hardware addresses.
    #[error("{target} is reached by {interface}, which is not Ethernet: mirror traffic cannot be sent there")]
    NotEthernetRoute {
        /// The target.
        target: IpAddr,
        /// The outgoing interface.
        interface: String,
    },
    /// There is no answer to ARP or neighbour discovery.
    #[error("no host answers for {next_hop} on {interface}: is {target} up, and the route to it right?")]
    NoNeighbour {
        /// The target.
        target: IpAddr,
        /// The target, or the router to it.
        next_hop: IpAddr,
        /// The outgoing interface.
        interface: String,
    },
    /// The process lacks privileges.
    #[error("mirroring {PRIVILEGE}")]
    Privilege,
    /// The kernel rejects the programs or a request.
    #[error("{what}: {cause}")]
    Kernel {
        /// The operation that failed.
        what: &'static str,
        /// The error of the kernel or the library.
        cause: String,
    },
}

impl Error {
    /// Makes an error from a refusal of the kernel.
    fn kernel<E: std::error::Error + 'static>(what: &'static str) -> impl Fn(E) -> Self {
        move |cause| match errno(&cause) {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege,
            _ => Self::Kernel { what, cause: one_line(&cause) },
        }
    }
}

/// Returns the system's error number at the root of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        if let Some(rtnetlink::Error::NetlinkError(message)) = error.downcast_ref() {
            return message.to_io().raw_os_error();
        }
        next = error.source();
    }
    None
}

/// Events while mirroring.
#[derive(Debug)]
pub enum Event<'a> {
    /// Frames are being mirrored from now on.
    Ready {
        /// The way to the target.
        way: &'a Way,
        /// Bytes of a frame that are mirrored, if the MTU of the outgoing interface is too small for the
        /// longest frames of the mirrored interface.
        truncated: Option<u32>,
    },
    /// The way to the target has changed, or exists again.
    Rerouted(&'a Way),
    /// There is no way to the target at the moment; frames are lost.
    Lost(&'a Error),
}

/// The way to the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Name of the outgoing interface.
    pub interface: String,
    /// The target, or the router to it.
    pub next_hop: IpAddr,
    /// The fixed fields of the outer headers.
    pub path: Path,
}

/// The total counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Counters of the programs.
    pub counts: Counts,
    /// Copies, already segmented, that found the queue between the two ends of the pair full. Each CPU has
    /// such a queue, of length `net.core.netdev_max_backlog`.
    pub pair_full: u64,
}

impl Totals {
    fn of(&self, fate: SourceFate) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = SourceCounter::ALL.iter().filter(move |counter| counter.fate() == fate);
        counters.map(|&counter| (counter.name(), self.counts.get(counter)))
    }

    /// Returns the frames that are not to be mirrored, by reason.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.of(SourceFate::Skipped)
    }

    /// Returns the frames that should have been mirrored, by the cause of the failure.
    pub fn failed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.of(SourceFate::Failed).chain([("pair_full", self.pair_full)])
    }
}

impl Serialize for Totals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shape {
            seen: u64,
            skipped: serde_json::Map<String, serde_json::Value>,
            copied: u64,
            segments: u64,
            mirrored: u64,
            mirrored_bytes: u64,
            truncated: u64,
            failed: serde_json::Map<String, serde_json::Value>,
        }
        let named = |(name, count): (&str, u64)| (name.to_owned(), count.into());
        let get = |counter| self.counts.get(counter);
        Shape {
            seen: get(SourceCounter::Seen),
            skipped: self.skipped().map(named).collect(),
            copied: get(SourceCounter::Copied),
            segments: get(SourceCounter::Segments),
            mirrored: get(SourceCounter::Mirrored),
            mirrored_bytes: get(SourceCounter::MirroredBytes),
            truncated: get(SourceCounter::Truncated),
            failed: self.failed().map(named).collect(),
        }
        .serialize(serializer)
    }
}

/// The kernel's notifications about interfaces, addresses, routes and neighbours.
type Changes = BoxStream<'static, RouteNetlinkMessage>;

/// Returns the way to `target` that mirror traffic would take now.
///
/// Needs a tokio runtime; uses the network namespace of the calling thread.
pub async fn way_to(target: IpAddr) -> Result<Way, Error> {
    let (network, mut changes) = connect()?;
    network.resolve_within(RESOLVE, target, &mut changes).await
}

/// Opens the kernel's tables of the network, and the notifications of their changes.
fn connect() -> Result<(Network, Changes), Error> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Link as Links, Neigh};
    let groups = [Links, Neigh, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route];
    let (connection, handle, changes) = rtnetlink::new_multicast_connection(&groups)
        .map_err(Error::kernel("cannot ask the kernel for interfaces and routes"))?;
    tokio::spawn(connection);
    let changes = changes
        .filter_map(|(message, _)| match message.payload {
            NetlinkPayload::InnerMessage(message) => ready(Some(message)),
            _ => ready(None),
        })
        .boxed();
    Ok((Network::new(handle), changes))
}

/// Mirrors until `stop` is ready, and leaves nothing behind; `tell` receives the events.
///
/// Needs a tokio runtime; uses the network namespace of the calling thread.
pub async fn run(
    options: &Options,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(Event<'_>),
) -> Result<Totals, Error> {
    let (network, mut changes) = connect()?;
    let mirrored = mirrored_interface(&network, &options.interface).await?;
    if !has_privilege() {
        return Err(Error::Privilege);
    }
    let way = network.resolve_within(RESOLVE, options.target, &mut changes).await?;
    let pair = Pair::create(&network).await?;
    let session = Session { options, network: &network, pair: &pair, mirrored: &mirrored };
    let result = session.mirror(way, changes, stop, &mut tell).await;
    pair.remove(&network).await?;
    result
}

/// Checks the privileges. Without them the kernel would refuse only half-way, with unclear errors.
fn has_privilege() -> bool {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    has(Capability::CAP_NET_ADMIN) && (has(Capability::CAP_BPF) || has(Capability::CAP_SYS_ADMIN))
}

async fn mirrored_interface(network: &Network, name: &str) -> Result<Link, Error> {
    let Some(link) = network.link_by_name(name).await? else {
        return Err(Error::NoSuchInterface { name: name.to_owned(), available: network.names().await? });
    };
    if !link.ethernet {
        return Err(Error::NotEthernet(link.name));
    }
    if !link.up {
        return Err(Error::InterfaceDown(link.name));
    }
    Ok(link)
}

/// The constants of a mirroring run.
struct Session<'a> {
    options: &'a Options,
    network: &'a Network,
    pair: &'a Pair,
    mirrored: &'a Link,
}

impl Session<'_> {
    async fn mirror(
        &self,
        mut way: Way,
        mut changes: Changes,
        stop: impl Future<Output = ()>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<Totals, Error> {
        let mut programs = Programs::load(self.options, self.pair)?;
        programs.set_template(Some(&self.template(&way)))?;
        programs.attach_to_pair(self.pair)?;
        self.pair.set_up(self.network).await?;
        programs.attach_to_interface(&self.mirrored.name, self.pair)?;
        let inner_max = self.template(&way).inner_max;
        let longest = (self.mirrored.mtu + ETHERNET_LEN as u32).min(self.options.packet_length);
        tell(Event::Ready { way: &way, truncated: (inner_max < longest).then_some(inner_max) });

        let mut lost = false;
        let mut refresh = tokio::time::interval(REFRESH);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = refresh.tick() => self.network.touch(way.path.interface, way.next_hop).await,
                Some(change) = changes.next() => {
                    let mut gone = self.is_removal(&change);
                    // Related changes arrive together, and a busy table has many entries that do not justify
                    // a look-up each.
                    tokio::time::sleep(SETTLE).await;
                    while let Some(Some(change)) = changes.next().now_or_never() {
                        gone |= self.is_removal(&change);
                    }
                    if gone {
                        return Err(Error::InterfaceGone(self.mirrored.name.clone()));
                    }
                }
            }
            match self.network.resolve(self.options.target).await {
                Ok(now) if now == way && !lost => {}
                Ok(now) => {
                    programs.set_template(Some(&self.template(&now)))?;
                    way = now;
                    lost = false;
                    tell(Event::Rerouted(&way));
                }
                Err(_) if lost => {}
                Err(error) => {
                    programs.set_template(None)?;
                    lost = true;
                    tell(Event::Lost(&error));
                }
            }
        }
        programs.detach();
        self.drain(&programs).await
    }

    /// Waits until the kernel has processed the frames in the pair, which it does at once unless it is very
    /// busy, and returns the total counters.
    async fn drain(&self, programs: &Programs) -> Result<Totals, Error> {
        let deadline = tokio::time::Instant::now() + DRAIN;
        loop {
            let near = self.pair.near(self.network).await?;
            let counts = programs.counts()?;
            let out = counts.get(SourceCounter::Segments) + counts.get(SourceCounter::Foreign);
            if out >= near.tx_packets || tokio::time::Instant::now() >= deadline {
                return Ok(Totals { counts, pair_full: near.tx_dropped });
            }
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    }

    fn template(&self, way: &Way) -> Template {
        Template::new(&way.path, self.options.port, self.options.vni, self.options.packet_length)
    }

    fn is_removal(&self, change: &RouteNetlinkMessage) -> bool {
        matches!(change, RouteNetlinkMessage::DelLink(link) if link.header.index == self.mirrored.index)
    }
}
