//! The download of a record's proof, and of the record as the verifier reads it.

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::page::refused;
use super::query::Answer;
use super::state::Console;
use crate::connections::Peer;
use crate::ops::export_line::export_line;
use crate::ops::record_ref::parse_record_ref;

/// `GET /console/proof?id=...`: the proof; with `&part=record`, the record that it is of.
pub(super) async fn download(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.plain(),
    };
    let query = query.unwrap_or_default();
    let parameter = |wanted: &str| url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted);
    let id = parameter("id").map(|(_, id)| id).unwrap_or_default();
    let wants_record = parameter("part").is_some_and(|(_, part)| part == "record");
    let filter = match parse_record_ref(&id) {
        Ok(filter) => filter,
        Err(fault) => return refused(StatusCode::BAD_REQUEST, &fault),
    };
    let proven = match console.proof(&viewer, &filter).await {
        Err(error) | Ok(Answer { postgres_error: Some(error), .. }) => {
            return refused(StatusCode::SERVICE_UNAVAILABLE, &error);
        }
        Ok(answer) => answer.found.into_iter().next(),
    };
    let (record, reason, proof) = match proven {
        None => return refused(StatusCode::NOT_FOUND, "no such record, or several: name one as GATEWAY/EPOCH/SEQ"),
        Some(Err(reason)) => return refused(StatusCode::CONFLICT, &reason),
        Some(Ok(proven)) => proven,
    };
    let id = record.entry.call.request_id;
    let (text, kind, end) = if wants_record {
        let Ok(line) = export_line(&record, reason.as_deref()) else {
            return refused(StatusCode::INTERNAL_SERVER_ERROR, "the record cannot be written as JSON");
        };
        (line, "application/json", "json")
    } else {
        (proof.to_string(), "text/plain; charset=utf-8", "tlog-proof")
    };
    // The id has hexadecimal digits and hyphens only.
    let disposition = format!("attachment; filename=\"{id}.{end}\"");
    let kinds = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (kinds, text).into_response()
}
