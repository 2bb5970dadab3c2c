//! `gatepost audit verify`: whether the trail is whole and unchanged, and what of that cannot be known.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use serde_json::Value;

use super::super::print;
use super::super::progress::Progress;
use super::super::table::table;
use super::trail::{connect, explained, outbox, recorded};
use crate::audit::query;
use crate::config::Config;
use crate::escape::escape_hidden;
use crate::ops::inspect::Question;
use crate::ops::reads::FAULTS_MAX;

/// What no check of the rows can tell.
const UNCHECKED: [&str; 4] = [
    "not checked: what a gateway holds in its outbox and has not delivered yet (gatepost outbox stats)",
    "not checked: whether a whole gateway, or its newest epochs with their cursors, were removed",
    "not checked: whether someone who may write all tables made a whole stream anew; there are no signatures yet",
    "not checked: the contents of lost records, of which the hash alone is left",
];

/// `gatepost audit verify`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List at most so many faults; all are counted
    #[arg(long, default_value_t = 100, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=FAULTS_MAX as u64))]
    faults: usize,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let mut report = if let Some(url) = &config.postgres.url {
        let mut connection = connect(config, url).await?;
        let mut progress = Progress::new();
        let report = query::verify(&mut connection, args.faults, |count| progress.show(count)).await;
        progress.clear();
        serde_json::to_value(report.map_err(|error| explained("check the trail", error))?)?
    } else {
        let answer = outbox(&config.audit.dir, &Question::CheckTrail { faults_max: args.faults }).await?;
        answer.into_iter().next().context("the gateway gave no answer")?
    };
    if let Some(object) = report.as_object_mut() {
        object.insert("unchecked".to_owned(), UNCHECKED.iter().map(|&line| Value::from(line)).collect());
    }
    let rows = usize::try_from(number(&report, "records")).unwrap_or(usize::MAX);
    recorded(config, "verify", None, rows).await?;
    print(&if json { format!("{report}\n") } else { in_words(&report) })?;
    if report.get("whole") != Some(&Value::Bool(true)) {
        bail!("the trail is not whole: {} faults", number(&report, "faults_count"));
    }
    Ok(())
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn rows(report: &Value, key: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let list = report.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|row| columns.iter().map(|column| text(row, column)).collect()).collect()
}

fn in_words(report: &Value) -> String {
    let mut out = String::new();
    let headings = ["GATEWAY", "EPOCH", "LAST SEQ", "RECORDS", "QUARANTINED", "LOST", "GAP RECORDS", "ENDED"];
    let columns = ["gateway_id", "epoch", "last", "records", "quarantined", "lost", "gaps", "ended"];
    let streams = rows(report, "streams", &columns);
    out.push_str(&table(&headings, &streams));
    let left_out = number(report, "streams_count").saturating_sub(streams.len() as u64);
    if left_out > 0 {
        writeln!(out, "and {left_out} streams before these").ok();
    }
    let faults = number(report, "faults_count");
    let (records, streams) = (number(report, "records"), number(report, "streams_count"));
    writeln!(
        out,
        "\nchecked: {records} records in {streams} streams: places, links, hashes, cursors, quarantine, counts"
    )
    .ok();
    for note in report.get("notes").and_then(Value::as_array).into_iter().flatten() {
        writeln!(out, "not checked: {}", note.as_str().unwrap_or_default()).ok();
    }
    for line in UNCHECKED {
        writeln!(out, "{line}").ok();
    }
    if faults == 0 {
        out.push_str("the trail is whole\n");
        return out;
    }
    out.push('\n');
    for row in rows(report, "faults", &["kind", "gateway_id", "epoch", "seq", "what"]) {
        if let [kind, gateway, epoch, seq, what] = row.as_slice() {
            writeln!(out, "{kind}: gateway {gateway} epoch {epoch} seq {seq}: {}", escape_hidden(what)).ok();
        }
    }
    let listed = report.get("faults").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    if listed < faults {
        writeln!(out, "and {} faults more; --faults lists up to {FAULTS_MAX}", faults - listed).ok();
    }
    out
}
