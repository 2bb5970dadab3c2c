//! `gatepost outbox`: inspects the outbox of a live gateway, or the directory of a dead one. Only `requeue`, `prune`
//! and `drain` change anything. One file per subcommand.
//!
//! Answers are streamed line by line and are never in memory as a whole.

mod drain;
mod export;
mod heads;
mod list;
mod prune;
mod requeue;
mod selection;
mod show;
mod stats;
mod tail;
mod verify;

use std::path::Path;

use clap::Subcommand;

use super::exit::CommandError;
use super::gateway_error::GatewayError;
use super::global_args::GlobalArgs;
use super::outbox_client::OutboxClient;
use super::output::print_error;
use crate::audit::outbox::{self, lock};
use crate::ops::background;

/// `gatepost outbox`
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 success; 1 failure, or verify found a fault; 2 wrong usage or configuration; \
                        3 the directory is not an outbox, or a newer Gatepost wrote it.")]
pub(super) struct Args {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the contents of the outbox, and the status of a live gateway
    Stats,
    /// Print the end of each stored stream and where its delivery continues, as JSON lines, for audit resolve-fork
    Heads,
    /// Print stored records that match: the newest, or those after --after; oldest first
    List(list::Args),
    /// Print one record in full, by request id or by EPOCH/SEQ
    Show(show::Args),
    /// Print the newest stored records, and with --follow each new one
    Tail(tail::Args),
    /// Check that all stored records are complete and unchanged: CRC, seq, chain, open calls
    Verify,
    /// Print all stored records that match, as JSON lines or CSV
    Export(export::Args),
    // Not a doc comment: clippy would ask for Markdown in it, which the help prints as it is.
    #[command(about = "Retry delivering quarantined records to audit_log")]
    Requeue(requeue::Args),
    /// Remove the oldest files permanently, if there is no Postgres; asks first and records the removal
    Prune(prune::Args),
    /// Deliver to Postgres the records that a dead gateway left, and close its stream
    Drain(drain::Args),
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let (config, json) = (args.global.load()?, args.global.json);
    if let Command::Requeue(args) = &args.command {
        // The outbox is not involved.
        return requeue::run(&config, args, json).await;
    }
    let dir = &config.audit.dir;
    check_outbox(dir)?;
    let client = OutboxClient::new(dir);
    if !matches!(args.command, Command::Drain(_) | Command::Prune(_)) {
        background::lower_priority();
    }
    let reads_records = matches!(
        args.command,
        Command::List(_) | Command::Show(_) | Command::Tail(_) | Command::Verify | Command::Export(_)
    );
    if reads_records && client.delivers().await.unwrap_or(false) {
        print_error("the live gateway delivers to Postgres: delivered records are there, and this reads the others");
    }
    let done = match &args.command {
        Command::Requeue(args) => requeue::run(&config, args, json).await,
        Command::Drain(args) => drain::run(&config, &client, args, json).await,
        Command::Prune(args) => prune::run(&config, &client, args, json).await,
        Command::Stats => stats::run(&client, json).await,
        Command::Heads => heads::run(&client).await,
        Command::List(args) => list::run(&client, args, json).await,
        Command::Show(args) => show::run(dir, &client, args, json).await,
        Command::Tail(args) => tail::run(&client, args, json).await,
        Command::Verify => verify::run(&client, json).await,
        Command::Export(args) => export::run(dir, &client, args, json).await,
    };
    done.map_err(|error| if is_newer(&error) { CommandError::NoOutbox(format!("{error:#}")).into() } else { error })
}

/// Checks that the directory is an outbox: it has generation files, or at least the lock of an outbox without records.
fn check_outbox(dir: &Path) -> Result<(), CommandError> {
    let not_an_outbox = |reason: &str| {
        CommandError::NoOutbox(format!(
            "{} is not an outbox directory: {reason}; name one with --dir, or the configuration with --config",
            dir.display()
        ))
    };
    let entries = std::fs::read_dir(dir).map_err(|error| not_an_outbox(&error.to_string()))?;
    let is_ours = |name: &str| name == lock::LOCK_NAME || name.starts_with("outbox-");
    let found = entries.filter_map(Result::ok).any(|entry| entry.file_name().to_str().is_some_and(is_ours));
    if found { Ok(()) } else { Err(not_an_outbox("it has no outbox file")) }
}

/// True if the error says that a newer Gatepost wrote the outbox.
fn is_newer(error: &anyhow::Error) -> bool {
    let is_newer = |error: &outbox::OutboxError| matches!(error, outbox::OutboxError::NewerFormat { .. });
    let of_pipeline = |error: &GatewayError| matches!(error, GatewayError::Outbox(error) if is_newer(error));
    error.chain().any(|cause| {
        cause.downcast_ref::<outbox::OutboxError>().is_some_and(is_newer)
            || cause.downcast_ref::<GatewayError>().is_some_and(of_pipeline)
    })
}
