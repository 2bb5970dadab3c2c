//! `gatepost stdio`: the gateway as a stdio server, for desktop clients.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::serve::{self, Error};
use super::{complain, load};
use crate::audit::Audit;
use crate::audit::pipeline::Pipeline;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::ops::admin::Admin;
use crate::ops::alarm::Board;
use crate::ops::status::Sources;
use crate::ops::watch::Watcher;
use tokio_util::sync::CancellationToken;

/// The environment variable with the caller's token.
pub(super) const TOKEN_VARIABLE: &str = "GATEPOST_TOKEN";

/// `gatepost stdio`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(long)]
    config: PathBuf,
    /// The backend to serve under its own names, or `all` for all with prefixed ones
    #[arg(long, default_value = "all")]
    backend: String,
    /// File with the caller's token [default: the environment variable `GATEPOST_TOKEN`]
    #[arg(long)]
    token_file: Option<PathBuf>,
}

/// Serves the client on standard input and output until it closes its end.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match load(Some(&args.config)) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let token = match token(args.token_file.as_deref()) {
        Ok(token) => token,
        Err(message) => {
            complain(&message);
            return ExitCode::from(super::BAD_CONFIG);
        }
    };
    serve::on_runtime(&config, serve(&config, &args.backend, &token))
}

fn token(file: Option<&Path>) -> Result<String, String> {
    match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the token from {} ({error})", path.display())),
        None => std::env::var(TOKEN_VARIABLE)
            .map_err(|_| format!("no token: set {TOKEN_VARIABLE}, or give --token-file FILE")),
    }
}

async fn serve(config: &Config, backend: &str, token: &str) -> Result<(), Error> {
    let stop = serve::stop_on_signal()?;
    let pipeline = if config.audit.enabled { Some(serve::start_pipeline(config).await?) } else { None };
    let served = serve_until(config, backend, token, pipeline.as_ref(), stop).await;
    serve::stop_pipeline(config, pipeline, served).await
}

async fn serve_until(
    config: &Config,
    backend: &str,
    token: &str,
    pipeline: Option<&Pipeline>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let audit = pipeline.map_or_else(Audit::disabled, Pipeline::audit);
    let gateway = Gateway::build(config, audit).map_err(|faults| serve::faulty(&faults))?;
    let admin_stop = CancellationToken::new();
    let mut admin = tokio::task::JoinSet::new();
    if let Some(pipeline) = pipeline {
        let bound = Admin::bind(&config.audit.dir, pipeline.probe());
        let bound = bound.map_err(|source| Error::Io { operation: "open the admin socket in audit.dir", source })?;
        admin.spawn(bound.run(admin_stop.clone()));
        let probe = Some(pipeline.probe());
        let sources = Sources { probe, gateway: gateway.handle(), board: Board::default() };
        admin.spawn(Watcher::new(sources, &config.alarms).run(admin_stop.clone()));
    }
    let (input, output) = (tokio::io::BufReader::new(tokio::io::stdin()), tokio::io::stdout());
    let served = gateway.run_stdio(backend, token, input, output, stop).await;
    admin_stop.cancel();
    admin.join_all().await;
    let drained = served.map_err(|refused| Error::Config(refused.to_string()))?;
    tracing::info!(
        finished = drained.finished,
        cancelled = drained.cancelled,
        unrecorded = drained.unrecorded,
        "calls drained"
    );
    Ok(())
}
