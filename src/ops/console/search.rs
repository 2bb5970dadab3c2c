//! The page itself, and the search of the trail in it.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::live::tag;
use super::source::{Answer, Ask};
use super::{Console, page};
use crate::audit::query::Filter;
use crate::audit::record::Status;
use crate::escape::escape_hidden;
use crate::ops::trail::moment::{key, key_of, moment as parsed};
use crate::ops::words::{cell, id, moment, target, text};

/// Longest value of a field, in bytes. *Derived*: no column that is compared is longer.
const VALUE_BYTES_MAX: usize = 1024;

/// Records of a page, and most of them; `gatepost audit query` gives more. *Chosen*: a page that loads at once.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 500;

/// A field of the form: its name, its label, an example.
const FIELDS: [(&str, &str, &str); 10] = [
    ("who", "Who", "alice"),
    ("role", "Role", ""),
    ("backend", "Backend", ""),
    ("tool", "Tool", "echo"),
    ("status", "Status", ""),
    ("method", "Method", "tools/call"),
    ("args", "Text in the arguments", ""),
    ("request_id", "Request id", ""),
    ("since", "Since", "2h"),
    ("until", "Until", "2026-11-26T10:00:00Z"),
];

/// What was asked for, as it was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Search(Vec<(&'static str, String)>);

impl Search {
    /// The known fields that have a value.
    pub(super) fn parse(query: &str) -> Self {
        let known = FIELDS.iter().map(|(name, ..)| *name).chain(["before", "limit"]);
        let typed = |name: &'static str| {
            let value = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?.1;
            let value = value.trim();
            let value = value.get(..value.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        };
        Self(known.filter_map(typed).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The same as a query, with or instead of what is given.
    pub(super) fn query(&self, with: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new("search=1".to_owned());
        query.extend_pairs(self.0.iter().filter(|(name, _)| with.iter().all(|(other, _)| other != name)));
        query.extend_pairs(with);
        query.finish()
    }

    fn filter(&self) -> Result<Filter, String> {
        let own = |name: &str| self.get(name).map(str::to_owned);
        let fault = |name: &str| {
            let label = FIELDS.iter().find(|(known, ..)| *known == name).map_or(name, |(_, label, _)| label).to_owned();
            move |fault: String| format!("{label}: {fault}")
        };
        let time = |name: &str| self.get(name).map(parsed).transpose().map_err(fault(name));
        let limit = self.get("limit").map_or(Ok(LIMIT), |limit| {
            let limit = limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
            limit.ok_or_else(|| format!("limit: not from 1 to {LIMIT_MAX}"))
        })?;
        let status = own("status");
        if status.as_deref().is_some_and(|word| Status::from_word(word).is_none()) {
            return Err("Status: no such status".to_owned());
        }
        let id = self.get("request_id").map(str::parse).transpose();
        Ok(Filter {
            subject: own("who"),
            role: own("role"),
            tool: own("tool"),
            backend: own("backend"),
            status,
            method: own("method"),
            args: own("args"),
            request_id: id
                .map_err(|_| fault("request_id")("no id, as 0199c0de-0000-7000-8000-000000000001".to_owned()))?,
            since_micros: time("since")?,
            until_micros: time("until")?,
            before: self.get("before").map(key).transpose().map_err(fault("before"))?,
            limit,
            ..Filter::default()
        })
    }
}

/// `GET /console`
pub(super) async fn page(State(console): State<Console>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let reader = match console.reader(&headers).await {
        Ok(reader) => reader,
        Err(refused) => return refused.page(),
    };
    let query = query.unwrap_or_default();
    let search = Search::parse(&query);
    // Nobody has asked yet: what is not read need not be recorded as read.
    let is_asked = query.split('&').any(|pair| pair == "search=1");
    let found = match search.filter() {
        Ok(filter) if is_asked => {
            Some(console.ask(&reader, Ask::Query, &filter).await.map(|found| (found, filter.limit)))
        }
        Ok(_) => None,
        Err(fault) => Some(Err(fault)),
    };
    let main = html! {
        h1.unseen { "Gatepost console" }
        div id="pipeline" {
            button.plain id="pause" type="button" aria-pressed="false" hidden { "Pause" }
            div id="live" { (console.live().await) }
        }
        section id="trail" aria-labelledby="search" {
            h2 id="search" { "Trail" }
            (form(&search))
            @match &found {
                None => p.quiet { "Every search is itself recorded, as gateway/read." },
                Some(Err(fault)) => p.fault role="alert" { (escape_hidden(fault)) },
                Some(Ok((answer, limit))) => (results(&search, answer, *limit)),
            }
        }
    };
    page::page("Console", reader.subject(), &main).into_response()
}

/// `GET /console/records`
pub(super) async fn lines(State(console): State<Console>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let reader = match console.reader(&headers).await {
        Ok(reader) => reader,
        Err(refused) => return refused.plain(),
    };
    let filter = match Search::parse(&query.unwrap_or_default()).filter() {
        Ok(filter) => filter,
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{}\n", escape_hidden(&fault))).into_response(),
    };
    match console.ask(&reader, Ask::Query, &filter).await {
        Ok(Answer { instead: Some(error), .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", escape_hidden(&error))).into_response()
        }
        Ok(answer) => {
            let lines = answer.values.iter().fold(String::new(), |text, record| text + &record.to_string() + "\n");
            ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", escape_hidden(&error))).into_response(),
    }
}

fn form(search: &Search) -> Markup {
    html! {
        form.search method="get" action="/console#trail" role="search" aria-label="Records of the trail" {
            input type="hidden" name="search" value="1";
            @for (name, label, example) in FIELDS {
                div {
                    label for={ "f-" (name) } { (label) }
                    @if name == "status" {
                        select id={ "f-" (name) } name=(name) {
                            option value="" { "any" }
                            @for word in Status::ALL.map(Status::as_str) {
                                option value=(word) selected[search.get(name) == Some(word)] { (word) }
                            }
                        }
                    } @else {
                        input id={ "f-" (name) } name=(name) value=[search.get(name)] placeholder=(example)
                            maxlength=(VALUE_BYTES_MAX) autocomplete="off" spellcheck="false";
                    }
                }
            }
            div.do {
                button type="submit" { "Search" }
                a href="/console#trail" { "Clear" }
            }
        }
    }
}

/// Says where an answer is from where that is not Postgres as configured.
pub(super) fn provenance(answer: &Answer) -> Markup {
    html! { @if let Some(error) = &answer.instead {
        p.fault role="alert" {
            strong { "Postgres cannot be read" } ": " (escape_hidden(error)) ". "
            "Shown is what the outbox holds: records that are not delivered yet."
        }
    } }
}

fn results(search: &Search, answer: &Answer, limit: usize) -> Markup {
    let records = &answer.values;
    let older = records.first().filter(|_| records.len() >= limit).map(key_of);
    let from = if answer.from == "postgres" { "Postgres" } else { "the outbox" };
    html! {
        (provenance(answer))
        @if records.is_empty() { p role="status" { "No record in " (from) " matches." } } @else {
            (table(&format!("{} records from {from}, the newest first", records.len()), records.iter().rev(), search))
        }
        @if let Some(place) = older {
            p { a rel="next" href={ "/console?" (search.query(&[("before", &place)])) "#trail" } { "Older records" } }
        }
    }
}

/// Records, each with a link to all about it. The roles are those that tables have anyway: they stay where narrow screens
/// show a row as a card.
pub(super) fn table<'a>(caption: &str, records: impl Iterator<Item = &'a Value>, search: &Search) -> Markup {
    let heads = ["Time (UTC)", "Who", "Role", "Tool", "Status", "ms", "Arguments", "Error", "Record"];
    html! {
        table.records role="table" {
            caption { (caption) }
            thead role="rowgroup" { tr role="row" {
                @for head in heads {
                    th role="columnheader" scope="col" class=[(head == "ms" || head == "Record").then_some("number")] { (head) }
                }
            } }
            tbody role="rowgroup" { @for record in records {
                @let place = [text(record, "epoch"), text(record, "seq")].map(|number| escape_hidden(&number).into_owned()).join("/");
                @let ms = record.get("latency_ms").and_then(Value::as_f64).unwrap_or_default();
                tr role="row" {
                    td.time role="cell" data-head="Time" { (moment(&text(record, "timestamp"))) }
                    td.who role="cell" data-head="Who" { (cell(&text(record, "client_subject"))) }
                    td.role role="cell" data-head="Role" { (cell(&text(record, "client_role"))) }
                    td.tool role="cell" data-head="Tool" { (cell(&target(record))) }
                    td role="cell" data-head="Status" { (status(&text(record, "response_status"))) }
                    td.number role="cell" data-head="ms" { (format!("{ms:.1}")) }
                    td.args role="cell" data-head="Arguments" { (cell(&text(record, "request_args"))) }
                    td.args role="cell" data-head="Error" { (cell(&text(record, "error_message"))) }
                    td.number role="cell" data-head="Record" {
                        a href={ "/console/record?" (search.query(&[("id", &id(record))])) }
                            aria-label={ "Record " (place) } { (place) }
                    }
                }
            } }
        }
    }
}

fn status(word: &str) -> Markup {
    let kind = match word {
        "ok" => "good",
        "input_required" | "cancelled" => "quiet",
        "denied" | "rate_limited" | "malformed" | "tool_error" => "warn",
        _ => "bad",
    };
    tag(&escape_hidden(word), kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_and_written_again_and_bounded() {
        let search = Search::parse("search=1&who=+ann%26%3Cb%3E+&tool=&status=denied&since=2h&evil=1&limit=7");
        let filter = search.filter().unwrap();
        assert_eq!((filter.subject.as_deref(), filter.tool, filter.limit), (Some("ann&<b>"), None, 7));
        assert!(filter.since_micros.is_some());
        assert_eq!(Search::parse(&search.query(&[])), search);
        assert_eq!(search.query(&[("limit", "9")]), "search=1&who=ann%26%3Cb%3E&status=denied&since=2h&limit=9");
        let long = Search::parse(&format!("args={}", "\u{e9}".repeat(2_000)));
        assert_eq!(long.get("args").map(str::len), Some(VALUE_BYTES_MAX));
    }

    #[test]
    fn what_cannot_be_searched_for_is_said() {
        for (query, says) in [
            ("since=yesterday", "Since: \"yesterday\" is neither an age"),
            ("request_id=7", "Request id: no id"),
            ("status=fine", "Status: no such status"),
            ("limit=501", "limit: not from 1 to 500"),
            ("before=9", "before: \"9\" is no TIME/EPOCH/SEQ/GATEWAY"),
        ] {
            assert!(Search::parse(query).filter().unwrap_err().starts_with(says), "{query}");
        }
    }

    #[test]
    fn hostile_records_are_text_and_nothing_else() {
        let evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&\u{202e}";
        let record = serde_json::json!({
            "gateway_id": evil, "epoch": evil, "seq": evil, "timestamp": evil, "client_subject": evil,
            "client_role": evil, "tool_name": evil, "backend_name": evil, "response_status": evil,
            "request_args": evil, "error_message": evil, "latency_ms": 1.0,
        });
        // What was typed comes back as it was: the form would search for something else.
        let typed = evil.trim_end_matches('\u{202e}').as_bytes();
        let typed = url::form_urlencoded::byte_serialize(typed).collect::<String>();
        let search = Search::parse(&format!("who={typed}"));
        let answer = Answer { values: vec![record], from: "outbox", instead: Some(evil.to_owned()) };
        let shown = html! { (form(&search)) (results(&search, &answer, 1)) }.into_string();
        assert!(shown.contains("&lt;script&gt;alert(1)") && shown.contains("\\u{202e}"), "{shown}");
        for bad in ["<script", "<img", "\u{202e}"] {
            assert!(!shown.contains(bad), "{bad} in {shown}");
        }
    }
}
