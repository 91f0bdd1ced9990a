//! The control socket of a running capture, which `mirror-xdp tail` connects to.
//!
//! It is a Unix socket that only its owner and group may connect to. A client sends a [`Request`] as one line
//! of JSON and receives a line in reply: the number of workers that serve it, or an error. Then messages
//! follow until either side closes the connection. A message is a head of two words, kind and length,
//! followed by either frames in the format of [`copy`], or the counters of the observer as JSON.
//!
//! Each client has a thread. The thread waits for a client that does not read; meanwhile its rings fill up,
//! and frames that do not fit are counted. The number of clients is bounded, in total and by user; a client
//! beyond the bound receives a line that reports it. A client that does not send its request in time is
//! disconnected, however it spreads the bytes.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mirror_base::one_line;
use mirror_base::sandbox::{self, Kind};
use mirror_store::expression::{Expression, ExpressionError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, getsockopt, sockopt};
use nix::sys::stat::{Mode, fchmod};
use serde::{Deserialize, Serialize};

pub use super::rules::{Order, RuleCost};
use super::rules::{RulesInForce, costs};
use super::{MAX_OBSERVERS, Observer, TooMany, Workers};
use mirror_store::copy::{self, Copies, CopyCounts, Wanted};

/// The default path of the socket.
pub const DEFAULT_PATH: &str = "/run/mirror-xdp/control.sock";

/// The permissions of the socket: the owner and the group of the process may connect.
const MODE: u32 = 0o660;
/// The interval at which threads check whether they are to stop.
const LOOK: Duration = Duration::from_millis(100);
/// The interval at which copies are taken off the rings.
const TAKE: Duration = Duration::from_millis(10);
/// The interval at which counters are sent.
const TELL: Duration = Duration::from_secs(1);
/// The time that a client has to send its request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The maximum number of bytes of a request.
const MAX_REQUEST: usize = 16 << 10;
/// The maximum number of bytes of a reply.
const MAX_REPLY: u64 = 64 << 10;
/// The maximum number of bytes of a reply with rules, of which each has a message of 64 KiB at most.
const MAX_COSTS: u64 = 16 << 20;
/// The most connections that wait to be accepted.
const MAX_WAITING: i32 = 128;
/// The maximum number of clients at a time, including those that have not sent their request yet.
const MAX_CLIENTS: usize = MAX_OBSERVERS;
/// The maximum number of clients of one user, which leaves room for others.
const MAX_CLIENTS_OF_USER: usize = MAX_CLIENTS / 2;
/// The size of each worker's ring in bytes.
const ROOM: usize = 2 << 20;
/// The maximum number of bytes of a message.
const MAX_MESSAGE: usize = 64 << 20;
/// The size of a message's head in bytes: kind and length.
const MESSAGE_HEAD: usize = 8;
/// Kinds of messages.
const FRAMES: u32 = 1;
const COUNTS: u32 = 2;

/// The request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A filter expression; empty for all frames.
    pub filter: String,
    /// The maximum number of bytes copied of each frame.
    pub snaplen: Option<usize>,
    /// The maximum number of frames that each worker copies a second.
    pub rate: Option<u32>,
}

/// The request of a client that asks what rules cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CostRequest {
    /// The order of the rules.
    rules: Order,
    /// The maximum number of rules.
    limit: usize,
}

/// The maximum number of rules that a reply has.
pub const MAX_RULES: usize = 200;

/// The reply to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Workers(usize),
    Rules(Vec<RuleCost>),
    Error(String),
}

/// The reasons why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process listens on the path.
    #[error("{0}: another mirror-xdp has its control socket there; choose another place with --control")]
    InUse(PathBuf),
    /// A system call failed.
    #[error("{path}: cannot be made a control socket")]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// A control socket that does not serve clients yet.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    rules: RulesInForce,
}

impl Socket {
    /// Creates the socket, and its directory if it is missing. Replaces a socket that a killed process has
    /// left behind.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let error = |source| OpenError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(error)?;
        }
        let listener = match bind(path) {
            Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(path).is_ok() {
                    return Err(OpenError::InUse(path.to_owned()));
                }
                fs::remove_file(path).and_then(|()| bind(path))
            }
            result => result,
        };
        let listener = listener.map_err(error)?;
        let this = Self { listener, path: path.to_owned(), rules: RulesInForce::default() };
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(error)?;
        Ok(this)
    }

    /// Answers clients that ask what these rules cost.
    #[must_use]
    pub fn with_rules(mut self, rules: RulesInForce) -> Self {
        self.rules = rules;
        self
    }

    /// Serves clients until the returned value is dropped.
    pub fn serve(self, workers: Workers) -> io::Result<Serving> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || self.run(&workers, &stopped);
        let thread = sandbox::spawn("control".to_owned(), Kind::Control, || (), run)?;
        Ok(Serving { stop, thread: Some(thread) })
    }

    fn run(&self, workers: &Workers, stop: &Arc<AtomicBool>) {
        let mut clients: Vec<Served> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            wait_readable(&self.listener, LOOK);
            clients.retain(|client| !client.thread.is_finished());
            workers.sweep();
            match self.listener.accept() {
                Ok((stream, _)) => clients.extend(serve(stream, &clients, (workers, &self.rules), stop)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // For example, no file descriptor is free; an immediate retry would fail again.
                Err(_) => thread::sleep(LOOK),
            }
        }
        for client in clients {
            // A thread that panicked has reported it.
            let _ = client.thread.join();
        }
    }
}

/// A client that is served.
#[derive(Debug)]
struct Served {
    user: u32,
    thread: JoinHandle<()>,
}

/// Serves a client on a thread of its own, unless the bound of clients is reached.
fn serve(
    stream: UnixStream,
    clients: &[Served],
    (workers, rules): (&Workers, &RulesInForce),
    stop: &Arc<AtomicBool>,
) -> Option<Served> {
    let user = match user_of(&stream).and_then(|user| admit(user, clients)) {
        Ok(user) => user,
        Err(refused) => {
            refuse(&stream, &refused);
            return None;
        }
    };
    let (workers, rules, stop) = (workers.clone(), rules.clone(), Arc::clone(stop));
    let serve = move || {
        // This thread inherits the confinement of the thread that starts it.
        if let Err(error) = serve_client(&stream, &workers, &rules, &stop) {
            tracing::debug!("a client of the control socket: {error}");
        }
    };
    match thread::Builder::new().name("control client".to_owned()).spawn(serve) {
        Ok(thread) => Some(Served { user, thread }),
        Err(error) => {
            tracing::warn!("cannot serve a client of the control socket: {error}");
            None
        }
    }
}

/// Returns the user ID of the client.
fn user_of(stream: &UnixStream) -> Result<u32, Refused> {
    Ok(getsockopt(stream, sockopt::PeerCredentials).map_err(io::Error::from)?.uid())
}

/// Admits a client of this user if there is room.
fn admit(user: u32, clients: &[Served]) -> Result<u32, Refused> {
    if clients.len() >= MAX_CLIENTS {
        return Err(Refused::Clients);
    }
    if clients.iter().filter(|client| client.user == user).count() >= MAX_CLIENTS_OF_USER {
        return Err(Refused::ClientsOfUser(user));
    }
    Ok(user)
}

/// Sends a client the reason why it is not served. Does not wait: a new connection has room for a line.
fn refuse(mut stream: &UnixStream, refused: &Refused) {
    let text = reply(&Reply::Error(one_line(refused)));
    // A client that is gone needs no answer.
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&text));
}

/// Serializes a reply as a line.
fn reply(reply: &Reply) -> Vec<u8> {
    // Serializing a number or a string cannot fail.
    let mut text = serde_json::to_vec(reply).unwrap_or_default();
    text.push(b'\n');
    text
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The socket may have been removed already.
        let _ = fs::remove_file(&self.path);
    }
}

/// The thread that serves clients; dropping this value stops it.
#[derive(Debug)]
pub struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // As above.
            let _ = thread.join();
        }
    }
}

/// Waits until there is something to read, or the time is over; returns true if there is.
fn wait_readable(file: &impl std::os::fd::AsFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    // A signal counts as the end of the time.
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

/// The reasons to refuse a request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{MAX_CLIENTS} clients are served already; wait until one disconnects")]
    Clients,
    #[error("{MAX_CLIENTS_OF_USER} clients of user {0} are served already; end one of them")]
    ClientsOfUser(u32),
    #[error("no request has come within {} s", REQUEST_PATIENCE.as_secs())]
    Late,
    #[error("the request is longer than {MAX_REQUEST} bytes; write a shorter filter")]
    Long,
    #[error("the connection cannot be used: {0}")]
    Io(#[from] io::Error),
    #[error("the request is not understood: {0}; use the same version of client and appliance")]
    Request(#[from] serde_json::Error),
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("the capture has no rules; name some in [signatures] of its configuration")]
    NoRules,
}

fn serve_client(
    stream: &UnixStream,
    workers: &Workers,
    rules: &RulesInForce,
    stop: &AtomicBool,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    let request = read_request(stream, Instant::now() + REQUEST_PATIENCE, stop);
    if let Ok(request) = &request
        && let Ok(CostRequest { rules: order, limit }) = serde_json::from_slice(request)
    {
        let answer = match rules.get() {
            Some(engine) => Reply::Rules(costs(&engine, order, limit.min(MAX_RULES))),
            None => Reply::Error(one_line(&Refused::NoRules)),
        };
        return send(stream, &reply(&answer), stop);
    }
    let (_subscription, mut copies) = match request.and_then(|request| subscribe(&request, workers)) {
        Ok(subscribed) => {
            send(stream, &reply(&Reply::Workers(workers.len())), stop)?;
            subscribed
        }
        Err(refused) => {
            refuse(stream, &refused);
            return Ok(());
        }
    };
    let (mut buffer, mut message) = (Vec::new(), Vec::new());
    let mut told = Instant::now();
    loop {
        // Checked first, so that frames copied before the end are still taken.
        let last = stop.load(Ordering::Relaxed) || copies.iter().all(Copies::has_ended);
        buffer.clear();
        for copies in &mut copies {
            copies.take(&mut buffer);
        }
        if !buffer.is_empty() {
            put_frames(&mut message, &buffer);
        }
        if last || told.elapsed() >= TELL {
            told = Instant::now();
            let counts: CopyCounts = copies.iter().map(Copies::counts).sum();
            put_message(&mut message, COUNTS, &serde_json::to_vec(&counts)?);
        }
        send(stream, &message, stop)?;
        message.clear();
        if last || (wait_readable(stream, TAKE) && stream.take(1).read(&mut [0])? == 0) {
            return Ok(());
        }
    }
}

/// Binds a listener that nobody but the owner can connect to. The kernel gives the file the mode of the unbound socket
/// (`unix_bind_bsd` in `net/unix/af_unix.c`).
fn bind(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&listener, Backlog::new(MAX_WAITING)?)?;
    Ok(listener.into())
}

/// Reads the first line that a client sends, or everything if the client closes the connection before a line
/// feed.
fn read_request(mut stream: &UnixStream, deadline: Instant, stop: &AtomicBool) -> Result<Vec<u8>, Refused> {
    let mut request = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return Err(Refused::Late);
        }
        if !wait_readable(stream, left.min(LOOK)) {
            continue;
        }
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes)?;
        let bytes = bytes.get(..count).unwrap_or_default();
        let end = bytes.iter().position(|&byte| byte == b'\n');
        request.extend_from_slice(bytes.get(..end.unwrap_or(count)).unwrap_or_default());
        if request.len() > MAX_REQUEST {
            return Err(Refused::Long);
        }
        if end.is_some() || count == 0 {
            return Ok(request);
        }
    }
}

fn subscribe(request: &[u8], workers: &Workers) -> Result<(super::Subscription, Vec<Copies>), Refused> {
    let request: Request = serde_json::from_slice(request)?;
    let mut observers: Vec<Box<dyn Observer>> = Vec::new();
    let mut copies = Vec::new();
    let filter = Arc::new(Expression::parse(&request.filter)?);
    let filter = (!request.filter.trim().is_empty()).then_some(filter);
    for _ in 0..workers.len() {
        let wanted = Wanted { filter: filter.clone(), snaplen: request.snaplen, rate: request.rate };
        let (end, taken) = copy::pair(wanted, ROOM);
        observers.push(Box::new(end));
        copies.push(taken);
    }
    Ok((workers.subscribe(observers)?, copies))
}

/// Appends a message with the frames of several workers, sorted by time.
fn put_frames(message: &mut Vec<u8>, copies: &[u8]) {
    let mut frames: Vec<_> = copy::frames(copies).collect();
    frames.sort_by_key(|(head, _)| head.time);
    message.extend_from_slice(&FRAMES.to_le_bytes());
    message.extend_from_slice(&(copies.len() as u32).to_le_bytes());
    for (head, frame) in frames {
        message.extend_from_slice(zerocopy::IntoBytes::as_bytes(&head));
        message.extend_from_slice(frame);
    }
}

fn put_message(message: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    message.extend_from_slice(bytes);
}

/// Writes all bytes, however long the client takes. When the capture ends, it returns an error for a client
/// that does not read.
fn send(mut stream: &UnixStream, mut bytes: &[u8], stop: &AtomicBool) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !stop.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The reasons why a client fails.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process listens on the path.
    #[error(
        "{path}: no mirror-xdp answers there ({source}); start `mirror-xdp run`, or name its control socket \
         with --control"
    )]
    Connect {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The appliance refused the request.
    #[error("the appliance says: {0}")]
    Refused(String),
    /// The connection broke, or a message was invalid.
    #[error("the connection to the appliance broke")]
    Io(#[from] io::Error),
}

/// Asks the capture whose control socket is at `path` for the rules that cost most.
pub fn rule_costs(path: &Path, order: Order, limit: usize) -> Result<Vec<RuleCost>, ClientError> {
    let connect = |source| ClientError::Connect { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(connect)?;
    let mut line = serde_json::to_vec(&CostRequest { rules: order, limit }).map_err(io::Error::from)?;
    line.push(b'\n');
    match stream.write_all(&line) {
        // As below.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    stream.set_read_timeout(Some(2 * REQUEST_PATIENCE))?;
    let mut reply = String::new();
    BufReader::new(stream).take(MAX_COSTS).read_line(&mut reply)?;
    match serde_json::from_str(&reply).map_err(io::Error::from)? {
        Reply::Rules(costs) => Ok(costs),
        Reply::Workers(_) => Err(io::Error::other("another reply than to this request").into()),
        Reply::Error(error) => Err(ClientError::Refused(error)),
    }
}

/// A message to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Frames in the format that [`copy::frames`] reads.
    Frames(Vec<u8>),
    /// The counters so far.
    Counts(CopyCounts),
}

/// A client of the control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// The bytes of the current message received so far.
    received: Vec<u8>,
    /// The number of workers that serve this client.
    pub workers: usize,
}

impl Client {
    /// Connects to the control socket at `path` and sends the request.
    pub fn connect(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let connect = |source| ClientError::Connect { path: path.to_owned(), source };
        let mut stream = UnixStream::connect(path).map_err(connect)?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        match stream.write_all(&line) {
            // An appliance that is at its bound of clients sends an error and closes the connection before it
            // reads.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
        stream.set_read_timeout(Some(2 * REQUEST_PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.by_ref().take(MAX_REPLY).read_line(&mut line)?;
        match serde_json::from_str(&line).map_err(io::Error::from)? {
            Reply::Workers(workers) => {
                stream.get_ref().set_read_timeout(Some(LOOK))?;
                Ok(Self { stream, received: Vec::new(), workers })
            }
            Reply::Rules(_) => Err(io::Error::other("another reply than to this request").into()),
            Reply::Error(error) => Err(ClientError::Refused(error)),
        }
    }

    /// Returns the next message; `None` at the end of the capture, or when `stop` is set.
    pub fn next(&mut self, stop: &AtomicBool) -> io::Result<Option<Message>> {
        let word = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes) as usize)
        };
        loop {
            let needed = MESSAGE_HEAD + word(&self.received, 4).unwrap_or_default();
            if needed > MAX_MESSAGE {
                return Err(io::Error::other("a message is longer than the maximum of 64 MiB"));
            }
            if self.received.len() == needed && needed > MESSAGE_HEAD {
                let kind = word(&self.received, 0).unwrap_or_default() as u32;
                let payload = self.received.split_off(MESSAGE_HEAD);
                self.received.clear();
                return match kind {
                    FRAMES => Ok(Some(Message::Frames(payload))),
                    COUNTS => Ok(Some(Message::Counts(serde_json::from_slice(&payload)?))),
                    _ => Err(io::Error::other("a message has an unknown kind")),
                };
            }
            let missing = (needed - self.received.len()) as u64;
            match self.stream.by_ref().take(missing).read_to_end(&mut self.received) {
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use mirror_packet::FrameInfo;

    use super::super::{Mailbox, Observers};
    use super::*;

    fn request(filter: &str) -> Request {
        Request { filter: filter.to_owned(), snaplen: None, rate: None }
    }

    #[test]
    fn a_client_gets_the_frames_of_all_workers_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/control.sock");
        let mailboxes = [Arc::new(Mailbox::default()), Arc::new(Mailbox::default())];
        let serving = Socket::open(&path).unwrap().serve(Workers::new(mailboxes.clone())).unwrap();
        let mut client = Client::connect(&path, &request("")).unwrap();
        assert_eq!(client.workers, 2);
        let mut observers = mailboxes.each_ref().map(|mailbox| {
            let mut observers = Observers::default();
            mailbox.collect(&mut observers);
            observers
        });
        for time in 0..10 {
            let info = FrameInfo::of(&[0; 3]).at(time);
            observers[usize::from(time % 2 == 0)].frame(&info, b"abc");
        }
        let stop = AtomicBool::new(false);
        let mut times = Vec::new();
        while times.len() < 10 {
            if let Message::Frames(buffer) = client.next(&stop).unwrap().unwrap() {
                times.extend(copy::frames(&buffer).map(|(head, _)| head.time));
            }
        }
        times.sort_unstable();
        assert_eq!(times, (0..10).collect::<Vec<_>>());
        // When the workers end, so do the frames, and the counters come last.
        drop(observers);
        let mut last = None;
        while let Some(message) = client.next(&stop).unwrap() {
            last = Some(message);
        }
        let counts = CopyCounts { matched: 10, copied: 10, lost: 0, limited: 0 };
        assert_eq!(last, Some(Message::Counts(counts)));
        drop(serving);
        assert!(!path.exists());
    }

    #[test]
    fn wrong_expressions_and_requests_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _serving =
            Socket::open(&path).unwrap().serve(Workers::new([Arc::new(Mailbox::default())])).unwrap();
        let error = Client::connect(&path, &request("tcp prot 80")).unwrap_err();
        assert!(error.to_string().contains("column 5"), "{error}");
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.contains("not understood"), "{reply}");
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _socket = Socket::open(&path).unwrap();
        assert!(matches!(Socket::open(&path), Err(OpenError::InUse(_))));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn hostile_users_cannot_connect_before_the_permissions_are_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _listener = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }

    fn serving(directory: &tempfile::TempDir) -> (PathBuf, Serving) {
        let path = directory.path().join("control.sock");
        let workers = Workers::new([Arc::new(Mailbox::default())]);
        let serving = Socket::open(&path).unwrap().serve(workers).unwrap();
        (path, serving)
    }

    #[test]
    fn hostile_clients_beyond_the_bound_of_a_user_get_a_line_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _serving) = serving(&directory);
        let mut clients: Vec<_> =
            (0..MAX_CLIENTS_OF_USER).map(|_| Client::connect(&path, &request("")).unwrap()).collect();
        for _ in 0..200 {
            let refused = Client::connect(&path, &request("")).unwrap_err();
            let said = format!("the appliance says: {MAX_CLIENTS_OF_USER} clients of user ");
            assert!(refused.to_string().starts_with(&said), "{refused}");
        }
        clients.pop();
        // There is no notification when the place is free again.
        let deadline = Instant::now() + 4 * REQUEST_PATIENCE;
        while let Err(error) = Client::connect(&path, &request("")) {
            assert!(Instant::now() < deadline, "{error}");
            thread::yield_now();
        }
    }

    #[test]
    fn hostile_clients_that_send_no_whole_request_are_sent_away() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _serving) = serving(&directory);
        let silent = UnixStream::connect(&path).unwrap();
        let mut slow = UnixStream::connect(&path).unwrap();
        slow.set_read_timeout(Some(LOOK)).unwrap();
        let (mut said, mut bytes) = (Vec::new(), [0; 1024]);
        let begun = Instant::now();
        // A byte now and then does not make a request either.
        loop {
            let _ = slow.write_all(b"{");
            match slow.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => said.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Bytes that arrived too late were not read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}: {}", said.escape_ascii()),
            }
            assert!(begun.elapsed() < 4 * REQUEST_PATIENCE);
        }
        for said in [String::from_utf8(said).unwrap(), io::read_to_string(silent).unwrap()] {
            assert!(said.contains("no request has come within"), "{said}");
        }
    }

    #[test]
    fn hostile_requests_are_refused_in_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _serving) = serving(&directory);
        let nested = vec![b'['; MAX_REQUEST - 1];
        let long = vec![b' '; MAX_REQUEST + 1024];
        let requests: [(&[u8], &str); 6] = [
            (b"\xff\xfe\n", "not understood"),
            (b"\n", "not understood"),
            (b"{\"filter\":\"\",\"rate\":-1}\n", "not understood"),
            (b"{\"filter\":\"\",\"path\":\"/etc/shadow\"}\n", "not understood"),
            (&nested, "not understood"),
            (&long, "longer than"),
        ];
        for (request, expected) in requests {
            let mut stream = UnixStream::connect(&path).unwrap();
            // Fails if the reply comes before all bytes were sent.
            let _ = stream.write_all(request).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said);
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
        }
    }

    #[test]
    fn hostile_users_leave_places_to_others() {
        let served = |user| Served { user, thread: thread::spawn(|| {}) };
        let mut clients: Vec<_> = (0..MAX_CLIENTS_OF_USER).map(|_| served(1000)).collect();
        assert!(matches!(admit(1000, &clients), Err(Refused::ClientsOfUser(1000))));
        assert!(matches!(admit(0, &clients), Ok(0)));
        clients.extend((0..MAX_CLIENTS_OF_USER).map(|_| served(1001)));
        assert!(matches!(admit(0, &clients), Err(Refused::Clients)));
    }
}
