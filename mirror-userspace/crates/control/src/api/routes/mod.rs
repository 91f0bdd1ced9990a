//! The paths of the API.

mod description;
mod guard;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use mirror_engine::worker::flow_scan::{FlowScan, Order, Wanted};
use mirror_records::apm::Standing;
use mirror_rules::text;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::description::{Errors, OpenErrors, WrongQuery};
use crate::api::alerts::{self, History};
use crate::api::cache::Cache;
use crate::api::view::{
    self, Account, Failure, Flows, Interfaces, Liveness, Readiness, Rules, Services, Summary, Vnis, Workers,
    failure,
};
use crate::api::{Health, Phase, Refused, Reloaded, Request, Settings, Snapshot, metrics};
use crate::counters::{self, Source};
use crate::stats::Policy;

/// The maximum age of answers.
const FRESH_STATS: Duration = Duration::from_millis(250);
/// Less than the time between two events, so that each contains new data.
const FRESH: Duration = Duration::from_millis(750);
/// The time that a worker has for a survey of its flows.
const SURVEY: Duration = Duration::from_secs(5);
/// The maximum number of pages that receive events at a time.
const PAGES: usize = 16;
/// The interval of events, and the time after which a page must reconnect.
const EVENT: Duration = Duration::from_secs(1);
const EVENTS: Duration = Duration::from_secs(55);
/// The number of rows of each kind that the page shows.
const ROWS: usize = 20;

/// The default and the maximum numbers of rows of an answer.
const LIMIT: usize = 100;
const MOST_FLOWS: usize = 1000;
const MOST_VNIS: usize = 32_768;
const MOST_SERVICES: usize = 500;

/// The number of services with metrics of their own.
const MEASURED_SERVICES: usize = 200;

type Fallible<T> = Result<T, (StatusCode, Json<Failure>)>;

/// The state that all requests share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    health: Arc<Health>,
    requests: mpsc::Sender<Request>,
    stats: Cache<(), Snapshot>,
    policies: Cache<(), Vec<Policy>>,
    flows: Cache<Wanted, Vec<Value>>,
    services: Cache<usize, Vec<Standing>>,
    history: Mutex<History>,
    pages: Arc<Semaphore>,
}

impl State {
    pub(super) fn new(health: Arc<Health>, requests: mpsc::Sender<Request>, settings: Settings) -> Self {
        Self {
            settings,
            health,
            requests,
            stats: Cache::new(FRESH_STATS),
            policies: Cache::new(FRESH),
            flows: Cache::new(FRESH),
            services: Cache::new(FRESH),
            history: Mutex::default(),
            pages: Arc::new(Semaphore::new(PAGES)),
        }
    }

    /// Sends a request to the capture's thread, and waits for the answer.
    async fn ask<A>(&self, request: impl FnOnce(oneshot::Sender<A>) -> Request) -> Fallible<A> {
        let unavailable = |what: String| failure(StatusCode::SERVICE_UNAVAILABLE, what);
        let phase = self.health.phase();
        if phase != Phase::Running {
            return Err(unavailable(format!("the capture is {}", phase.name())));
        }
        let (answer, receiver) = oneshot::channel();
        self.requests
            .try_send(request(answer))
            .map_err(|_| unavailable("too many requests are waiting; try again".to_owned()))?;
        receiver.await.map_err(|_| unavailable("the capture does not answer".to_owned()))
    }

    async fn stats(&self) -> Fallible<Arc<Snapshot>> {
        self.stats.get((), async |()| self.ask(Request::Stats).await).await
    }

    async fn policies(&self) -> Fallible<Arc<Vec<Policy>>> {
        self.policies.get((), async |()| self.ask(Request::Policies).await).await
    }

    /// Returns the largest flows of all workers.
    async fn flows(&self, wanted: Wanted) -> Fallible<Arc<Vec<Value>>> {
        self.flows.get(wanted, async |wanted| self.flow_scan(wanted).await).await
    }

    async fn flow_scan(&self, wanted: &Wanted) -> Fallible<Vec<Value>> {
        let late = || failure(StatusCode::SERVICE_UNAVAILABLE, "a worker does not answer in time");
        let mut answers = Vec::new();
        for watch in self.health.watches() {
            let (flow_scan, answer) = FlowScan::new(wanted.clone());
            watch.surveys.try_send(flow_scan).map_err(|_| late())?;
            answers.push(answer);
        }
        let mut flows = Vec::new();
        let deadline = Instant::now() + SURVEY;
        for answer in answers {
            let answer = timeout(deadline.saturating_duration_since(Instant::now()), answer).await;
            flows.extend(answer.ok().and_then(Result::ok).ok_or_else(late)?);
        }
        flows.sort_by_key(|flow| std::cmp::Reverse(wanted.size(flow)));
        flows.truncate(wanted.limit);
        Ok(flows.iter().map(view::flow).collect())
    }

    async fn services(&self, limit: usize) -> Fallible<Arc<Vec<Standing>>> {
        self.services
            .get(limit, async |&limit| {
                let desk = self.health.desk.get();
                let desk =
                    desk.ok_or_else(|| failure(StatusCode::SERVICE_UNAVAILABLE, "the capture is starting"))?;
                let late = |_| failure(StatusCode::SERVICE_UNAVAILABLE, "the log writer is too far behind");
                desk.ask(limit).await.map_err(late)
            })
            .await
    }

    /// Returns the free and the total bytes of the file system of the records.
    fn disk(&self) -> Option<(u64, u64)> {
        let disk = nix::sys::statvfs::statvfs(self.settings.log_dir.as_path()).ok()?;
        let block = disk.fragment_size();
        Some((disk.blocks_available() * block, disk.blocks() * block))
    }

    async fn summary(&self) -> Fallible<String> {
        let stats = self.stats().await?;
        let policies = self.policies().await?;
        let services = self.services(ROWS).await?;
        let flows = self.flows(Wanted { limit: ROWS, ..Wanted::default() }).await?;
        let alerts = {
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            alerts::alerts(&mut history, &stats, &policies, &self.health, self.disk())
        };
        let summary = Summary {
            version: env!("CARGO_PKG_VERSION"),
            time: view::time(&stats),
            seconds: stats.stats.seconds,
            protocols: stats.stats.protocols(),
            interfaces: view::interfaces(&stats),
            workers: view::workers(&stats.stats, self.health.watches()),
            vnis: view::vnis(&policies, ROWS),
            flows: &flows,
            services: view::services(&services),
            records: &stats.stats.records,
            losses: counters::losses(&stats.stats),
            notices: counters::notices(&stats.stats),
            alerts,
        };
        serde_json::to_string(&summary)
            .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

/// Builds the router of the whole API.
pub(super) fn api(state: &Arc<State>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(exposition))
        .route("/api/v1/openapi.json", get(description))
        .route("/api/v1/stats", get(stats))
        .route("/api/v1/interfaces", get(interfaces))
        .route("/api/v1/workers", get(workers))
        .route("/api/v1/vnis", get(vnis))
        .route("/api/v1/rules", get(rules))
        .route("/api/v1/flows", get(flows))
        .route("/api/v1/services", get(services))
        .route("/api/v1/summary", get(summary))
        .route("/api/v1/events", get(events))
        .route("/api/v1/reload", post(reload))
        .merge(checks())
        .fallback(async || failure(StatusCode::NOT_FOUND, "no such path; see /api/v1/openapi.json"))
        .method_not_allowed_fallback(async || {
            failure(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see /api/v1/openapi.json")
        })
        .layer(from_fn(guard::limit_time))
        .layer(from_fn_with_state(Arc::clone(state), guard::authorize))
        .with_state(Arc::clone(state))
}

/// Builds the router of health checks. They reveal nothing confidential, so they need no token.
pub(super) fn health(state: &Arc<State>) -> Router {
    checks()
        .fallback(async || failure(StatusCode::NOT_FOUND, "this address serves only /healthz and /readyz"))
        .layer(from_fn(guard::limit_time))
        .with_state(Arc::clone(state))
}

/// Builds the router of guests, the connections beyond the open places: it serves health checks, and answers
/// any other request with an error.
pub(super) fn crowded(state: &Arc<State>) -> Router {
    checks()
        .fallback(async || {
            let what = "too many connections: close some, or send several requests on each";
            failure(StatusCode::SERVICE_UNAVAILABLE, what)
        })
        .layer(from_fn(guard::limit_time))
        .layer(from_fn_with_state(Arc::clone(state), guard::authorize))
        .with_state(Arc::clone(state))
}

/// Builds the routes of health checks. Their connections are closed after the answer, so that they do not
/// accumulate.
fn checks() -> Router<Arc<State>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route_layer(from_fn(close_after))
}

/// Closes the connection after the answer.
async fn close_after(request: axum::extract::Request, next: Next) -> Response {
    ([(header::CONNECTION, "close")], next.run(request).await).into_response()
}

/// Returns true if a path needs no token: none of these reveals anything about the traffic.
pub(super) fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz" | "/api/v1/openapi.json")
}

/// Whether sockets are bound and all workers move
#[utoipa::path(
    get,
    path = "/healthz",
    security(()),
    responses(
        (status = 200, description = "OK", body = Liveness),
        (status = 503, description = "Sockets are not bound, or a worker does not move.", body = Liveness),
        OpenErrors
    )
)]
pub(super) async fn healthz(Shared(state): Shared<Arc<State>>) -> Response {
    let phase = state.health.phase();
    let watches = state.health.watches();
    let still: Vec<_> =
        watches.iter().enumerate().filter(|(_, watch)| !watch.pulse.is_moving()).map(|(n, _)| n).collect();
    let healthy = phase == Phase::Running && still.is_empty();
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Liveness { healthy, phase, workers: watches.len(), still })).into_response()
}

/// Whether frames are captured and the links of all interfaces are up
#[utoipa::path(
    get,
    path = "/readyz",
    security(()),
    responses(
        (status = 200, description = "OK", body = Readiness),
        (status = 503, description = "Frames are not captured, or a link is down.", body = Readiness),
        OpenErrors
    )
)]
pub(super) async fn readyz(Shared(state): Shared<Arc<State>>) -> Response {
    let phase = state.health.phase();
    let reasons = state.health.links_down();
    let ready = phase == Phase::Running && reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, phase, reasons })).into_response()
}

/// A page that shows the state of the capture
#[utoipa::path(
    get,
    path = "/",
    security(()),
    responses((status = 200, description = "OK", body = String, content_type = "text/html"), OpenErrors)
)]
pub(super) async fn page() -> Response {
    // Names in the traffic may contain script code. It stays text: no other script runs.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(include_str!("../page.html"))).into_response()
}

/// This description
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    security(()),
    responses((status = 200, description = "OK", body = Object, content_type = "application/json"), OpenErrors)
)]
pub(super) async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], description::json()).into_response()
}

/// Metrics in Prometheus' text format
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "OK", body = String, content_type = "text/plain"), Errors)
)]
pub(super) async fn exposition(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    let snapshot = state.stats().await?;
    let policies = state.policies().await?;
    let services = state.services(MEASURED_SERVICES).await?;
    let text = metrics::exposition(&Source {
        stats: &snapshot.stats,
        received: &snapshot.received,
        watches: state.health.watches(),
        policies: &policies,
        services: &services,
        disk: state.disk(),
    });
    Ok(([(header::CONTENT_TYPE, metrics::TEXT_FORMAT)], text).into_response())
}

/// The account so far, exact except for frames in flight
#[utoipa::path(
    get,
    path = "/api/v1/stats",
    responses((status = 200, description = "OK", body = Account), Errors)
)]
pub(super) async fn stats(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    Ok(Json(Account::new(&*state.stats().await?)).into_response())
}

/// The interfaces, with the kernel's counters of them
#[utoipa::path(
    get,
    path = "/api/v1/interfaces",
    responses((status = 200, description = "OK", body = Interfaces), Errors)
)]
pub(super) async fn interfaces(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    Ok(Json(Interfaces { interfaces: view::interfaces(&*state.stats().await?) }).into_response())
}

/// The workers, and whether they move
#[utoipa::path(
    get,
    path = "/api/v1/workers",
    responses((status = 200, description = "OK", body = Workers), Errors)
)]
pub(super) async fn workers(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    let snapshot = state.stats().await?;
    let workers = view::workers(&snapshot.stats, state.health.watches());
    Ok(Json(Workers { workers }).into_response())
}

/// The query of VNIs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VniQuery {
    /// The maximum number of rows.
    #[param(value_type = usize, required = false, minimum = 1, maximum = 32_768, default = 100)]
    limit: Option<usize>,
}

/// The query of services.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ServiceQuery {
    /// The maximum number of rows.
    #[param(value_type = usize, required = false, minimum = 1, maximum = 500, default = 100)]
    limit: Option<usize>,
}

/// Returns the number of rows if it is in the range from 1 to `most`.
fn limit(asked: Option<usize>, most: usize) -> Fallible<usize> {
    match asked.unwrap_or(LIMIT) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        limit => Err(wrong(format!("limit={limit}: must be a number from 1 to {most}"))),
    }
}

fn wrong(what: String) -> (StatusCode, Json<Failure>) {
    failure(StatusCode::BAD_REQUEST, what)
}

/// Returns the parsed query, or an error response.
fn asked<Q>(query: Result<Query<Q>, QueryRejection>) -> Fallible<Q> {
    query.map(|Query(query)| query).map_err(|error| wrong(error.body_text()))
}

/// The VNIs with the most packets
#[utoipa::path(
    get,
    path = "/api/v1/vnis",
    params(VniQuery),
    responses((status = 200, description = "OK", body = Vnis), WrongQuery, Errors)
)]
pub(super) async fn vnis(
    Shared(state): Shared<Arc<State>>,
    query: Result<Query<VniQuery>, QueryRejection>,
) -> Fallible<Response> {
    let limit = limit(asked(query)?.limit, MOST_VNIS)?;
    Ok(Json(view::vnis(&state.policies().await?, limit)).into_response())
}

/// The rules, in the order in which they are tried
#[utoipa::path(
    get,
    path = "/api/v1/rules",
    responses((status = 200, description = "OK", body = Rules), Errors)
)]
pub(super) async fn rules(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    Ok(Json(view::rules(&state.policies().await?)).into_response())
}

/// The metrics of the services with the most requests and connections
#[utoipa::path(
    get,
    path = "/api/v1/services",
    params(ServiceQuery),
    responses((status = 200, description = "OK", body = Services), WrongQuery, Errors)
)]
pub(super) async fn services(
    Shared(state): Shared<Arc<State>>,
    query: Result<Query<ServiceQuery>, QueryRejection>,
) -> Fallible<Response> {
    let limit = limit(asked(query)?.limit, MOST_SERVICES)?;
    let services = state.services(limit).await?;
    Ok(Json(Services { services: view::services(&services) }).into_response())
}

/// The query of flows.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FlowQuery {
    /// The maximum number of rows.
    #[param(value_type = usize, required = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// The order that determines the largest flows: `bytes` if it is absent.
    #[param(value_type = Order, inline, required = false)]
    sort: Option<Order>,
    /// Only flows of this VNI.
    #[param(value_type = u32, required = false, maximum = 16_777_215)]
    vni: Option<u32>,
    /// Only flows with this address at either end.
    #[param(value_type = String, required = false)]
    address: Option<IpAddr>,
    /// Only flows with this port at either end.
    #[param(value_type = u16, required = false, maximum = 65_535)]
    port: Option<u16>,
    /// Only flows of this transport protocol: a name, or an IANA number.
    #[param(value_type = String, required = false)]
    protocol: Option<String>,
    /// Only flows of this application protocol, such as `dns`.
    #[param(value_type = String, required = false)]
    application: Option<String>,
}

/// The largest active flows
#[utoipa::path(
    get,
    path = "/api/v1/flows",
    params(FlowQuery),
    responses((status = 200, description = "OK", body = Flows), WrongQuery, Errors)
)]
pub(super) async fn flows(
    Shared(state): Shared<Arc<State>>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Fallible<Response> {
    let query = asked(query)?;
    let protocol = match &query.protocol {
        Some(name) => Some(
            text::protocol(name)
                .map_err(|error| wrong(format!("protocol: {}; {}", error.what, error.allowed)))?,
        ),
        None => None,
    };
    let wanted = Wanted {
        order: query.sort.unwrap_or_default(),
        limit: limit(query.limit, MOST_FLOWS)?,
        vni: query.vni,
        address: query.address.map(Into::into),
        port: query.port,
        protocol,
        application: query.application,
    };
    Ok(Json(Flows { flows: &state.flows(wanted).await? }).into_response())
}

/// Everything that the page shows
#[utoipa::path(
    get,
    path = "/api/v1/summary",
    responses((status = 200, description = "OK", body = Summary), Errors)
)]
pub(super) async fn summary(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    let text = state.summary().await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// A `summary` event each second, for a minute; a `failure` event if there is no summary
#[utoipa::path(
    get,
    path = "/api/v1/events",
    responses((status = 200, description = "OK", body = String, content_type = "text/event-stream"), Errors)
)]
pub(super) async fn events(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    let permit = Arc::clone(&state.pages).try_acquire_owned().map_err(|_| {
        failure(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open already; close one")
    })?;
    let mut ticks = interval(EVENT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Instant::now() + EVENTS;
    let events = stream::unfold((state, ticks, permit), move |(state, mut ticks, permit)| async move {
        ticks.tick().await;
        if Instant::now() > end {
            return None;
        }
        let event = match state.summary().await {
            Ok(summary) => Event::default().event("summary").data(summary),
            Err((_, Json(failure))) => {
                Event::default().event("failure").json_data(failure).unwrap_or_default()
            }
        };
        Some((Ok::<_, Infallible>(event), (state, ticks, permit)))
    });
    Ok(Sse::new(events).into_response())
}

/// Reloads the configuration, as SIGHUP does
#[utoipa::path(
    post,
    path = "/api/v1/reload",
    responses(
        (status = 200, description = "The new configuration is in force.", body = Reloaded),
        (status = 409, description = "The new configuration is refused as a whole.", body = Refused),
        Errors
    )
)]
pub(super) async fn reload(Shared(state): Shared<Arc<State>>) -> Fallible<Response> {
    Ok(match state.ask(Request::Reload).await? {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(refused) => (StatusCode::CONFLICT, Json(refused)).into_response(),
    })
}
