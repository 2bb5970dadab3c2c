//! The page of one call.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::Console;
use super::page;
use super::search::{Search, provenance, table};
use super::source::{Answer, Ask};
use crate::escape::escape_hidden;
use crate::ops::trail::which;
use crate::ops::words::indented_json;

/// Records before and behind it that are shown. *Chosen*: as `gatepost audit show`.
const NEIGHBOURS: u64 = 3;

/// The fields that people look for first; the others follow by name.
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
pub(super) async fn page(State(console): State<Console>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let reader = match console.reader(&headers).await {
        Ok(reader) => reader,
        Err(refused) => return refused.page(),
    };
    let query = query.unwrap_or_default();
    let id = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "id").map(|(_, id)| id);
    let (id, search) = (id.unwrap_or_default(), Search::parse(&query));
    let answer = match which(&id) {
        Ok(filter) => console.ask(&reader, Ask::Show(NEIGHBOURS), &filter).await,
        Err(fault) => Err(fault),
    };
    let main = html! {
        p { a href={ "/console?" (search.query(&[])) "#trail" } { "Back to the trail" } }
        @match &answer {
            Err(fault) => { h1 { "Record" } p.fault role="alert" { (escape_hidden(fault)) } },
            Ok(answer) => (found(answer, &search)),
        }
    };
    page::page("Record", reader.subject(), &main).into_response()
}

fn found(answer: &Answer, search: &Search) -> Markup {
    html! {
        (provenance(answer))
        @if answer.values.is_empty() { h1 { "Record" } p.fault role="alert" { "No such record here." } }
        @for call in &answer.values { (one(call, search)) }
    }
}

fn one(call: &Value, search: &Search) -> Markup {
    let record = call.get("record").and_then(Value::as_object);
    let text = |key: &str| record.and_then(|record| record.get(key)).map(in_words).unwrap_or_default();
    let args = text("request_args");
    let list = |key: &str| call.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    html! {
        article {
            h1 { "Record " (escape_hidden(&text("epoch"))) "/" (escape_hidden(&text("seq"))) }
            @if let Some(why) = call.get("quarantined").and_then(Value::as_str) {
                p.fault { strong { "In quarantine" } ": " (escape_hidden(why)) }
            }
            dl {
                @for (key, value) in ordered(record) {
                    div { dt { (escape_hidden(key)) } dd { (escape_hidden(&in_words(value))) } }
                }
            }
            @if !args.is_empty() {
                h2 { "Arguments" }
                pre tabindex="0" role="region" aria-label="Arguments" { (indented_json(&args)) }
            }
            @for (key, title, caption) in [
                ("neighbours", "In its stream", "The records around it"),
                ("same_call", "The same call", "The requests of this call, which asked for input"),
            ] {
                @let records = list(key);
                @if !records.is_empty() {
                    h2 { (title) }
                    (table(caption, records.iter(), search))
                }
            }
        }
    }
}

/// The fields but the arguments: those of [`FIRST`] first.
fn ordered(record: Option<&Map<String, Value>>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = record.into_iter().flatten().filter(|(key, _)| *key != "request_args").collect();
    fields.sort_by_key(|(key, _)| FIRST.iter().position(|first| first == key).unwrap_or(FIRST.len()));
    fields
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_calls_are_text_and_nothing_else() {
        let evil = "</pre><script>alert(1)</script>\u{202e}";
        let args = serde_json::json!({ evil: evil }).to_string();
        let record = serde_json::json!({ "epoch": 1, "seq": 2, "tool_name": evil, evil: 1, "request_args": args });
        let call =
            serde_json::json!({ "record": record, "quarantined": evil, "neighbours": [record], "same_call": [record] });
        let shown = one(&call, &Search::default()).into_string();
        assert_eq!(shown.matches("<pre").count(), 1);
        assert!(!shown.contains("<script") && !shown.contains('\u{202e}'), "{shown}");
        assert!(shown.contains("&lt;script&gt;"));
    }
}
