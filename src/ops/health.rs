//! `/healthz`, `/readyz` and `/metrics` on the operations listener.
//!
//! *ready*: calls are audited and records are delivered, or kept if no database is configured. *degraded*: calls are
//! audited, but records wait or a backend is down; still ready (200). *failed*: calls cannot be audited (503).

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use super::metrics;
use super::status::{Condition, Sources};

/// The routes.
pub fn router(sources: Sources) -> Router {
    let router = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(readyz));
    router.route("/metrics", get(metrics)).with_state(sources)
}

async fn readyz(State(sources): State<Sources>) -> impl IntoResponse {
    let (status, body) = readiness(&sources);
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

async fn metrics(State(sources): State<Sources>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&sources))
}

fn readiness(sources: &Sources) -> (StatusCode, Value) {
    let (up, configured) = (sources.gateway.backends_up(), sources.gateway.backends_configured());
    let backends = json!({ "up": up, "configured": configured });
    let condition = sources.condition();
    let code = if condition == Condition::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let Some(probe) = &sources.probe else {
        return (code, json!({ "status": condition, "audit": "off", "backends": backends }));
    };
    let (ring, postgres) = (probe.gauge(), probe.shipper());
    (code, json!({ "status": condition, "postgres": postgres, "ring": ring, "backends": backends }))
}
