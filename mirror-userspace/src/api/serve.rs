//! Connections: so many at a time, each for so long, whoever is at the other end.

use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::routes::{self, State};

/// Connections at a time, on each address; one more is closed at once.
const CONNECTIONS: usize = 64;
/// A request's head comes within this time, or the connection is closed.
const HEAD: Duration = Duration::from_secs(5);
/// No connection lasts longer: then it takes no more requests, and is closed a moment later.
const LIFE: Duration = Duration::from_secs(60);
const FAREWELL: Duration = Duration::from_secs(5);
/// How much less than others the thread is entitled to CPU time, in steps of `nice`.
const NICE: i32 = 10;

/// Serves until told to stop.
pub(super) fn run(
    api: Option<TcpListener>,
    health: Option<TcpListener>,
    state: State,
    stopped: oneshot::Receiver<()>,
) {
    // In Linux the thread's own; where it fails the API merely is as important as others.
    let _ = rustix::process::nice(NICE);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        tracing::error!("cannot start the API");
        return;
    };
    runtime.block_on(async {
        let state = Arc::new(state);
        for (listener, router) in [(api, routes::api(&state)), (health, routes::health(&state))] {
            if let Some(listener) =
                listener.and_then(|listener| tokio::net::TcpListener::from_std(listener).ok())
            {
                tokio::spawn(accept(listener, router));
            }
        }
        // Also where the other end was dropped.
        let _ = stopped.await;
    });
    runtime.shutdown_background();
}

async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptor is free, or the like; at once it would fail again.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, router).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, router: Router) {
    // Small answers are not held back.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What goes wrong on a connection is its client's affair.
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(FAREWELL, connection).await;
    }
}
