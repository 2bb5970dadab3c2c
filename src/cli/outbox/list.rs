//! `gatepost outbox list`

use std::path::Path;

use serde_json::Value;

use super::{Place, Which, ask, json_lines, place_of, records_table};
use crate::audit::query::LIMIT_MAX;
use crate::cli::table::table;
use crate::cli::{complain, print};
use crate::ops::inspect::Question;

/// `gatepost outbox list`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// At most so many; more than 10000 are a job for export
    #[arg(long, default_value_t = 50, value_parser = limit)]
    limit: usize,
    /// The first ones behind this place instead of the newest ones
    #[arg(long, value_name = "EPOCH/SEQ")]
    after: Option<Place>,
    /// Calls that are open, or were when the gateway died, instead of records
    #[arg(long, conflicts_with = "after")]
    intents: bool,
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| format!("1 to {LIMIT_MAX}; go on with --after EPOCH/SEQ, or use export"))
}

pub(super) async fn run(dir: &Path, args: &Args, json: bool) -> anyhow::Result<()> {
    if args.intents {
        let intents = ask(dir, &Question::Intents).await?;
        return Ok(print(&if json { json_lines(&intents) } else { intents_table(&intents) })?);
    }
    let filter = args.which.filter(args.limit);
    let question = match args.after {
        None => Question::Records { filter },
        Some(Place { epoch, seq }) => {
            Question::Scan { filter, after: Some((epoch, seq)), limit: u64::try_from(args.limit).ok() }
        }
    };
    let mut records = ask(dir, &question).await?;
    let more = records.pop_if(|last| last.get("at").is_some()).and_then(|end| end.get("more")?.as_bool());
    print(&if json { json_lines(&records) } else { records_table(&records) })?;
    match (more, records.last().and_then(place_of)) {
        (Some(true), Some(Place { epoch, seq })) => complain(&format!("there are more: --after {epoch}/{seq}")),
        (None, _) if records.len() == args.limit => {
            complain("the newest only; from the oldest on with --after 0/0, all with gatepost outbox export");
        }
        _ => {}
    }
    Ok(())
}

fn intents_table(intents: &[Value]) -> String {
    let text = |intent: &Value, key: &str| intent.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |intent: &Value| {
        let target = format!("{}/{}", text(intent, "backend_name"), text(intent, "tool_name"));
        vec![text(intent, "request_id"), text(intent, "timestamp"), text(intent, "client_subject"), target]
    };
    table(&["REQUEST ID", "SINCE", "WHO", "BACKEND/TOOL"], &intents.iter().map(row).collect::<Vec<_>>())
}
