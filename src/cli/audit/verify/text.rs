//! The report for people.

use std::fmt::Write as _;

use crate::audit::record::Timestamp;
use crate::audit::verify::{Ending, Report, Selection, Source, StreamReport, Verdict};
use crate::cli::exit::{FAILED, NOT_PROVEN};
use crate::cli::table::{Column, Kind, table};
use crate::cli::terminal::{Terminal, Tone};
use crate::counts::plural;
use crate::escape::escape_hidden;
use crate::ops::trail_check::FAULTS_MAX;

/// The last line, which says no more than was checked, and the exit code. `file_time` is the time of the heads of
/// `--expect`; with a policy, checkpoints may have confirmed the ends.
pub(super) fn conclusion(report: &Report, file_time: Option<Timestamp>, has_policy: bool) -> (String, u8) {
    let records = format!("{} in {}", plural(report.records, "record"), plural(report.streams_count, "stream"));
    let (mut text, code) = match report.verdict {
        Verdict::Faulty => {
            (format!("{}: the trail is not what its gateways recorded", plural(report.faults_count, "fault")), FAILED)
        }
        Verdict::NotProven => {
            let is = if report.unproven_count == 1 { "is" } else { "are" };
            let parts = plural(report.unproven_count, "part");
            (format!("no fault found in {records}; {parts} {is} not proven"), NOT_PROVEN)
        }
        Verdict::Proven if file_time.is_some() => (format!("no fault found in {records}"), 0),
        Verdict::Proven if has_policy => {
            (format!("no fault found in {records}; signed checkpoints or the live gateway confirm their ends"), 0)
        }
        Verdict::Proven => (format!("no fault found in {records}; the live gateway confirms their ends"), 0),
    };
    if let Some(time) = file_time {
        let later = report.records.saturating_sub(report.confirmed);
        let (later, rest) = (plural(later, "later record"), if later == 1 { "rests" } else { "rest" });
        let store = if report.is_of_postgres() { "database" } else { "directory" };
        write!(text, "; the heads of --expect are of {time}, and {later} {rest} on the word of this {store} alone")
            .ok();
    }
    (text, code)
}

/// The columns of the table of streams.
const COLUMNS: [Column; 8] = [
    Column::new("GATEWAY", Kind::Id),
    Column::new("EPOCH", Kind::Fixed),
    Column::new("LAST SEQ", Kind::Fixed),
    Column::new("RECORDS", Kind::Fixed),
    Column { rank: 2, ..Column::new("QUARANTINED", Kind::Fixed) },
    Column::new("LOST", Kind::Fixed),
    Column { rank: 3, ..Column::new("GAP RECORDS", Kind::Fixed) },
    Column { rank: 1, ..Column::new("ENDED", Kind::Fixed) },
];

/// The whole report. `unbound` are the columns that no hash binds.
pub(super) fn text(report: &Report, unbound: &[&str], conclusion: &str, terminal: Terminal) -> String {
    let mut out = report.source.as_ref().map(about).unwrap_or_default();
    out += &table(&COLUMNS, report.streams.iter().map(row).collect(), terminal);
    let not_listed = report.streams_count.saturating_sub(report.streams.len() as u64);
    if not_listed > 0 {
        writeln!(out, "and {} before these", plural(not_listed, "stream")).ok();
    }
    let (records, streams) = (plural(report.records, "record"), plural(report.streams_count, "stream"));
    writeln!(out, "\nchecked: {records} in {streams}").ok();
    decisions(report, &mut out);
    for unproven in &report.unproven {
        let heading = if unproven.counts { terminal.paint(Tone::Notable, "not proven") } else { "note".to_owned() };
        let kind = unproven.kind;
        writeln!(out, "{heading}: {}: {} ({kind})", unproven.place, escape_hidden(&unproven.what)).ok();
    }
    let listed = report.unproven.iter().filter(|unproven| unproven.counts).count() as u64;
    not_listed_of(report.unproven_count.saturating_sub(listed), "part", &mut out);
    if report.is_of_postgres() {
        writeln!(out, "note: in no hash, and so never proven: {}", unbound.join(", ")).ok();
    }
    if !report.faults.is_empty() {
        out.push('\n');
    }
    for fault in &report.faults {
        let kind = terminal.paint(Tone::Bad, &fault.kind.to_string());
        writeln!(out, "{kind}: {}: {}", fault.place, escape_hidden(&fault.what)).ok();
    }
    not_listed_of(report.faults_count.saturating_sub(report.faults.len() as u64), "fault", &mut out);
    let tone = match report.verdict {
        Verdict::Faulty => Tone::Bad,
        Verdict::NotProven => Tone::Notable,
        Verdict::Proven => Tone::Good,
    };
    writeln!(out, "\n{}", terminal.paint(tone, conclusion)).ok();
    out
}

fn not_listed_of(count: u64, thing: &str, out: &mut String) {
    if count > 0 {
        writeln!(out, "and {} more; --faults lists up to {FAULTS_MAX}", plural(count, thing)).ok();
    }
}

/// When, what, and as whom.
fn about(source: &Source) -> String {
    let mut out = format!("checked at {} by gatepost {}\n", source.checked_at, source.version);
    let text = |value: &Option<String>| escape_hidden(value.as_deref().unwrap_or("?")).into_owned();
    if source.store == "postgres" {
        let replica = if source.replica == Some(true) { ", a replica" } else { "" };
        writeln!(out, "server {}, Postgres {}{replica}", text(&source.server), text(&source.server_version)).ok();
        let (database, schema, owner) = (text(&source.database), text(&source.schema), text(&source.owner));
        let (role, snapshot) = (text(&source.role), text(&source.snapshot));
        writeln!(out, "database {database}, schema {schema} of {owner}, read as {role}, snapshot {snapshot}").ok();
    } else {
        writeln!(out, "outbox {}", text(&source.directory)).ok();
    }
    if !source.selection.is_all() {
        writeln!(out, "only {}, and the neighbours", selection(&source.selection)).ok();
    }
    out.push('\n');
    out
}

fn selection(selection: &Selection) -> String {
    let parts = [
        selection.gateway.map(|gateway| format!("gateway {gateway}")),
        selection.epoch.map(|epoch| format!("epoch {epoch}")),
        selection.since.map(|since| format!("since {since}")),
        selection.until.map(|until| format!("until {until}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn decisions(report: &Report, out: &mut String) {
    for listed in &report.decisions {
        let decision = &listed.decision;
        let counts = if listed.confirmed { "excuses" } else { "is new and not confirmed; it would excuse" };
        let excuses = plural(listed.excuses, "finding");
        let [kind, by, reason] = [&decision.kind, &decision.by, &decision.reason].map(|text| escape_hidden(text));
        let (epoch, seq) = (decision.position.epoch, decision.position.seq);
        let (method, place) = (&decision.method, &decision.place);
        writeln!(out, "decision {epoch}/{seq}: {method} {kind}: {place}: by {by}: {reason}: {counts} {excuses}").ok();
    }
}

fn row(stream: &StreamReport) -> Vec<String> {
    let StreamReport { gateway_id, epoch, last, records, quarantined, lost, gaps, ended } = stream;
    let ended = match ended {
        Ending::Closed => "closed",
        Ending::Open => "open",
        Ending::Crashed => "crashed",
    };
    let mut row = vec![gateway_id.to_string(), epoch.to_string(), last.to_string()];
    row.extend([records, quarantined, lost, gaps].map(ToString::to_string));
    row.push(ended.to_owned());
    row
}
