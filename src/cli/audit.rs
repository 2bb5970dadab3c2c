//! `gatepost audit`: reads the trail, in Postgres or, without a database, in the outbox. One file per subcommand.

mod accept;
mod certify;
mod confirmed;
mod decision_args;
mod decisions;
mod export;
mod gateways;
mod heads;
mod hold;
mod journal;
mod limit;
mod match_text;
mod month;
mod pins;
mod prove;
mod query;
mod registrar_log;
mod resolve_fork;
mod retire;
mod show;
mod tail;
mod verify;
mod verify_export;

use clap::Subcommand;

use super::config_args::{ConfigArgs, ConfigFile};
use super::global_args::GlobalArgs;
use crate::config::Config;

/// `gatepost audit`
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 success, and for verify: no fault, and every end is confirmed; 1 failure, or \
    verify found a fault; 2 wrong usage or configuration; 4 verify found no fault, but something is not proven. With postgres.url the trail is read from Postgres, without it \
    from the outbox in --dir.")]
pub(super) struct Args {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the newest records that match, oldest first
    Query(query::Args),
    /// Print everything about one call: its record, its neighbours, the other requests of the same call
    Show(show::Args),
    /// Print the newest records, and with --follow each new one
    Tail(tail::Args),
    /// Write all records that match, without a limit, to standard output or into a directory
    Export(export::Args),
    /// Check an export in a directory: the sums of its files, and the hashes and links of its records
    VerifyExport(verify_export::Args),
    /// Write a record and the proof that it is in its gateway's log; the proof reveals no other record
    Prove(prove::Args),
    /// Write a certificate that no record of a range is missing, or none of a person's, which others can check
    Certify(certify::Args),
    /// Compare arguments or an answer with the digests of a record; the exit code is 1 if they differ
    Match(match_text::Args),
    /// Accept the definitions of tools of backends that have a file of pins
    Pins(pins::Args),
    /// Record that the owner of the trail knows of something that verify reports
    Accept(accept::Args),
    /// Take rows that a gateway did not write out of its stream, so that the gateway continues there; record it
    ResolveFork(resolve_fork::Args),
    /// Keep records from being retired, list what is kept, or lift a hold
    Hold(hold::Args),
    /// Remove whole months of records, export them first, and record what was removed
    Retire(retire::Args),
    /// Print the recorded decisions, or restore them from a journal
    Decisions(decisions::Args),
    /// Register gateways in the database, or list them
    Gateways(gateways::Args),
    /// Print the last record of each stream, to keep elsewhere for verify --expect
    Heads,
    /// Check that the trail is what its gateways recorded; the exit code is 1 if not, 4 if something is not proven
    Verify(verify::Args),
}

impl Args {
    pub(super) fn config_args(&self) -> ConfigArgs {
        self.global.config_args()
    }
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    if let Command::VerifyExport(verify) = &args.command {
        // An export is checked without a configuration, wherever it is.
        return verify_export::run(verify, args.global.json);
    }
    let (config, file) = args.global.load()?;
    let done = Box::pin(dispatch(args, &config, &file)).await;
    done.map_err(|error| file.explain(error))
}

async fn dispatch(args: &Args, config: &Config, file: &ConfigFile) -> anyhow::Result<()> {
    let (json, terminal) = (args.global.json, args.global.terminal());
    match &args.command {
        Command::Query(args) => query::run(config, args, json, terminal).await,
        Command::Show(args) => show::run(config, args, json, terminal).await,
        Command::Tail(args) => tail::run(config, args, json, terminal).await,
        Command::Export(args) => export::run(config, args, json, terminal.zone).await,
        Command::VerifyExport(_) => Ok(()),
        Command::Prove(args) => prove::run(config, args, json).await,
        Command::Certify(args) => certify::run(config, args, json, terminal.zone).await,
        Command::Match(args) => match_text::run(config, args, json).await,
        Command::Pins(pins) => pins::run(config, file.path(), pins).await,
        Command::Accept(args) => accept::run(config, args, json).await,
        Command::ResolveFork(args) => resolve_fork::run(config, args, json).await,
        Command::Hold(args) => hold::run(config, args, json, terminal).await,
        Command::Retire(args) => retire::run(config, args, json).await,
        Command::Decisions(args) => decisions::run(config, args, json, terminal).await,
        Command::Gateways(args) => gateways::run(config, args, json, terminal).await,
        Command::Heads => heads::run(config).await,
        Command::Verify(args) => verify::run(config, args, json, terminal).await,
    }
}
