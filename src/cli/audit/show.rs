//! `gatepost audit show`: everything about one call.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::outbox::{fields, json_lines, records_table};
use super::super::print;
use super::trail::{Trail, explained, recorded};
use crate::audit::query::{self, Filter};
use crate::config::Config;

/// Requests of one user-visible call that are shown. *Chosen*: a person answers fewer questions.
const RELATED_MAX: usize = 100;

/// Records of one place or id that are shown: gateways may have the same epoch and seq.
const FOUND_MAX: usize = 10;

/// `gatepost audit show`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A request id, EPOCH/SEQ, or GATEWAY/EPOCH/SEQ
    id: String,
    /// Records before and behind it in its stream
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=100))]
    neighbours: u64,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let filter = Filter { limit: FOUND_MAX, ..which(&args.id)? };
    let mut trail = Trail::open(config).await?;
    let mut calls = Vec::new();
    if let Trail::Postgres(connection) = &mut trail {
        let found = query::quarantined(connection, &filter).await;
        for (record, why) in found.map_err(|error| explained("query audit_quarantine", error))? {
            calls.push(json!({ "record": record, "quarantined": why }));
        }
    }
    for record in trail.records(filter.clone()).await? {
        calls.push(json!({ "record": record }));
    }
    if calls.is_empty() {
        bail!("no record {} in the trail; what is not delivered yet is shown by gatepost outbox show", args.id);
    }
    for call in &mut calls {
        let record = call.get("record").cloned().unwrap_or_default();
        let neighbours = neighbours(&mut trail, &record, args.neighbours).await?;
        let related = related(&mut trail, &record).await?;
        if let Some(object) = call.as_object_mut() {
            object.insert("neighbours".to_owned(), neighbours.into());
            object.insert("same_call".to_owned(), related.into());
        }
    }
    recorded(config, "show", Some(&filter), calls.len()).await?;
    let text = if json { json_lines(&calls) } else { in_words(&calls) };
    Ok(print(&text)?)
}

fn which(id: &str) -> anyhow::Result<Filter> {
    if let Ok(id) = id.parse::<Uuid>() {
        return Ok(Filter { request_id: Some(id), ..Filter::default() });
    }
    let parse = || {
        let mut parts = id.rsplit('/');
        let (seq, epoch) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let gateway_id = parts.next().map(str::parse::<Uuid>).transpose().ok()?;
        let filter = Filter { gateway_id, epoch: Some(epoch), seq: Some(seq), ..Filter::default() };
        parts.next().is_none().then_some(filter)
    };
    parse()
        .with_context(|| format!("{id:?} is neither a request id nor EPOCH/SEQ, as in 3/1024, nor GATEWAY/EPOCH/SEQ"))
}

fn number(record: &Value, key: &str) -> u64 {
    record.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn uuid(record: &Value, key: &str) -> Option<Uuid> {
    record.get(key)?.as_str()?.parse().ok()
}

async fn neighbours(trail: &mut Trail, record: &Value, reach: u64) -> anyhow::Result<Vec<Value>> {
    if reach == 0 {
        return Ok(Vec::new());
    }
    let (epoch, seq) = (number(record, "epoch"), number(record, "seq"));
    let (gateway_id, first) = (uuid(record, "gateway_id"), seq.saturating_sub(reach).max(1));
    let limit = usize::try_from(2 * reach + 1).unwrap_or(usize::MAX);
    let after = Some((epoch, first - 1));
    let filter = Filter { gateway_id, epoch: Some(epoch), after, limit, ..Filter::default() };
    let mut found = trail.records(filter).await?;
    found.retain(|record| number(record, "seq") <= seq + reach);
    Ok(found)
}

/// A call that needs input is several requests: the later ones bear the id of the first one as their session.
async fn related(trail: &mut Trail, record: &Value) -> anyhow::Result<Vec<Value>> {
    let (Some(gateway_id), Some(own)) = (uuid(record, "gateway_id"), uuid(record, "request_id")) else {
        return Ok(Vec::new());
    };
    let gateway_id = Some(gateway_id);
    let asks = |record: &Value| record.get("response_status").and_then(Value::as_str) == Some("input_required");
    for origin in uuid(record, "session_id").into_iter().chain([own]) {
        let filter = Filter { gateway_id, request_id: Some(origin), limit: 1, ..Filter::default() };
        let first = trail.records(filter).await?;
        // Otherwise it is the id of a legacy session, or the call asked for nothing.
        if !first.first().is_some_and(asks) {
            continue;
        }
        let since_micros = origin.get_timestamp().map(|time| time.to_unix().0.cast_signed().saturating_mul(1_000_000));
        let session_id = Some(origin.to_string());
        let filter = Filter { gateway_id, session_id, since_micros, limit: RELATED_MAX, ..Filter::default() };
        let later = trail.records(filter).await?;
        return Ok(first.into_iter().chain(later).collect());
    }
    Ok(Vec::new())
}

fn in_words(calls: &[Value]) -> String {
    let mut out = String::new();
    for call in calls {
        let mut record = call.get("record").cloned().unwrap_or_default();
        let args = record.as_object_mut().and_then(|object| object.remove("request_args"));
        out.push_str(&fields(&record, ""));
        if let Some(Value::String(args)) = args {
            writeln!(out, "request_args:\n{}", pretty(&args)).ok();
        }
        if let Some(why) = call.get("quarantined") {
            out.push_str(&fields(why, "quarantined"));
        }
        let tables = [("neighbours", "in its stream"), ("same_call", "requests of the same call")];
        for (key, title) in tables {
            let records = call.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            if !records.is_empty() {
                write!(out, "\n{title}:\n{}", records_table(records)).ok();
            }
        }
        out.push('\n');
    }
    out
}

/// Arguments with a member a line, where they are JSON as serde reads it; numbers and repeated keys are those of the
/// exact text only in `--json`.
fn pretty(args: &str) -> String {
    let value = serde_json::from_str::<Value>(args);
    let text = value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| args.to_owned());
    let visible = |c: char| if c.is_control() && c != '\n' { c.escape_debug().to_string() } else { c.to_string() };
    text.lines()
        .map(|line| format!("  {}", line.chars().map(visible).collect::<String>()))
        .collect::<Vec<_>>()
        .join("\n")
}
