//! `gatepost serve`: builds and connects the parts, waits for a signal, and stops the parts in the order of the data
//! flow.

mod backend_arg;
mod quickstart;
mod reload;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config_args::{CONFIG_HELP, require};
use super::gateway_error::GatewayError;
use super::gateway_process::{DRAIN, run_logged, stop_on_signal};
use super::notary::{self, RunningNotary};
use super::{configuration, database, open_files, pipeline, preflight, slots};
use crate::accept::CountedListener;
use crate::audit::Audit;
use crate::audit::outbox::fs::{DiskFs, replace_file};
use crate::audit::pipeline::Pipeline;
use crate::auth::openid_client::OpenIdClient;
use crate::children;
use crate::config::{Config, Loaded};
use crate::connections;
use crate::gateway::Gateway;
use crate::log::Log;
use crate::ops::admin::Admin;
use crate::ops::alarm::Board;
use crate::ops::history::History;
use crate::ops::status::Sources;
use crate::ops::watch::Watcher;
use crate::ops::{console, health, hosts, response_headers, supervisor};
use crate::walls::{Launcher, OwnFiles};
use quickstart::Quickstart;
use reload::Reloader;

/// The file in the outbox directory with the addresses of a running gateway.
pub(super) const ADDRESSES_NAME: &str = "serve.json";

/// Most connections of the operations listener. *Chosen*: a monitoring system, a load balancer and some consoles have
/// ten; for one more, the oldest gives way.
const OPS_CONNECTIONS_MAX: usize = 64;

/// `gatepost serve`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    /// Run the example backend on a loopback address and print tokens and commands; needs no configuration
    #[arg(long, conflicts_with = "config")]
    quickstart: bool,
    /// With --quickstart, also run this MCP server: a command line, split into words as a shell does, or the URL of a
    /// Streamable HTTP server; may be repeated. NAME is the server's name, by default backend, backend-2, ...
    #[arg(long, value_name = "[NAME=]SERVER", requires = "quickstart")]
    backend: Vec<String>,
}

/// A configuration file that is watched: its path, its stamp when it was read, and its contents.
type WatchedFile = (PathBuf, reload::Stamp, Loaded);

pub(super) async fn run(args: &Args, log: &Log) -> anyhow::Result<()> {
    let (config, banner, file) = if args.quickstart {
        let (config, quickstart) = quickstart::prepare(&args.backend)?;
        (config, Some(quickstart), None)
    } else {
        let path = require(args.config.as_deref(), ", or try the gateway out with --quickstart")?;
        let stamp = reload::stamp(&path);
        let loaded = configuration::load_for_gateway(&path)?;
        (loaded.config.clone(), None, Some((path, stamp, loaded)))
    };
    run_logged(&config, log, Box::pin(serve(&config, log, banner, file))).await
}

async fn serve(
    config: &Config,
    log: &Log,
    banner: Option<Quickstart>,
    file: Option<WatchedFile>,
) -> Result<(), GatewayError> {
    let stop = stop_on_signal(log, DRAIN)?;
    preflight::check(config)?;
    let signer = notary::signer(config)?;
    open_files::raise_limit(config);
    let failed = |source| GatewayError::Io { operation: "receive SIGHUP", source };
    // From here on SIGHUP does not end the process, however early it arrives.
    let file = match file {
        Some(file) => Some((file, signal(SignalKind::hangup()).map_err(failed)?)),
        None => None,
    };
    let pipeline = if config.audit.enabled {
        slots::refuse(&config.audit.dir)?;
        Some(pipeline::start(config).await?)
    } else {
        None
    };
    let notary = match (&pipeline, signer) {
        (Some(pipeline), Some(signer)) => Some(notary::start(config, pipeline, signer)?),
        _ => None,
    };
    if pipeline.is_none() {
        tracing::warn!("auditing is off (audit.enabled = false): calls are not recorded");
    }
    let served = serve_until(config, log, banner, file, (pipeline.as_ref(), notary.as_ref()), stop).await;
    std::fs::remove_file(config.audit.dir.join(ADDRESSES_NAME)).ok();
    let stopped = pipeline::stop(config, pipeline, served).await;
    // The last checkpoint covers the record that closes the epoch.
    if let Some(notary) = notary {
        notary.stop().await;
    }
    stopped
}

/// Opens the listeners, serves until `stop`, and waits for open calls.
async fn serve_until(
    config: &Config,
    log: &Log,
    banner: Option<Quickstart>,
    file: Option<(WatchedFile, Signal)>,
    (pipeline, notary): (Option<&Pipeline>, Option<&RunningNotary>),
    stop: CancellationToken,
) -> Result<(), GatewayError> {
    let audit = pipeline.map_or_else(Audit::disabled, Pipeline::audit);
    let probe = pipeline.map(Pipeline::probe);
    let path = file.as_ref().map(|((path, ..), _)| path.as_path());
    let config_file = path.map(|path| path.display().to_string());
    let launcher = Launcher::with_walls(OwnFiles::of(config, path));
    let gateway = Gateway::build(config, audit, &launcher).map_err(|faults| GatewayError::config(&faults))?;
    let sources = Sources {
        probe: probe.clone(),
        gateway: gateway.handle(),
        board: Board::default(),
        log: log.dropped_lines(),
        evidence: notary.map(RunningNotary::status),
    };
    let (listener, mcp) = listen("server.listen", config.server.listen).await?;
    let (ops_stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let ops = serve_ops(config, &sources, &mut tasks, &ops_stop).await?;
    if let Some(((path, stamp, loaded), hang_up)) = file {
        let reloader = Reloader::new(path, stamp, loaded, gateway.handle(), hang_up);
        tasks.spawn(reloader.run(ops_stop.clone()));
    }
    tasks.spawn(Watcher::new(sources, &config.alarms).run(ops_stop.clone()));
    tasks.spawn(children::reap_orphans(ops_stop.clone()));
    if let Some(probe) = probe.clone() {
        let failed = |source| GatewayError::Io { operation: "open the admin socket in audit.dir", source };
        tasks.spawn(
            Admin::bind(&config.audit.dir, probe, gateway.handle().accept_failures().clone())
                .map_err(failed)?
                .run(ops_stop.clone()),
        );
        write_addresses(config, mcp, ops)?;
    }
    let address = format!("{}/mcp", url(scheme(config), mcp));
    tracing::info!(mcp = %address, ops = ops.map(tracing::field::display), config = config_file, "listening");
    tasks.spawn(supervisor::notify_systemd(address, probe, stop.clone(), ops_stop.clone()));
    if let Some(banner) = banner {
        banner.print(mcp, ops)?;
    }
    let drained = gateway.run(listener, stop).await;
    let drained = drained.map_err(|source| GatewayError::Io { operation: "serve", source })?;
    tracing::info!(
        finished = drained.finished,
        cancelled = drained.cancelled,
        unrecorded = drained.unrecorded,
        "calls drained"
    );
    ops_stop.cancel();
    tasks.join_all().await;
    Ok(())
}

/// Serves health, metrics and the console, if they have a listener; returns its address.
async fn serve_ops(
    config: &Config,
    sources: &Sources,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<Option<SocketAddr>, GatewayError> {
    let Some(address) = config.ops.listen else { return Ok(None) };
    let (listener, bound) = listen("ops.listen", address).await?;
    let history = History::default();
    let openid = OpenIdClient::from_config(config, bound).map_err(|fault| GatewayError::Config(vec![fault]))?;
    let router = health::router(sources.clone()).merge(console::router(console::Settings {
        sources: sources.clone(),
        openid,
        history: history.clone(),
        listener: bound,
        is_behind_tls: config.ops.is_behind_tls(),
        // Without delivery the trail is in the outbox.
        postgres: database::options(config).and_then(|_| database::reader_options(config)),
        stop: stop.clone(),
    }));
    let router = response_headers::add(hosts::guard(router, &config.ops.hosts(), bound));
    tasks.spawn(history.run(sources.clone(), stop.clone()));
    let listener = CountedListener { listener, failures: sources.gateway.accept_failures().clone() };
    tasks.spawn(connections::serve_router(listener, router, OPS_CONNECTIONS_MAX, stop.clone()));
    Ok(Some(bound))
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let failed = |source| GatewayError::Listen { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Writes the addresses of this gateway, for scripts: the system may have chosen the ports.
fn write_addresses(config: &Config, mcp: SocketAddr, ops: Option<SocketAddr>) -> Result<(), GatewayError> {
    let ops = ops.map(|address| url("http", address));
    let addresses = serde_json::json!({ "mcp": url(scheme(config), mcp), "ops": ops, "pid": std::process::id() });
    let path = config.audit.dir.join(ADDRESSES_NAME);
    replace_file(&DiskFs, &path, format!("{addresses}\n").as_bytes())
        .map_err(|source| GatewayError::Io { operation: "write serve.json in audit.dir", source })
}

/// The scheme of the MCP listener.
fn scheme(config: &Config) -> &'static str {
    if config.server.tls.is_some() { "https" } else { "http" }
}

fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://{address}")
}
