//! `gatepost witness`: signs checkpoints of logs, over HTTP.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::evidence::read_signing_key;
use super::exit::{CommandError, usage};
use super::gateway_process::stop_on_signal;
use super::logging;
use crate::accept::{AcceptFailures, CountedListener};
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::lock::{Lock, LockError};
use crate::config::Config;
use crate::connections;
use crate::evidence::key::{SigningKey, VerifierKey};
use crate::evidence::policy::{POLICY_BYTES_MAX, Policy};
use crate::file_access::{FileAccess, FileKind};
use crate::log::Log;
use crate::witness::store::Store;
use crate::witness::{Witness, server};

/// Most connections. *Chosen*: each log needs one at a time; for one more, the oldest gives way.
const CONNECTIONS_MAX: usize = 256;

/// `gatepost witness`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Signing key of the witness, from gatepost evidence keygen --type witness; may be repeated
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// Directory for the last checkpoint of each log; lost with it is the right to use the key
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Make the directory: only at the first start of a witness
    #[arg(long)]
    create: bool,
    /// Verifier key of a log to sign for; may be repeated
    #[arg(long = "log", value_name = "KEY")]
    logs: Vec<String>,
    /// Sign for the logs of this policy (its lines "log KEY")
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Address to listen on; other machines reach it through a proxy with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8810")]
    listen: SocketAddr,
}

pub(super) async fn run(args: &Args, log: &Log) -> anyhow::Result<()> {
    logging::start(&Config::parse("", None, []).map_err(CommandError::Configuration)?, log).map_err(usage)?;
    let stop = stop_on_signal(log, "waiting for open requests")?;
    let keys = args.keys.iter().map(|path| witness_key(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let logs = logs(args)?;
    let own: Vec<&VerifierKey> = keys.iter().map(SigningKey::verifier).collect();
    if args.create {
        Store::create(&DiskFs, &args.dir, &own).map_err(|error| usage(error.to_string()))?;
    }
    // Held to the end of the process. Without a directory, opening the store says what to do.
    let _lock = match Lock::take(&args.dir) {
        Err(LockError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        taken => Some(taken.map_err(|error| in_use(&args.dir, error))?),
    };
    let store = Store::open(Arc::new(DiskFs), &args.dir, &own)?;
    for key in &own {
        tracing::info!(key = %key, "signs as");
    }
    let witness = Arc::new(Witness::new(keys, logs, store));
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr().context("cannot listen")?;
    tracing::info!(witness = %format_args!("http://{address}"), "listening");
    let listener = CountedListener { listener, failures: AcceptFailures::default() };
    connections::serve_router(listener, server::router(witness), CONNECTIONS_MAX, stop).await;
    Ok(())
}

fn witness_key(path: &Path) -> anyhow::Result<SigningKey> {
    let key = read_signing_key(path)?;
    if key.verifier().signature_type().is_cosignature() {
        return Ok(key);
    }
    let path = path.display();
    Err(usage(format!("{path} is the key of a log: a witness needs one of gatepost evidence keygen --type witness")))
}

/// The policy of a file.
///
/// # Errors
/// The file cannot be read, or is not a policy: a mistake of the command line.
pub(super) fn read_policy(path: &Path) -> anyhow::Result<Policy> {
    let text = FileAccess::default().read(path, FileKind::Trusted, POLICY_BYTES_MAX);
    let text = text.map_err(|error| usage(error.to_string()))?;
    Policy::parse(&text).map_err(|error| usage(format!("{}: {error}", path.display())))
}

/// The keys of the logs that were named.
fn logs(args: &Args) -> anyhow::Result<Vec<VerifierKey>> {
    let parsed =
        args.logs.iter().map(|text| VerifierKey::parse(text).map_err(|error| usage(format!("--log: {error}"))));
    let mut logs = parsed.collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(path) = &args.policy {
        logs.extend(read_policy(path)?.logs().iter().map(|log| log.key.clone()));
    }
    if logs.is_empty() { Err(usage("there is no log to sign for: give --log KEY or --policy FILE")) } else { Ok(logs) }
}

fn in_use(dir: &Path, error: LockError) -> anyhow::Error {
    let dir = dir.display();
    match error {
        LockError::Held(_) => anyhow::anyhow!("{dir} is in use by another witness: stop it, or give this one its own"),
        LockError::Io(error) => anyhow::Error::new(error).context(format!("cannot lock {dir}")),
    }
}
