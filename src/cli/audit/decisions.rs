//! `gatepost audit decisions`: the owner's decisions about the trail.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Subcommand;

use super::decision_args::with_remedy;
use super::journal;
use super::registrar_log;
use crate::audit::query::{Filter, query};
use crate::audit::record::AuditRecord;
use crate::audit::sink::postgres::registrar::{LockedRegistrar, registrar_id};
use crate::cli::database;
use crate::cli::output::{json_line, print};
use crate::cli::table::{Column, Kind, table};
use crate::cli::terminal::Terminal;
use crate::config::Config;
use crate::ops::format::plural;
use crate::ops::record_ref::EpochSeq;
use crate::ops::time_arg::Zone;

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

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    match &args.command {
        Command::List => list(config, json, terminal).await,
        Command::Replay(args) => replay(config, args).await,
    }
}

/// The columns of the table of decisions.
const COLUMNS: [Column; 10] = [
    Column::new("SEQ", Kind::Fixed),
    Column::new("TIME", Kind::Time),
    Column::new("DECISION", Kind::Name),
    Column { rank: 1, ..Column::new("KIND", Kind::Name) },
    Column::new("GATEWAY", Kind::Id),
    Column { rank: 2, ..Column::new("EPOCH", Kind::Fixed) },
    Column { rank: 3, ..Column::new("FIRST", Kind::Time) },
    Column { rank: 4, ..Column::new("LAST", Kind::Time) },
    Column::new("BY", Kind::Name),
    Column::new("REASON", Kind::Text),
];

async fn list(config: &Config, json: bool, terminal: Terminal) -> anyhow::Result<()> {
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
                rows.push(row(record, terminal.zone));
            }
        }
    }
    if !json {
        print(&table(&COLUMNS, rows, terminal))?;
    }
    Ok(())
}

/// The members that every decision has, and those by which it names its place: a range of seqs or of times, or a hold.
fn row(record: &AuditRecord, zone: Zone) -> Vec<String> {
    let call = &record.entry.call;
    let details: serde_json::Value =
        call.request_args.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let text = |names: &[&str]| match names.iter().find_map(|name| details.get(name).filter(|it| !it.is_null())) {
        None => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let mut row = vec![record.position.seq.to_string(), zone.rfc_3339(call.timestamp), call.method.to_string()];
    row.extend([text(&["kind"]), text(&["gateway"]), text(&["epoch"]), text(&["first", "since", "hold"])]);
    row.extend([text(&["last", "until"]), text(&["by"]), text(&["reason"])]);
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
    registrar_log::sign(config).await;
    Ok(print(&format!("{} of {} recorded again\n", restored, plural(records.len() as u64, "decision")))?)
}
