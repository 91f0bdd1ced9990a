//! Notifies systemd (`sd_notify(3)`) when the capture runs, that it is alive, and when it stops. Does nothing
//! outside a service.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{env, io};

use mirror_control::capture::Capture;
use sd_notify::NotifyState;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Service {
    /// Connected before the thread is confined, since it cannot connect later.
    manager: Option<UnixDatagram>,
    /// True if the service manager runs a watchdog.
    watched: bool,
}

impl Service {
    /// Connects to the manager that started this process.
    pub(super) fn connect() -> Self {
        let manager = env::var_os("NOTIFY_SOCKET").and_then(|name| said(connected(&name)));
        Self { watched: manager.is_some() && sd_notify::watchdog_enabled().is_some(), manager }
    }

    /// Reports that the capture runs.
    pub(super) fn ready(&self, capture: &Capture) {
        let interfaces: Vec<_> = capture.interfaces().map(|interface| interface.to_string()).collect();
        let status = format!("capturing on {}", interfaces.join("; "));
        self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Feeds the watchdog while every worker makes progress. Called each second.
    pub(super) fn second(&self, capture: &Capture) {
        if self.watched && capture.watches().iter().all(|worker| worker.pulse.is_moving()) {
            self.notify(&[NotifyState::Watchdog]);
        }
    }

    /// Reports that the capture is about to stop.
    pub(super) fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(manager) = &self.manager else { return };
        let text = states.iter().fold(String::new(), |mut text, state| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{state}");
            text
        });
        said(manager.send(text.as_bytes()));
    }
}

/// Connects a socket to the one of this name; a name that begins with `@` is abstract.
fn connected(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

fn said<T>(result: io::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("cannot notify the service manager: {error}")).ok()
}
