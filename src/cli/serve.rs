//! `gatepost serve`: builds the parts, joins them, waits for a signal, stops them in the order in which data flows.

mod reload;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use reload::Reloader;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::audit::outbox::fs::DiskFs;
use crate::audit::pipeline::{self, Pipeline};
use crate::audit::record::GatewayId;
use crate::audit::sink::Sink;
use crate::audit::sink::postgres::{self, PostgresSink};
use crate::audit::{Audit, Timeouts, ring, scribe, shipper};
use crate::config::{Config, Level, Loaded};
use crate::gateway::Gateway;
use crate::ops::admin::Admin;
use crate::ops::alarm::Board;
use crate::ops::status::Sources;
use crate::ops::watch::Watcher;
use crate::ops::{console, health, supervisor};

use super::{BAD_CONFIG, FAILED, NO_OUTBOX, complain, fail, load_whole, logging, quickstart};

/// How long the start waits for Postgres before it goes on without. *Chosen*: a healthy one migrates in a second.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// The file in the outbox directory that says where a running gateway listens.
const ADDRESSES_NAME: &str = "serve.json";

/// `gatepost serve`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Run with the example backend and two printed tokens; needs nothing, listens on loopback only
    #[arg(long, conflicts_with = "config")]
    quickstart: bool,
}

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Outbox(#[from] crate::audit::outbox::OutboxError),
    #[error("cannot listen on {address}: {source}; change {key}")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot {operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error("{0} records were only in the ring and are lost")]
    Lost(usize),
}

/// Runs the gateway until it is told to stop.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let (config, banner, watched) = if args.quickstart {
        match quickstart::prepare() {
            Ok((config, quickstart)) => (config, Some(quickstart), None),
            Err(error) => return fail(&format!("{error:#}")),
        }
    } else if let Some(path) = &args.config {
        let stamp = reload::stamp(path);
        match load_whole(Some(path)) {
            Ok(loaded) => (loaded.config.clone(), None, Some((path.clone(), stamp, loaded))),
            Err(code) => return code,
        }
    } else {
        complain("serve needs --config FILE, or --quickstart to try it out");
        return ExitCode::from(BAD_CONFIG);
    };
    on_runtime(&config, serve(&config, banner, watched))
}

/// Logs as configured, runs `work` on a runtime of its own, and gives its exit code.
pub(super) fn on_runtime(config: &Config, work: impl Future<Output = Result<(), Error>>) -> ExitCode {
    if let Err(message) = logging::start(config) {
        complain(&message);
        return ExitCode::from(BAD_CONFIG);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let ended = runtime.block_on(work);
    // A read of standard input cannot be given up; nothing else is left by now.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // An event is one line, and a configuration may have several faults.
            for line in error.to_string().lines() {
                tracing::error!(error = line, "stopped");
            }
            ExitCode::from(match error {
                Error::Config(_) => BAD_CONFIG,
                Error::Outbox(_) => NO_OUTBOX,
                Error::Listen { .. } | Error::Io { .. } | Error::Lost(_) => FAILED,
            })
        }
    }
}

/// A file that is watched, its stamp when it was read, and what it said.
type Watched = (PathBuf, reload::Stamp, Loaded);

async fn serve(config: &Config, banner: Option<quickstart::Quickstart>, watched: Option<Watched>) -> Result<(), Error> {
    let stop = stop_on_signal()?;
    let fault = |source| Error::Io { operation: "listen for SIGHUP", source };
    // From here on SIGHUP ends nothing, however early it comes.
    let watched = match watched {
        Some(watched) => Some((watched, signal(SignalKind::hangup()).map_err(fault)?)),
        None => None,
    };
    let pipeline = if config.audit.enabled { Some(start_pipeline(config).await?) } else { None };
    if pipeline.is_none() {
        tracing::warn!("auditing is switched off (audit.enabled = false): calls leave no record");
    }
    let served = serve_until(config, banner, watched, pipeline.as_ref(), stop).await;
    std::fs::remove_file(config.audit.dir.join(ADDRESSES_NAME)).ok();
    stop_pipeline(config, pipeline, served).await
}

/// Stores and delivers what is left, and closes the epoch.
pub(super) async fn stop_pipeline(
    config: &Config,
    pipeline: Option<Pipeline>,
    served: Result<(), Error>,
) -> Result<(), Error> {
    let Some(pipeline) = pipeline else { return served };
    let ended = pipeline.stop(config.audit.store_timeout, config.postgres.drain_timeout).await;
    tracing::info!(last = %ended.last, delivered = %ended.delivered, lost = ended.lost, "the epoch is closed");
    if ended.lost == 0 { served } else { Err(Error::Lost(ended.lost)) }
}

/// The faults of a configuration, as one.
pub(super) fn faulty(faults: &[crate::gateway::fault::Fault]) -> Error {
    Error::Config(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Opens the listeners, serves until `stop`, and lets open calls finish.
async fn serve_until(
    config: &Config,
    banner: Option<quickstart::Quickstart>,
    watched: Option<(Watched, Signal)>,
    pipeline: Option<&Pipeline>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let audit = pipeline.map_or_else(Audit::disabled, Pipeline::audit);
    let probe = pipeline.map(Pipeline::probe);
    let gateway = Gateway::build(config, audit).map_err(|faults| faulty(&faults))?;
    let sources = Sources { probe: probe.clone(), gateway: gateway.handle(), board: Board::default() };
    let (listener, mcp) = listen("server.listen", config.server.listen).await?;
    let ops_stop = CancellationToken::new();
    let (mut ops_address, mut ops) = (None, tokio::task::JoinSet::new());
    if let Some(address) = config.ops.listen {
        let (listener, bound) = listen("ops.listen", address).await?;
        ops_address = Some(bound);
        let router = health::router(sources.clone()).merge(console::router(console::Settings {
            sources: sources.clone(),
            role: config.ops.console_role.clone(),
            allowed_hosts: config.ops.allowed_hosts.clone(),
            listener: bound,
            postgres: config.postgres.url.as_ref().map(|url| postgres_options(config, url, false)),
        }));
        let until = ops_stop.clone().cancelled_owned();
        ops.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(until).await {
                tracing::error!(%error, "the operations listener ended");
            }
        });
    }
    if let Some(((path, stamp, loaded), hang_up)) = watched {
        let reloader = Reloader::new(path, stamp, loaded, gateway.handle(), hang_up);
        ops.spawn(reloader.run(ops_stop.clone()));
    }
    ops.spawn(Watcher::new(sources, &config.alarms).run(ops_stop.clone()));
    if let Some(probe) = probe.clone() {
        let admin = Admin::bind(&config.audit.dir, probe);
        let admin = admin.map_err(|source| Error::Io { operation: "open the admin socket in audit.dir", source })?;
        ops.spawn(admin.run(ops_stop.clone()));
        write_addresses(config, mcp, ops_address)?;
    }
    let address = format!("{}/mcp", url(scheme(config), mcp));
    tracing::info!(mcp = %address, ops = ?ops_address, "listening");
    ops.spawn(supervisor::tell(address, probe, stop.clone(), ops_stop.clone()));
    if let Some(banner) = banner {
        banner.print(mcp).map_err(|source| Error::Io { operation: "write to standard output", source })?;
    }
    let drained = gateway.run(listener, stop).await;
    let drained = drained.map_err(|source| Error::Io { operation: "serve", source })?;
    tracing::info!(
        finished = drained.finished,
        cancelled = drained.cancelled,
        unrecorded = drained.unrecorded,
        "calls drained"
    );
    ops_stop.cancel();
    ops.join_all().await;
    Ok(())
}

pub(super) async fn start_pipeline(config: &Config) -> Result<Pipeline, Error> {
    let mut sink = None;
    if let Some(url) = &config.postgres.url {
        let options = postgres_options(config, url, config.postgres.migrate);
        let mut postgres = PostgresSink::new(&options).map_err(|error| Error::Config(error.to_string()))?;
        match tokio::time::timeout(PREPARE_TIMEOUT, postgres.prepare()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Postgres is not ready; records wait in the outbox"),
            Err(_) => tracing::warn!("Postgres does not answer; records wait in the outbox"),
        }
        sink = Some(postgres);
    }
    let audit = &config.audit;
    let (mode, level) = match audit.level {
        Level::Stored => (scribe::Mode::Stored, "stored"),
        Level::Queued => (scribe::Mode::Queued { spill_after: audit.spill_after }, "queued"),
    };
    let pipeline = pipeline::Config {
        dir: audit.dir.clone(),
        gateway_id: audit.gateway_id.map(GatewayId),
        mode,
        ring: ring::RingLimits { records: audit.ring_records_max, bytes: audit.ring_bytes_max },
        outbox_bytes_max: audit.outbox_bytes_max,
        timeouts: Timeouts { admission: audit.admission_timeout, store: audit.store_timeout },
        batch: shipper::BatchLimits { records: config.postgres.batch_rows_max, bytes: config.postgres.batch_bytes_max },
        about: scribe::ConfigSummary { level, config_digest: reload::config_digest(config) },
    };
    Ok(Pipeline::start(&pipeline, Arc::new(DiskFs), sink)?)
}

fn postgres_options(config: &Config, url: &str, migrate: bool) -> postgres::Options {
    postgres::Options { url: url.to_owned(), statement_timeout: config.postgres.statement_timeout, migrate }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let fault = |source| Error::Listen { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    Ok((listener, bound))
}

/// Says where this gateway listens, for scripts: the ports may have been chosen by the system.
fn write_addresses(config: &Config, mcp: SocketAddr, ops: Option<SocketAddr>) -> Result<(), Error> {
    let ops = ops.map(|address| url("http", address));
    let addresses = serde_json::json!({ "mcp": url(scheme(config), mcp), "ops": ops, "pid": std::process::id() });
    let path = config.audit.dir.join(ADDRESSES_NAME);
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, format!("{addresses}\n"))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| Error::Io { operation: "write serve.json into audit.dir", source })
}

/// How the MCP listener is spoken to.
fn scheme(config: &Config) -> &'static str {
    if config.server.tls.is_some() { "https" } else { "http" }
}

fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://{address}")
}

/// A token that the first SIGTERM or SIGINT cancels. The second one ends the process at once.
pub(super) fn stop_on_signal() -> Result<CancellationToken, Error> {
    let fault = |source| Error::Io { operation: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping: open calls finish, records are stored and delivered; a second signal ends at once");
        token.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::error!("second signal: ended at once");
        std::process::exit(130);
    });
    Ok(stop)
}
