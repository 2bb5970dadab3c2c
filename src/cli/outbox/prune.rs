//! `gatepost outbox prune`: removes the oldest files of an outbox without Postgres, and records it in the trail.
//!
//! A live gateway does it itself, through its admin socket. The directory of a dead one is opened as the gateway's next
//! start would, as for `drain`: the record needs an epoch.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;

use crate::audit::outbox::prune::PruneLimit;
use crate::audit::record::{Epoch, Seq, Timestamp};
use crate::cli::exit::usage;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{print, print_error};
use crate::cli::{database, pipeline};
use crate::config::{Config, Level};
use crate::ops::format::plural;
use crate::ops::protocol::{PrunedFiles, Question};
use crate::ops::prune::{self, PruneError};
use crate::ops::record_ref::EpochSeq;

/// `gatepost outbox prune`
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("until").required(true).args(["older_than", "before"]))]
pub(super) struct Args {
    /// Remove whole files whose records all arrived longer ago than this, for example 90d
    #[arg(long, value_parser = humantime::parse_duration, value_name = "AGE")]
    older_than: Option<Duration>,
    /// Remove whole files whose records are all before this position
    #[arg(long, value_name = "EPOCH/SEQ")]
    before: Option<EpochSeq>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print what would be removed, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Also prune records that are still waiting for Postgres
    #[arg(long)]
    undelivered: bool,
}

impl Args {
    /// The option that is about one stream, if it is given.
    pub(super) fn of_one_stream(&self) -> Option<&'static str> {
        self.before.map(|_| "--before")
    }

    /// Checks the configuration, and that a person can be asked, before anything is opened.
    fn check(&self, config: &Config) -> anyhow::Result<()> {
        // I4: records for Postgres leave the outbox once they are delivered, and only then.
        if database::options(config).is_some() {
            return Err(usage(
                "postgres.url is set: delivered records leave the outbox by themselves, and the records in it are not \
                 delivered yet; prune is for deployments without Postgres",
            ));
        }
        let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
        if !self.yes && !self.dry_run && !can_ask {
            return Err(usage("prune removes records permanently and asks first; without a terminal, give --yes"));
        }
        Ok(())
    }

    fn until(&self) -> PruneLimit {
        match (self.older_than, self.before) {
            (_, Some(EpochSeq { epoch, seq })) => PruneLimit::Position { epoch: Epoch(epoch), seq: Seq(seq) },
            (age, None) => {
                let age = i64::try_from(age.unwrap_or(Duration::MAX).as_micros()).unwrap_or(i64::MAX);
                PruneLimit::Time(Timestamp::now().micros().saturating_sub(age))
            }
        }
    }
}

pub(super) async fn run(config: &Config, client: &OutboxClient, args: &Args, json: bool) -> anyhow::Result<()> {
    args.check(config)?;
    let prunable = client.all::<PrunedFiles>(&Question::Prunable { until: args.until() }).await?;
    let Some(prunable) = prunable.into_iter().next() else {
        print_error("no whole file of the outbox is that old; the newest file is never removed");
        let nothing = || client.json_line(&serde_json::json!({ "records": 0, "files": 0 }));
        return Ok(print(&if json { nothing()? } else { "nothing to prune\n".to_owned() })?);
    };
    if prunable.awaited && !args.undelivered {
        return Err(PruneError::Awaited.into());
    }
    if args.dry_run {
        let text = || format!("would remove {}; nothing was changed\n", description(&prunable));
        return Ok(print(&if json { client.json_line(&prunable)? } else { text() })?);
    }
    if !args.yes && !confirm(&description(&prunable))? {
        bail!("not confirmed; nothing was pruned");
    }
    // Exactly the files that were shown, even if more are old enough by now.
    let last = prunable.last;
    let until = PruneLimit::Position { epoch: last.epoch, seq: last.seq.next() };
    let awaited = prunable.awaited;
    let pruned = if client.live_gateway()?.is_some() {
        client.one(&Question::Prune { until, awaited }).await?
    } else {
        prune_dead(config, until, awaited).await?
    };
    let text = || format!("removed {}; recorded in the trail as gateway/pruned\n", description(&pruned));
    Ok(print(&if json { client.json_line(&pruned)? } else { text() })?)
}

/// Prunes the directory of a gateway that does not run.
async fn prune_dead(config: &Config, until: PruneLimit, awaited: bool) -> anyhow::Result<PrunedFiles> {
    let mut config = config.clone();
    config.audit.level = Level::Stored;
    // The record has to fit even if the outbox is full, which is the usual reason to prune.
    config.audit.outbox_bytes_max = config.audit.outbox_bytes_max.saturating_mul(2);
    let pipeline = pipeline::start(&config).await?;
    let pruned = prune::prune(&pipeline.probe(), until, awaited, nix::unistd::Uid::current().as_raw()).await;
    let stopped = pipeline.stop(config.audit.store_timeout, Duration::ZERO).await;
    let pruned = pruned?;
    if stopped.lost > 0 {
        let records = plural(stopped.lost as u64, "record");
        bail!("the outbox was pruned, but its epoch cannot be closed: {records} lost");
    }
    Ok(pruned)
}

/// The files, for a person.
fn description(pruned: &PrunedFiles) -> String {
    let PrunedFiles { files, bytes, records, first: (first_epoch, first_seq), last, .. } = pruned;
    let (records, files, mib) =
        (plural(*records, "record"), plural(*files as u64, "file"), bytes.div_ceil(1024 * 1024));
    format!("{records}, {first_epoch}/{first_seq} to {}/{}, in {files} ({mib} MiB)", last.epoch, last.seq)
}

/// Asks for confirmation on the terminal.
fn confirm(description: &str) -> io::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "This permanently removes {description}, which exist nowhere else. Type yes to continue: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
