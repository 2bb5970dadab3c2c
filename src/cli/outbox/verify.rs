//! `gatepost outbox verify`

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{ask, json_lines};
use crate::cli::print;
use crate::cli::table::table;
use crate::escape::escape_hidden;
use crate::ops::inspect::Question;

pub(super) async fn run(dir: &Path, json: bool) -> anyhow::Result<()> {
    let lines = ask(dir, &Question::Verify).await?;
    let verified = lines.first().context("read what was verified")?;
    print(&if json { json_lines(&lines) } else { report(verified)? })?;
    let Some(fault) = verified.get("fault").filter(|fault| !fault.is_null()) else { return Ok(()) };
    let text = |key: &str| match fault.get(key) {
        Some(Value::String(text)) => escape_hidden(text).into_owned(),
        Some(Value::Null) | None => String::new(),
        Some(number) => number.to_string(),
    };
    let place = match (text("epoch"), text("seq")) {
        (epoch, _) if epoch.is_empty() => String::new(),
        (epoch, seq) if seq.is_empty() => format!(", epoch {epoch}"),
        (epoch, seq) => format!(", {epoch}/{seq}"),
    };
    bail!("{}{place}: {}; nothing behind it was checked", text("file"), text("what"));
}

fn report(verified: &Value) -> anyhow::Result<String> {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
    let streams = verified.get("streams").and_then(Value::as_array).cloned().unwrap_or_default();
    let row = |stream: &Value| {
        let (first, last) = (number(stream, "first"), number(stream, "last"));
        let closed = stream.get("closed").and_then(Value::as_bool) == Some(true);
        let end = if closed { "closed" } else { "open: its end cannot be checked" };
        vec![number(stream, "epoch").to_string(), first.to_string(), last.to_string(), end.to_owned()]
    };
    let mut text = table(&["EPOCH", "FIRST", "LAST", "END"], &streams.iter().map(row).collect::<Vec<_>>());
    let (records, files) = (number(verified, "records"), number(verified, "files"));
    writeln!(text, "\n{records} records in {files} files: checksums, seq, chain, open calls")?;
    if let Some(begin) = verified.get("begins_behind").filter(|begin| !begin.is_null()) {
        let hash = begin.get("hash").and_then(Value::as_str).unwrap_or_default();
        let why = match begin.get("pruned_by").and_then(Value::as_array).map(Vec::as_slice) {
            Some([epoch, seq]) => format!("what is before it was pruned, as gateway/pruned at {epoch}/{seq} says"),
            _ => "what is before it was delivered and forgotten, or removed".to_owned(),
        };
        let (epoch, seq) = (number(begin, "epoch"), number(begin, "seq"));
        writeln!(text, "the trail begins behind {epoch}/{seq} ({hash}): {why}")?;
    }
    let (lost, open) = (number(verified, "lost"), number(verified, "open"));
    if lost > 0 {
        writeln!(text, "{lost} of them are gap records in the place of lost ones")?;
    }
    if open > 0 {
        writeln!(
            text,
            "{open} calls are open, or were when the gateway died: its next start ends them as interrupted"
        )?;
    }
    if verified.get("fault").is_none_or(Value::is_null) {
        text.push_str("no fault\n");
    }
    Ok(text)
}
