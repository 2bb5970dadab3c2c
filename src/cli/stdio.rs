//! `gatepost stdio`: the gateway as a stdio server, for desktop clients.

use std::path::PathBuf;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config_args::{CONFIG_HELP, require};
use super::configuration::{TOKEN_VARIABLE, load_for_gateway};
use super::exit::usage;
use super::gateway_error::GatewayError;
use super::gateway_process::{DRAIN, run_logged, stop_on_signal};
use super::leftovers::Leftovers;
use super::notary::{self, RunningNotary};
use super::{command_line, opening, pipeline, preflight};
use crate::audit::Audit;
use crate::audit::pipeline::Pipeline;
use crate::children;
use crate::config::Config;
use crate::file_access::FileKind;
use crate::gateway::Gateway;
use crate::gateway::listener::stdio::{Error, TokenSource};
use crate::log::Log;
use crate::ops::admin::Admin;
use crate::ops::alarm::Board;
use crate::ops::status::Sources;
use crate::ops::watch::Watcher;
use crate::walls::{Launcher, OwnFiles};

/// Largest file of a token, in bytes. *Derived*: twice the longest token that is verified.
const TOKEN_FILE_BYTES_MAX: usize = 32 * 1024;

/// `gatepost stdio`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    /// The backend to serve, under its own tool names, or "all" for all backends with prefixed names
    #[arg(long, value_name = "BACKEND", default_value = "all")]
    backend: String,
    // Not a doc comment: clippy would require Markdown in it, and the help would print the Markdown unchanged.
    #[arg(
        long,
        value_name = "FILE",
        help = "File with the caller's token [default: the environment variable GATEPOST_TOKEN]"
    )]
    token_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "COMMAND",
        conflicts_with = "token_file",
        help = "Command line that prints the caller's token; it is run at the start, and again before the token expires"
    )]
    token_command: Option<String>,
}

/// Serves the client on standard input and output until it closes its end.
pub(super) async fn run(args: &Args, log: &Log) -> anyhow::Result<()> {
    let path = require(args.config.as_deref(), "")?;
    let config = load_for_gateway(&path)?.config;
    let token = token(&config, args).map_err(usage)?;
    // The token belongs to the client alone.
    let own = OwnFiles::of(&config, [Some(path.as_path()), args.token_file.as_deref()].into_iter().flatten());
    let launcher = Launcher::with_walls(own);
    run_logged(&config, log, Box::pin(serve(&config, log, &launcher, &args.backend, token))).await
}

fn token(config: &Config, args: &Args) -> Result<TokenSource, String> {
    if let Some(line) = &args.token_command {
        let words = command_line::words(line).map_err(|message| format!("--token-command {message}"))?;
        return if words.is_empty() {
            Err("--token-command is empty: write a command line".to_owned())
        } else {
            Ok(TokenSource::Command { words, withheld: config.secret_variables() })
        };
    }
    if let Some(path) = &args.token_file {
        let bytes = config.auth.files.read(path, FileKind::Secret, TOKEN_FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| format!("--token-file: {error}"))?;
        return String::from_utf8(bytes)
            .map(TokenSource::Given)
            .map_err(|_| format!("--token-file: {} is not UTF-8: is it the right file?", path.display()));
    }
    let remedy = "or give --token-file or --token-command";
    let token = std::env::var(TOKEN_VARIABLE).map_err(|_| format!("no token: set {TOKEN_VARIABLE}, {remedy}"))?;
    Ok(TokenSource::Given(token))
}

async fn serve(
    config: &Config,
    log: &Log,
    launcher: &Launcher,
    backend: &str,
    token: TokenSource,
) -> Result<(), GatewayError> {
    let stop = stop_on_signal(log, DRAIN)?;
    preflight::check(config)?;
    let signer = notary::signer(config)?;
    // Before anything is opened.
    if backend != "all" && !config.backends.contains_key(backend) {
        return Err(GatewayError::Config(vec![Error::Backend(backend.to_owned()).to_string()]));
    }
    let pipeline = if config.audit.enabled {
        Some(pipeline::start_with(config, opening::of_first_free_slot).await?)
    } else {
        None
    };
    let notary = match (&pipeline, signer) {
        (Some(pipeline), Some(signer)) => Some(notary::start(config, pipeline, signer)?),
        _ => None,
    };
    let parts = (pipeline.as_ref(), notary.as_ref());
    let served = serve_until(config, log, launcher, backend, token, parts, stop).await;
    let stopped = pipeline::stop(config, pipeline, served).await;
    if let Some(notary) = notary {
        notary.stop().await;
    }
    stopped
}

async fn serve_until(
    config: &Config,
    log: &Log,
    launcher: &Launcher,
    backend: &str,
    token: TokenSource,
    (pipeline, notary): (Option<&Pipeline>, Option<&RunningNotary>),
    stop: CancellationToken,
) -> Result<(), GatewayError> {
    let audit = pipeline.map_or_else(Audit::disabled, Pipeline::audit);
    let gateway = Gateway::build(config, audit, launcher).map_err(|faults| GatewayError::config(&faults))?;
    let (ops_stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(children::reap_orphans(ops_stop.clone()));
    if let Some(pipeline) = pipeline {
        let failed = |source| GatewayError::Io { operation: "open the admin socket in a slot of audit.dir", source };
        let (probe, failures) = (pipeline.probe(), gateway.handle().accept_failures().clone());
        let admin = Admin::bind(probe.reader().dir(), probe.clone(), failures.clone()).map_err(failed)?;
        tasks.spawn(admin.run(ops_stop.clone()));
        if config.postgres.url.is_some() {
            tasks.spawn(Leftovers::new(config, failures).run(ops_stop.clone()));
        }
        let probe = Some(probe);
        let (gateway, board, log) = (gateway.handle(), Board::default(), log.dropped_lines());
        let sources = Sources { probe, gateway, board, log, evidence: notary.map(RunningNotary::status) };
        tasks.spawn(Watcher::new(sources, &config.alarms).run(ops_stop.clone()));
    }
    let (input, output) = (tokio::io::BufReader::new(tokio::io::stdin()), tokio::io::stdout());
    let served = gateway.run_stdio(backend, token, input, output, stop).await;
    ops_stop.cancel();
    tasks.join_all().await;
    let drained = served.map_err(|refused| GatewayError::Config(vec![refused.to_string()]))?;
    tracing::info!(
        finished = drained.finished,
        cancelled = drained.cancelled,
        unrecorded = drained.unrecorded,
        "calls drained"
    );
    Ok(())
}
