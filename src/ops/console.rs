//! The console: one web page for on-call operators and auditors, on the operations listener.
//!
//! It shows the pipeline, the backends, the open calls and the alarms, and searches the trail. The gateway renders the
//! page, and a short script fetches the overview again every two seconds. Nothing is loaded from other hosts, which a
//! Content-Security-Policy enforces. A viewer needs a token with the role in `ops.console_role`, as a bearer token, or
//! entered once into a form, or after a sign-in at an issuer (`openid`), in exchange for a cookie ([`session`]). Each
//! read of the trail is recorded as `gateway/read` before anything is shown.
//!
//! ```text
//! /console            the overview; without a token, the form
//! /console/live       the overview, which the script fetches
//! /console/record     one call
//! /console/docs/NAME  the runbook, and the help of the console
//! /console/proof      the proof of a record, for download
//! /console/status     the overview for programs, as JSON
//! /console/trail      a search of the trail
//! /console/trail/counts  its counts, which the script fetches
//! /console/trail/live    new records, as server-sent events
//! /console/trail/export  all records that it finds, for download
//! /console/records    a search for programs, as JSON lines
//! /console/callback   the return of a browser from the issuer at which a person signs in
//! ```
//!
//! Clients and backends choose the text in a record. It reaches the page only through maud, which escapes HTML, and
//! [`escape_hidden`](crate::escape::escape_hidden), which escapes hidden characters.

mod access;
mod charts;
mod counts;
mod denials;
mod docs;
mod download;
mod live;
mod markdown;
mod openid;
mod overview;
mod page;
mod pending;
mod proof;
mod query;
mod rate;
mod record;
mod search;
pub mod session;
mod sign_in_limits;
mod state;
mod table;
mod trail;
mod viewer;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::auth::openid_client::CALLBACK_PATH;
use state::Console;

pub use state::Settings;

/// The routes.
pub fn router(settings: Settings) -> Router {
    let console = Console::new(settings);
    Router::new()
        .route("/console", get(overview::page))
        .route("/console/trail", get(trail::page))
        .route("/console/trail/counts", get(counts::fragment))
        .route("/console/trail/live", get(live::stream))
        .route("/console/trail/export", get(download::export))
        .route("/console/docs/{name}", get(docs::show))
        .route("/console/live", get(overview::fragment))
        .route("/console/record", get(record::page))
        .route("/console/proof", get(proof::download))
        .route("/console/status", get(overview::status))
        .route("/console/records", get(trail::lines))
        .route("/console/sign-in", post(access::sign_in))
        .route("/console/sign-in/start", get(openid::start))
        .route(CALLBACK_PATH, get(openid::callback))
        .route("/console/sign-out", post(access::sign_out))
        .route("/console/style.css", get(async || asset("text/css; charset=utf-8", include_str!("console/style.css"))))
        .route("/console/script.js", get(async || asset("text/javascript", include_str!("console/script.js"))))
        .route("/console/icon.svg", get(async || asset("image/svg+xml", include_str!("console/icon.svg"))))
        .with_state(console)
}

fn asset(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, content_type)], text)
}
