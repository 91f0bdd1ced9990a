//! The HTTP API of a running capture: health checks, metrics, counters, and a page that shows them.
//!
//! It runs on a thread of its own at a low priority, and the packet path does not know of it. Workers publish
//! their counters in any case, and survey their flows on request, a stretch with each tick. All resources
//! that clients could exhaust are bounded: connections, the time that each takes, and how often the same
//! request reaches the capture (`cache`).
//!
//! [`Listener::bind`] binds the addresses before the capture starts, so that errors are reported in time;
//! [`Listener::serve`] starts to answer. Requests that only the capture's thread can answer, and reloads, are
//! sent to it as [`Request`]s.

mod alerts;
mod cache;
mod metrics;
mod places;
mod routes;
mod schema;
mod serve;
mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use mirror_base::sandbox::{self, Kind};
use mirror_device::nic::{Links, Received};
use mirror_records::sink::{ServiceDesk, Sink};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use self::routes::State;
pub use self::view::{ChangedSignatures, Refused, Reloaded};
use crate::capture::{Capture, Watch};
pub use crate::config::listen::{Address, DEFAULT, Settings, Token, TokenError, reachable};
use crate::observe::tap;
use crate::stats::{Policy, Stats};

/// The maximum number of requests that wait for the capture's thread.
const QUEUE: usize = 8;

/// The reasons why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, or does not belong to this host.
    #[error(
        "cannot listen on {address} for {what}: {source}; choose another address with {flag}, or {flag} off"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The service at this address.
        what: &'static str,
        /// The flag that sets the address.
        flag: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// Other hosts could query and reload the capture without a token.
    #[error(
        "other hosts can reach the API on {0}: give it a token with --api-token-file, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// The thread cannot be started.
    #[error("cannot start the API")]
    Thread(#[source] io::Error),
}

/// The counters of the capture at a point in time.
#[derive(Debug)]
pub struct Snapshot {
    /// The time of the snapshot.
    pub time: SystemTime,
    /// The account so far, including the records.
    pub stats: Stats,
    /// The kernel's counters of the interfaces, in the same order.
    pub received: Vec<Received>,
}

/// A request that only the capture's thread can serve.
#[derive(Debug)]
pub enum Request {
    /// The account so far.
    Stats(oneshot::Sender<Snapshot>),
    /// The counters of VNIs and rules.
    Policies(oneshot::Sender<Vec<Policy>>),
    /// Reload the configuration.
    Reload(oneshot::Sender<Result<Reloaded, Refused>>),
}

impl Request {
    /// Answers the request. For a reload, returns the sender of the reply instead. If the data cannot be
    /// read, it drops the sender, so that the client receives an error.
    pub async fn answer(
        self,
        capture: &Capture,
        sink: &Sink,
        watch: &mut crate::capture::device_losses::Watch,
        tap: Option<&tap::Running>,
    ) -> Option<oneshot::Sender<Result<Reloaded, Refused>>> {
        // Sending fails if the client is gone.
        match self {
            Self::Stats(answer) => {
                if let (Ok(mut stats), Ok(received)) = (capture.stats(), capture.received().await) {
                    stats.set_records(&sink.counters());
                    watch.enter(&mut stats);
                    stats.tap = tap.map(tap::Running::counts);
                    let _ = answer.send(Snapshot { time: SystemTime::now(), stats, received });
                }
                None
            }
            Self::Policies(answer) => {
                if let Ok(policies) = capture.policy_stats() {
                    let _ = answer.send(policies);
                }
                None
            }
            Self::Reload(answer) => Some(answer),
        }
    }
}

/// The phase of the capture's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(super) enum Phase {
    Starting,
    Running,
    Stopping,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// The state that the thread of the API and that of the capture share.
#[derive(Debug)]
pub(super) struct Health {
    phase: AtomicU8,
    watches: std::sync::OnceLock<Vec<Watch>>,
    desk: std::sync::OnceLock<ServiceDesk>,
    links: std::sync::OnceLock<Links>,
}

impl Health {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Running,
            _ => Phase::Stopping,
        }
    }

    fn watches(&self) -> &[Watch] {
        self.watches.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns a line for each link that is down.
    fn links_down(&self) -> Vec<String> {
        self.links.get().map(Links::down).unwrap_or_default()
    }
}

/// The sockets of the API, which are bound but not served yet.
#[derive(Debug)]
pub struct Listener {
    settings: Settings,
    api: Option<TcpListener>,
    health: Option<TcpListener>,
}

impl Listener {
    /// Binds the addresses in the network namespace of the calling thread.
    pub fn bind(settings: Settings) -> Result<Self, Error> {
        if settings.token.is_none()
            && let Some(address) = reachable(settings.api)
        {
            return Err(Error::Open(address));
        }
        let bind = |address, what, flag| match address {
            Address::Off => Ok(None),
            Address::At(address) => match listen(address) {
                Ok(listener) => Ok(Some(listener)),
                Err(source) => Err(Error::Listen { address, what, flag, source }),
            },
        };
        let api = bind(settings.api, "the API", "--api")?;
        let health = bind(settings.health, "health checks", "--health")?;
        Ok(Self { settings, api, health })
    }

    /// Starts to answer. The API reports that the capture is starting, until [`Server::started`] is called.
    pub fn serve(self) -> Result<Server, Error> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let health = Arc::new(Health {
            phase: AtomicU8::new(Phase::Starting as u8),
            watches: std::sync::OnceLock::new(),
            desk: std::sync::OnceLock::new(),
            links: std::sync::OnceLock::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let state = State::new(Arc::clone(&health), requests, self.settings);
        let (api, checks) = (self.api, self.health);
        let run = move || serve::run(api, checks, state, stopped);
        let thread = sandbox::spawn("api".to_owned(), Kind::Api, || (), run).map_err(Error::Thread)?;
        Ok(Server { health, requests: receiver, stop: Some(stop), thread: Some(thread) })
    }
}

/// Returns the address if other hosts can reach it.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    serve::lengthen_backlog(&listener)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A running API. Dropping it stops the API.
#[derive(Debug)]
pub struct Server {
    health: Arc<Health>,
    requests: mpsc::Receiver<Request>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Reports that frames are captured from now on.
    pub fn started(&self, capture: &Capture, sink: &Sink) {
        // Called once; a second call would change nothing.
        let _ = self.health.watches.set(capture.watches());
        let _ = self.health.desk.set(sink.desk());
        let _ = self.health.links.set(capture.links());
        self.health.phase.store(Phase::Running as u8, Ordering::Release);
    }

    /// Reports that no more frames are captured.
    pub fn stopping(&self) {
        self.health.phase.store(Phase::Stopping as u8, Ordering::Release);
    }

    /// Returns the next request. Cancel safe.
    pub async fn request(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            // The API's thread holds the other end; without it there are no requests.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping();
        if let Some(stop) = self.stop.take() {
            // Sending fails if the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has reported it.
            let _ = thread.join();
        }
    }
}
