//! Which requests are answered at all, and the headers of every answer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::client::Problem;

/// The page loads its own files and nothing else, and no other page may show it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The names under which the server answers. A page elsewhere can make its own name lead to this machine (DNS rebinding),
/// and would then be allowed to read the answers; but its requests have that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// `localhost` and the loopback addresses.
    Loopback,
    Any,
}

impl Hosts {
    /// Whether a `Host` header, with or without a port, names this server.
    pub fn allows(self, host: &str) -> bool {
        let without_port = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = without_port.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(without_port);
        let is_loopback = |address: IpAddr| address.is_loopback();
        self == Self::Any || bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(is_loopback)
    }
}

/// Refuses requests for other hosts and from other sites, and adds the headers.
pub async fn guard(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let is_link = request.method() == Method::GET && request.uri().path() == "/";
    let mut response = match check(*hosts, request.headers(), is_link) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Fails unless a request is for this server and comes from its own page. A link elsewhere may open the page, because what
/// it shows cannot be read from there; `is_link` says whether the request is for the page.
fn check(hosts: Hosts, headers: &HeaderMap, is_link: bool) -> Result<(), Problem> {
    let problem = |status, text: &str| Err(Problem(status, text.into()));
    let mut all = headers.get_all(HOST).iter();
    let (Some(Ok(host)), None) = (all.next().map(HeaderValue::to_str), all.next()) else {
        return problem(StatusCode::BAD_REQUEST, "a request needs one Host header");
    };
    if !hosts.allows(host) {
        return problem(StatusCode::MISDIRECTED_REQUEST, "this server answers to localhost and 127.0.0.1 only");
    }
    let from_here = |origin: &HeaderValue| origin.to_str().is_ok_and(|it| it.strip_prefix("http://") == Some(host));
    let is_own = headers.get_all(ORIGIN).iter().all(from_here);
    let mut sites = headers.get_all(FETCH_SITE).iter();
    let is = |name: &HeaderName, value: &str| headers.get_all(name).iter().all(|it| it == value);
    let opens =
        is_link && headers.contains_key(FETCH_MODE) && is(&FETCH_MODE, "navigate") && is(&FETCH_DEST, "document");
    if !is_own || !(opens || sites.all(|site| site == "same-origin" || site == "none")) {
        return problem(StatusCode::FORBIDDEN, "requests of other sites are not answered");
    }
    Ok(())
}
