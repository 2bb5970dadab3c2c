//! The live part: the pipeline, the alarms, the backends, the open calls.

use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::{Console, page, source};
use crate::audit::record::{Status as Ended, Timestamp};
use crate::audit::shipper::ShipperState as Shipper;
use crate::escape::escape_hidden;
use crate::ops::inspect::Question;
use crate::ops::status::{Condition, Status, Trail};
use crate::ops::words;
use crate::ops::words::{age, bytes, count, moment, some, text};

/// Open calls that are listed. *Chosen*: what fits beside the rest; `gatepost outbox list` has all.
const OPEN_SHOWN_MAX: usize = 20;

/// `GET /console/live`
pub(super) async fn fragment(State(console): State<Console>, headers: HeaderMap) -> Response {
    match console.reader(&headers).await {
        Ok(_) => page::fragment(console.live().await).into_response(),
        Err(refused) => refused.plain(),
    }
}

/// `GET /console/status`
pub(super) async fn status(State(console): State<Console>, headers: HeaderMap) -> Response {
    if let Err(refused) = console.reader(&headers).await {
        return refused.plain();
    }
    match serde_json::to_string(&console.0.sources.status()) {
        Ok(status) => ([(header::CONTENT_TYPE, "application/json")], format!("{status}\n")).into_response(),
        Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Console {
    /// What the script fetches again.
    pub(super) async fn live(&self) -> Markup {
        let status = self.0.sources.status();
        let open = match &self.0.sources.probe {
            Some(probe) if status.calls_open > 0 => source::outbox(probe.clone(), Question::Intents).await,
            _ => Ok(Vec::new()),
        };
        html! {
            p id="sentence" role="status" aria-live="polite" data-condition=(condition(&status)) {
                (sentence(&status))
            }
            div id="moving" {
                (self.pipeline(&status))
                (alarms(&status))
                div.pair {
                    (self.backends(&status))
                    (calls(&status, &open))
                }
            }
        }
    }

    /// How many calls and refusals there were.
    fn came(&self) -> u64 {
        let tally = self.0.sources.gateway.counters();
        let calls: u64 = tally.backends().flat_map(|(_, backend)| backend.calls()).map(|(_, count)| count).sum();
        calls + tally.refusals().map(|(_, count)| count).sum::<u64>()
    }

    fn pipeline(&self, status: &Status) -> Markup {
        let rate = self.0.rate.seen(self.came(), Instant::now());
        html! {
            section aria-labelledby="flow" {
                h2 id="flow" { "Pipeline" }
                ol.flow {
                    li {
                        h3 { "Calls" }
                        p.big { (rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"))) " " small { "a second" } }
                        p { (status.calls_open) " open of " (count(status.calls_max as u64)) }
                        p.quiet { (count(self.came())) " since the start" }
                    }
                    @match &status.trail {
                        None => li { h3 { "Trail" } p { (tag("off", "warn")) } p.quiet { "auditing is off" } },
                        Some(trail) => (stores(trail)),
                    }
                }
                @if let Some((trail, error)) = status.trail.as_ref().and_then(|trail| trail.last_error.as_ref().map(|error| (trail, error))) {
                    @let passed = if trail.postgres == Shipper::Delivering { " (passed)" } else { "" };
                    p.error { strong { "Last error of a delivery" (passed) } ", " (when(error.at)) ": " (escape_hidden(&error.error)) }
                }
            }
        }
    }

    fn backends(&self, status: &Status) -> Markup {
        let tally = self.0.sources.gateway.counters();
        let numbers = |alias: &str| {
            let found = tally.backends().find(|(known, _)| *known == alias).map(|(_, numbers)| numbers);
            let (mut all, mut failed) = (0, 0);
            for (ended, number) in found.iter().flat_map(|numbers| numbers.calls()) {
                all += number;
                failed += if matches!(ended, Ended::Ok | Ended::InputRequired) { 0 } else { number };
            }
            let mean = found.map(|numbers| numbers.latency.snapshot()).filter(|read| read.count > 0);
            #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
            let mean = mean.map_or("-".to_owned(), |read| format!("{:.1} ms", read.sum * 1e3 / read.count as f64));
            (count(all), count(failed), mean)
        };
        html! {
            section aria-labelledby="backends" {
                h2 id="backends" { "Backends" }
                table {
                    caption { "Backends, and the calls of each since the start" }
                    thead { tr {
                        th scope="col" { "Backend" } th scope="col" { "Health" } th.number scope="col" { "Calls" }
                        th.number scope="col" { "Not ok" } th.number scope="col" { "Mean time" }
                    } }
                    tbody { @for backend in &status.backends {
                        @let (all, failed, mean) = numbers(&backend.alias);
                        tr {
                            th scope="row" { (escape_hidden(&backend.alias)) }
                            td { @if backend.up { (tag("answers", "good")) } @else { (tag("does not answer", "bad")) } }
                            td.number { (all) } td.number { (failed) } td.number { (mean) }
                        }
                    } }
                }
            }
        }
    }
}

fn stores(trail: &Trail) -> Markup {
    let (ring, outbox) = (&trail.ring, &trail.outbox);
    let (word, kind) = if outbox.failed {
        ("failed", "bad")
    } else if outbox.full {
        ("full", "bad")
    } else if outbox.percent >= 75 {
        ("filling up", "warn")
    } else {
        ("stores", "good")
    };
    html! {
        li {
            h3 { "Ring" }
            p.big { (count(trail.queued)) " " small { "queued" } }
            meter aria-label="Ring in use" min="0" max=(ring.bytes_max) value=(ring.bytes) {}
            p { (count(ring.records as u64)) " of " (count(ring.records_max as u64)) " places" }
            p.quiet { (bytes(ring.bytes as u64)) " of " (bytes(ring.bytes_max as u64)) ", in memory" }
        }
        li {
            h3 { "Outbox " (tag(word, kind)) }
            p.big { (count(trail.stored)) " " small { "stored, not delivered" } }
            meter aria-label="Outbox in use" min="0" max="100" high="75" value=(outbox.percent) {}
            p { (outbox.percent) " % of " (bytes(outbox.bytes_max)) }
            p.quiet { (some(outbox.generations, "file")) ", " (outbox.generations_older) " of older epochs" }
        }
        li {
            @let (word, kind) = shipper(&trail.postgres);
            h3 { "Postgres " (tag(word, kind)) }
            p.big { (count(trail.delivered)) " " small { "delivered in epoch " (trail.epoch) } }
            @if trail.postgres != Shipper::StoreOnly {
                p { "Delay " (trail.oldest_undelivered_seconds.map_or("none: nothing waits".to_owned(), age)) }
            }
            @if let Some(left) = trail.next_retry_seconds { p.quiet { "tried again in " (age(left)) } }
        }
    }
}

fn alarms(status: &Status) -> Markup {
    html! {
        section aria-labelledby="alarms" {
            h2 id="alarms" { "Alarms" }
            @if status.alarms.is_empty() { p.quiet { "No alarm stands." } } @else {
                table {
                    caption { "Alarms that stand; docs/runbook.md says what to do about each" }
                    thead { tr { th scope="col" { "Alarm" } th scope="col" { "Since" } th scope="col" { "What was found" } } }
                    tbody { @for alarm in &status.alarms { tr {
                        th scope="row" { (tag(alarm.alarm.name(), "bad")) }
                        td { (when(alarm.since)) }
                        td { (escape_hidden(&alarm.words)) }
                    } } }
                }
            }
        }
    }
}

fn calls(status: &Status, open: &Result<Vec<Value>, String>) -> Markup {
    let listed = open.as_deref().unwrap_or_default();
    html! {
        section aria-labelledby="open" {
            h2 id="open" { "Open calls" }
            p.quiet {
                (some(status.calls_open, "call")) ", " (some(status.messages_open, "message")) ", "
                (some(status.connections_open, "connection")) ", " (some(status.sessions_open, "legacy session"))
            }
            @if let Err(error) = open { p.fault { (escape_hidden(error)) } }
            @if !listed.is_empty() {
                table {
                    caption { "Calls whose intent is stored, the oldest " (OPEN_SHOWN_MAX) }
                    thead { tr { th scope="col" { "Since" } th scope="col" { "Who" } th scope="col" { "Tool" } } }
                    tbody { @for call in listed.iter().take(OPEN_SHOWN_MAX) { tr {
                        td { (moment(&text(call, "timestamp"))) }
                        td { (words::cell(&text(call, "client_subject"))) }
                        td { (words::cell(&words::target(call))) }
                    } } }
                }
            }
        }
    }
}

/// A word that says how something is, not by its colour alone.
pub(super) fn tag(word: &str, kind: &str) -> Markup {
    html! { span.tag data-kind=(kind) { (word) } }
}

fn when(at: Timestamp) -> Markup {
    let text = serde_json::to_value(at).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    html! { time datetime=(text) { (moment(&text)) } }
}

fn shipper(state: &Shipper) -> (&'static str, &'static str) {
    match state {
        Shipper::StoreOnly => ("not configured", "quiet"),
        Shipper::Starting => ("starting", "warn"),
        Shipper::Delivering => ("delivers", "good"),
        Shipper::Retrying { .. } => ("does not take records", "bad"),
        Shipper::Held { .. } => ("held", "bad"),
        Shipper::Forked { .. } => ("forked", "bad"),
    }
}

fn condition(status: &Status) -> &'static str {
    match status.condition {
        Condition::Ready => "ready",
        Condition::Degraded => "degraded",
        Condition::Failed => "failed",
    }
}

/// How it is, in a sentence that changes only when that does: a screen reader reads it out.
fn sentence(status: &Status) -> String {
    let down: Vec<_> = status.backends.iter().filter(|backend| !backend.up).map(|backend| &*backend.alias).collect();
    let backends = match down.as_slice() {
        [] => String::new(),
        [alias] => format!(" The backend {} does not answer.", escape_hidden(alias)),
        several => format!(" {} backends do not answer.", several.len()),
    };
    let Some(trail) = &status.trail else {
        return format!("Auditing is off: calls leave no record.{backends}");
    };
    let trail = if trail.outbox.failed {
        "The outbox cannot store: calls are refused, or go on unaudited where audit.on_failure lets them."
    } else if trail.outbox.full {
        "The outbox is full: calls are refused, or go on unaudited where audit.on_failure lets them."
    } else {
        match &trail.postgres {
            Shipper::StoreOnly => "All is well: calls are audited, and records are kept in the outbox.",
            Shipper::Delivering => "All is well: calls are audited, and records are delivered to Postgres.",
            Shipper::Starting => "Calls are audited. Nothing is delivered to Postgres yet; records wait in the outbox.",
            Shipper::Retrying { .. } => {
                "Postgres does not take records. Calls are audited; records wait in the outbox, and delivery is tried again."
            }
            Shipper::Held { .. } => {
                "Delivery is held by an error that somebody has to mend. Calls are audited; records wait in the outbox."
            }
            Shipper::Forked { .. } => {
                "A stream is forked and is not delivered: somebody has to look at it. Calls are audited; its records wait in the outbox."
            }
        }
    };
    let trail = if down.is_empty() { trail } else { trail.strip_prefix("All is well: calls").unwrap_or(trail) };
    let begin = if trail.starts_with(' ') { "Calls" } else { "" };
    format!("{begin}{trail}{backends}")
}
