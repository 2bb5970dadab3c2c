//! `gatepost audit resolve-fork`: takes out of a stream what its gateway did not write, so that the gateway continues.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::decision_args::{DecisionArgs, append, commit, with_remedy};
use super::journal::Journal;
use super::registrar_log;
use crate::audit::outbox_head::OutboxHead;
use crate::audit::sink::postgres::fork::{Resolution, resolve};
use crate::audit::sink::postgres::registrar::{LockedRegistrar, RESOLVED};
use crate::audit::verify::{FaultKind, UnprovenKind};
use crate::cli::database;
use crate::cli::output::print;
use crate::config::Config;
use crate::ops::format::plural;

/// Largest file of heads, in bytes. *Derived*: a thousand streams with as many hashes as a line can have.
const HEADS_BYTES_MAX: u64 = 80 << 20;

/// `gatepost audit resolve-fork`
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "gatepost audit resolve-fork [OPTIONS] --heads <FILE>\n       --reason <TEXT> --journal <FILE>"
)]
pub(super) struct Args {
    /// Output of gatepost outbox heads, run on the gateway's machine after the other writer was stopped
    #[arg(long, value_name = "FILE")]
    heads: PathBuf,
    /// Only this epoch [default: all in the file]
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<u64>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    decision: DecisionArgs,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let heads = heads(&args.heads, args.epoch)?;
    let options = database::required(config, ", so there is no stream to resolve")?;
    let mut journal = Journal::open(&args.decision.journal)?;
    let mut connection = database::connect(&options).await?;
    let mut registrar = LockedRegistrar::lock(&mut connection).await.map_err(with_remedy)?;
    journal.check(&registrar)?;
    let mut records = Vec::new();
    for head in &heads {
        let Some(resolution) = resolve(registrar.connection(), head).await.map_err(with_remedy)? else { continue };
        if !json {
            print(&text(head, &resolution))?;
        }
        if args.dry_run {
            continue;
        }
        let moved = resolution.moved.map(|(first, last, _)| (UnprovenKind::Resolved.as_str(), (first, last)));
        let missing = resolution.missing.map(|range| (FaultKind::Gap.as_str(), range));
        for (kind, range) in moved.into_iter().chain(missing) {
            let decision = args.decision.decision(kind, head.gateway, Some(head.epoch), Some(range));
            records.push(append(&mut registrar, &mut journal, RESOLVED, &decision).await?);
        }
    }
    if args.dry_run {
        return Ok(());
    }
    if records.is_empty() && !json {
        print("no stream in the file is forked: each gateway can continue\n")?;
    }
    commit(registrar, &records, &args.decision, json).await?;
    registrar_log::sign(config).await;
    Ok(())
}

fn heads(path: &Path, epoch: Option<u64>) -> anyhow::Result<Vec<OutboxHead>> {
    let cannot = || format!("cannot read the heads in {}", path.display());
    let bytes = std::fs::metadata(path).with_context(cannot)?.len();
    ensure!(bytes <= HEADS_BYTES_MAX, "{} is larger than {HEADS_BYTES_MAX} bytes", path.display());
    let text = std::fs::read_to_string(path).with_context(cannot)?;
    let parse = |(idx, line): (usize, &str)| {
        let not_head = || format!("line {} of {} is not from gatepost outbox heads", idx + 1, path.display());
        serde_json::from_str::<OutboxHead>(line).with_context(not_head)
    };
    let mut heads = text.lines().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    heads.retain(|head| epoch.is_none_or(|epoch| head.epoch.0 == epoch));
    if heads.is_empty() {
        bail!("{} has no such stream", path.display());
    }
    Ok(heads)
}

fn text(head: &OutboxHead, resolution: &Resolution) -> String {
    let Resolution { moved, missing, before, cursor } = resolution;
    let mut parts = Vec::new();
    if let Some((first, last, count)) = moved {
        parts.push(format!("{} from seq {first} to {last} to audit_foreign", plural(*count, "row")));
    }
    if let Some((first, last)) = missing {
        parts.push(format!("no row for seq {first} to {last}"));
    }
    parts.push(format!("cursor from {} to {}", before.seq, cursor.seq));
    format!("gateway {} epoch {}: {}\n", head.gateway, head.epoch, parts.join("; "))
}
