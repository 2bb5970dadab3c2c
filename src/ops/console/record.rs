//! The page of one call.

use axum::extract::{Extension, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::page::{self, tag};
use super::query::Answer;
use super::search::Search;
use super::state::Console;
use super::table::{status, table};
use super::trail::postgres_error;
use crate::audit::chain;
use crate::audit::query::Confirmation;
use crate::audit::record::column::{Column, Group};
use crate::audit::record::{AuditRecord, COLUMNS};
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::ops::columns::{Value, displayed};
use crate::ops::format::{date_time, indented_json};
use crate::ops::headline::headline;
use crate::ops::record_ref::{EpochSeq, parse_record_ref, record_ref};
use crate::ops::trail::CallDetails;

/// Records shown before and after it. *Chosen*: the default of `gatepost audit show`.
const NEIGHBOURS: u64 = 3;

/// The groups of columns, as the hash of a record has them, with their titles. The values of the chain come last.
const GROUPS: [(Group, &str); 5] = [
    (Group::Open, "Call"),
    (Group::Who, "Caller"),
    (Group::Circumstances, "Circumstances"),
    (Group::Content, "Contents"),
    (Group::Chain, "Position and hashes"),
];

/// Columns that are fields of a search too.
const SEARCHED: [(&str, &str); 15] = [
    ("client_subject", "who"),
    ("client_name", "who"),
    ("client_id", "client"),
    ("actor_subject", "actor"),
    ("client_role", "role"),
    ("backend_name", "backend"),
    ("tool_name", "tool"),
    ("resource_uri", "resource"),
    ("response_status", "status"),
    ("method", "method"),
    ("session_id", "session"),
    ("client_issuer", "issuer"),
    ("token_id", "token_id"),
    ("gateway_id", "gateway"),
    ("parent_id", "parent"),
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
        p { a href={ "/console/trail?" (search.query(&[])) } { "Back to the trail" } }
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
    let CallDetails { record, quarantined, rule, neighbours, same_call, .. } = call;
    html! {
        article {
            h1 { "Record " (EpochSeq::of(record)) " " (status(record.entry.response_status)) }
            p.headline { (escape_hidden(&headline(record))) }
            p.quiet { (date_time(record.entry.call.timestamp)) " UTC" }
            @if let Some(rule) = rule { p { "The rule: " code { (escape_hidden(rule)) } } }
            @if let Some(error) = &record.entry.error_message { p { "The error: " (escape_hidden(error)) } }
            @if let Some(reason) = quarantined {
                p.fault { strong { "In quarantine" } ": " (escape_hidden(reason)) }
            }
            @if let Some(args) = &record.entry.call.request_args {
                h2 { "Arguments" }
                pre tabindex="0" role="region" aria-label="Arguments" { (indented_json(args)) }
            }
            h2 { "Verification" }
            ul.checks {
                @for check in checks(call) { li { (tag(check.word, check.kind)) " " (check.sentence) } }
            }
            @if has_proofs { (proof_links(record)) }
            div.columns {
                @for (group, title) in GROUPS { section {
                    h2 { (title) }
                    dl { @for (name, value) in columns(record, group) { div { dt { (name) } dd { (linked(name, &value)) } } } }
                } }
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

/// The result of a check.
struct Check {
    word: &'static str,
    kind: &'static str,
    sentence: Markup,
}

/// The checks that need no other part of the trail: the hash, the records beside it, and the confirmations.
fn checks(call: &CallDetails) -> Vec<Check> {
    let position = &call.record.position;
    let check = |good: bool, sentence: Markup| Check {
        word: if good { "right" } else { "wrong" },
        kind: if good { "good" } else { "bad" },
        sentence,
    };
    let open = |sentence: Markup| Check { word: "open", kind: "quiet", sentence };
    let mut checks = vec![if chain::hash_matches(position, &call.record.entry) {
        check(true, html! { "Its contents have the hash that it states." })
    } else {
        check(false, html! { "Its contents do not have the hash that it states: the row was changed." })
    }];
    let beside = |seq: Option<u64>| {
        let same =
            |record: &&AuditRecord| record.position.epoch == position.epoch && Some(record.position.seq.0) == seq;
        call.neighbours.iter().find(same)
    };
    let seq = position.seq.0;
    checks.push(match beside(seq.checked_sub(1)) {
        Some(before) if before.position.hash == position.prev_hash => {
            check(true, html! { "It continues the record before it." })
        }
        Some(_) => check(false, html! { "It does not continue the record before it." }),
        None if seq == 1 => open(html! { "It is the first of its epoch." }),
        None => open(html! { "The record before it is not here." }),
    });
    checks.push(match beside(seq.checked_add(1)) {
        Some(next) if next.position.prev_hash == position.hash => {
            check(true, html! { "The record after it continues it." })
        }
        Some(_) => check(false, html! { "The record after it does not continue it." }),
        None => open(html! { "No record follows it here." }),
    });
    for Confirmation { anchor, kind, at } in &call.confirmations {
        let sentence = html! {
            "A checkpoint over it was confirmed at " (date_time(*at)) " by " (escape_hidden(anchor)) " (" (escape_hidden(kind))
            "), says the database; the proof shows it."
        };
        checks.push(Check { word: "confirmed", kind: "good", sentence });
    }
    if call.confirmations.is_empty() {
        checks.push(open(html! { "No anchor has confirmed a checkpoint over it." }));
    }
    checks
}

/// The columns of a group, but the arguments.
fn columns(record: &AuditRecord, group: Group) -> Vec<(&'static str, String)> {
    let columns = COLUMNS.iter().filter(|column| column.group == group && column.name != "request_args");
    let value = |column: &Column| match displayed(column, record) {
        Value::Null => "-".to_owned(),
        Value::Text(text) => escape_hidden(&text).into_owned(),
        Value::Number(_) if column.name == "latency_ms" => format!("{:.3}", record.entry.latency_ms),
        Value::Number(number) => number,
    };
    columns.map(|column| (column.name, value(column))).collect()
}

/// The value of a column, with a link to the records that have the same.
fn linked(column: &str, value: &str) -> Markup {
    let field = SEARCHED.iter().find(|(known, _)| *known == column && value != "-").map(|(_, field)| *field);
    html! { @match field {
        Some(field) => a.value href={ "/console/trail?" (Search::default().narrowed(&[(field, value)])) } { (value) },
        None => (value),
    } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::Head;
    use crate::audit::record::{Digest, Timestamp};
    use crate::ops::console::search::FIELDS;
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
            confirmations: vec![Confirmation { anchor: evil.into(), kind: evil.into(), at: Timestamp::now() }],
            record,
        };
        let shown = details(&call, &Search::default(), true).into_string();
        assert_eq!(shown.matches("<pre").count(), 1);
        assert!(!shown.contains("<script") && !shown.contains('\u{202e}'), "{shown}");
        assert!(shown.contains("&lt;script&gt;"));
    }

    #[test]
    fn each_column_is_in_one_group_and_links_name_fields() {
        let record = sample::record(1, 2, "echo");
        let shown: Vec<_> =
            GROUPS.iter().flat_map(|(group, _)| columns(&record, *group)).map(|(name, _)| name).collect();
        assert_eq!(shown.len(), COLUMNS.len() - 1);
        for (column, field) in SEARCHED {
            assert!(shown.contains(&column) && FIELDS.iter().any(|known| known.name == field), "{column} {field}");
        }
    }

    #[test]
    fn a_changed_record_and_a_broken_chain_are_told() {
        let mut stream: Vec<AuditRecord> = Vec::new();
        for _ in 0..3 {
            let AuditRecord { position, entry } = sample::record(1, 1, "echo");
            let head = stream.last().map_or(Head::START, |last| Head::after(&last.position));
            stream
                .push(AuditRecord { position: chain::link(position.gateway_id, position.epoch, head, &entry), entry });
        }
        let details = |records: &[AuditRecord]| CallDetails {
            record: records[1].clone(),
            quarantined: None,
            rule: None,
            neighbours: records.to_vec(),
            same_call: Vec::new(),
            confirmations: Vec::new(),
        };
        let words = |call: &CallDetails| checks(call).iter().map(|check| check.word).collect::<Vec<_>>();
        assert_eq!(words(&details(&stream)), ["right", "right", "right", "open"]);
        let mut changed = stream.clone();
        changed[1].entry.error_message = Some("changed".to_owned());
        assert_eq!(words(&details(&changed)), ["wrong", "right", "right", "open"]);
        let mut changed = stream.clone();
        changed[0].position.hash = Digest::of(b"other");
        assert_eq!(words(&details(&changed)), ["right", "wrong", "right", "open"]);
        changed[2].position.prev_hash = Digest::of(b"other");
        assert_eq!(words(&details(&changed)), ["right", "wrong", "wrong", "open"]);
        let alone = CallDetails {
            neighbours: Vec::new(),
            confirmations: vec![Confirmation { anchor: "w1".into(), kind: "witness".into(), at: Timestamp::now() }],
            ..details(&stream)
        };
        assert_eq!(words(&alone), ["right", "open", "open", "confirmed"]);
    }
}
