//! Connections, bounded in number, by client, and in duration, whatever the clients do.

use std::io;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{Backlog, setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::places::{Access, Activity, Answering, Bounds, Places, Ticket};
use super::routes::{self, State};

/// The places at the address of the API.
const API: Bounds = Bounds { open: 128, client: 64, guests: 32 };
/// The places at the address of health checks, where no other requests are allowed.
const HEALTH: Bounds = Bounds { open: 0, client: 0, guests: 32 };
/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The send buffer of a connection in bytes; by default the kernel would use megabytes for each.
const SEND_BUFFER: usize = 128 << 10;

/// The limits of an open connection.
const OPEN: Limits = Limits {
    head: Duration::from_secs(5),
    life: Duration::from_secs(60),
    buffer: 64 << 10,
    keep_alive: true,
};
/// The limits of a guest. Its buffer is the smallest that hyper accepts.
const GUEST: Limits =
    Limits { head: Duration::from_secs(2), life: Duration::from_secs(5), buffer: 8 << 10, keep_alive: false };
/// The time for the last answer of a connection whose life is over.
const FAREWELL: Duration = Duration::from_secs(5);
/// The `nice` increment of the thread.
const NICE: i32 = 10;

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// The time limit for the head of a request; after it, the connection is closed.
    head: Duration,
    /// The maximum life of a connection; after it, the connection accepts no more requests and closes a
    /// moment later.
    life: Duration,
    /// The maximum number of bytes of a head.
    buffer: usize,
    /// True if the connection may carry more than one request.
    keep_alive: bool,
}

/// Serves until `stopped` resolves.
pub(super) fn run(
    api: Option<TcpListener>,
    health: Option<TcpListener>,
    state: State,
    stopped: oneshot::Receiver<()>,
) {
    // On Linux, the value applies to the thread only. If the call fails, the API has the priority of other
    // threads.
    let _ = rustix::process::nice(NICE);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        tracing::error!("cannot start the API");
        return;
    };
    runtime.block_on(async {
        let state = Arc::new(state);
        let checks = routes::health(&state);
        let listeners = [
            (api, API, Routers { open: routes::api(&state), guest: routes::crowded(&state) }),
            (health, HEALTH, Routers { open: checks.clone(), guest: checks }),
        ];
        for (listener, bounds, routers) in listeners {
            if let Some(listener) =
                listener.and_then(|listener| tokio::net::TcpListener::from_std(listener).ok())
            {
                tokio::spawn(accept(listener, Places::new(bounds), routers));
            }
        }
        // This also returns when the sender was dropped.
        let _ = stopped.await;
    });
    runtime.shutdown_background();
}

/// Lengthens the kernel's backlog of a listener, so that during a flood of connections others need not send a
/// second SYN.
pub(super) fn lengthen_backlog(listener: &TcpListener) -> io::Result<()> {
    Ok(nix::sys::socket::listen(listener, Backlog::new(BACKLOG)?)?)
}

/// The routers by access.
#[derive(Clone)]
struct Routers {
    open: Router,
    guest: Router,
}

async fn accept(listener: tokio::net::TcpListener, places: Arc<Places>, routers: Routers) {
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            // For example, no file descriptor is free; an immediate retry would fail again.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let ticket = places.take(address.ip().into());
        let (router, limits) = match ticket.access {
            Access::Open => (routers.open.clone(), OPEN),
            Access::Guest => (routers.guest.clone(), GUEST),
        };
        tokio::spawn(connection(stream, router, limits, ticket));
        // Requests that this connection has sent already are answered before the next connection may need its
        // place.
        yield_now().await;
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut ticket: Ticket) {
    // Sends small answers at once. If this fails, the client's window is the only bound.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER);
    let activity = Arc::clone(&ticket.activity);
    let stream = Watched { stream, activity: Arc::clone(&activity) };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answering = activity.answer();
        let response = router.call(request);
        async move {
            // Connections take turns, however many requests one has sent at once.
            yield_now().await;
            Ok::<_, std::convert::Infallible>(tracked(response.await?, answering))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.buffer)
        .keep_alive(limits.keep_alive)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    // Errors on a connection concern only its client.
    let lived = async {
        if timeout(limits.life, served.as_mut()).await.is_err() {
            served.as_mut().graceful_shutdown();
            let _ = timeout(FAREWELL, served).await;
        }
    };
    tokio::select! {
        () = lived => {}
        // Another connection needs the place, and this one waits for its client.
        _ = &mut ticket.closed => {}
    }
}

/// Ties the `Answering` to the body of the response, so that it ends when the body was sent.
fn tracked(response: axum::response::Response, answering: Answering) -> axum::response::Response {
    response.map(|body| Body::new(Tracked { body, _answering: answering }))
}

/// A body whose transmission is tracked.
struct Tracked {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that records whether its client has sent more, and reads the answer.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.set_blocked(result.is_pending());
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.activity.set_drained(result.is_pending());
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
