//! Requests data from the HTTP API of a running capture, on a thread of its own. So keys are handled while a
//! reply is pending.

use std::str::FromStr;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mirror_control::api::Token;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant as Time, sleep_until, timeout};

use super::answer::{Flow, Flows, Service, Services, Summary, Vnis};

/// The time limit for each request; the API itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// The maximum number of bytes of a reply.
const MOST_BYTES: usize = 32 << 20;
/// The minimum time between the end of a reply and the next request.
const REST: Duration = Duration::from_millis(100);
/// The default port.
const PORT: &str = ":9470";

/// The maximum numbers of rows to request.
pub(super) const MOST_FLOWS: usize = 1000;
const MOST_VNIS: usize = 1000;
const MOST_SERVICES: usize = 500;

/// The address of the API: host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Address(String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the API speaks plain HTTP; forward it with `ssh -L 9470:127.0.0.1:9470 HOST`".into());
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let host = |authority: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            match authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !authority.is_empty() && authority.chars().all(plain),
            }
        };
        let with_port = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        match with_port {
            Some((name, _)) if host(name) => Ok(Self(authority.to_owned())),
            None if host(authority) => Ok(Self(format!("{authority}{PORT}"))),
            _ => Err(format!("`{text}` is not an address of an API, such as http://127.0.0.1:9470")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rows that the screen needs in addition to the summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    #[default]
    Nothing,
    Vnis,
    /// Flows, by the path of the request.
    Flows(String),
    Services,
}

/// The rows that the appliance returned in addition to the summary.
#[derive(Debug)]
pub(super) enum Rows {
    Vnis(Vnis),
    Flows(Vec<Flow>),
    Services(Vec<Service>),
}

/// The result of one round of requests.
#[derive(Debug)]
pub(super) struct Update {
    /// The time of the reply.
    pub(super) at: Instant,
    /// The summary, or the reason why it is missing; absent if only rows were requested.
    pub(super) summary: Option<Result<Box<Summary>, Failure>>,
    /// The rows, or the reason why they are missing.
    pub(super) rows: Option<Result<Rows, Failure>>,
}

/// The reason why there is no reply, worded to follow a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::cli) struct Failure(String);

impl Failure {
    pub(in crate::cli) fn new(what: impl fmt::Display) -> Self {
        Self(super::table::printable(what.to_string()))
    }
}

/// The error object of the API.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
}

/// The server and the token for it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Server {
    pub(in crate::cli) address: Address,
    pub(in crate::cli) token: Option<Token>,
}

impl Server {
    /// Sends the requests once, and waits for the replies.
    pub(super) fn ask_once(&self, wanted: &Wanted) -> io::Result<Update> {
        Ok(runtime()?.block_on(self.ask(wanted, true)))
    }

    /// Requests a path once.
    pub(in crate::cli) async fn read<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        let answer = async {
            let mut connection = self.connect().await?;
            self.get(&mut connection, path).await
        };
        let late = |_| Err(Failure::new(format_args!("no answer within {} s", PATIENCE.as_secs())));
        timeout(PATIENCE, answer).await.unwrap_or_else(late)
    }

    /// Requests the rows, and the summary if it is due.
    async fn ask(&self, wanted: &Wanted, summary: bool) -> Update {
        let mut update = Update { at: Instant::now(), summary: None, rows: None };
        let late = Failure::new(format_args!("no answer within {} s", PATIENCE.as_secs()));
        match timeout(PATIENCE, self.connect()).await.unwrap_or_else(|_| Err(late.clone())) {
            Ok(mut connection) => {
                if summary {
                    let answer = timeout(PATIENCE, self.get(&mut connection, "/api/v1/summary")).await;
                    update.summary = Some(answer.unwrap_or_else(|_| Err(late.clone())));
                }
                // A server that does not send the summary does not send the rows either.
                if !matches!(update.summary, Some(Err(_))) {
                    let rows = timeout(PATIENCE, self.rows(&mut connection, wanted)).await;
                    update.rows = rows.unwrap_or(Some(Err(late)));
                }
            }
            Err(failure) => update.summary = Some(Err(failure)),
        }
        update.at = Instant::now();
        update
    }

    async fn rows(&self, connection: &mut Connection, wanted: &Wanted) -> Option<Result<Rows, Failure>> {
        Some(match wanted {
            Wanted::Nothing => return None,
            Wanted::Vnis => {
                let path = format!("/api/v1/vnis?limit={MOST_VNIS}");
                self.get(connection, &path).await.map(Rows::Vnis)
            }
            Wanted::Flows(path) => self.get(connection, path).await.map(|Flows { flows }| Rows::Flows(flows)),
            Wanted::Services => {
                let path = format!("/api/v1/services?limit={MOST_SERVICES}");
                self.get(connection, &path).await.map(|Services { services }| Rows::Services(services))
            }
        })
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&self.address.0).await.map_err(|error| Failure(reason(&error)))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Failure::new)?;
        // The task ends with the sender; errors reach the code that waits for a reply.
        tokio::spawn(async { drop(connection.await) });
        Ok(sender)
    }

    async fn get<A: DeserializeOwned>(&self, connection: &mut Connection, path: &str) -> Result<A, Failure> {
        let mut request = Request::get(path).header(HOST, &self.address.0);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.authorization());
        }
        let request = request.body(Empty::new()).map_err(Failure::new)?;
        connection.ready().await.map_err(Failure::new)?;
        let answer = connection.send_request(request).await.map_err(Failure::new)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(Failure::new)?.to_bytes();
        match status {
            StatusCode::OK => {
                serde_json::from_slice(&body).map_err(|_| Failure::new("this is not mirror-xdp's API"))
            }
            StatusCode::UNAUTHORIZED => Err(Failure::new("it requires its token: --api-token-file FILE")),
            _ => {
                let Refusal { error } = serde_json::from_slice(&body).unwrap_or_default();
                let error = if error.is_empty() { status.to_string() } else { error };
                Err(Failure::new(error))
            }
        }
    }
}

type Connection = SendRequest<Empty<Bytes>>;

/// Formats an error without the number of the system.
fn reason(error: &io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A thread that sends requests periodically. It ends some time after this value is dropped.
#[derive(Debug)]
pub(super) struct Client {
    wanted: watch::Sender<Wanted>,
    /// The results of the requests.
    pub(super) updates: mpsc::Receiver<Update>,
}

impl Client {
    /// Starts the thread, which sends requests once per interval.
    pub(super) fn start(server: Server, interval: Duration) -> io::Result<Self> {
        let (wanted, asked) = watch::channel(Wanted::default());
        let (sender, updates) = mpsc::channel();
        let runtime = runtime()?;
        thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || runtime.block_on(ask_forever(&server, interval, asked, &sender)))?;
        Ok(Self { wanted, updates })
    }

    /// Sets the rows that the screen needs; they are requested at once.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|old| {
            let changed = *old != wanted;
            *old = wanted;
            changed
        });
    }
}

/// Sends requests until the receiver of the updates is dropped.
async fn ask_forever(
    server: &Server,
    interval: Duration,
    mut wanted: watch::Receiver<Wanted>,
    updates: &mpsc::Sender<Update>,
) {
    let mut due = Time::now();
    loop {
        let summary = Time::now() >= due;
        if summary {
            due += interval;
        }
        let asked = wanted.borrow_and_update().clone();
        let update = server.ask(&asked, summary).await;
        if updates.send(update).is_err() {
            return;
        }
        due = due.max(Time::now() + REST);
        tokio::select! {
            () = sleep_until(due) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme_and_port() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(read("http://10.0.0.1:80/").unwrap(), "10.0.0.1:80");
        assert_eq!(read("sensor-1.example").unwrap(), "sensor-1.example:9470");
        assert_eq!(read("[fd00::1]").unwrap(), "[fd00::1]:9470");
        assert_eq!(read("http://[fd00::1]:1").unwrap(), "[fd00::1]:1");
        assert!(read("https://a").unwrap_err().contains("ssh"));
        for wrong in ["", "http://", "a b", "a:99999", "fd00::1", "a/b", "[x]:1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    /// Answers one connection with each of these replies in turn, and returns the requests.
    fn serve(answers: &'static [&'static str]) -> (Server, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let answer = |answer: &&str| {
                let mut buffer = [0; 4096];
                let length = stream.read(&mut buffer).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            answers.iter().map(answer).collect()
        });
        (Server { address, token: None }, serving)
    }

    #[test]
    fn what_is_on_the_screen_is_asked_for_beside_the_summary() {
        let (server, serving) = serve(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"seconds\":5}",
            "HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{\"total\":1,\"vnis\":[{\"packets\":3}]}",
        ]);
        let update = server.ask_once(&Wanted::Vnis).unwrap();
        assert!((update.summary.unwrap().unwrap().seconds - 5.0).abs() < f64::EPSILON);
        assert!(matches!(update.rows, Some(Ok(Rows::Vnis(vnis))) if vnis.vnis[0].packets == 3));
        let asked = serving.join().unwrap();
        assert!(asked[0].starts_with("GET /api/v1/summary HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[1].starts_with("GET /api/v1/vnis?limit=1000 "), "{asked:?}");
    }

    #[test]
    fn refusals_are_told_in_words() {
        const BUSY: &str =
            "HTTP/1.1 503 Busy\r\nContent-Length: 29\r\n\r\n{\"error\":\"is \\u001bstarting\"}";
        let said = |answers| {
            let (server, serving) = serve(answers);
            let update = server.ask_once(&Wanted::Vnis).unwrap();
            serving.join().unwrap();
            assert!(update.rows.is_none());
            update.summary.unwrap().unwrap_err().to_string()
        };
        assert_eq!(said(&[BUSY]), "is ?starting");
        assert!(said(&["HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"]).contains("--api-token-file"));
        assert!(said(&["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"]).contains("not mirror-xdp"));
        assert!(said(&["not HTTP\r\n\r\n"]).contains("invalid HTTP"));
        let nobody = Server { address: "127.0.0.1:1".parse().unwrap(), token: None };
        let update = nobody.ask_once(&Wanted::Nothing).unwrap();
        assert_eq!(update.summary.unwrap().unwrap_err().to_string(), "connection refused");
    }
}
