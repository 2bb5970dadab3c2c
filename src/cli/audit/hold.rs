//! `gatepost audit hold`: keeps records from being retired.

use clap::Subcommand;
use uuid::Uuid;

use super::decision_args::{DecisionArgs, append_entry, commit, with_remedy};
use super::journal::Journal;
use super::registrar_log;
use crate::audit::record::{AuditRecord, Entry, GatewayId, Seq, Timestamp};
use crate::audit::sink::postgres::holds::{Hold, Lifted, holds, locked_holds};
use crate::audit::sink::postgres::registrar::{HOLD, LIFTED, LockedRegistrar, entry, registrar_id};
use crate::cli::database;
use crate::cli::filter_args::micros;
use crate::cli::output::{json_line, print};
use crate::cli::table::{Column, Kind, table};
use crate::cli::terminal::Terminal;
use crate::config::Config;
use crate::ops::time_arg::TimeArg;

/// `gatepost audit hold`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep records from being retired until the hold is lifted
    Add(Add),
    /// Print the holds that are not lifted
    List,
    /// End a hold
    Lift(Lift),
}

/// `gatepost audit hold add`
#[derive(Debug, clap::Args)]
struct Add {
    /// Hold records of this gateway [default: of all]
    #[arg(long, value_name = "ID")]
    gateway: Option<Uuid>,
    /// Hold records since this time, written as for audit query [default: all]
    #[arg(long, value_name = "TIME")]
    since: Option<TimeArg>,
    /// Hold records before this time [default: all later ones]
    #[arg(long, value_name = "TIME")]
    until: Option<TimeArg>,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// `gatepost audit hold lift`
#[derive(Debug, clap::Args)]
#[command(override_usage = "gatepost audit hold lift [OPTIONS] --reason <TEXT>\n       --journal <FILE> <NUMBER>")]
struct Lift {
    /// The number of the hold, as gatepost audit hold list prints it
    #[arg(value_name = "NUMBER")]
    number: u64,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// A hold as JSON.
#[derive(serde::Serialize)]
struct JsonHold<'a> {
    number: Seq,
    #[serde(flatten)]
    hold: &'a Hold,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    match &args.command {
        Command::List => list(config, json, terminal).await,
        Command::Add(args) => {
            let since = micros("--since", args.since, terminal.zone)?;
            let until = micros("--until", args.until, terminal.zone)?;
            anyhow::ensure!(
                since.zip(until).is_none_or(|(since, until)| since < until),
                "--since is not before --until: the hold would keep nothing"
            );
            let (by, uid) = args.decision.author();
            let hold = Hold {
                kind: "hold".to_owned(),
                gateway: args.gateway.map(GatewayId),
                since: since.map(Timestamp::from_micros),
                until: until.map(Timestamp::from_micros),
                reason: args.decision.reason().to_owned(),
                by: by.clone(),
                uid,
            };
            record(config, &args.decision, entry(HOLD, &by, &hold)?, HOLD, None, json).await
        }
        Command::Lift(args) => {
            let (by, uid) = args.decision.author();
            let (kind, hold) = ("lifted".to_owned(), Seq(args.number));
            let lifted = Lifted { kind, hold, reason: args.decision.reason().to_owned(), by: by.clone(), uid };
            record(config, &args.decision, entry(LIFTED, &by, &lifted)?, LIFTED, Some(hold), json).await
        }
    }
}

/// Records a decision; `lifted` is the hold that must exist.
async fn record(
    config: &Config,
    args: &DecisionArgs,
    entry: Entry,
    method: &str,
    lifted: Option<Seq>,
    json: bool,
) -> anyhow::Result<()> {
    let options = database::required(config, ", so there is nothing to hold")?;
    let mut journal = Journal::open(&args.journal)?;
    let mut connection = database::connect(&options).await?;
    let mut registrar = LockedRegistrar::lock(&mut connection).await.map_err(with_remedy)?;
    journal.check(&registrar)?;
    if let Some(number) = lifted {
        let known = locked_holds(&mut registrar).await.map_err(with_remedy)?;
        anyhow::ensure!(known.contains_key(&number), "there is no hold {number}: see gatepost audit hold list");
    }
    let record: AuditRecord = append_entry(&mut registrar, &mut journal, entry).await?;
    let number = record.position.seq;
    commit(registrar, &[record], args, json).await?;
    registrar_log::sign(config).await;
    if method == HOLD && !json {
        print(&format!("hold {number} keeps these records until gatepost audit hold lift {number}\n"))?;
    }
    Ok(())
}

async fn list(config: &Config, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    let options = database::required_reader(config, ", so there are no holds")?;
    let mut connection = database::connect(&options).await?;
    let registrar = registrar_id(&mut connection).await.map_err(with_remedy)?;
    let holds = holds(&mut connection, registrar).await.map_err(with_remedy)?;
    if json {
        let lines: Result<String, _> =
            holds.iter().map(|(number, hold)| json_line(&JsonHold { number: *number, hold })).collect();
        return Ok(print(&lines?)?);
    }
    let row = |(number, hold): (&Seq, &Hold)| {
        let time = |time: Option<Timestamp>| time.map_or_else(String::new, |time| terminal.zone.rfc_3339(time));
        let gateway = hold.gateway.map_or_else(|| "all".to_owned(), |gateway| gateway.to_string());
        let (by, reason) = (hold.by.clone(), hold.reason.clone());
        vec![number.to_string(), gateway, time(hold.since), time(hold.until), by, reason]
    };
    let columns = [
        Column::new("HOLD", Kind::Fixed),
        Column::new("GATEWAY", Kind::Id),
        Column::new("SINCE", Kind::Time),
        Column::new("UNTIL", Kind::Time),
        Column::new("BY", Kind::Name),
        Column::new("REASON", Kind::Text),
    ];
    Ok(print(&table(&columns, holds.iter().map(row).collect(), terminal))?)
}
