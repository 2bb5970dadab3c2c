//! The view of the trail that says who was denied what.

use maud::{Markup, html};

use super::page::breakable;
use super::query::Answer;
use super::search::Search;
use super::table::status;
use crate::audit::query::{DENIALS_MAX, Denial, Filter};
use crate::audit::record::Status;
use crate::ops::format::{cell, count, date_time, plural};

/// The filter of the view: what was denied, if the search names no other status.
pub(super) fn filter(mut filter: Filter) -> Filter {
    if filter.status.is_empty() {
        filter.status = vec![Status::Denied.as_str().to_owned()];
    }
    filter.before = None;
    filter
}

/// The table, with links to the records.
pub(super) fn denials(search: &Search, answer: &Answer<Denial>) -> Markup {
    let found = &answer.found;
    let records = |denial: &Denial| {
        let target = if denial.is_method { "method" } else { "tool" };
        let role = denial.role.as_deref().unwrap_or_default();
        let fields =
            [("who", &*denial.subject), ("role", role), (target, &denial.target), ("status", denial.status.as_str())];
        format!("/console/trail?{}", search.narrowed(&fields))
    };
    html! {
        @if found.is_empty() { p role="status" { "Nothing was denied to those who match." } } @else {
            table.records role="table" {
                caption {
                    (plural(found.len() as u64, "row")) " by caller, role, target and status, the most frequent first"
                    @if found.len() >= DENIALS_MAX { "; there may be more: narrow the search" }
                }
                thead role="rowgroup" { tr role="row" {
                    @for head in ["Who", "Role", "Was denied", "Status", "Last (UTC)"] {
                        th role="columnheader" scope="col" { (head) }
                    }
                    th.number role="columnheader" scope="col" { "Requests" }
                } }
                tbody role="rowgroup" { @for denial in found { tr role="row" {
                    @let who = match &denial.name {
                        Some(name) => cell(&format!("{name} ({})", denial.subject)),
                        None => cell(&denial.subject),
                    };
                    td.who role="cell" data-head="Who" { (breakable(&who)) }
                    td.role role="cell" data-head="Role" { (breakable(&cell(denial.role.as_deref().unwrap_or_default()))) }
                    td.tool role="cell" data-head="Was denied" { (breakable(&cell(&denial.target))) }
                    td role="cell" data-head="Status" { (status(denial.status)) }
                    td.time role="cell" data-head="Last" { (date_time(denial.last)) }
                    td.number role="cell" data-head="Requests" {
                        a href=(records(denial)) aria-label={ (count(denial.count)) " requests: the records" } { (count(denial.count)) }
                    }
                } } }
            }
        }
    }
}
