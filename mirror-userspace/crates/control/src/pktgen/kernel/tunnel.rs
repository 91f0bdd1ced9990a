//! VXLAN interfaces that encapsulate the frames sent by them as those of a mirror session: one for each
//! session, for as long as the generator runs.

use std::net::IpAddr;

use mirror_device::nic::Interface;
use mirror_xdp_common::Vni;
use mirror_xdp_common::source::FIRST_SOURCE_PORT;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};
use tokio::runtime::Runtime;

use crate::pktgen::{Error, Target};

const CANNOT_MAKE: &str = "the kernel makes no VXLAN interface for its pktgen to send by";

/// The interfaces; dropping this deletes them.
pub(super) struct Tunnels<'a> {
    runtime: &'a Runtime,
    links: Handle,
    names: Vec<String>,
}

impl<'a> Tunnels<'a> {
    /// Makes the interfaces, over `interface`.
    pub(super) fn make(
        runtime: &'a Runtime,
        interface: &Interface,
        target: &Target,
        port: u16,
        vnis: &[Vni],
    ) -> Result<Self, Error> {
        let _entered = runtime.enter();
        let (connection, links, _) = rtnetlink::new_connection().map_err(Error::kernel(CANNOT_MAKE))?;
        runtime.spawn(connection);
        let mut tunnels = Self { runtime, links, names: Vec::new() };
        for (index, &vni) in vnis.iter().enumerate() {
            // At most fifteen bytes.
            let name = format!("pg{}-{index}", std::process::id());
            tunnels.add(&name, interface.index, target, port, vni)?;
        }
        Ok(tunnels)
    }

    fn add(&mut self, name: &str, lower: u32, target: &Target, port: u16, vni: Vni) -> Result<(), Error> {
        let link = LinkVxlan::new(name, vni.get())
            .dev(lower)
            .port(port)
            .port_range(FIRST_SOURCE_PORT, u16::MAX)
            .learning(false);
        let link = match (target.source, target.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                link.local(source).remote(destination).udp_csum(false)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                link.local6(source).remote6(destination).udp_zero_csum6_tx(true)
            }
            _ => return Err(Error::KernelTarget),
        };
        let Self { runtime, links, names } = self;
        let made = runtime.block_on(links.link().add(link.build()).execute());
        made.map_err(Error::kernel(CANNOT_MAKE))?;
        names.push(name.to_owned());
        // With IPv6, the interface would send frames of its own. A kernel without IPv6 has no such file.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let up = LinkUnspec::new_with_name(name).up().build();
        runtime.block_on(links.link().change(up).execute()).map_err(Error::kernel(CANNOT_MAKE))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

impl Drop for Tunnels<'_> {
    fn drop(&mut self) {
        use futures_util::TryStreamExt as _;
        let Self { runtime, links, names } = self;
        for name in names {
            // An interface that is gone already need not be deleted, and nothing more can be done if the
            // deletion fails.
            let gone = async {
                let link = links.link().get().match_name(&*name).execute().try_next().await?;
                match link {
                    Some(link) => links.link().del(link.header.index).execute().await,
                    None => Ok(()),
                }
            };
            let _: Result<(), rtnetlink::Error> = runtime.block_on(gone);
        }
    }
}
