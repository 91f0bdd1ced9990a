//! Access control. With a token, a client must know it. Without one, any client that can connect may ask,
//! except web pages of other origins in a browser on this host.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::{State as Shared, is_open};
use crate::api::view::failure;

/// The time limit of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Rejects requests without access rights.
pub(super) async fn authorize(State(state): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if let Some(token) = &state.settings.token {
        let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let said = said.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // The page contains no data; it asks for the token itself.
        if !is_open(request.uri().path()) && !token.is(said) {
            let mut refusal =
                failure(StatusCode::UNAUTHORIZED, "send the header `Authorization: Bearer TOKEN`")
                    .into_response();
            refusal
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            return refusal;
        }
    } else if !is_of_this_host(headers) {
        let what = "the Host header names another host: use 127.0.0.1, or give the API a token";
        return failure(StatusCode::FORBIDDEN, what).into_response();
    }
    if is_of_another_page(headers) {
        return failure(StatusCode::FORBIDDEN, "pages of other origins are not allowed").into_response();
    }
    next.run(request).await
}

/// Aborts requests that take too long.
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => failure(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long").into_response(),
    }
}

/// Returns true if the Host header is an address or localhost. With a foreign name that resolves to
/// 127.0.0.1, browsers would treat the API as part of the attacker's site (DNS rebinding).
fn is_of_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let host = host.to_str().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

/// Returns true if the Origin header names another page.
fn is_of_another_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("?"));
    let Some(origin) = text(header::ORIGIN) else { return false };
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
    text(header::HOST) != Some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn names_of_others_are_not_this_host() {
        for host in ["127.0.0.1:9470", "localhost", "[::1]:9470", "10.0.0.1"] {
            assert!(is_of_this_host(&headers(host, None)), "{host}");
        }
        for host in ["evil.example:9470", "localhost.evil.example", "[x]", ""] {
            assert!(!is_of_this_host(&headers(host, None)), "{host}");
        }
    }

    #[test]
    fn pages_of_others_are_told_by_their_origin() {
        let host = "127.0.0.1:9470";
        assert!(!is_of_another_page(&headers(host, None)));
        assert!(!is_of_another_page(&headers(host, Some("http://127.0.0.1:9470"))));
        for origin in ["http://evil.example", "http://127.0.0.1:80", "null"] {
            assert!(is_of_another_page(&headers(host, Some(origin))), "{origin}");
        }
    }
}
