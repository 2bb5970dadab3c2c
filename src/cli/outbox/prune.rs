//! `gatepost outbox prune`: the operator has the oldest files of a store-only outbox removed, and the trail says so.
//!
//! A live gateway does it itself, asked through its admin socket. A dead one's directory is opened as the gateway itself
//! would at its next start, as for `drain`: the record needs an epoch to stand in.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{Place, ask};
use crate::audit::outbox::lock;
use crate::audit::outbox::prune::PruneLimit;
use crate::audit::record::{Epoch, Seq, Timestamp};
use crate::cli::{complain, print, serve};
use crate::config::{Config, Level};
use crate::ops::inspect::Question;
use crate::ops::prune::{self, Error};

/// `gatepost outbox prune`
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["older_than", "before"]))]
pub(super) struct Args {
    /// Whole files whose records all arrived longer ago than this, as 90d
    #[arg(long, value_parser = humantime::parse_duration, value_name = "AGE")]
    older_than: Option<Duration>,
    /// Whole files whose records all stand before this place
    #[arg(long, value_name = "EPOCH/SEQ")]
    before: Option<Place>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Only say what would be removed
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Also from an outbox that was delivered to Postgres before, where what is left waits for that
    #[arg(long)]
    undelivered: bool,
}

impl Args {
    /// What is wrong with the configuration, or with asking, before anything is opened.
    pub(super) fn fault(&self, config: &Config) -> Option<&'static str> {
        // I4: what Postgres is to have is forgotten once it has it.
        if config.postgres.url.is_some() {
            return Some(
                "postgres.url is set: the outbox empties itself as records are delivered, and what is in it is not \
                 delivered yet; prune is for deployments without Postgres",
            );
        }
        let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
        (!self.yes && !self.dry_run && !can_ask)
            .then_some("prune removes records for good and asks first, on a terminal; say --yes where there is none")
    }

    fn until(&self) -> PruneLimit {
        match (self.older_than, self.before) {
            (_, Some(Place { epoch, seq })) => PruneLimit::Position { epoch: Epoch(epoch), seq: Seq(seq) },
            (age, None) => {
                let age = i64::try_from(age.unwrap_or(Duration::MAX).as_micros()).unwrap_or(i64::MAX);
                PruneLimit::Time(Timestamp::now().micros().saturating_sub(age))
            }
        }
    }
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let dir = &config.audit.dir;
    let Some(cut) = ask(dir, &Question::Prunable { until: args.until() }).await?.into_iter().next() else {
        complain("no whole file of the outbox is that old; the newest one is never removed");
        return Ok(print(if json { "{\"records\":0,\"files\":0}\n" } else { "nothing to prune\n" })?);
    };
    let awaited = cut.get("awaited").and_then(Value::as_bool) == Some(true);
    if awaited && !args.undelivered {
        return Err(Error::Awaited.into());
    }
    if args.dry_run {
        let text = format!("would remove {}; nothing was changed\n", words(&cut));
        return Ok(print(&if json { format!("{cut}\n") } else { text })?);
    }
    if !args.yes && !confirmed(&words(&cut))? {
        bail!("not confirmed; nothing was pruned");
    }
    // What was agreed to, and no more, whatever became old meanwhile.
    let last = cut.get("last");
    let number = |key: &str| last.and_then(|last| last.get(key)?.as_u64());
    let (epoch, seq) = number("epoch").zip(number("seq")).context("read what would be pruned")?;
    let until = PruneLimit::Position { epoch: Epoch(epoch), seq: Seq(seq).next() };
    let holder = lock::holder(dir).with_context(|| format!("look at the lock of {}", dir.display()))?;
    let done = if holder.is_some() {
        let answer = ask(dir, &Question::Prune { until, awaited }).await?;
        answer.into_iter().next().context("read what was pruned")?
    } else {
        dead(config, until, awaited).await?
    };
    let text = format!("removed {}; gateway/pruned says so in the trail\n", words(&done));
    Ok(print(&if json { format!("{done}\n") } else { text })?)
}

/// Prunes the directory of a gateway that does not run.
async fn dead(config: &Config, until: PruneLimit, awaited: bool) -> anyhow::Result<Value> {
    let mut config = config.clone();
    config.audit.level = Level::Stored;
    // The record has to fit also where the outbox is full, which is why somebody prunes.
    config.audit.outbox_bytes_max = config.audit.outbox_bytes_max.saturating_mul(2);
    let pipeline = serve::start_pipeline(&config).await?;
    let pruned = prune::prune(&pipeline.probe(), until, awaited, nix::unistd::Uid::current().as_raw()).await;
    let ended = pipeline.stop(config.audit.store_timeout, Duration::ZERO).await;
    let cut = pruned?;
    if ended.lost > 0 {
        bail!("the outbox was pruned, but its epoch cannot be closed: {} records are lost", ended.lost);
    }
    Ok(json!(cut))
}

/// What is removed, for a person.
fn words(cut: &Value) -> String {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
    let of = |key: &str| number(cut.get(key));
    let first = cut.get("first").and_then(Value::as_array).map(Vec::as_slice);
    let first = if let Some([epoch, seq]) = first { format!("{epoch}/{seq}") } else { String::new() };
    let last = cut.get("last");
    let (epoch, seq) = (number(last.and_then(|last| last.get("epoch"))), number(last.and_then(|last| last.get("seq"))));
    let (records, files, mib) = (of("records"), of("files"), of("bytes").div_ceil(1024 * 1024));
    format!("{records} records, {first} to {epoch}/{seq}, in {files} files ({mib} MiB)")
}

/// Asks on the terminal.
fn confirmed(words: &str) -> io::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "This removes {words}, which are nowhere else, for good. Type yes to go on: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
