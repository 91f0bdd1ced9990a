//! Who may ask: whoever knows the token, where there is one; else whoever is on this host, but no web page
//! of somebody else that is open in a browser there.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::routes::{self, State as Shared};
use super::view::failure;

/// An answer that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Lets through who may ask.
pub(super) async fn authorize(State(state): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if let Some(token) = &state.settings.token {
        let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let said = said.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // The page has no data in it; it asks for the token itself.
        if !routes::is_open(request.uri().path()) && !token.is(said) {
            let mut refusal =
                failure(StatusCode::UNAUTHORIZED, "say `Authorization: Bearer TOKEN`").into_response();
            refusal
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            return refusal;
        }
    } else if !is_of_this_host(headers) {
        let what = "asked by the name of another host: use 127.0.0.1, or give the API a token";
        return failure(StatusCode::FORBIDDEN, what).into_response();
    }
    if is_of_another_page(headers) {
        return failure(StatusCode::FORBIDDEN, "not for pages of other origins").into_response();
    }
    next.run(request).await
}

/// Gives up what takes too long.
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => failure(StatusCode::SERVICE_UNAVAILABLE, "took too long").into_response(),
    }
}

/// Whether the host that was asked for is an address or localhost. A name of somebody else that leads to
/// 127.0.0.1 would have browsers take the API for a part of his site.
fn is_of_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let host = host.to_str().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

/// Whether a browser says that a page of somewhere else asks.
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
