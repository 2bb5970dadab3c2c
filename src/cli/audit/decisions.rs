//! `gatepost audit decisions`: the owner's decisions about the trail.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Subcommand;

use super::decision_args::with_remedy;
use super::journal;
use crate::audit::query::{Filter, query};
use crate::audit::record::AuditRecord;
use crate::audit::sink::postgres::registrar::{Decision, LockedRegistrar, registrar_id};
use crate::cli::database;
use crate::cli::output::{json_line, print};
use crate::cli::table::table;
use crate::config::Config;
use crate::ops::format::plural;
use crate::ops::record_ref::EpochSeq;

/// Decisions that are read at once. *Chosen*: as many as `audit query` prints.
const PAGE: usize = 1000;

/// `gatepost audit decisions`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print all decisions in the database
    List,
    /// Record again, with the same hashes, the decisions of a journal that a restored database lost
    Replay(Replay),
}

/// `gatepost audit decisions replay`
#[derive(Debug, clap::Args)]
struct Replay {
    /// The file of --journal
    #[arg(value_name = "FILE")]
    journal: PathBuf,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    match &args.command {
        Command::List => list(config, json).await,
        Command::Replay(args) => replay(config, args).await,
    }
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let options = database::required_reader(config, ", so there are no decisions")?;
    let mut connection = database::connect(&options).await?;
    let gateway_id = Some(registrar_id(&mut connection).await.map_err(with_remedy)?.0);
    let (mut rows, mut after) = (Vec::new(), (0, 0));
    loop {
        let filter = Filter { gateway_id, after: Some(after), limit: PAGE, ..Filter::default() };
        let records = query(&mut connection, &filter).await?;
        let Some(last) = records.last().map(EpochSeq::of) else { break };
        after = (last.epoch, last.seq);
        for record in &records {
            if json {
                print(&json_line(record)?)?;
            } else {
                rows.push(row(record));
            }
        }
    }
    if !json {
        print(&table(
            &["SEQ", "TIME", "DECISION", "KIND", "GATEWAY", "EPOCH", "FIRST", "LAST", "BY", "REASON"],
            &rows,
        ))?;
    }
    Ok(())
}

fn row(record: &AuditRecord) -> Vec<String> {
    let call = &record.entry.call;
    let decision = call.request_args.as_deref().and_then(|text| serde_json::from_str::<Decision>(text).ok());
    let mut row = vec![record.position.seq.to_string(), call.timestamp.to_string(), call.method.to_string()];
    if let Some(Decision { kind, gateway, epoch, first, last, reason, by, .. }) = decision {
        row.extend([kind, gateway.to_string(), epoch.map_or(String::new(), |epoch| epoch.to_string())]);
        row.extend([first, last].map(|seq| seq.map_or(String::new(), |seq| seq.to_string())));
        row.extend([by, reason]);
    }
    row
}

async fn replay(config: &Config, args: &Replay) -> anyhow::Result<()> {
    let path = args.journal.display();
    let records = journal::read(&args.journal)?;
    let options = database::required(config, ", so there is no database to restore")?;
    let mut connection = database::connect(&options).await?;
    let mut registrar = LockedRegistrar::lock(&mut connection).await.map_err(with_remedy)?;
    let mut restored = 0;
    for record in &records {
        let position = record.position;
        let (seq, own) = (position.seq, registrar.gateway_id());
        ensure!(
            position.gateway_id == own,
            "the journal {path} is of registrar {}, and the registrar of this database is {own}",
            position.gateway_id
        );
        if seq <= registrar.head().seq {
            let there = registrar.hash_at(seq).await.map_err(with_remedy)?;
            ensure!(
                there == Some(position.hash),
                "the database has another decision at {seq} than the journal {path}; nothing was recorded"
            );
            continue;
        }
        ensure!(
            seq == registrar.head().seq.next(),
            "the journal {path} has no decision {}: replay the journal that has it first; nothing was recorded",
            registrar.head().seq.next()
        );
        registrar.restore(record).await.map_err(with_remedy)?;
        restored += 1;
    }
    registrar.commit().await.map_err(with_remedy)?;
    Ok(print(&format!("{} of {} recorded again\n", restored, plural(records.len() as u64, "decision")))?)
}
