//! Counts beside the records of the trail: a histogram over time, and the most frequent values, each a link to the
//! records that it counts. They are fetched after the page, since counting takes longer than finding.

use axum::extract::{Extension, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::page::{self, breakable};
use super::query::Answer;
use super::search::{FIELDS, Search};
use super::state::Console;
use super::table::Outcome;
use crate::audit::query::{Basis, Facet, Summary};
use crate::audit::record::{Status, Timestamp};
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::ops::format::{cell, count, date_time, plural};

/// Width of the histogram, in its own units.
const WIDTH: f64 = 600.0;

/// Height of the highest bar, in the same units.
const HEIGHT: f64 = 60.0;

/// `GET /console/trail/counts`
pub(super) async fn fragment(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.plain(),
    };
    let search = Search::parse(&query.unwrap_or_default()).with_range();
    let answer = match search.page_filter() {
        Ok(filter) => console.summary(&viewer, &filter).await,
        Err(fault) => Err(fault),
    };
    page::fragment(counts(&search, &answer)).into_response()
}

/// The histogram and the facets, or why there are none.
pub(super) fn counts(search: &Search, answer: &Result<Answer<Summary>, String>) -> Markup {
    let summary = answer.as_ref().map(|answer| answer.found.first());
    html! { @match summary {
        Err(fault) => p.error { strong { "Not counted" } ": " (escape_hidden(fault)) },
        Ok(None) => {},
        Ok(Some(summary)) => {
            (histogram(search, summary))
            (facets(search, summary))
        },
    } }
}

/// A count as it is known: three digits of an estimate.
fn known(number: u64, basis: Basis) -> String {
    if !matches!(basis, Basis::Sample(_)) || number == 0 {
        return count(number);
    }
    let unit = 10_u64.pow(number.ilog10().saturating_sub(2));
    format!("~{}", count((number + unit / 2) / unit * unit))
}

/// The records of an interval by their outcome.
fn outcomes(interval: &[(Status, u64)]) -> [u64; 3] {
    Outcome::ALL.map(|outcome| {
        let has = |(status, _): &&(Status, u64)| Outcome::of(*status) == outcome;
        interval.iter().filter(has).map(|(_, number)| number).sum()
    })
}

/// `12 answered, 3 refused`, without outcomes that no record has.
fn in_words(numbers: [u64; 3], basis: Basis) -> String {
    let words = Outcome::ALL.iter().zip(numbers).filter(|(_, number)| *number > 0);
    let words: Vec<_> = words.map(|(outcome, number)| format!("{} {}", known(number, basis), outcome.word())).collect();
    if words.is_empty() { "no record".to_owned() } else { words.join(", ") }
}

fn moment(micros: i64) -> String {
    Timestamp::from_micros(micros).to_string()
}

/// `2026-11-26 10:00:00`, in UTC; shorter if all intervals are days or longer.
fn label(micros: i64, length_micros: i64) -> String {
    let text = date_time(Timestamp::from_micros(micros));
    let length = if length_micros >= 86_400_000_000 { "2026-11-26".len() } else { "2026-11-26 10:00:00".len() };
    text.get(..length).unwrap_or(&text).to_owned()
}

fn histogram(search: &Search, summary: &Summary) -> Markup {
    let basis = summary.basis;
    let all = summary.intervals.values().fold([0; 3], |mut sum, interval| {
        sum.iter_mut().zip(outcomes(interval)).for_each(|(sum, number)| *sum += number);
        sum
    });
    html! {
        section.histogram aria-labelledby="over-time" {
            h2.unseen id="over-time" { "Records over time" }
            p {
                strong { (known(summary.total, basis)) (if summary.total == 1 { " record" } else { " records" }) }
                @for (outcome, number) in Outcome::ALL.iter().zip(all) {
                    @if number > 0 {
                        span.key { span.swatch data-kind=(outcome.kind()) {} (known(number, basis)) " " (outcome.word()) }
                    }
                }
            }
            @match basis {
                Basis::All => {},
                Basis::Sample(counted) => p.quiet {
                    "Estimated from " (plural(counted, "record")) " in parts spread over the range: it has more than a "
                    "million, or counting took too long. A shorter range is counted exactly."
                },
                Basis::Newest => p.quiet { "Of the newest " (count(summary.total)) " records of the outbox that match." },
            }
            @if summary.total > 0 {
                (bars(search, summary))
                details.as-table {
                    summary { "As a table" }
                    (intervals(search, summary))
                }
            }
        }
    }
}

/// The link to the records of an interval.
fn interval_link(search: &Search, summary: &Summary, begin: i64) -> String {
    let end = begin.saturating_add(summary.length_micros).min(summary.until_micros);
    let (since, until) = (moment(begin.max(summary.since_micros)), moment(end));
    format!("/console/trail?{}", search.narrowed(&[("range", ""), ("since", &since), ("until", &until)]))
}

/// The bars. Who cannot see them, or does not point at them, has the table of [`intervals`].
fn bars(search: &Search, summary: &Summary) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "lengths of bars")]
    let float = |number: u64| number as f64;
    let first = summary.since_micros.div_euclid(summary.length_micros);
    let places = (summary.until_micros - 1).div_euclid(summary.length_micros) - first + 1;
    let width = WIDTH / float(places.max(1).cast_unsigned());
    let most = summary.intervals.values().map(|interval| outcomes(interval).iter().sum()).max().unwrap_or(1).max(1);
    let shapes = summary.intervals.iter().map(|(begin, interval)| {
        let place = begin.div_euclid(summary.length_micros) - first;
        let x = width * float(place.max(0).cast_unsigned());
        let numbers = outcomes(interval);
        let mut top = HEIGHT;
        let stacked = Outcome::ALL.iter().zip(numbers).filter(|(_, number)| *number > 0);
        // A single record among millions is still seen.
        let rects: Vec<_> = stacked
            .map(|(outcome, number)| {
                let height = (HEIGHT * float(number) / float(most)).max(1.0);
                top -= height;
                (outcome.kind(), format!("{top:.2}"), format!("{height:.2}"))
            })
            .collect();
        let title = format!("{}: {}", label(*begin, summary.length_micros), in_words(numbers, summary.basis));
        html! {
            a href=(interval_link(search, summary, *begin)) tabindex="-1" {
                title { (title) }
                rect.hit x=(format!("{x:.2}")) y="0" width=(format!("{width:.2}")) height=(HEIGHT) {}
                @for (kind, top, height) in rects {
                    rect data-kind=(kind) x=(format!("{:.2}", x + width * 0.08)) y=(top)
                        width=(format!("{:.2}", width * 0.84)) height=(height) {}
                }
            }
        }
    });
    let middle = summary.since_micros.midpoint(summary.until_micros);
    html! {
        svg.bars viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true" {
            @for shape in shapes { (shape) }
        }
        div.axis aria-hidden="true" {
            @for micros in [summary.since_micros, middle, summary.until_micros] {
                span { (label(micros, summary.length_micros)) }
            }
        }
    }
}

fn intervals(search: &Search, summary: &Summary) -> Markup {
    html! {
        table {
            caption { "Records by time (UTC), intervals without records left out" }
            thead { tr {
                th scope="col" { "From" }
                @for outcome in Outcome::ALL { th.number scope="col" { (outcome.word()) } }
            } }
            tbody { @for (begin, interval) in &summary.intervals { tr {
                th scope="row" {
                    a href=(interval_link(search, summary, *begin)) { (label(*begin, summary.length_micros)) }
                }
                @for number in outcomes(interval) { td.number { (known(number, summary.basis)) } }
            } } }
        }
    }
}

fn facets(search: &Search, summary: &Summary) -> Markup {
    let label = |name: &str| FIELDS.iter().find(|field| field.name == name).map_or("", |field| field.label);
    html! {
        details.facets {
            summary { "Most frequent values" }
            div {
                // A column with one value and no filter would tell nothing, but that it is the only one.
                @for facet in summary.facets.iter().filter(|facet| !facet.values.is_empty()) {
                    (values(search, facet, label(facet.name), summary))
                }
            }
        }
    }
}

fn values(search: &Search, facet: &Facet, label: &str, summary: &Summary) -> Markup {
    html! {
        section {
            h3 { (label) @if search.get(facet.name).is_some() {
                a href={ "/console/trail?" (search.narrowed(&[(facet.name, "")])) } { "any" }
            } }
            ul {
                @for value in &facet.values { li {
                    @let shown = match &value.label {
                        Some(name) => cell(&format!("{name} ({})", value.value)),
                        None => cell(&value.value),
                    };
                    a.value href={ "/console/trail?" (search.narrowed(&[(facet.name, &value.value)])) } { (breakable(&shown)) }
                    span.number { (known(value.count, summary.basis)) }
                    svg.share viewBox={ "0 0 " (summary.total.max(1)) " 1" } preserveAspectRatio="none" aria-hidden="true" {
                        rect width=(value.count) height="1" {}
                    }
                } }
                @if facet.has_more { li.quiet { "and others" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::query::{Filter, summary_of};
    use crate::ops::read_log::TrailSource;
    use crate::ops::sample;

    fn text_of(search: &Search, basis: Basis) -> String {
        let records = [sample::record(1, 2, "<b>echo\u{202e}"), sample::record(1, 3, "other")];
        let summary = Summary { basis, ..summary_of(&records, &Filter::default(), true) };
        counts(search, &Ok(Answer { found: vec![summary], from: TrailSource::Postgres, postgres_error: None }))
            .into_string()
    }

    #[test]
    fn values_are_shown_as_text_with_links_and_estimates_are_marked() {
        let search = Search::parse("range=24h&before=x&tool=t");
        let shown = text_of(&search, Basis::All);
        assert!(shown.contains("<strong>2 records</strong>") && shown.contains("2 answered"), "{shown}");
        assert!(shown.contains("range=24h&amp;tool=example%2Fother") && !shown.contains("before"), "{shown}");
        assert!(!shown.contains("<b>") && !shown.contains('\u{202e}') && !shown.contains('~'), "{shown}");
        let shown = text_of(&search, Basis::Sample(2));
        assert!(shown.contains("~2 records") && shown.contains("Estimated from 2 records"), "{shown}");
        assert_eq!([1_234_567, 999, 7].map(|number| known(number, Basis::Sample(1))), ["~1,230,000", "~999", "~7"]);
    }
}
