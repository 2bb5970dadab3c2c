//! The notary of a running gateway.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::database;
use super::gateway_error::GatewayError;
use crate::audit::outbox::lock::Hold;
use crate::audit::pipeline::Pipeline;
use crate::audit::sink::postgres::PostgresSink;
use crate::config::{self, Config};
use crate::evidence::key::{KEY_TEXT_BYTES_MAX, VerifierKey};
use crate::file_access::FileKind;
use crate::notary::{Notary, Settings, Signer, Status, Witness};
use crate::witness::client::{ClientError, WitnessClient};

/// The longest wait for the last checkpoint. *Chosen*: Postgres and witnesses that are well take a second, and service
/// managers wait for half a minute.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A notary that runs.
pub(super) struct RunningNotary {
    status: Status,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// The memory is in the outbox directory: the next gateway there must not begin before this one has written it.
    _hold: Hold,
}

/// The keys of the configuration; `None` if nothing is to be signed.
///
/// # Errors
/// A file cannot be read, or is not a key.
pub(super) fn signer(config: &Config) -> Result<Option<Signer>, GatewayError> {
    let evidence = &config.evidence;
    let Some(origin) = &evidence.origin else { return Ok(None) };
    let files = [("evidence.key_file", &evidence.key_file), ("evidence.second_key_file", &evidence.second_key_file)];
    let mut secrets = Vec::new();
    for (key, path) in files.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?))) {
        let fault = |what: String| GatewayError::Config(vec![format!("{key}: {what}")]);
        let bytes = evidence.files.read(path, FileKind::Secret, KEY_TEXT_BYTES_MAX);
        let bytes = Zeroizing::new(bytes.map_err(|error| fault(error.to_string()))?);
        let text = str::from_utf8(&bytes).map_err(|_| fault(format!("{} is not UTF-8", path.display())))?;
        let text = Zeroizing::new(text.to_owned());
        Signer::check(&text).map_err(|error| fault(format!("{}: {error}", path.display())))?;
        secrets.push(text);
    }
    Ok(Some(Signer::new(origin, secrets)))
}

/// Starts the notary of `pipeline`, which signs with `signer`.
///
/// # Errors
/// The URL of Postgres cannot be used.
pub(super) fn start(config: &Config, pipeline: &Pipeline, signer: Signer) -> Result<RunningNotary, GatewayError> {
    let store = database::options(config).map(|options| PostgresSink::new(&options)).transpose();
    let store = store.map_err(|error| GatewayError::Config(vec![error.to_string()]))?;
    let probe = pipeline.probe();
    let name = signer.log_name(probe.stream().0, pipeline.stored_tree().get().log);
    for key in signer.verifiers(&name).map_err(|error| GatewayError::Config(vec![format!("evidence: {error}")]))? {
        // Witnesses and policies need it.
        tracing::info!(log = name, %key, "signs checkpoints");
    }
    let settings = Settings {
        gateway_id: probe.stream().0,
        signer,
        dir: probe.reader().dir().to_owned(),
        interval: config.evidence.interval,
        anchor_max_age: config.evidence.anchor_max_age,
    };
    let (notary, status) = Notary::new(settings, pipeline.audit(), pipeline.stored_tree(), store, witnesses(config)?);
    let stop = CancellationToken::new();
    let task = tokio::spawn(notary.run(stop.clone()));
    Ok(RunningNotary { status, stop, task, _hold: pipeline.hold() })
}

/// The witnesses of the configuration.
fn witnesses(config: &Config) -> Result<Vec<Witness<PostgresSink>>, GatewayError> {
    let witness = |(idx, witness): (usize, &config::Witness)| {
        let fault = |key: &str, what: &dyn std::fmt::Display| {
            GatewayError::Config(vec![format!("evidence.witnesses[{idx}].{key}: {what}")])
        };
        let key = VerifierKey::parse(&witness.key).map_err(|error| fault("key", &error))?;
        let name = key.name().to_owned();
        let client = WitnessClient::new(&witness.url, vec![key]).map_err(|error| match error {
            ClientError::KeyType { .. } => fault("key", &error),
            _ => fault("url", &error),
        })?;
        let store = database::options(config).map(|options| PostgresSink::new(&options)).transpose();
        let store = store.map_err(|error| GatewayError::Config(vec![error.to_string()]))?;
        Ok(Witness { name, client, store })
    };
    config.evidence.witnesses.iter().enumerate().map(witness).collect()
}

impl RunningNotary {
    /// The notary's state.
    pub(super) fn status(&self) -> Status {
        self.status.clone()
    }

    /// Signs what was stored since the last checkpoint, and ends.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        match tokio::time::timeout(STOP_TIMEOUT, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the notary panicked (a bug in Gatepost); the last records are not signed"),
            Err(_) => {
                self.task.abort();
                tracing::warn!(timeout = ?STOP_TIMEOUT, "the last checkpoint was not stored or confirmed in time");
            }
        }
    }
}
