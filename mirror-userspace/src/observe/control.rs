//! The control socket of a running capture: by it, `mirror-xdp tail` looks on.
//!
//! A Unix socket that only its owner and group may connect to. A client sends a [`Request`] as one line of
//! JSON and gets a line back: how many workers look on for it, or what is wrong. Then messages follow until
//! either side has had enough: a head of two words, kind and length, and either frames, as
//! [`copy`] has them, or the counts of the observer as JSON.
//!
//! Each client has a thread. One that does not read what it gets is waited for; its rings fill up
//! meanwhile, and what the workers have no room for is counted.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::copy::{self, Copies, CopyCounts, Wanted};
use super::{Observer, TooMany, Workers};
use crate::confine;
use crate::error::one_line;
use crate::expression::{Expression, ExpressionError};

/// Where the socket is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/run/mirror-xdp/control.sock";

/// Who may connect: the owner and the group of the process.
const MODE: u32 = 0o660;
/// How often threads look whether they are to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How often copies are taken off the rings.
const TAKE: Duration = Duration::from_millis(10);
/// How often counts are told.
const TELL: Duration = Duration::from_secs(1);
/// How long a client may take for its request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request.
const MAX_REQUEST: u64 = 16 << 10;
/// Bytes of the ring of each worker.
const ROOM: usize = 2 << 20;
/// A message is not longer than this.
const MAX_MESSAGE: usize = 64 << 20;
/// Bytes of a message's head: kind and length.
const MESSAGE_HEAD: usize = 8;
/// Kinds of messages.
const FRAMES: u32 = 1;
const COUNTS: u32 = 2;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A filter expression; empty for all frames.
    pub filter: String,
    /// Bytes of each frame.
    pub snaplen: Option<usize>,
    /// Frames a second that each worker copies.
    pub rate: Option<u32>,
}

/// What a client gets back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Workers(usize),
    Error(String),
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process answers there.
    #[error("{0}: another mirror-xdp has its control socket there; choose another place with --control")]
    InUse(PathBuf),
    /// The system refuses.
    #[error("{path}: cannot be made a control socket")]
    Io {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A control socket that nobody is served at yet.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket, and its directory where that is missing. One that a killed process has left is
    /// replaced.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let error = |source| OpenError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(error)?;
        }
        let listener = match UnixListener::bind(path) {
            Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(path).is_ok() {
                    return Err(OpenError::InUse(path.to_owned()));
                }
                fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            result => result,
        };
        let this = Self { listener: listener.map_err(error)?, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(error)?;
        this.listener.set_nonblocking(true).map_err(error)?;
        Ok(this)
    }

    /// Serves clients until the value that is returned is dropped.
    pub fn serve(self, workers: Workers) -> io::Result<Serving> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            thread::Builder::new().name("control".to_owned()).spawn(move || self.run(&workers, &stopped))?;
        Ok(Serving { stop, thread: Some(thread) })
    }

    fn run(&self, workers: &Workers, stop: &Arc<AtomicBool>) {
        let mut clients: Vec<JoinHandle<()>> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            wait_readable(&self.listener, LOOK);
            clients.retain(|client| !client.is_finished());
            workers.sweep();
            let Ok((stream, _)) = self.listener.accept() else { continue };
            let (workers, stop) = (workers.clone(), Arc::clone(stop));
            let serve = move || {
                confine::this_thread();
                if let Err(error) = serve_client(&stream, &workers, &stop) {
                    tracing::debug!("a client of the control socket: {error}");
                }
            };
            match thread::Builder::new().name("control client".to_owned()).spawn(serve) {
                Ok(client) => clients.push(client),
                Err(error) => tracing::warn!("cannot serve a client of the control socket: {error}"),
            }
        }
        for client in clients {
            // One that has panicked has said so.
            let _ = client.join();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Clients are served.
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

/// Waits until there is something to read, or the time is over.
fn wait_readable(file: &impl std::os::fd::AsFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    // A signal in between is as good as the time being over.
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

/// Why a request is not met.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the request is not understood: {0}; client and appliance have to be of one version")]
    Request(#[from] serde_json::Error),
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

fn serve_client(stream: &UnixStream, workers: &Workers, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_PATIENCE))?;
    stream.set_write_timeout(Some(LOOK))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    let (reply, subscribed) = match subscribe(&line, workers) {
        Ok(subscribed) => (Reply::Workers(workers.len()), Some(subscribed)),
        Err(error) => (Reply::Error(one_line(&error)), None),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    send(stream, &text, stop)?;
    let Some((_subscription, mut copies)) = subscribed else { return Ok(()) };
    let (mut buffer, mut message) = (Vec::new(), Vec::new());
    let mut told = Instant::now();
    loop {
        // Asked first: what was copied before the end is still taken.
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

fn subscribe(request: &str, workers: &Workers) -> Result<(super::Subscription, Vec<Copies>), Refused> {
    let request: Request = serde_json::from_str(request)?;
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

/// Appends a message with the frames of several workers in the order of their times.
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

/// Writes all of it, however long the client takes, unless the capture ends: then a client that takes
/// nothing gets no more.
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

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "{path}: no mirror-xdp answers there ({source}); start `mirror-xdp run`, or name its control socket \
         with --control"
    )]
    Connect {
        /// Where the socket should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The appliance refused.
    #[error("the appliance says: {0}")]
    Refused(String),
    /// The connection broke, or something came that makes no sense.
    #[error("the connection to the appliance broke")]
    Io(#[from] io::Error),
}

/// What a client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Frames, to be read by [`copy::frames`].
    Frames(Vec<u8>),
    /// What became of the frames so far.
    Counts(CopyCounts),
}

/// A client that looks on.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// What was received of a message so far.
    received: Vec<u8>,
    /// How many workers look on for it.
    pub workers: usize,
}

impl Client {
    /// Asks the appliance whose socket this is.
    pub fn connect(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let connect = |source| ClientError::Connect { path: path.to_owned(), source };
        let mut stream = UnixStream::connect(path).map_err(connect)?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        stream.set_read_timeout(Some(2 * REQUEST_PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match serde_json::from_str(&line).map_err(io::Error::from)? {
            Reply::Workers(workers) => {
                stream.get_ref().set_read_timeout(Some(LOOK))?;
                Ok(Self { stream, received: Vec::new(), workers })
            }
            Reply::Error(error) => Err(ClientError::Refused(error)),
        }
    }

    /// The next message; `None` at the end of the capture, or when `stop` is set.
    pub fn next(&mut self, stop: &AtomicBool) -> io::Result<Option<Message>> {
        let word = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes) as usize)
        };
        loop {
            let needed = MESSAGE_HEAD + word(&self.received, 4).unwrap_or_default();
            if needed > MAX_MESSAGE {
                return Err(io::Error::other("a message is longer than any can be"));
            }
            if self.received.len() == needed && needed > MESSAGE_HEAD {
                let kind = word(&self.received, 0).unwrap_or_default() as u32;
                let payload = self.received.split_off(MESSAGE_HEAD);
                self.received.clear();
                return match kind {
                    FRAMES => Ok(Some(Message::Frames(payload))),
                    COUNTS => Ok(Some(Message::Counts(serde_json::from_slice(&payload)?))),
                    _ => Err(io::Error::other("a message of no known kind")),
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

    use super::super::{Mailbox, Observers};
    use super::*;
    use crate::worker::FrameInfo;

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
        // The workers end: so do the frames, and the counts come last.
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
}
