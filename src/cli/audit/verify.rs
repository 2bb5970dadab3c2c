//! `gatepost audit verify`: checks that the trail is complete and unchanged, and lists what cannot be checked.

use std::fmt::Write as _;

use anyhow::bail;
use serde::Serialize;

use crate::audit::verify::{Ending, Report, StreamReport};
use crate::cli::output::{json_line, print};
use crate::cli::progress::Progress;
use crate::cli::table::table;
use crate::cli::trail;
use crate::config::Config;
use crate::escape::escape_hidden;
use crate::ops::format::plural;
use crate::ops::read_log::ReadCommand;
use crate::ops::trail_check::FAULTS_MAX;

/// The limits of any check of the records.
const UNCHECKED: [&str; 4] = [
    "not checked: undelivered records in the outbox of a gateway (see gatepost outbox stats)",
    "not checked: whether all records and cursors of a gateway, or of its newest epochs, were removed",
    "not checked: whether someone with write access to all tables replaced a whole stream; records are not signed yet",
    "not checked: the contents of lost records, of which only the hash is left",
];

/// `gatepost audit verify`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Most faults to list; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=FAULTS_MAX as u64))]
    faults: usize,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct JsonReport<'a> {
    #[serde(flatten)]
    report: &'a Report,
    unchecked: [&'static str; 4],
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let mut trail = trail::open(config).await?;
    let mut progress = Progress::new();
    let report = trail.verify(args.faults, |count| progress.show(count)).await;
    progress.clear();
    let report = report?;
    trail::record_read(config, &trail, ReadCommand::Verify, None, report.records).await?;
    let shown = if json { json_line(&JsonReport { report: &report, unchecked: UNCHECKED })? } else { text(&report) };
    // The exit code has the verdict even if the report has no reader.
    let printed = print(&shown);
    if !report.whole {
        bail!("the trail is not complete and unchanged: {}", plural(report.faults_count, "fault"));
    }
    Ok(printed?)
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

fn text(report: &Report) -> String {
    let headings = ["GATEWAY", "EPOCH", "LAST SEQ", "RECORDS", "QUARANTINED", "LOST", "GAP RECORDS", "ENDED"];
    let mut out = table(&headings, &report.streams.iter().map(row).collect::<Vec<_>>());
    let not_listed = report.streams_count.saturating_sub(report.streams.len() as u64);
    if not_listed > 0 {
        writeln!(out, "and {} before these", plural(not_listed, "stream")).ok();
    }
    writeln!(
        out,
        "\nchecked: {} in {}: positions, links, hashes, cursors, quarantine, counts",
        plural(report.records, "record"),
        plural(report.streams_count, "stream")
    )
    .ok();
    for note in &report.notes {
        writeln!(out, "not checked: {}", escape_hidden(note)).ok();
    }
    for line in UNCHECKED {
        writeln!(out, "{line}").ok();
    }
    if report.faults_count == 0 {
        out.push_str("the trail is complete and unchanged\n");
        return out;
    }
    out.push('\n');
    for fault in &report.faults {
        let seq = fault.seq.map_or("-".to_owned(), |seq| seq.to_string());
        let (kind, gateway, epoch, what) = (fault.kind.as_str(), fault.gateway_id, fault.epoch, &fault.what);
        writeln!(out, "{kind}: gateway {gateway} epoch {epoch} seq {seq}: {}", escape_hidden(what)).ok();
    }
    let not_listed = report.faults_count.saturating_sub(report.faults.len() as u64);
    if not_listed > 0 {
        writeln!(out, "and {} more; --faults lists up to {FAULTS_MAX}", plural(not_listed, "fault")).ok();
    }
    out
}
