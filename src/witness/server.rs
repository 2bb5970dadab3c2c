//! The witness over HTTP: `POST /add-checkpoint`, and `GET /HASH/checkpoint` for monitors, where HASH is the SHA-256 of
//! a log's origin. Both may have a prefix that a proxy removes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::evidence::add_checkpoint::{REQUEST_BYTES_MAX, SIZE_CONTENT_TYPE};

use super::cosigner::Witness;
use super::refusal::Refusal;

/// The longest time for a body to arrive. *Chosen*: as for the head of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const TEXT: &str = "text/plain; charset=utf-8";

/// The routes.
pub fn router(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/{origin_hash}/checkpoint", get(last_checkpoint))
        .with_state(witness)
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: Body) -> Response {
    // I6: the body is bounded.
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, REQUEST_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let text = format!("the request was cut, or has more than {REQUEST_BYTES_MAX} bytes\n");
            return response(StatusCode::PAYLOAD_TOO_LARGE, TEXT, text);
        }
        Err(_) => return response(StatusCode::REQUEST_TIMEOUT, TEXT, format!("no body within {BODY_TIMEOUT:?}\n")),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // It waits for the disk. It runs to its end also if the client disconnects.
    let signed = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body, now)).await;
    match signed {
        Ok(Ok(lines)) => response(StatusCode::OK, TEXT, lines),
        Ok(Err(refusal)) => refused(&refusal),
        Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "internal error\n".to_owned()),
    }
}

async fn last_checkpoint(State(witness): State<Arc<Witness>>, Path(origin_hash): Path<String>) -> Response {
    match witness.last_note(&origin_hash) {
        Some(note) => response(StatusCode::OK, TEXT, note),
        None => response(StatusCode::NOT_FOUND, TEXT, "no checkpoint of this log was signed\n".to_owned()),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match refusal {
        // The usual way in which a log asks for the size.
        Refusal::OldSize { known, .. } => return response(status, SIZE_CONTENT_TYPE, format!("{known}\n")),
        Refusal::Inconsistent { .. } => tracing::error!(
            error = %refusal,
            "refused a checkpoint: the log contradicts itself, or its proof is wrong; ask its operator"
        ),
        Refusal::Clock { .. } | Refusal::Sign(_) | Refusal::Store(_) => {
            tracing::error!(error = %refusal, "refused a checkpoint, because this witness cannot sign");
            return response(status, TEXT, "the witness cannot sign now; its log says why\n".to_owned());
        }
        _ => tracing::warn!(error = %refusal, status = status.as_u16(), "refused a checkpoint"),
    }
    response(status, TEXT, format!("{refusal}\n"))
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], text).into_response()
}
