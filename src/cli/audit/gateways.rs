//! `gatepost audit gateways`: the gateways that may deliver to a database, each with the role that may do so.

use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use super::decision_args::{DecisionArgs, append, commit, with_remedy};
use super::journal::Journal;
use super::registrar_log;
use crate::audit::record::GatewayId;
use crate::audit::sink::postgres::gateways::{Lease, RegisteredGateway, close, register, registered_gateways};
use crate::audit::sink::postgres::registrar::{CLOSED, LockedRegistrar};
use crate::cli::database;
use crate::cli::output::{json_line, print, print_error};
use crate::cli::table::{Column, Kind, table};
use crate::cli::terminal::Terminal;
use crate::config::Config;
use crate::escape::escape_hidden;

/// `gatepost audit gateways`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the members of a role deliver in a gateway's name; needs the login that owns the tables
    Add(Add),
    /// Print the registered gateways, and whether they run
    List,
    /// Record that a gateway will not come back: no alarm is raised for it any more
    Close(Close),
}

/// `gatepost audit gateways close`
#[derive(Debug, clap::Args)]
#[command(override_usage = "gatepost audit gateways close [OPTIONS] --reason <TEXT>\n       --journal <FILE> <ID>")]
struct Close {
    /// The gateway's id
    #[arg(value_name = "ID")]
    id: Uuid,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// `gatepost audit gateways add`
#[derive(Debug, clap::Args)]
struct Add {
    // Not a doc comment: clippy would ask for Markdown in it, which the help prints as it is.
    #[arg(
        help = "The gateway's id: audit.gateway_id, or the id in its log and in gatepost outbox stats",
        value_name = "ID"
    )]
    id: Uuid,
    /// The gateway's login, or a role of which it is a member
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// Give a gateway that is registered to this role
    #[arg(long)]
    replace: bool,
}

/// A gateway as JSON.
#[derive(Debug, Serialize)]
struct JsonGateway<'a> {
    gateway_id: Uuid,
    owner_role: &'a str,
    registered_at: &'a str,
    registered_by: &'a str,
    may_deliver: bool,
    lease: Lease,
    lease_epoch: Option<i64>,
    lease_until: Option<&'a str>,
}

pub(super) async fn run(config: &Config, args: &Args, json: bool, terminal: Terminal) -> anyhow::Result<()> {
    if let Command::Close(args) = &args.command {
        return close_gateway(config, args, json).await;
    }
    let mut connection = match &args.command {
        Command::Add(_) => database::connect(&database::required(config, ", so there is no database")?).await?,
        Command::List | Command::Close(_) => {
            database::connect(&database::required_reader(config, ", so there is no database")?).await?
        }
    };
    let (gateways, added) = match &args.command {
        Command::Add(args) => (vec![register(&mut connection, args.id, &args.role, args.replace).await?], true),
        Command::List | Command::Close(_) => (registered_gateways(&mut connection).await?, false),
    };
    for gateway in gateways.iter().filter(|gateway| added && !gateway.may_deliver) {
        print_error(&format!(
            "role {} may not deliver yet: GRANT gatepost_writer TO it",
            escape_hidden(&gateway.owner_role)
        ));
    }
    let shown: String = if json {
        gateways.iter().map(json_gateway).collect::<Result<_, _>>()?
    } else if added {
        let line = |gateway: &RegisteredGateway| {
            let RegisteredGateway { gateway_id, owner_role, .. } = gateway;
            format!(
                "gateway {gateway_id} is registered: members of {} deliver in its name\n",
                escape_hidden(owner_role)
            )
        };
        gateways.iter().map(line).collect()
    } else {
        let columns = [
            Column::new("GATEWAY", Kind::Id),
            Column::new("ROLE", Kind::Name),
            Column { rank: 2, ..Column::new("REGISTERED", Kind::Time) },
            Column { rank: 3, ..Column::new("BY", Kind::Name) },
            Column::new("MAY DELIVER", Kind::Fixed),
            Column::new("LEASE", Kind::Fixed),
            Column { rank: 1, ..Column::new("EPOCH", Kind::Fixed) },
            Column { rank: 4, ..Column::new("UNTIL", Kind::Time) },
        ];
        table(&columns, gateways.iter().map(row).collect(), terminal)
    };
    Ok(print(&shown)?)
}

async fn close_gateway(config: &Config, args: &Close, json: bool) -> anyhow::Result<()> {
    let options = database::required(config, ", so there is no gateway to close")?;
    let mut journal = Journal::open(&args.decision.journal)?;
    let mut connection = database::connect(&options).await?;
    let mut registrar = LockedRegistrar::lock(&mut connection).await.map_err(with_remedy)?;
    journal.check(&registrar)?;
    let id = GatewayId(args.id);
    let last = close(registrar.connection(), id).await.map_err(with_remedy)?;
    let decision = args.decision.decision("closed", id, last.map(|(epoch, _)| epoch), last.map(|(_, seq)| (seq, seq)));
    let record = append(&mut registrar, &mut journal, CLOSED, &decision).await?;
    commit(registrar, &[record], &args.decision, json).await?;
    registrar_log::sign(config).await;
    Ok(())
}

fn row(gateway: &RegisteredGateway) -> Vec<String> {
    let RegisteredGateway { gateway_id, owner_role, registered_at, registered_by, may_deliver, .. } = gateway;
    let may_deliver = if *may_deliver { "yes" } else { "no" };
    let epoch = gateway.lease_epoch.map_or_else(String::new, |epoch| epoch.to_string());
    let mut row = vec![gateway_id.to_string(), owner_role.clone(), registered_at.clone(), registered_by.clone()];
    row.extend([may_deliver.to_owned(), gateway.lease.as_str().to_owned(), epoch]);
    row.push(gateway.lease_until.clone().unwrap_or_default());
    row
}

fn json_gateway(gateway: &RegisteredGateway) -> serde_json::Result<String> {
    let RegisteredGateway { gateway_id, owner_role, registered_at, registered_by, may_deliver, .. } = gateway;
    let (gateway_id, may_deliver, lease, lease_epoch) = (*gateway_id, *may_deliver, gateway.lease, gateway.lease_epoch);
    let lease_until = gateway.lease_until.as_deref();
    json_line(&JsonGateway {
        gateway_id,
        owner_role,
        registered_at,
        registered_by,
        may_deliver,
        lease,
        lease_epoch,
        lease_until,
    })
}
