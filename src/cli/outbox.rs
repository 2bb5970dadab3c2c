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

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::config_args::ConfigArgs;
use super::exit::{CommandError, report, usage};
use super::gateway_error::GatewayError;
use super::global_args::GlobalArgs;
use super::outbox_client::OutboxClient;
use super::output::{OutputError, print_error, print_if_read};
use super::slots;
use super::terminal::Terminal;
use crate::audit::outbox;
use crate::config::Config;
use crate::ops::background;
use crate::ops::format::plural;

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

impl Command {
    /// The option or argument that is about one stream, if it is given.
    fn of_one_stream(&self) -> Option<&'static str> {
        match self {
            Self::List(args) => args.of_one_stream(),
            Self::Show(args) => args.of_one_stream(),
            Self::Export(args) => args.of_one_stream(),
            Self::Prune(args) => args.of_one_stream(),
            _ => None,
        }
    }
}

impl Args {
    pub(super) fn config_args(&self) -> ConfigArgs {
        self.global.config_args()
    }
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let (config, file) = args.global.load()?;
    let done = Box::pin(dispatch(args, &config)).await;
    done.map_err(|error| file.explain(error))
}

async fn dispatch(args: &Args, config: &Config) -> anyhow::Result<()> {
    let (json, terminal) = (args.global.json, args.global.terminal());
    if let Command::Requeue(args) = &args.command {
        // The outbox is not involved.
        return requeue::run(config, args, json).await;
    }
    let dir = &config.audit.dir;
    let outboxes: Vec<_> = outboxes(dir)?.iter().map(|outbox| OutboxClient::new(outbox)).collect();
    if let ([_, second, ..], Some(option)) = (&outboxes[..], args.command.of_one_stream()) {
        return Err(usage(format!(
            "{option} is about one stream, and {} has {}: name one slot, for example --dir {}",
            dir.display(),
            plural(outboxes.len() as u64, "outbox"),
            second.dir().display()
        )));
    }
    if !matches!(args.command, Command::Drain(_) | Command::Prune(_)) {
        background::lower_priority();
    }
    let reads_records = matches!(
        args.command,
        Command::List(_) | Command::Show(_) | Command::Tail(_) | Command::Verify | Command::Export(_)
    );
    if reads_records && any_has_delivered(&outboxes).await {
        print_error("the gateway delivers to Postgres: delivered records are there, and this reads the others");
    }
    let done = match &args.command {
        // One output for all slots.
        Command::Heads => heads::run(&outboxes).await,
        Command::Show(args) => show::run(dir, &outboxes, args, json).await,
        Command::Tail(args) => tail::run(&outboxes, args, json, terminal).await,
        Command::Export(args) => export::run(dir, &outboxes, args, json, terminal.zone).await,
        command => match &outboxes[..] {
            [outbox] => run_on(config, outbox, command, (json, terminal)).await,
            _ => run_on_each(config, &outboxes, command, (json, terminal)).await,
        },
    };
    done.map_err(with_code)
}

/// Runs a command on one slot after the other. An error in one does not keep it from the others; the exit code is the
/// lowest of theirs, since 1 is that of a fault.
async fn run_on_each(
    config: &Config,
    outboxes: &[OutboxClient],
    command: &Command,
    (json, terminal): (bool, Terminal),
) -> anyhow::Result<()> {
    let mut code = None;
    for outbox in outboxes {
        let dir = outbox.dir().display();
        if matches!(command, Command::Drain(_))
            && let Ok(Some(gateway)) = outbox.live_gateway()
        {
            print_error(&format!("{dir}: left to its live gateway ({gateway})"));
            continue;
        }
        if !json {
            print_if_read(&format!("{dir}:\n"))?;
        }
        let done = run_on(config, outbox, command, (json, terminal)).await;
        if !json {
            print_if_read("\n")?;
        }
        let Err(error) = done else { continue };
        // The exit code has the verdict on all slots even if the output has no reader.
        if error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed) {
            continue;
        }
        let failed = report(&with_code(error).context(dir.to_string()), print_error);
        code = Some(code.map_or(failed, |code: u8| code.min(failed)));
    }
    code.map_or(Ok(()), |code| Err(CommandError::Reported { code }.into()))
}

async fn run_on(
    config: &Config,
    outbox: &OutboxClient,
    command: &Command,
    (json, terminal): (bool, Terminal),
) -> anyhow::Result<()> {
    let config = slots::config_of(config, outbox.dir());
    match command {
        Command::Drain(args) => drain::run(&config, outbox, args, json).await,
        Command::Prune(args) => prune::run(&config, outbox, args, json).await,
        Command::Stats => stats::run(outbox, json, terminal).await,
        Command::List(args) => list::run(outbox, args, json, terminal).await,
        Command::Verify => verify::run(outbox, json, terminal).await,
        Command::Requeue(_) | Command::Heads | Command::Show(_) | Command::Tail(_) | Command::Export(_) => Ok(()),
    }
}

async fn any_has_delivered(outboxes: &[OutboxClient]) -> bool {
    for outbox in outboxes {
        if outbox.has_delivered().await.unwrap_or(false) {
            return true;
        }
    }
    false
}

/// Gives the error that a newer Gatepost wrote the outbox its exit code.
fn with_code(error: anyhow::Error) -> anyhow::Error {
    if is_newer(&error) { CommandError::NoOutbox(format!("{error:#}")).into() } else { error }
}

/// The outboxes of the directory. One has generation files, or at least the lock of an outbox without records.
fn outboxes(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let not_an_outbox = |reason: &str| {
        CommandError::NoOutbox(format!(
            "{} is not an outbox directory: {reason}; name one with --dir, or the configuration with --config",
            dir.display()
        ))
    };
    let outboxes = slots::outboxes(dir).map_err(|error| not_an_outbox(&error.to_string()))?;
    if outboxes.is_empty() { Err(not_an_outbox("it has no outbox file")) } else { Ok(outboxes) }
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
