//! The main page, and its search of the trail.

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::overview::overview;
use super::page::{self, tag};
use super::query::Answer;
use super::state::Console;
use crate::audit::query::Filter;
use crate::audit::record::{AuditRecord, Status};
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::ops::format::{cell, date_time, plural, target, who};
use crate::ops::page_key::{page_key, parse_page_key};
use crate::ops::read_log::TrailSource;
use crate::ops::record_ref::{EpochSeq, record_ref};
use crate::ops::time_arg::parse_time_arg;

/// Longest value of a field, in bytes. *Derived*: no column that is compared has longer values.
const VALUE_BYTES_MAX: usize = 1024;

/// Records on a page by default. *Chosen*: a few screens.
const LIMIT: usize = 50;

/// Most records on a page; `gatepost audit query` returns more. *Chosen*: the page loads without a noticeable wait.
const LIMIT_MAX: usize = 500;

/// The fields of the form: name, label and example.
const FIELDS: [(&str, &str, &str); 16] = [
    ("who", "Who", "alice, or al*"),
    ("client", "Application", ""),
    ("actor", "Acting for", ""),
    ("role", "Role", ""),
    ("backend", "Backend", ""),
    ("tool", "Tool", "echo, or example/echo"),
    ("resource", "Resource", "file:///srv/*"),
    ("status", "Status", ""),
    ("method", "Method", "tools/call"),
    ("session", "Session", ""),
    ("parent", "Belongs to request", ""),
    ("gateway", "Gateway", ""),
    ("args", "Text in the arguments", ""),
    ("request_id", "Request id", ""),
    ("since", "Since", "2h"),
    ("until", "Until", "2026-11-26T10:00:00Z"),
];

/// The other parameters of a search's URL. A form without scripts sends all of them.
const OTHERS: [&str; 4] = ["search", "before", "limit", "id"];

/// A search, as it was entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    fields: Vec<(&'static str, String)>,
    /// A parameter that no search has.
    unknown: Option<String>,
}

impl Search {
    /// Parses the fields that have a value.
    pub(super) fn parse(query: &str) -> Self {
        let known = FIELDS.iter().map(|(name, ..)| *name).chain(["before", "limit"]);
        let typed = |name: &'static str| {
            let value = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?.1;
            let value = value.trim();
            let value = value.get(..value.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        };
        let is_unknown = |name: &str| !OTHERS.contains(&name) && FIELDS.iter().all(|(known, ..)| *known != name);
        let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned());
        Self { fields: known.filter_map(typed).collect(), unknown: names.find(|name| is_unknown(name)) }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The search as a query string; the pairs in `with` are added, or replace those of the same name.
    pub(super) fn query(&self, with: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new("search=1".to_owned());
        query.extend_pairs(self.fields.iter().filter(|(name, _)| with.iter().all(|(other, _)| other != name)));
        query.extend_pairs(with);
        query.finish()
    }

    fn filter(&self) -> Result<Filter, String> {
        if let Some(name) = &self.unknown {
            // A misspelt one, ignored, would find more than was asked for.
            let known: Vec<_> = FIELDS.iter().map(|(known, ..)| *known).collect();
            return Err(format!("{name}: unknown parameter; use one of {}, before and limit", known.join(", ")));
        }
        let own = |name: &str| self.get(name).map(str::to_owned);
        let fault = |name: &str| {
            let label = FIELDS.iter().find(|(known, ..)| *known == name).map_or(name, |(_, label, _)| label).to_owned();
            move |fault: String| format!("{label}: {fault}")
        };
        let time = |name: &str| self.get(name).map(parse_time_arg).transpose().map_err(fault(name));
        let limit = self.get("limit").map_or(Ok(LIMIT), |limit| {
            let limit = limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
            limit.ok_or_else(|| format!("limit: must be from 1 to {LIMIT_MAX}"))
        })?;
        let status: Vec<String> = own("status").into_iter().collect();
        if status.iter().any(|word| Status::from_word(word).is_none()) {
            return Err("Status: unknown status".to_owned());
        }
        let id = |name: &str| {
            let id = self.get(name).map(str::parse).transpose();
            id.map_err(|_| fault(name)("not an id, for example 0199c0de-0000-7000-8000-000000000001".to_owned()))
        };
        Ok(Filter {
            who: own("who"),
            client: own("client"),
            actor: own("actor"),
            session_id: own("session"),
            parent_id: id("parent")?,
            gateway_id: id("gateway")?,
            role: own("role"),
            tool: own("tool"),
            resource: own("resource"),
            backend: own("backend"),
            status,
            method: own("method"),
            args: own("args"),
            request_id: id("request_id")?,
            since_micros: time("since")?,
            until_micros: time("until")?,
            before: self.get("before").map(parse_page_key).transpose().map_err(fault("before"))?,
            limit,
            ..Filter::default()
        })
    }
}

/// `GET /console`
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
    let search = Search::parse(&query);
    // Without a search nothing is read, and no read is recorded.
    let is_search = query.split('&').any(|pair| pair == "search=1");
    let filter = search.filter();
    let is_valid = filter.is_ok();
    let found = match filter {
        Ok(filter) if is_search => Some(console.search(&viewer, &filter).await.map(|answer| (answer, filter.limit))),
        Ok(_) => None,
        Err(fault) => Some(Err(fault)),
    };
    let main = html! {
        h1.unseen { "Gatepost console" }
        div id="pipeline" {
            button.plain id="pause" type="button" aria-pressed="false" hidden { "Pause" }
            div id="live" { (overview(&console).await) }
        }
        section id="trail" aria-labelledby="search" {
            h2 id="search" { "Trail" }
            (form(&search))
            @match &found {
                None => p.quiet { "Each search is recorded as gateway/read." },
                Some(Err(fault)) => p.fault role="alert" { (escape_hidden(fault)) },
                Some(Ok((answer, limit))) => (results(&search, answer, *limit)),
            }
        }
    };
    let code = if is_valid { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    (code, page::page("Console", &viewer, &main)).into_response()
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
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{}\n", escape_hidden(&fault))).into_response(),
    };
    match console.search(&viewer, &filter).await {
        // A part of the trail is not an answer for a program.
        Ok(Answer { postgres_error: Some(error), .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", escape_hidden(&error))).into_response()
        }
        Ok(answer) => {
            let lines =
                answer.found.iter().map(|record| serde_json::json!(record).to_string() + "\n").collect::<String>();
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
        @if records.is_empty() { p role="status" { "No record in " (from) " matches." } } @else {
            (table(&format!("{} from {from}, the newest first", plural(records.len() as u64, "record")), records.iter().rev(), search))
        }
        @if let Some(key) = older {
            p { a rel="next" href={ "/console?" (search.query(&[("before", &key)])) "#trail" } { "Older records" } }
        }
    }
}

/// A table of records with a link to each. The ARIA roles are those that a table has anyway. They are explicit because
/// narrow screens show a row as a card, which removes them.
pub(super) fn table<'a>(caption: &str, records: impl Iterator<Item = &'a AuditRecord>, search: &Search) -> Markup {
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
                @let position = EpochSeq::of(record);
                @let call = &record.entry.call;
                tr role="row" {
                    td.time role="cell" data-head="Time" { (date_time(call.timestamp)) }
                    td.who role="cell" data-head="Who" { (cell(&who(call))) }
                    td.role role="cell" data-head="Role" { (optional(call.client_role.as_ref())) }
                    td.tool role="cell" data-head="Tool" { (cell(&target(call))) }
                    td role="cell" data-head="Status" { (status(record.entry.response_status)) }
                    td.number role="cell" data-head="ms" { (format!("{:.1}", record.entry.latency_ms)) }
                    td.args role="cell" data-head="Arguments" { (optional(call.request_args.as_ref())) }
                    td.args role="cell" data-head="Error" { (optional(record.entry.error_message.as_ref())) }
                    td.number role="cell" data-head="Record" {
                        a href={ "/console/record?" (search.query(&[("id", &record_ref(record))])) }
                            aria-label={ "Record " (position) } { (position) }
                    }
                }
            } }
        }
    }
}

fn optional(text: Option<&impl AsRef<str>>) -> String {
    text.map(|text| cell(text.as_ref())).unwrap_or_default()
}

fn status(status: Status) -> Markup {
    let kind = match status {
        Status::Ok => "good",
        Status::InputRequired | Status::Cancelled => "quiet",
        Status::Denied | Status::RateLimited | Status::Malformed | Status::ToolError => "warn",
        Status::Error | Status::Timeout | Status::Interrupted | Status::Unauthenticated | Status::AuditUnavailable => {
            "bad"
        }
    };
    tag(status.as_str(), kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn a_search_is_parsed_back_from_its_query_and_bounded() {
        let search = Search::parse("search=1&who=+ann%26%3Cb%3E+&tool=&status=denied&since=2h&limit=7");
        let filter = search.filter().unwrap();
        assert_eq!((filter.who.as_deref(), filter.tool, filter.limit), (Some("ann&<b>"), None, 7));
        assert!(filter.since_micros.is_some());
        assert_eq!(Search::parse(&search.query(&[])), search);
        assert_eq!(search.query(&[("limit", "9")]), "search=1&who=ann%26%3Cb%3E&status=denied&since=2h&limit=9");
        let long = Search::parse(&format!("args={}", "\u{e9}".repeat(2_000)));
        assert_eq!(long.get("args").map(str::len), Some(VALUE_BYTES_MAX));
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_name_of_its_field() {
        for (query, says) in [
            ("since=tomorrow", "Since: \"tomorrow\" is not a time"),
            ("request_id=7", "Request id: not an id"),
            ("status=fine", "Status: unknown status"),
            ("whom=ann", "whom: unknown parameter; use one of who, client, "),
            ("limit=501", "limit: must be from 1 to 500"),
            ("before=9", "before: \"9\" is not TIME/EPOCH/SEQ/GATEWAY"),
        ] {
            assert!(Search::parse(query).filter().unwrap_err().starts_with(says), "{query}");
        }
    }

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
        let shown = html! { (form(&search)) (results(&search, &answer, 1)) }.into_string();
        assert!(shown.contains("&lt;script&gt;alert(1)") && shown.contains("\\u{202e}"), "{shown}");
        for bad in ["<script", "<img", "\u{202e}"] {
            assert!(!shown.contains(bad), "{bad} in {shown}");
        }
    }
}
