//! The overview: the pipeline, the alarms, the backends and the open calls.

use std::time::Instant;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::charts;
use super::page::{self, tag};
use super::query::LiveOutbox;
use super::state::Console;
use crate::audit::record::{Call, Status as CallStatus, Timestamp};
use crate::audit::shipper::ShipperState;
use crate::audit::sink::checkpoints::AnchorKind;
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::notary::{EvidenceState, POSTGRES};
use crate::ops::format::{age, bytes, cell, count, date_time, plural, target};
use crate::ops::protocol::Question;
use crate::ops::status::{Condition, OutboxStatus, PipelineStatus, Status};
use crate::ops::trail::OutboxAccess as _;

/// Most open calls that are listed. *Chosen*: fits beside the rest; `gatepost outbox list --intents` has all of them.
const OPEN_CALLS_SHOWN_MAX: usize = 20;

/// `GET /console`
pub(super) async fn page(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.page(),
    };
    let main = html! {
        h1.unseen { "Overview" }
        div id="pipeline" {
            button.plain id="pause" type="button" aria-pressed="false" hidden { "Pause" }
            div id="live" { (overview(&console).await) }
        }
    };
    page::page("Overview", &viewer, &main).into_response()
}

/// `GET /console/live`
pub(super) async fn fragment(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    match console.viewer(&headers, peer).await {
        Ok(_) => page::fragment(overview(&console).await).into_response(),
        Err(refusal) => refusal.plain(),
    }
}

/// `GET /console/status`
pub(super) async fn status(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = console.viewer(&headers, peer).await {
        return refusal.plain();
    }
    match serde_json::to_string(&console.sources.status()) {
        Ok(status) => ([(header::CONTENT_TYPE, "application/json")], format!("{status}\n")).into_response(),
        Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The part of the page that the script fetches again.
pub(super) async fn overview(console: &Console) -> Markup {
    let status = console.sources.status();
    let open_calls = match &console.sources.probe {
        Some(probe) if status.calls_open > 0 => LiveOutbox(probe.clone()).ask(Question::Intents).await,
        _ => Ok(Vec::new()),
    };
    let open_calls = open_calls.and_then(|lines| {
        lines.into_iter().map(|line| line.try_into().map_err(Into::into)).collect::<Result<Vec<Call>, _>>()
    });
    let open_calls = open_calls.map_err(|error| error.to_string());
    html! {
        p id="sentence" role="status" aria-live="polite" data-condition=(condition(&status)) {
            (sentence(&status))
        }
        div id="moving" {
            (pipeline(console, &status))
            (alarms(&status))
            (charts::section(&console.history.samples(), Instant::now().into()))
            @if let Some(evidence) = &console.sources.evidence { (evidence_section(&evidence.get())) }
            div.pair {
                (backends(console, &status))
                (calls(&status, &open_calls))
            }
        }
    }
}

/// Calls and refusals since the start.
fn arrived(console: &Console) -> u64 {
    let tally = console.sources.gateway.counters();
    let calls: u64 = tally.backends().iter().flat_map(|(_, backend)| backend.calls()).map(|(_, count)| count).sum();
    calls + tally.refusals().map(|(_, count)| count).sum::<u64>()
}

fn pipeline(console: &Console, status: &Status) -> Markup {
    let arrived = arrived(console);
    let rate = console.rate.add(arrived, Instant::now());
    let last_error = status.pipeline.as_ref().and_then(|pipeline| Some((pipeline, pipeline.last_error.as_ref()?)));
    html! {
        section aria-labelledby="flow" {
            h2 id="flow" { "Pipeline" }
            ol.flow {
                li {
                    h3 { "Calls" }
                    p.big { (rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"))) " " small { "per second" } }
                    p { (status.calls_open) " open of " (count(status.calls_max as u64)) }
                    p.quiet { (count(arrived)) " since startup" }
                }
                @match &status.pipeline {
                    None => li { h3 { "Trail" } p { (tag("off", "warn")) } p.quiet { "auditing is off" } },
                    Some(pipeline) => (stores(pipeline)),
                }
            }
            @if let Some((pipeline, error)) = last_error {
                @let over = if pipeline.postgres == ShipperState::Delivering { " (resolved)" } else { "" };
                p.error { strong { "Last delivery error" (over) } ", " (time(error.at)) ": " (escape_hidden(&error.error)) }
            }
        }
    }
}

fn backends(console: &Console, status: &Status) -> Markup {
    let tally = console.sources.gateway.counters();
    let numbers = |alias: &str| {
        let found = tally.backends().into_iter().find(|(known, _)| *known == alias).map(|(_, numbers)| numbers);
        let (mut all, mut failed) = (0, 0);
        for (status, number) in found.iter().flat_map(|numbers| numbers.calls()) {
            all += number;
            failed += if matches!(status, CallStatus::Ok | CallStatus::InputRequired) { 0 } else { number };
        }
        let latency = found.map(|numbers| numbers.latency.snapshot()).filter(|latency| latency.count > 0);
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean =
            latency.map_or("-".to_owned(), |latency| format!("{:.1} ms", latency.sum * 1e3 / latency.count as f64));
        (count(all), count(failed), mean)
    };
    html! {
        section aria-labelledby="backends" {
            h2 id="backends" { "Backends" }
            table {
                caption { "Backends, and their calls since startup" }
                thead { tr {
                    th scope="col" { "Backend" } th scope="col" { "Health" } th.number scope="col" { "Calls" }
                    th.number scope="col" { "Not ok" } th.number scope="col" { "Mean time" }
                } }
                tbody { @for backend in &status.backends {
                    @let (all, failed, mean) = numbers(&backend.alias);
                    tr {
                        th scope="row" { (escape_hidden(&backend.alias)) }
                        td { @if backend.up { (tag("up", "good")) } @else { (tag("down", "bad")) } }
                        td.number { (all) } td.number { (failed) } td.number { (mean) }
                    }
                } }
            }
        }
    }
}

fn stores(pipeline: &PipelineStatus) -> Markup {
    let (ring, outbox) = (&pipeline.ring, &pipeline.outbox);
    html! {
        li {
            h3 { "Ring" }
            p.big { (count(pipeline.queued)) " " small { "queued" } }
            meter aria-label="Ring in use" min="0" max=(ring.bytes_max) value=(ring.bytes) {}
            p { (count(ring.records as u64)) " of " (count(ring.records_max as u64)) " places" }
            p.quiet { (bytes(ring.bytes as u64)) " of " (bytes(ring.bytes_max as u64)) ", in memory" }
        }
        li {
            @let (word, kind) = outbox_tag(outbox);
            h3 { "Outbox " (tag(word, kind)) }
            p.big { (count(pipeline.stored)) " " small { "stored, not delivered" } }
            meter aria-label="Outbox in use" min="0" max="100" high="75" value=(outbox.percent) {}
            p { (outbox.percent) " % of " (bytes(outbox.bytes_max)) }
            p.quiet { (plural(outbox.generations as u64, "file")) ", " (outbox.generations_older) " of older epochs" }
        }
        li {
            @let (word, kind) = delivery_tag(&pipeline.postgres);
            h3 { "Postgres " (tag(word, kind)) }
            p.big { (count(pipeline.delivered)) " " small { "delivered in epoch " (pipeline.epoch) } }
            @if pipeline.postgres != ShipperState::StoreOnly {
                p { "Delay " (pipeline.oldest_undelivered_seconds.map_or("none: no record waits".to_owned(), age)) }
            }
            @if let Some(left) = pipeline.next_retry_seconds { p.quiet { "retrying in " (age(left)) } }
        }
    }
}

fn alarms(status: &Status) -> Markup {
    html! {
        section aria-labelledby="alarms" {
            h2 id="alarms" { "Alarms" }
            @if status.alarms.is_empty() { p.quiet { "No active alarms." } } @else {
                table {
                    caption { "Active alarms; the runbook says what to do about each" }
                    thead { tr { th scope="col" { "Alarm" } th scope="col" { "Since" } th scope="col" { "Found" } } }
                    tbody { @for active in &status.alarms { tr {
                        th scope="row" { a href={ "/console/docs/runbook#" (active.alarm.name()) } { (tag(active.alarm.name(), "bad")) } }
                        td { (time(active.since)) }
                        td { (escape_hidden(&active.message)) }
                    } } }
                }
            }
        }
    }
}

/// The checkpoints of this gateway, and who confirmed them.
fn evidence_section(state: &EvidenceState) -> Markup {
    html! {
        section aria-labelledby="evidence" {
            h2 id="evidence" { "Evidence" }
            @for sentence in proven(state) { p { (sentence) } }
            @if let Some(fault) = state.contradiction.as_ref().or(state.fault.as_ref()) {
                p.error { strong { "Nothing is signed" } ": " (escape_hidden(fault)) }
            }
            table {
                caption { "Signed checkpoints of the trail, by who has them" }
                thead { tr {
                    th scope="col" { "Place" } th.number scope="col" { "Records" } th scope="col" { "Confirmed" }
                    th scope="col" { "Last error" }
                } }
                tbody { @for (name, place) in &state.places { tr {
                    th scope="row" { (escape_hidden(name)) }
                    td.number { (place.last.map_or("-".to_owned(), |last| count(last.size))) }
                    td { @if let Some(last) = place.last { (time(last.at)) } @else { "not since startup" } }
                    td { (escape_hidden(place.error.as_deref().unwrap_or_default())) }
                } } }
            }
        }
    }
}

/// The part that an anchor of a kind has in a proof.
fn verb(kind: Option<AnchorKind>) -> &'static str {
    match kind {
        Some(AnchorKind::Witness) => "witnessed by",
        Some(AnchorKind::Tsa) => "stamped with the time by",
        Some(AnchorKind::S3) => "kept in the bucket",
        Some(AnchorKind::Command) | None => "confirmed by",
    }
}

/// The sentences that say up to when the trail is proven, and by whom, for each place that confirmed a checkpoint.
fn proven(state: &EvidenceState) -> Vec<Markup> {
    let confirmed = state.places.iter().filter(|(name, _)| *name != POSTGRES);
    let sentences: Vec<_> = confirmed
        .filter_map(|(name, place)| {
            let last = place.last?;
            // The records were stored before their checkpoint was signed. Of an older one only the size is known.
            let signed = state.signed.filter(|signed| signed.size == last.size);
            Some(html! {
                "Proven up to "
                @match signed {
                    Some(signed) => { (time(signed.at.min(last.at))) ", " (plural(last.size, "record")) }
                    None => { (plural(last.size, "record")) }
                }
                ", " (verb(place.kind)) " " (escape_hidden(name)) "."
            })
        })
        .collect();
    match (sentences.is_empty(), state.signed) {
        (false, _) => sentences,
        (true, Some(signed)) => vec![html! {
            "Signed up to " (time(signed.at)) ", " (plural(signed.size, "record")) ", and not confirmed by an anchor yet."
        }],
        (true, None) => vec![html! { "No checkpoint was signed since startup." }],
    }
}

fn calls(status: &Status, open_calls: &Result<Vec<Call>, String>) -> Markup {
    let listed = open_calls.as_deref().unwrap_or_default();
    let number = |count: usize, thing: &str| plural(count as u64, thing);
    html! {
        section aria-labelledby="open" {
            h2 id="open" { "Open calls" }
            p.quiet {
                (number(status.calls_open, "call")) ", " (number(status.messages_open, "message")) ", "
                (number(status.connections_open, "connection")) ", " (number(status.sessions_open, "legacy session"))
            }
            @if let Err(error) = open_calls { p.fault { (escape_hidden(error)) } }
            @if !listed.is_empty() {
                table {
                    caption { "Calls with a stored intent, the oldest " (OPEN_CALLS_SHOWN_MAX) }
                    thead { tr { th scope="col" { "Since" } th scope="col" { "Who" } th scope="col" { "Tool" } } }
                    tbody { @for call in listed.iter().take(OPEN_CALLS_SHOWN_MAX) { tr {
                        td { (date_time(call.timestamp)) }
                        td { (cell(&call.client_subject)) }
                        td { (cell(&target(call))) }
                    } } }
                }
            }
        }
    }
}

fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (date_time(at)) } }
}

fn outbox_tag(outbox: &OutboxStatus) -> (&'static str, &'static str) {
    if outbox.failed {
        ("failed", "bad")
    } else if outbox.disk_full {
        ("disk full", "bad")
    } else if outbox.full {
        ("full", "bad")
    } else if outbox.percent >= 75 {
        ("filling up", "warn")
    } else {
        ("storing", "good")
    }
}

fn delivery_tag(state: &ShipperState) -> (&'static str, &'static str) {
    match state {
        ShipperState::StoreOnly => ("not configured", "quiet"),
        ShipperState::Starting => ("starting", "warn"),
        ShipperState::Delivering => ("delivering", "good"),
        ShipperState::Retrying { .. } => ("retrying", "bad"),
        ShipperState::Held { .. } => ("blocked", "bad"),
        ShipperState::Forked { .. } => ("forked", "bad"),
    }
}

fn condition(status: &Status) -> &'static str {
    match status.condition {
        Condition::Ready => "ready",
        Condition::Degraded => "degraded",
        Condition::Failed => "failed",
    }
}

/// The status in a sentence. It changes only when the status does, since screen readers read each change aloud.
fn sentence(status: &Status) -> String {
    let down: Vec<_> = status.backends.iter().filter(|backend| !backend.up).map(|backend| &*backend.alias).collect();
    let backends = match down.as_slice() {
        [] => String::new(),
        [alias] => format!(" The backend {} is down.", escape_hidden(alias)),
        several => format!(" {} backends are down.", several.len()),
    };
    let Some(pipeline) = &status.pipeline else {
        return format!("Auditing is off: calls are not recorded.{backends}");
    };
    let well = if down.is_empty() { "All is well: calls" } else { "Calls" };
    let pipeline = if pipeline.outbox.failed {
        "The outbox cannot store: calls are refused, or continue unaudited if audit.on_failure says so.".to_owned()
    } else if pipeline.outbox.disk_full {
        "The disk of the outbox is full: calls are refused, or continue unaudited if audit.on_failure says so."
            .to_owned()
    } else if pipeline.outbox.full {
        "The outbox is full: calls are refused, or continue unaudited if audit.on_failure says so.".to_owned()
    } else {
        match &pipeline.postgres {
            ShipperState::StoreOnly => format!("{well} are audited, and records are kept in the outbox."),
            ShipperState::Delivering => format!("{well} are audited, and records are delivered to Postgres."),
            ShipperState::Starting => {
                "Calls are audited. No record is delivered to Postgres yet; records wait in the outbox.".to_owned()
            }
            ShipperState::Retrying { .. } => {
                "Postgres is not accepting records. Calls are audited; records wait in the \
                outbox, and delivery is retried."
                    .to_owned()
            }
            ShipperState::Held { .. } => {
                "Delivery is blocked by an error that an operator has to fix. Calls are audited; \
                records wait in the outbox."
                    .to_owned()
            }
            ShipperState::Forked { .. } => "A stream is forked and is not delivered; an operator has to resolve this. \
                Calls are audited; records of that stream wait in the outbox."
                .to_owned(),
        }
    };
    format!("{pipeline}{backends}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notary::{Anchored, PlaceState};
    use crate::ops::status::BackendStatus;

    #[test]
    fn evidence_says_up_to_when_and_by_whom_and_shows_text_as_text() {
        let at = |seconds: i64| Timestamp::from_micros(1_795_910_400_000_000 + seconds * 1_000_000);
        let confirmed = |size, seconds| Some(Anchored { size, at: at(seconds) });
        let place = |kind, last, error: &str| PlaceState {
            last,
            error: Some(error.to_owned()),
            ..PlaceState::new(kind, std::time::Duration::ZERO)
        };
        let evil = "<script>\u{202e}";
        let witness = Some(AnchorKind::Witness);
        let places = [
            (POSTGRES, None, confirmed(53, 1)),
            ("w1", witness, confirmed(53, 2)),
            ("w2", witness, confirmed(40, 0)),
            ("t", Some(AnchorKind::Tsa), confirmed(39, 0)),
            ("b", Some(AnchorKind::S3), confirmed(38, 0)),
            ("c", Some(AnchorKind::Command), confirmed(37, 0)),
            (evil, witness, None),
        ];
        let mut state = EvidenceState {
            anchor_max_age: std::time::Duration::from_secs(1),
            signed: confirmed(53, 0),
            places: places.map(|(name, kind, last)| (name.to_owned(), place(kind, last, evil))).into(),
            fault: Some(evil.to_owned()),
            contradiction: None,
        };
        let shown = evidence_section(&state).into_string();
        assert!(!shown.contains("<script") && !shown.contains('\u{202e}'), "{shown}");
        let date = date_time(at(0));
        assert!(shown.contains(&format!("{date}</time>, 53 records, witnessed by w1.</p>")), "{shown}");
        assert!(shown.contains("<p>Proven up to 40 records, witnessed by w2.</p>"), "{shown}");
        for sentence in
            ["39 records, stamped with the time by t.", "38 records, kept in the bucket b.", "confirmed by c."]
        {
            assert!(shown.contains(sentence), "{sentence}: {shown}");
        }
        assert_eq!(shown.matches("Proven up to").count(), 5, "Postgres proves nothing: {shown}");
        state.places.clear();
        assert!(evidence_section(&state).into_string().contains("not confirmed by an anchor yet"));
        state.signed = None;
        assert!(evidence_section(&state).into_string().contains("No checkpoint was signed since startup"));
    }

    #[test]
    fn the_sentence_names_a_backend_that_is_down_once() {
        let backend = |alias: &str, up| BackendStatus { alias: alias.to_owned(), up, items_omitted: 0 };
        let status = |backends| Status {
            condition: Condition::Degraded,
            pipeline: None,
            backends,
            calls_open: 0,
            calls_max: 1,
            messages_open: 0,
            connections_open: 0,
            sessions_open: 0,
            evidence: None,
            alarms: Vec::new(),
        };
        let one = status(vec![backend("a", true), backend("b\u{202e}", false)]);
        assert_eq!(sentence(&one), "Auditing is off: calls are not recorded. The backend b\\u{202e} is down.");
        let two = status(vec![backend("a", false), backend("b", false)]);
        assert!(sentence(&two).ends_with(" 2 backends are down."));
    }
}
