//! The page of one call.

use axum::extract::{Extension, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::page;
use super::query::Answer;
use super::search::{Search, postgres_error, table};
use super::state::Console;
use crate::audit::record::AuditRecord;
use crate::audit::record::COLUMNS;
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::ops::columns::{Value, displayed};
use crate::ops::format::indented_json;
use crate::ops::record_ref::{EpochSeq, parse_record_ref, record_ref};
use crate::ops::trail::CallDetails;

/// Records shown before and after it. *Chosen*: the default of `gatepost audit show`.
const NEIGHBOURS: u64 = 3;

/// The columns that people look for first; the others follow in the order of `audit_log`.
const FIRST: [&str; 12] = [
    "timestamp",
    "response_status",
    "error_message",
    "method",
    "backend_name",
    "tool_name",
    "client_subject",
    "client_role",
    "client_issuer",
    "token_id",
    "latency_ms",
    "request_id",
];

/// `GET /console/record?id=...`
pub(super) async fn page(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.page(),
    };
    let query = query.unwrap_or_default();
    let id = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "id").map(|(_, id)| id);
    let (id, search) = (id.unwrap_or_default(), Search::parse(&query));
    let answer = match parse_record_ref(&id) {
        Ok(filter) => console.call_details(&viewer, &filter, NEIGHBOURS).await,
        Err(fault) => Err(fault),
    };
    let main = html! {
        p { a href={ "/console?" (search.query(&[])) "#trail" } { "Back to the trail" } }
        @match &answer {
            Err(fault) => { h1 { "Record" } p.fault role="alert" { (escape_hidden(fault)) } },
            Ok(answer) => (found(answer, &search, console.postgres.is_some())),
        }
    };
    page::page("Record", &viewer, &main).into_response()
}

fn found(answer: &Answer<CallDetails>, search: &Search, has_proofs: bool) -> Markup {
    html! {
        (postgres_error(answer))
        @if answer.found.is_empty() { h1 { "Record" } p.fault role="alert" { "No such record." } }
        @for call in &answer.found { (details(call, search, has_proofs)) }
    }
}

/// The links to the proof of a record, and to the record as the proof is of it.
fn proof_links(record: &AuditRecord) -> Markup {
    let id = record_ref(record);
    html! {
        p {
            "Proof that the record is in its gateway's log, for those who check it without Gatepost: "
            a href={ "/console/proof?id=" (id) } download { "proof" } " of "
            a href={ "/console/proof?id=" (id) "&part=record" } download { "this record" } "."
        }
    }
}

fn details(call: &CallDetails, search: &Search, has_proofs: bool) -> Markup {
    let CallDetails { record, quarantined, rule, neighbours, same_call } = call;
    html! {
        article {
            h1 { "Record " (EpochSeq::of(record)) }
            @if let Some(reason) = quarantined {
                p.fault { strong { "In quarantine" } ": " (escape_hidden(reason)) }
            }
            @if has_proofs { (proof_links(record)) }
            dl {
                @for (name, value) in columns(record) {
                    div { dt { (name) } dd { (value) } }
                }
                @if let Some(rule) = rule {
                    div { dt { "rule" } dd { (escape_hidden(rule)) } }
                }
            }
            @if let Some(args) = &record.entry.call.request_args {
                h2 { "Arguments" }
                pre tabindex="0" role="region" aria-label="Arguments" { (indented_json(args)) }
            }
            @for (records, title, caption) in [
                (neighbours, "In its stream", "The records around this one"),
                (same_call, "The same call", "The requests of this call, which needed input"),
            ] {
                @if !records.is_empty() {
                    h2 { (title) }
                    (table(caption, records.iter(), search))
                }
            }
        }
    }
}

/// The columns but the arguments, those of [`FIRST`] first.
fn columns(record: &AuditRecord) -> Vec<(&'static str, String)> {
    let mut columns: Vec<_> = COLUMNS.iter().filter(|column| column.name != "request_args").collect();
    columns.sort_by_key(|column| FIRST.iter().position(|first| *first == column.name).unwrap_or(FIRST.len()));
    let value = |value| match value {
        Value::Null => "-".to_owned(),
        Value::Text(text) => escape_hidden(&text).into_owned(),
        Value::Number(number) => number,
    };
    columns.into_iter().map(|column| (column.name, value(displayed(column, record)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn hostile_text_is_shown_as_text() {
        let evil = "</pre><script>alert(1)</script>\u{202e}";
        let mut record = sample::record(1, 2, evil);
        record.entry.call.request_args = Some(serde_json::json!({ evil: evil }).to_string());
        record.entry.error_message = Some(evil.to_owned());
        let call = CallDetails {
            quarantined: Some(evil.to_owned()),
            rule: Some(evil.to_owned()),
            neighbours: vec![record.clone()],
            same_call: vec![record.clone()],
            record,
        };
        let shown = details(&call, &Search::default(), true).into_string();
        assert_eq!(shown.matches("<pre").count(), 1);
        assert!(!shown.contains("<script") && !shown.contains('\u{202e}'), "{shown}");
        assert!(shown.contains("&lt;script&gt;"));
    }

    #[test]
    fn the_first_columns_exist() {
        let columns = columns(&sample::record(1, 2, "echo"));
        assert_eq!(columns.len(), COLUMNS.len() - 1);
        assert_eq!(columns.iter().map(|(name, _)| *name).take(FIRST.len()).collect::<Vec<_>>(), FIRST);
    }
}
