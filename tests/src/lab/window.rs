//! A way into the lab for browsers of this machine: connections to a port of its loopback interface are
//! relayed to the appliance's API. It is the only way into the lab's namespaces.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::netns::Namespace;

/// The address of the appliance's API in its namespace, and of the window if that port is free.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9470);

/// An open window. It stays open as long as the process lives; connections after the end of the lab are
/// closed.
#[derive(Debug)]
pub(super) struct Window {
    /// The address of the window.
    pub(super) address: SocketAddr,
}

impl Window {
    /// Opens the window.
    pub(super) fn open(appliance: &Arc<Namespace>) -> io::Result<Self> {
        let listener = TcpListener::bind(API).or_else(|_| TcpListener::bind(SocketAddr::new(API.ip(), 0)))?;
        let address = listener.local_addr()?;
        let appliance = Arc::downgrade(appliance);
        thread::spawn(move || {
            for visitor in listener.incoming() {
                let Some(appliance) = appliance.upgrade() else { return };
                // If the API does not answer, the visitor's connection is closed.
                let Ok(visitor) = visitor else { continue };
                let connect = || TcpStream::connect_timeout(&API, Duration::from_secs(1));
                if let Ok(Ok(api)) = appliance.enter(connect) {
                    // Each direction ends when its sender closes.
                    let _ = relay(&visitor, &api).and_then(|()| relay(&api, &visitor));
                }
            }
        });
        Ok(Self { address })
    }
}

/// Relays data from one side until it ends.
fn relay(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    Ok(())
}
