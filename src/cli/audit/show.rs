//! `gatepost audit show`: everything about one call.

use std::fmt::Write as _;

use anyhow::bail;

use crate::cli::output::{json_lines, print};
use crate::cli::record_view::{Arguments, record_fields, records_table};
use crate::cli::table_args::TableArgs;
use crate::cli::terminal::Terminal;
use crate::cli::trail;
use crate::config::Config;
use crate::escape::escape_hidden;
use crate::ops::headline::headline;
use crate::ops::read_log::ReadCommand;
use crate::ops::record_ref::parse_record_ref;
use crate::ops::trail::CallDetails;

/// `gatepost audit show`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A request id, EPOCH/SEQ or GATEWAY/EPOCH/SEQ
    #[arg(value_name = "RECORD")]
    id: String,
    /// Number of records before and after it in its stream to print
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=100))]
    neighbours: u64,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    let filter = parse_record_ref(&args.id).map_err(anyhow::Error::msg)?;
    let mut trail = trail::open(config).await?;
    let calls = trail.call_details(&filter, args.neighbours).await?;
    if calls.is_empty() {
        bail!("no record {} in the trail; for records that are not delivered yet use gatepost outbox show", args.id);
    }
    trail::record_read(config, &trail, ReadCommand::Show, Some(&filter), calls.len() as u64).await?;
    Ok(print(&if json { json_lines(&calls)? } else { calls.iter().map(|call| text(call, terminal)).collect() })?)
}

fn text(call: &CallDetails, terminal: Terminal) -> String {
    let CallDetails { record, quarantined, rule, neighbours, same_call, .. } = call;
    let mut out = format!("{}\n\n", escape_hidden(&headline(record)));
    out += &record_fields(record, Arguments::Indented);
    if let Some(rule) = rule {
        writeln!(out, "rule: {}", escape_hidden(rule)).ok();
    }
    if let Some(reason) = quarantined {
        writeln!(out, "quarantined: {}", escape_hidden(reason)).ok();
    }
    for (records, title) in [(neighbours, "in its stream"), (same_call, "requests of the same call")] {
        if !records.is_empty() {
            write!(out, "\n{title}:\n{}", records_table(records, &TableArgs::default(), terminal)).ok();
        }
    }
    out.push('\n');
    out
}
