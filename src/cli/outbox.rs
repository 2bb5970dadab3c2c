//! `gatepost outbox`: looks into the outbox of a live gateway, or of a dead one's directory. All but
//! `requeue`, `prune` and `drain` change nothing.
//!
//! A live gateway is asked through its admin socket, a dead one's files directly; the answers are the same. They pass line
//! by line, so that none is in memory as a whole.

mod drain;
mod export;
mod list;
mod prune;
mod requeue;
mod show;
mod stats;
mod tail;
mod verify;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::Value;
use uuid::Uuid;

use super::matching::Matching;
use super::progress::Progress;
use super::table::{RECORD_HEADINGS, record_row, table};
use super::{BAD_CONFIG, NO_OUTBOX, Source, blocking, complain, serve};
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{self, Reader, lock};
use crate::audit::query::Filter;
use crate::escape::escape_hidden;
use crate::ops::admin;
use crate::ops::background;
use crate::ops::inspect::{self, Question};

/// `gatepost outbox`
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 success; 1 it failed, or verify found a fault; 2 bad usage or configuration; \
                        3 the directory is no outbox.")]
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
    /// Stored records: the newest that match, or those behind --after; oldest first
    List(list::Args),
    /// One record in full, by request id or by EPOCH/SEQ
    Show(show::Args),
    /// The newest stored records and, with --follow, those that come
    Tail(tail::Args),
    /// Whether all that is stored is whole and unchanged: CRC, seq, chain, open calls
    Verify,
    /// All stored records that match, as JSON lines or CSV
    Export(export::Args),
    /// Offer to `audit_log` again what it refused and `audit_quarantine` keeps
    Requeue(requeue::Args),
    /// Remove the oldest files for good, in a store-only deployment; asks, and is recorded
    Prune(prune::Args),
    /// Deliver to Postgres what a dead gateway left, and close its stream
    Drain(drain::Args),
}

/// Which records.
#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    matching: Matching,
    /// Only this epoch's
    #[arg(long)]
    epoch: Option<u64>,
}

impl Which {
    fn filter(&self, limit: usize) -> Box<Filter> {
        Box::new(Filter { epoch: self.epoch, limit, ..self.matching.filter() })
    }
}

/// A place, written EPOCH/SEQ.
#[derive(Clone, Copy, Debug)]
struct Place {
    epoch: u64,
    seq: u64,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.split_once('/').and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)));
        let (epoch, seq) = place.ok_or_else(|| format!("{text:?} is no EPOCH/SEQ, as in 3/1024"))?;
        Ok(Self { epoch, seq })
    }
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match args.source.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let (dir, json) = (config.audit.dir.clone(), args.source.json);
    if let Command::Requeue(args) = &args.command {
        // It is about Postgres alone.
        return settled(config.postgres.url.is_none().then_some(requeue::NO_URL), requeue::run(&config, args, json));
    }
    if let Err(what) = is_outbox(&dir) {
        complain(&format!(
            "{} is no outbox directory: {what}; name one with --dir, or the configuration with --config",
            dir.display()
        ));
        return ExitCode::from(NO_OUTBOX);
    }
    if !matches!(args.command, Command::Drain(_) | Command::Prune(_)) {
        background::give_way();
    }
    match &args.command {
        Command::Drain(args) => settled(drain::fault(&config), drain::run(&config, args, json)),
        Command::Prune(args) => settled(args.fault(&config), prune::run(&config, args, json)),
        Command::Requeue(_) => ExitCode::SUCCESS,
        Command::Stats => settled(None, stats::run(&dir, json)),
        Command::List(args) => settled(None, list::run(&dir, args, json)),
        Command::Show(args) => settled(None, show::run(&dir, args, json)),
        Command::Tail(args) => settled(None, tail::run(&dir, args, json)),
        Command::Verify => settled(None, verify::run(&dir, json)),
        Command::Export(args) => settled(args.fault(&dir).as_deref(), export::run(&dir, args)),
    }
}

/// Complains of a fault in what was asked for, or does the work.
fn settled(fault: Option<&str>, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    if let Some(fault) = fault {
        complain(fault);
        return ExitCode::from(BAD_CONFIG);
    }
    let mut newer = false;
    let code = blocking(async {
        let done = work.await;
        newer = done.as_ref().is_err_and(is_newer);
        done
    });
    if newer { ExitCode::from(NO_OUTBOX) } else { code }
}

/// Whether a newer Gatepost wrote the outbox.
fn is_newer(error: &anyhow::Error) -> bool {
    let newer = |error: &outbox::OutboxError| matches!(error, outbox::OutboxError::NewerFormat { .. });
    let served = |error: &serve::Error| matches!(error, serve::Error::Outbox(error) if newer(error));
    error.chain().any(|cause| {
        cause.downcast_ref::<outbox::OutboxError>().is_some_and(newer)
            || cause.downcast_ref::<serve::Error>().is_some_and(served)
    })
}

/// An outbox has generation files, or at least the lock file of one that nothing was stored in yet.
fn is_outbox(dir: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|error| error.to_string())?;
    let ours = |name: &str| name == lock::LOCK_NAME || name.starts_with("outbox-");
    let found = entries.filter_map(Result::ok).any(|entry| entry.file_name().to_str().is_some_and(ours));
    if found { Ok(()) } else { Err("there is no outbox file in it".to_owned()) }
}

/// Asks, and gives each line of the answer to `take` as it comes. Lines of progress go to the terminal, if there is one.
async fn each(dir: &Path, question: &Question, take: &mut dyn FnMut(Value) -> io::Result<()>) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    let mut take = |line: Value| {
        if let Some(done) = line.get("progress") {
            // Without a number it says only that the work goes on.
            if let Some(records) = done.get("records").and_then(Value::as_u64) {
                progress.show(records);
            }
            return Ok(());
        }
        progress.clear();
        take(line)
    };
    let holder = lock::holder(dir).with_context(|| format!("look at the lock of {}", dir.display()))?;
    if let Some(holder) = holder {
        let asked = admin::each(dir, question, &mut take).await;
        return asked
            .with_context(|| format!("ask the live gateway ({holder}) at {}", dir.join(admin::SOCKET_NAME).display()));
    }
    let reader = Reader::offline(Arc::new(DiskFs), dir)?;
    let mut failed = Ok(());
    let mut emit = |line| match take(line) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Err(error);
            ControlFlow::Break(())
        }
    };
    inspect::answer(question, &reader, None, &mut emit)?;
    Ok(failed?)
}

/// Asks for an answer that is known to be short.
pub(super) async fn ask(dir: &Path, question: &Question) -> anyhow::Result<Vec<Value>> {
    let mut lines = Vec::new();
    each(dir, question, &mut |line| {
        lines.push(line);
        Ok(())
    })
    .await?;
    Ok(lines)
}

pub(super) fn json_lines(lines: &[Value]) -> String {
    lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n")
}

pub(super) fn records_table(records: &[Value]) -> String {
    table(&RECORD_HEADINGS, &records.iter().map(record_row).collect::<Vec<_>>())
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
        Value::String(text) => format!("{prefix}: {}\n", escape_hidden(text)),
        Value::Null => format!("{prefix}: -\n"),
        other => format!("{prefix}: {other}\n"),
    }
}

/// The place in a record's JSON.
fn place_of(record: &Value) -> Option<Place> {
    let number = |key: &str| record.get(key).and_then(Value::as_u64);
    Some(Place { epoch: number("epoch")?, seq: number("seq")? })
}

/// The filter of one record, by request id or place.
fn one(which: &str) -> anyhow::Result<Filter> {
    if let Ok(id) = which.parse::<Uuid>() {
        return Ok(Filter { request_id: Some(id), limit: 1, ..Filter::default() });
    }
    let Ok(Place { epoch, seq }) = which.parse() else {
        bail!("{which:?} is neither a request id nor EPOCH/SEQ, as in 3/1024");
    };
    Ok(Filter { epoch: Some(epoch), seq: Some(seq), limit: 1, ..Filter::default() })
}
