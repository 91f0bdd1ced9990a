//! The HTTP API of a running capture: how it does, its metrics, what it counts, a page that shows it.
//!
//! It runs on a thread of its own at a low priority, and the packet path does not know of it: counters are
//! those that workers publish anyway, and flows are surveyed a stretch with each tick, when somebody asks.
//! Everything that one can ask for too often is bounded: connections, the time each takes, and how often
//! the same question is really put (`cache`).
//!
//! [`Listener::bind`] takes the addresses before the capture starts, so that what is wrong with them is
//! known in time; [`Listener::serve`] begins to answer. Questions that only the capture can answer, and
//! reloads, go to its thread as [`Request`]s.

mod alerts;
mod cache;
mod guard;
mod metrics;
mod places;
mod routes;
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
use tokio::sync::{mpsc, oneshot};

use self::routes::State;
pub use self::view::{Refused, Reloaded};
use crate::capture::{Capture, Watch};
pub use crate::config::listen::{Address, DEFAULT, Settings, Token, TokenError, reachable};
use crate::stats::{Policy, Stats};

/// Questions that may wait for the capture's thread.
const QUEUE: usize = 8;

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has the address, or it is none of this host.
    #[error(
        "cannot listen on {address} for {what}: {source}; choose another address with {flag}, or {flag} off"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What is served there.
        what: &'static str,
        /// The flag that says so.
        flag: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could ask and reload.
    #[error(
        "other hosts can reach the API on {0}: give it a token with --api-token-file, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// The thread cannot be started.
    #[error("cannot start the API")]
    Thread(#[source] io::Error),
}

/// What the capture's thread knows of itself at a time.
#[derive(Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub time: SystemTime,
    /// The account so far, records included.
    pub stats: Stats,
    /// What the kernel counted of the interfaces, in the same order.
    pub received: Vec<Received>,
}

/// Something that only the capture's thread can do.
#[derive(Debug)]
pub enum Request {
    /// The account so far.
    Stats(oneshot::Sender<Snapshot>),
    /// What was counted of VNIs and rules.
    Policies(oneshot::Sender<Vec<Policy>>),
    /// To read the configuration again.
    Reload(oneshot::Sender<Result<Reloaded, Refused>>),
}

impl Request {
    /// Answers, or gives the answer's end back where the request is to reload. What cannot be found out is
    /// not answered: whoever asked learns that.
    pub async fn answer(
        self,
        capture: &Capture,
        sink: &Sink,
        watch: &mut crate::capture::device_losses::Watch,
    ) -> Option<oneshot::Sender<Result<Reloaded, Refused>>> {
        // Sending fails where nobody waits any more.
        match self {
            Self::Stats(answer) => {
                if let (Ok(mut stats), Ok(received)) = (capture.stats(), capture.received().await) {
                    stats.set_records(&sink.counters());
                    watch.enter(&mut stats);
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

/// Where the capture is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What the API's thread and the capture's share.
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

    /// A line for each link that is down.
    fn links_down(&self) -> Vec<String> {
        self.links.get().map(Links::down).unwrap_or_default()
    }
}

/// The addresses of the API, taken but not answered yet.
#[derive(Debug)]
pub struct Listener {
    settings: Settings,
    api: Option<TcpListener>,
    health: Option<TcpListener>,
}

impl Listener {
    /// Takes the addresses, in the network namespace of the calling thread.
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

    /// Begins to answer: that the capture is starting, until [`Server::started`] says otherwise.
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

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    serve::lengthen_backlog(&listener)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A running API. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    health: Arc<Health>,
    requests: mpsc::Receiver<Request>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Says that frames are captured from now on.
    pub fn started(&self, capture: &Capture, sink: &Sink) {
        // Called once; a second call would change nothing.
        let _ = self.health.watches.set(capture.watches());
        let _ = self.health.desk.set(sink.desk());
        let _ = self.health.links.set(capture.links());
        self.health.phase.store(Phase::Running as u8, Ordering::Release);
    }

    /// Says that no more frames are captured.
    pub fn stopping(&self) {
        self.health.phase.store(Phase::Stopping as u8, Ordering::Release);
    }

    /// The next request. Cancel safe.
    pub async fn request(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            // The API's thread holds the other end; without it nobody can ask.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping();
        if let Some(stop) = self.stop.take() {
            // Fails where the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic there has said so itself.
            let _ = thread.join();
        }
    }
}
