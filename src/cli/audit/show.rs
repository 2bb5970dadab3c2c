//! `gatepost audit show`: everything about one call.

use std::fmt::Write as _;

use anyhow::bail;
use serde_json::Value;

use super::super::outbox::{fields, json_lines, records_table};
use super::super::print;
use super::trail::{Trail, recorded};
use crate::config::Config;
use crate::ops::trail;
use crate::ops::words::indented_json;

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
    let filter = trail::which(&args.id).map_err(anyhow::Error::msg)?;
    let calls = trail::calls(&mut Trail::open(config).await?, &filter, args.neighbours).await?;
    if calls.is_empty() {
        bail!("no record {} in the trail; what is not delivered yet is shown by gatepost outbox show", args.id);
    }
    recorded(config, "show", Some(&filter), calls.len()).await?;
    let text = if json { json_lines(&calls) } else { in_words(&calls) };
    Ok(print(&text)?)
}

fn in_words(calls: &[Value]) -> String {
    let mut out = String::new();
    for call in calls {
        let mut record = call.get("record").cloned().unwrap_or_default();
        let args = record.as_object_mut().and_then(|object| object.remove("request_args"));
        out.push_str(&fields(&record, ""));
        if let Some(Value::String(args)) = args {
            out.push_str("request_args:\n");
            for line in indented_json(&args).lines() {
                writeln!(out, "  {line}").ok();
            }
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
