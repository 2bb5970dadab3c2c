//! The page of the trail: a search with its range, the records that it finds, and the counts beside them.

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::counts::counts;
use super::denials;
use super::page;
use super::query::Answer;
use super::search::{FIELDS, Field, Place, RANGES, Search, VALUE_BYTES_MAX};
use super::state::Console;
use super::table::table;
use crate::audit::record::{AuditRecord, Status};
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::ops::format::{cell, plural};
use crate::ops::page_key::page_key;
use crate::ops::read_log::TrailSource;

/// `GET /console/trail`
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
    let search = Search::parse(&query).with_range();
    let (mut code, mut counted) = (StatusCode::OK, None);
    let found = match (search.page_filter(), search.get("view")) {
        (Ok(filter), Some("denied")) => {
            let answer = console.denials(&viewer, &denials::filter(filter)).await;
            answer.map(|answer| html! { (postgres_error(&answer)) (denials::denials(&search, &answer)) })
        }
        (Ok(filter), None) => {
            if query.split('&').any(|pair| pair == "counts=1") {
                counted = Some(console.summary(&viewer, &filter).await);
            }
            let answer = console.search(&viewer, &filter).await;
            answer.map(|answer| results(&search, &answer, filter.limit))
        }
        (filter, _) => {
            code = StatusCode::BAD_REQUEST;
            Err(filter.err().unwrap_or_else(|| "view: must be denied, or left out".to_owned()))
        }
    };
    let main = html! {
        h1 { "Trail" }
        div.bar { (views(&search)) (ranges(&search)) }
        (form(&search))
        (chips(&search))
        @match &found {
            Err(fault) => p.fault role="alert" { (escape_hidden(fault)) },
            Ok(found) if search.get("view").is_some() => section aria-label="Refusals" { (found) },
            Ok(found) => div.trail {
                @match &counted {
                    Some(answer) => div id="counts" { (counts(&search, answer)) },
                    None => div id="counts" aria-busy="true" data-query=(search.query(&[])) {
                        p.quiet { "Counting..." }
                        noscript { p { a href={ "/console/trail?" (search.query(&[("counts", "1")])) } { "Count them" } } }
                    },
                }
                section.found aria-label="Records" {
                    (tools(&search, console.postgres.is_some()))
                    (found)
                }
            },
        }
    };
    (code, page::page("Trail", &viewer, &main)).into_response()
}

/// `GET /console/records`
pub(super) async fn lines(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.plain(),
    };
    let filter = match Search::parse(&query.unwrap_or_default()).filter() {
        Ok(filter) => filter,
        Err(fault) => return page::refused(StatusCode::BAD_REQUEST, &fault),
    };
    match console.search(&viewer, &filter).await {
        // A part of the trail is not an answer for a program.
        Ok(Answer { postgres_error: Some(error), .. }) | Err(error) => {
            page::refused(StatusCode::SERVICE_UNAVAILABLE, &error)
        }
        Ok(answer) => {
            let lines =
                answer.found.iter().map(|record| serde_json::json!(record).to_string() + "\n").collect::<String>();
            ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
        }
    }
}

/// The records, or who was denied what.
fn views(search: &Search) -> Markup {
    let current = search.get("view");
    html! {
        nav.ranges aria-label="View" {
            @for (view, words) in [(None, "Records"), (Some("denied"), "Who was denied what")] {
                a href={ "/console/trail?" (search.query(&[("view", view.unwrap_or_default()), ("before", "")])) }
                    aria-current=[(current == view).then_some("true")] { (words) }
            }
        }
    }
}

/// The ranges to choose from. One with a beginning or an end that was typed is none of them.
fn ranges(search: &Search) -> Markup {
    let is_typed = search.get("since").or(search.get("until")).is_some();
    let chosen = search.get("range").filter(|_| !is_typed);
    html! {
        nav.ranges aria-label="Range" {
            span.quiet { "Last" }
            @for (value, words, _) in RANGES {
                a href={ "/console/trail?" (search.query(&[("range", value), ("since", ""), ("until", ""), ("before", "")])) }
                    aria-current=[(chosen == Some(value)).then_some("true")] { (words) }
            }
        }
    }
}

/// The ways to follow the records, or take them away.
fn tools(search: &Search, has_postgres: bool) -> Markup {
    let query = search.query(&[("before", "")]);
    let is_newest = search.get("before").or(search.get("until")).is_none();
    html! {
        div.tools {
            @if is_newest {
                button.plain id="follow" type="button" aria-pressed="false" data-query=(query) hidden { "Follow" }
                span.quiet id="following" role="status" {}
            }
            @if has_postgres {
                span {
                    "Download all: "
                    @for format in ["jsonl", "csv"] {
                        a href={ "/console/trail/export?" (query) "&format=" (format) } download {
                            (if format == "csv" { "CSV" } else { "JSON lines" })
                        }
                        " "
                    }
                }
            }
        }
    }
}

fn form(search: &Search) -> Markup {
    let fields = |place: Place| FIELDS.iter().filter(move |field| field.place == place);
    let is_open = fields(Place::More).any(|field| search.get(field.name).is_some());
    html! {
        form.search method="get" action="/console/trail" role="search" aria-label="Records of the trail" {
            @for field in fields(Place::First).chain(fields(Place::Range)) { (input(search, field)) }
            @for name in ["range", "view"] {
                @if let Some(value) = search.get(name) { input type="hidden" name=(name) value=(value); }
            }
            details open[is_open] {
                summary { "More filters" }
                div.more { @for field in fields(Place::More) { (input(search, field)) } }
            }
            div.do {
                button type="submit" { "Search" }
                label.check {
                    input type="checkbox" name="reads" value="1" checked[search.get("reads").is_some()];
                    "Show reads of the trail"
                }
                a href="/console/trail" { "Clear" }
            }
        }
    }
}

fn input(search: &Search, field: &Field) -> Markup {
    let Field { name, label, example, place } = *field;
    html! { div {
        label for={ "f-" (name) } { (label) }
        @if name == "status" {
            select id={ "f-" (name) } name=(name) {
                option value="" { "any" }
                @for word in Status::ALL.map(Status::as_str) {
                    option value=(word) selected[search.get(name) == Some(word)] { (word) }
                }
            }
        } @else if place == Place::Range {
            input id={ "f-" (name) } name=(name) type="datetime-local" step="1" value=[search.time(name)];
        } @else {
            input id={ "f-" (name) } name=(name) value=[search.get(name)] placeholder=(example)
                maxlength=(VALUE_BYTES_MAX) autocomplete="off" spellcheck="false";
        }
    } }
}

/// The filters, each with a link that removes it.
fn chips(search: &Search) -> Markup {
    let set: Vec<_> = FIELDS.iter().filter_map(|field| Some((field, search.get(field.name)?))).collect();
    html! { @if !set.is_empty() {
        ul.chips aria-label="Filters" { @for (field, value) in set { li {
            a href={ "/console/trail?" (search.query(&[(field.name, ""), ("before", "")])) } {
                (field.label) ": " strong { (cell(value)) } " " span aria-hidden="true" { "\u{d7}" }
                span.unseen { "remove" }
            }
        } } }
    } }
}

/// A notice if the answer is from the outbox although Postgres is configured.
pub(super) fn postgres_error<T>(answer: &Answer<T>) -> Markup {
    html! { @if let Some(error) = &answer.postgres_error {
        p.fault role="alert" {
            strong { "Postgres cannot be read" } ": " (escape_hidden(error)) ". "
            "Shown are the records in the outbox, which are not delivered yet."
        }
    } }
}

fn results(search: &Search, answer: &Answer<AuditRecord>, limit: usize) -> Markup {
    let records = &answer.found;
    let older = records.first().filter(|_| records.len() >= limit).map(page_key);
    let from = match answer.from {
        TrailSource::Postgres => "Postgres",
        TrailSource::Outbox => "the outbox",
    };
    html! {
        (postgres_error(answer))
        @if records.is_empty() {
            p role="status" {
                "No record in " (from) " matches"
                @if search.get("range").is_some_and(|range| range != "all") { " in this range" }
                "."
            }
        } @else {
            @let number = plural(records.len() as u64, "record");
            // A session is read as it happened.
            @if search.get("session").is_some() {
                (table(&format!("{number} of the session from {from}, the oldest first"), records.iter(), search))
            } @else {
                (table(&format!("{number} from {from}, the newest first"), records.iter().rev(), search))
            }
        }
        @if let Some(key) = older {
            p { a rel="next" href={ "/console/trail?" (search.query(&[("before", &key)])) } { "Older records" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn hostile_records_are_shown_as_text() {
        let evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&\u{202e}";
        let mut record = sample::record(1, 2, evil);
        let call = &mut record.entry.call;
        (call.client_subject, call.client_role) = (evil.into(), Some(evil.into()));
        (call.backend_name, call.request_args) = (Some(evil.into()), Some(evil.to_owned()));
        record.entry.error_message = Some(evil.to_owned());
        // The form keeps a typed value as it is: with an escape in it, it would search for something else.
        let typed = evil.trim_end_matches('\u{202e}').as_bytes();
        let typed = url::form_urlencoded::byte_serialize(typed).collect::<String>();
        let search = Search::parse(&format!("who={typed}"));
        let answer = Answer { found: vec![record], from: TrailSource::Outbox, postgres_error: Some(evil.to_owned()) };
        let shown = html! { (form(&search)) (chips(&search)) (results(&search, &answer, 1)) }.into_string();
        assert!(shown.contains("&lt;script&gt;alert(1)") && shown.contains("\\u{202e}"), "{shown}");
        for bad in ["<script", "<img", "\u{202e}"] {
            assert!(!shown.contains(bad), "{bad} in {shown}");
        }
    }
}
