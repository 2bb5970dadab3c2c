//! `gatepost outbox`: looks into the outbox of a live gateway, or of a dead one's directory, and changes nothing.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::Value;
use uuid::Uuid;

use super::table::{RECORD_HEADINGS, record_row, table};
use super::{NO_OUTBOX, Source, blocking, complain, print};
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{Reader, lock};
use crate::audit::query::Filter;
use crate::ops::admin;
use crate::ops::inspect::{self, Question};

/// `gatepost outbox`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the outbox holds, and what a live gateway is doing
    Stats,
    /// The newest stored records, oldest first
    List {
        /// Only these: ok, denied, interrupted, ...
        #[arg(long)]
        status: Option<String>,
        /// Only this epoch's
        #[arg(long)]
        epoch: Option<u64>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Calls that are open, or were when the gateway died, instead of records
        #[arg(long)]
        intents: bool,
    },
    /// One record in full, by request id or by EPOCH/SEQ
    Show {
        /// A request id, or EPOCH/SEQ
        which: String,
    },
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match args.source.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let dir = config.audit.dir;
    if !dir.is_dir() {
        complain(&format!(
            "{} is no outbox directory; name one with --dir, or the configuration with --config",
            dir.display()
        ));
        return ExitCode::from(NO_OUTBOX);
    }
    blocking(answer(&dir, args))
}

/// Asks a live gateway through its socket, a dead one's files directly.
pub(super) async fn ask(dir: &Path, question: &Question) -> anyhow::Result<Vec<Value>> {
    let holder = lock::holder(dir).with_context(|| format!("look at the lock of {}", dir.display()))?;
    if let Some(holder) = holder {
        let asked = admin::ask(dir, question).await;
        return asked
            .with_context(|| format!("ask the live gateway ({holder}) at {}", dir.join(admin::SOCKET_NAME).display()));
    }
    let reader = Reader::of_dead(Arc::new(DiskFs), dir)?;
    Ok(inspect::answer(question, &reader, None)?)
}

async fn answer(dir: &Path, args: &Args) -> anyhow::Result<()> {
    let question = match &args.command {
        Command::Stats => Question::Stats,
        Command::List { intents: true, .. } => Question::Intents,
        Command::List { status, epoch, limit, .. } => Question::Records {
            filter: Box::new(Filter { status: status.clone(), epoch: *epoch, limit: *limit, ..Filter::default() }),
        },
        Command::Show { which } => Question::Records { filter: Box::new(which_record(which)?) },
    };
    let lines = ask(dir, &question).await?;
    if let Command::Show { which } = &args.command
        && lines.is_empty()
    {
        bail!("no stored record {which} in {}; it may have been delivered: try gatepost audit query", dir.display());
    }
    let text = match &args.command {
        _ if args.source.json => json_lines(&lines),
        Command::List { intents: false, .. } => records_table(&lines),
        Command::List { .. } => intents_table(&lines),
        Command::Stats | Command::Show { .. } => lines.iter().map(|line| fields(line, "")).collect(),
    };
    Ok(print(&text)?)
}

fn which_record(which: &str) -> anyhow::Result<Filter> {
    if let Ok(id) = which.parse::<Uuid>() {
        return Ok(Filter { request_id: Some(id), limit: 1, ..Filter::default() });
    }
    let place = which.split_once('/').and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)));
    let (epoch, seq) =
        place.with_context(|| format!("{which:?} is neither a request id nor EPOCH/SEQ, as in 3/1024"))?;
    Ok(Filter { epoch: Some(epoch), seq: Some(seq), limit: 1, ..Filter::default() })
}

pub(super) fn json_lines(lines: &[Value]) -> String {
    lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n")
}

pub(super) fn records_table(records: &[Value]) -> String {
    table(&RECORD_HEADINGS, &records.iter().map(record_row).collect::<Vec<_>>())
}

fn intents_table(intents: &[Value]) -> String {
    let text = |intent: &Value, key: &str| intent.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |intent: &Value| {
        let target = format!("{}/{}", text(intent, "backend_name"), text(intent, "tool_name"));
        vec![text(intent, "request_id"), text(intent, "timestamp"), text(intent, "client_subject"), target]
    };
    table(&["REQUEST ID", "SINCE", "WHO", "BACKEND/TOOL"], &intents.iter().map(row).collect::<Vec<_>>())
}

/// An object as lines of `key: value`, inner ones as `outer.inner`.
pub(super) fn fields(value: &Value, prefix: &str) -> String {
    match value {
        Value::Object(map) => {
            let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            map.iter().map(|(key, inner)| fields(inner, &name(key))).collect()
        }
        Value::Array(items) if items.is_empty() => format!("{prefix}: none\n"),
        Value::Array(items) => {
            items.iter().enumerate().map(|(idx, inner)| fields(inner, &format!("{prefix}[{idx}]"))).collect()
        }
        Value::String(text) => format!("{prefix}: {}\n", visible(text)),
        Value::Null => format!("{prefix}: -\n"),
        other => format!("{prefix}: {other}\n"),
    }
}

/// Text whose control characters are written as escapes, so that a terminal shows them and does not obey them.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect()
}
