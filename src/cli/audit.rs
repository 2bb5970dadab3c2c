//! `gatepost audit`: asks the trail, in Postgres or, store-only, in the outbox. One file a subcommand.

mod query;
mod show;
mod tail;
mod trail;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

use super::{Source, blocking};
use crate::config::Config;

/// `gatepost audit`
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 answered, and for verify: the trail is whole; 1 no answer, or faults found; \
    2 bad usage or configuration. With postgres.url the trail is in Postgres, without it in the outbox of --dir.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The newest records that match, oldest first
    Query(query::Args),
    /// Everything about one call: its record, its neighbours, the other requests of the same call
    Show(show::Args),
    /// The newest records, and with --follow those that come
    Tail(tail::Args),
    /// Check that every stream is whole and unchanged; exit code 1 with the faults if not
    Verify(verify::Args),
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match args.source.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    blocking(answer(&config, args))
}

async fn answer(config: &Config, args: &Args) -> anyhow::Result<()> {
    let json = args.source.json;
    match &args.command {
        Command::Query(query) => query::run(config, query, json).await,
        Command::Show(show) => show::run(config, show, json).await,
        Command::Tail(tail) => tail::run(config, tail, json).await,
        Command::Verify(verify) => verify::run(config, verify, json).await,
    }
}
