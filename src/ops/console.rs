//! The console: one web page for who is on call and for auditors, on the operations listener.
//!
//! It shows the pipeline as it is, the backends, the open calls and the alarms, and searches the trail. All of it is made
//! here; a script of a page's length fetches the live part again every two seconds. Nothing comes from other hosts, and a
//! Content-Security-Policy sees to it. Whoever looks needs a token with the role of `ops.console_role`: as a bearer token,
//! or handed in once by a form, in exchange for a cookie ([`session`]). Reading the trail is itself recorded, as
//! `gateway/read`, before anything is shown.
//!
//! ```text
//! /console            the page; without a token, the form
//! /console/live       its live part
//! /console/record     one call
//! /console/status     the live part for programs, as JSON
//! /console/records    a search for programs, as JSON lines
//! ```
//!
//! Clients and backends choose the text in a record. It reaches the page only through maud, which escapes HTML, and
//! [`escape_hidden`](crate::escape::escape_hidden), which escapes hidden characters.

mod entry;
mod live;
mod page;
mod rate;
mod record;
mod search;
pub mod session;
mod source;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rate::Rate;
use session::Sessions;
use tokio::sync::Semaphore;

use crate::audit::sink::postgres;
use crate::gateway::message::headers::is_host_allowed;

use super::status::Sources;

/// Questions to the trail that are answered at once; others wait. *Chosen*: each may read the whole outbox, and holds at
/// most one answer in memory.
const QUESTIONS_MAX: usize = 2;

/// What every answer bears.
///
/// *Spec*: CSP level 3. `same-origin`, not `no-referrer`: with that a browser sends `Origin: null` with the forms.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What the console is made from.
#[derive(Debug)]
pub struct Settings {
    /// What is shown.
    pub sources: Sources,
    /// The role whose tokens open it.
    pub role: String,
    /// `Host` values besides loopback and the listener's own address.
    pub allowed_hosts: Vec<String>,
    /// Where the listener listens.
    pub listener: SocketAddr,
    /// Where the trail is, if not in the outbox.
    pub postgres: Option<postgres::Options>,
}

/// The console. Cheap to clone.
#[derive(Clone, Debug)]
struct Console(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Sources,
    role: String,
    allowed_hosts: Vec<String>,
    postgres: Option<postgres::Options>,
    sessions: Sessions,
    /// A browser sends the cookies of one host to all its ports: the port is in the name.
    cookie: String,
    rate: Rate,
    questions: Arc<Semaphore>,
}

/// The routes.
pub fn router(settings: Settings) -> Router {
    let Settings { sources, role, mut allowed_hosts, listener, postgres } = settings;
    let own = listener.ip();
    allowed_hosts.push(if own.is_ipv6() { format!("[{own}]") } else { own.to_string() });
    let console = Console(Arc::new(Inner {
        sources,
        role,
        allowed_hosts,
        postgres,
        sessions: Sessions::default(),
        cookie: format!("gatepost_console_{}", listener.port()),
        rate: Rate::default(),
        questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
    }));
    Router::new()
        .route("/console", get(search::page))
        .route("/console/live", get(live::fragment))
        .route("/console/record", get(record::page))
        .route("/console/status", get(live::status))
        .route("/console/records", get(search::lines))
        .route("/console/sign-in", post(entry::sign_in))
        .route("/console/sign-out", post(entry::sign_out))
        .route("/console/style.css", get(async || asset("text/css; charset=utf-8", include_str!("console/style.css"))))
        .route("/console/script.js", get(async || asset("text/javascript", include_str!("console/script.js"))))
        .route("/console/icon.svg", get(async || asset("image/svg+xml", include_str!("console/icon.svg"))))
        .layer(middleware::from_fn_with_state(console.clone(), guarded))
        .with_state(console)
}

fn asset(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, content_type)], text)
}

/// Lets through what names this listener, and sees that every answer bears [`HEADERS`].
async fn guarded(State(console): State<Console>, request: Request<Body>, next: Next) -> Response {
    let host = single(request.headers(), &header::HOST);
    let mut response = if host.is_some_and(|host| is_host_allowed(host, &console.0.allowed_hosts)) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "this Host is not served; add it to ops.allowed_hosts\n").into_response()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The value of a header that must stand once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}
