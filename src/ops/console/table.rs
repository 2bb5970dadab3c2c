//! Tables of records.

use maud::{Markup, html};

use super::page::{breakable, tag};
use super::search::Search;
use crate::audit::record::{AuditRecord, Call, Status};
use crate::ops::format::{cell, date_time, target, who};
use crate::ops::record_ref::{EpochSeq, record_ref};

/// The columns, with the class of their headings.
const HEADS: [(&str, Option<&str>); 8] = [
    ("Time (UTC)", None),
    ("Who", None),
    ("Role", None),
    ("Tool", None),
    ("Status", None),
    ("ms", Some("number")),
    ("Arguments or error", None),
    ("Record", Some("number")),
];

/// A table of records with a link to each. Who, role, tool and status are links that narrow the search. The ARIA roles
/// are those that a table has anyway. They are explicit because narrow screens show a row as a card, which removes
/// them.
pub(super) fn table<'a>(caption: &str, records: impl Iterator<Item = &'a AuditRecord>, search: &Search) -> Markup {
    html! {
        table.records role="table" {
            caption { (caption) }
            thead role="rowgroup" { tr role="row" {
                @for (head, class) in HEADS { th role="columnheader" scope="col" class=[class] { (head) } }
            } }
            tbody role="rowgroup" { @for record in records { (row(record, search)) } }
        }
    }
}

/// A row of the table.
pub(super) fn row(record: &AuditRecord, search: &Search) -> Markup {
    let position = EpochSeq::of(record);
    let call = &record.entry.call;
    let narrow = |name: &str, value: &str, shown: &Markup| {
        html! { a.value href={ "/console/trail?" (search.narrowed(&[(name, value)])) } { (shown) } }
    };
    html! {
        tr role="row" {
            td.time role="cell" data-head="Time" { (date_time(call.timestamp)) }
            td.who role="cell" data-head="Who" { (narrow("who", &call.client_subject, &breakable(&cell(&who(call))))) }
            td.role role="cell" data-head="Role" {
                @if let Some(role) = &call.client_role { (narrow("role", role, &breakable(&cell(role)))) }
            }
            td.tool role="cell" data-head="Tool" {
                @let (name, value) = target_field(call);
                (narrow(name, &value, &breakable(&cell(&target(call)))))
            }
            td role="cell" data-head="Status" {
                @let word = record.entry.response_status.as_str();
                (narrow("status", word, &status(record.entry.response_status)))
            }
            td.number role="cell" data-head="ms" { (format!("{:.1}", record.entry.latency_ms)) }
            td.args role="cell" data-head="Details" {
                @if let Some(args) = &call.request_args { span { (cell(args)) } }
                @if let Some(error) = &record.entry.error_message { span.said { (cell(error)) } }
            }
            td.number role="cell" data-head="Record" {
                a href={ "/console/record?" (search.query(&[("id", &record_ref(record))])) }
                    aria-label={ "Record " (position) } { (position) }
            }
        }
    }
}

/// The field of a search, and its value, that finds the calls of the same target.
pub(super) fn target_field(call: &Call) -> (&'static str, String) {
    match (call.backend_name.as_deref(), call.tool_name.as_deref().or(call.resource_uri.as_deref())) {
        (Some(backend), Some(name)) => ("tool", format!("{backend}/{name}")),
        (None, Some(name)) => ("tool", name.to_owned()),
        (Some(_) | None, None) => ("method", call.method.to_string()),
    }
}

/// The status as a tag.
pub(super) fn status(status: Status) -> Markup {
    tag(status.as_str(), Outcome::of(status).kind())
}

/// The outcomes that a histogram tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered, cancelled by the caller, or waiting for input.
    Answered,
    /// Refused by the gateway.
    Refused,
    /// An error of the tool or the backend, or no answer.
    Failed,
}

impl Outcome {
    /// All, in the order in which bars are stacked.
    pub(super) const ALL: [Self; 3] = [Self::Answered, Self::Refused, Self::Failed];

    /// The outcome of a status.
    pub(super) fn of(status: Status) -> Self {
        match status {
            Status::Ok | Status::InputRequired | Status::Cancelled => Self::Answered,
            Status::Denied
            | Status::RateLimited
            | Status::Malformed
            | Status::Unauthenticated
            | Status::AuditUnavailable => Self::Refused,
            Status::ToolError | Status::Error | Status::Timeout | Status::Interrupted => Self::Failed,
        }
    }

    /// The word for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The kind of its colours.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Answered => "good",
            Self::Refused => "warn",
            Self::Failed => "bad",
        }
    }
}
