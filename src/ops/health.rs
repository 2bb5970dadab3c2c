//! `/healthz` and `/readyz` on the operations listener.
//!
//! *ready*: calls are audited and records are delivered (or kept, where no database is configured). *degraded*: calls are
//! audited, but records wait or a backend is down; still ready (200). *failed*: calls cannot be audited (503).

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use crate::audit::pipeline::Probe;
use crate::audit::shipper;
use crate::gateway;

/// What readiness is made of.
#[derive(Clone, Debug)]
pub struct Health {
    /// The pipeline; `None` where auditing is off.
    pub probe: Option<Probe>,
    /// The gateway.
    pub gateway: gateway::Handle,
}

/// The routes.
pub fn router(health: Health) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(readyz)).with_state(health)
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let (status, body) = health.readiness();
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

impl Health {
    fn readiness(&self) -> (StatusCode, Value) {
        let (up, configured) = (self.gateway.backends_up(), self.gateway.backends_configured());
        let backends = json!({ "up": up, "configured": configured });
        let whole = if up == configured { "ready" } else { "degraded" };
        let Some(probe) = &self.probe else {
            return (StatusCode::OK, json!({ "status": whole, "audit": "off", "backends": backends }));
        };
        let (gauge, postgres) = (probe.gauge(), probe.shipper());
        let (code, word) = match postgres {
            _ if gauge.outbox_failed || gauge.outbox.full => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
            shipper::State::StoreOnly | shipper::State::Delivering => (StatusCode::OK, whole),
            _ => (StatusCode::OK, "degraded"),
        };
        (code, json!({ "status": word, "postgres": postgres, "ring": gauge, "backends": backends }))
    }
}
