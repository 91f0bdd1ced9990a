//! The tap sends the inner frames out of an interface, so that Suricata, Zeek or Arkime at its other end see
//! the traffic as if it were there.
//!
//! A separate thread takes the workers' copies and sends them through an `AF_PACKET` socket, many frames with
//! one system call. Frames that it cannot send are counted and not retried.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mirror_base::sandbox::{self, Kind};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt, socket,
    sockopt,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Observer, Subscription, TooMany, Workers};
use mirror_store::copy::{self, Copies, CopyCounts, Wanted};

/// The size of each worker's ring in bytes.
const ROOM: usize = 8 << 20;
/// The size of the socket's send buffer in bytes.
const SEND_BUFFER: usize = 4 << 20;
/// The number of frames sent with one system call.
const BATCH: usize = 64;
/// The time that the thread sleeps when there are no frames.
const REST: Duration = Duration::from_millis(1);

/// The time that the tap waits for the workers to check their mailboxes.
const COLLECT_PATIENCE: Duration = Duration::from_secs(1);

/// The reasons why the tap cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface does not exist.
    #[error(
        "--tap {0}: there is no such interface; make one with `ip link add {0} type veth peer name {0}-ids`"
    )]
    NoInterface(String),
    /// The capture reads from this interface: frames would loop.
    #[error("--tap {0}: mirrored traffic is captured from this interface; name another one")]
    Captured(String),
    /// The maximum number of observers is reached.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// A system call failed.
    #[error("--tap {interface}: cannot send frames out of it")]
    Io {
        /// The interface.
        interface: String,
        /// The error of the system call.
        source: io::Error,
    },
}

/// Frames that did not reach the interface, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TapLost {
    /// The tap was too slow, and the copy did not fit into a worker's ring.
    pub ring_full: u64,
    /// The frame was longer than the interface's MTU allows.
    pub too_long: u64,
    /// The interface was down, or its queue was full.
    pub refused: u64,
}

/// The counters of the tap: `frames = sent + Σ lost`, plus frames in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TapCounts {
    /// The interface.
    pub interface: String,
    /// Frames that the workers received.
    pub frames: u64,
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that were not sent.
    pub lost: TapLost,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    too_long: AtomicU64,
    refused: AtomicU64,
    matched: AtomicU64,
    ring_full: AtomicU64,
}

/// The socket of a tap; nothing is sent yet.
#[derive(Debug)]
pub struct Tap {
    interface: String,
    socket: OwnedFd,
}

impl Tap {
    /// Opens the socket of an interface in the network namespace of the calling thread.
    pub fn open(interface: &str, captured: &[String]) -> Result<Self, Error> {
        if captured.iter().any(|name| name == interface) {
            return Err(Error::Captured(interface.to_owned()));
        }
        let error = |source: Errno| Error::Io { interface: interface.to_owned(), source: source.into() };
        let address = getifaddrs()
            .map_err(error)?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .ok_or_else(|| Error::NoInterface(interface.to_owned()))?;
        // With protocol 0 the socket receives nothing.
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map_err(error)?;
        bind(socket.as_raw_fd(), &address).map_err(error)?;
        // Without the right to do that, the default size has to do.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        Ok(Self { interface: interface.to_owned(), socket })
    }

    /// Sends the frames that the workers receive from now on.
    pub fn start(self, workers: &Workers) -> Result<Running, Error> {
        let mut observers: Vec<Box<dyn Observer>> = Vec::new();
        let mut copies = Vec::new();
        for _ in 0..workers.len() {
            let (end, taken) = copy::pair(Wanted::default(), ROOM);
            observers.push(Box::new(end));
            copies.push(taken);
        }
        let subscription = workers.subscribe(observers)?;
        // Frames that arrive after the capture is announced must go out. A worker that takes longer than this
        // has other problems.
        let _ = workers.wait_until_collected(COLLECT_PATIENCE);
        let shared = Arc::new(Shared::default());
        let (interface, counted) = (self.interface.clone(), Arc::clone(&shared));
        let run = move || self.run(copies, &counted);
        let thread = sandbox::spawn("tap".to_owned(), Kind::Tap, || (), run)
            .map_err(|source| Error::Io { interface: interface.clone(), source })?;
        Ok(Running { interface, shared, subscription: Some(subscription), thread: Some(thread) })
    }

    /// Sends frames until the workers have dropped their ends.
    fn run(self, mut copies: Vec<Copies>, shared: &Shared) {
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
        let mut buffer = Vec::new();
        loop {
            let ended = copies.iter().all(Copies::has_ended);
            buffer.clear();
            for copies in &mut copies {
                copies.take(&mut buffer);
            }
            let counts: CopyCounts = copies.iter().map(Copies::counts).sum();
            shared.matched.store(counts.matched, Ordering::Relaxed);
            shared.ring_full.store(counts.lost, Ordering::Relaxed);
            if ended {
                return;
            }
            if buffer.is_empty() {
                thread::sleep(REST);
                continue;
            }
            let frames: Vec<_> = copy::frames(&buffer).map(|(_, frame)| [IoSlice::new(frame)]).collect();
            for batch in frames.chunks(BATCH) {
                self.send(batch, &mut headers, shared);
            }
        }
    }

    fn send(&self, batch: &[[IoSlice<'_>; 1]], headers: &mut MultiHeaders<LinkAddr>, shared: &Shared) {
        let mut rest = batch;
        while !rest.is_empty() {
            let addresses = [const { None }; BATCH];
            let sent = sendmmsg(
                self.socket.as_raw_fd(),
                headers,
                rest,
                &addresses[..rest.len()],
                [],
                MsgFlags::empty(),
            )
            .map(Iterator::count);
            // The kernel stops at the first frame that it refuses, and reports the reason at the next call.
            let done = match sent {
                Ok(sent) => {
                    shared.sent.fetch_add(sent as u64, Ordering::Relaxed);
                    sent.max(1)
                }
                Err(Errno::EINTR) => 0,
                Err(Errno::EMSGSIZE) => {
                    shared.too_long.fetch_add(1, Ordering::Relaxed);
                    1
                }
                Err(_) => {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    1
                }
            };
            rest = &rest[done.min(rest.len())..];
        }
    }
}

/// A running tap.
pub struct Running {
    interface: String,
    shared: Arc<Shared>,
    subscription: Option<Subscription>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("interface", &self.interface).finish_non_exhaustive()
    }
}

impl Running {
    /// Returns the counters so far.
    #[must_use]
    pub fn counts(&self) -> TapCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TapCounts {
            interface: self.interface.clone(),
            frames: get(&self.shared.matched),
            sent: get(&self.shared.sent),
            lost: TapLost {
                ring_full: get(&self.shared.ring_full),
                too_long: get(&self.shared.too_long),
                refused: get(&self.shared.refused),
            },
        }
    }

    /// Sends the remaining frames and returns the counters. The workers have ended before.
    #[must_use]
    pub fn finish(mut self) -> TapCounts {
        self.subscription = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has reported it.
            let _ = thread.join();
        }
        self.counts()
    }
}
