//! The notary of a running gateway.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::database;
use super::gateway_error::GatewayError;
use crate::audit::outbox::fs::DiskFs;
use crate::audit::pipeline::Pipeline;
use crate::audit::sink::postgres::PostgresSink;
use crate::config::{AnchorCommand, Bucket, Config, OnMissing, TimeStamps};
use crate::evidence::key::{KEY_TEXT_BYTES_MAX, VerifierKey};
use crate::evidence::time_stamp_roots::Roots;
use crate::file_access::FileKind;
use crate::notary::{
    Anchor, BucketAnchor, BucketSettings, Client, CommandAnchor, Memory, Notary, Settings, SignCommand, Signer, Status,
    TimeStampAnchor, WitnessAnchor,
};
use crate::witness::client::{ClientError, WitnessClient};

/// The longest wait for the last checkpoint. *Chosen*: Postgres and witnesses that are well take a second, and service
/// managers wait for half a minute.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest file with an access key, in bytes. *Chosen*: more than twenty times the length of one.
const ACCESS_KEY_BYTES_MAX: usize = 1024;

/// The longest file with certificates, in bytes. *Chosen*: more than the certificates of all public authorities.
const ROOTS_BYTES_MAX: usize = 1024 * 1024;

/// A notary that runs.
pub(super) struct RunningNotary {
    status: Status,
    stop: CancellationToken,
    task: JoinHandle<()>,
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
    let signer = Signer::new(origin, secrets);
    let Some(key) = evidence.verifier_key.as_ref().filter(|_| !evidence.sign_command.is_empty()) else {
        return Ok(Some(signer));
    };
    let verifier = VerifierKey::parse(key);
    let verifier = verifier.map_err(|error| GatewayError::Config(vec![format!("evidence.verifier_key: {error}")]))?;
    let (words, withheld) = (evidence.sign_command.clone(), config.secret_variables());
    Ok(Some(signer.with_command(SignCommand { words, withheld, verifier })))
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
    let verifiers =
        signer.verifiers(&name).map_err(|error| GatewayError::Config(vec![format!("evidence: {error}")]))?;
    let memory = Memory::read(Arc::new(DiskFs), probe.reader().dir());
    // The checkpoint of an anchor may be signed by a key that was lost or replaced.
    let remembered = memory.as_ref().map_or(&[][..], Memory::keys).iter().filter_map(|key| key.named(&name).ok());
    let remembered: Vec<_> = remembered.filter(|key| !verifiers.contains(key)).collect();
    for key in &verifiers {
        // Witnesses and policies need it.
        tracing::info!(log = name, %key, "signs checkpoints");
    }
    let settings = Settings {
        gateway_id: probe.stream().0,
        signer,
        memory,
        interval: config.evidence.interval,
        anchor_max_age: config.evidence.anchor_max_age,
        gate: pipeline.audit().gate().filter(|_| config.evidence.on_failure == OnMissing::Refuse),
    };
    let (notary, status) = Notary::new(
        settings,
        pipeline.audit(),
        pipeline.stored_tree(),
        store,
        anchors(config, &[verifiers, remembered].concat())?,
    );
    let stop = CancellationToken::new();
    // The memory is in the outbox directory: the next gateway there must not begin before this one has written it.
    let (hold, stopped) = (pipeline.hold(), stop.clone());
    let task = tokio::spawn(async move {
        notary.run(stopped).await;
        drop(hold);
    });
    Ok(RunningNotary { status, stop, task })
}

/// The anchors of the configuration. `verifiers` are the keys of the log, those of before too.
///
/// # Errors
/// A file cannot be read, or a URL cannot be used.
pub(super) fn anchors(
    config: &Config,
    verifiers: &[VerifierKey],
) -> Result<Vec<Anchor<Client, PostgresSink>>, GatewayError> {
    let evidence = &config.evidence;
    let mut clients = Vec::new();
    for (idx, witness) in evidence.witnesses.iter().enumerate() {
        let fault = |key: &str, what: &dyn fmt::Display| {
            GatewayError::Config(vec![format!("evidence.witnesses[{idx}].{key}: {what}")])
        };
        let key = VerifierKey::parse(&witness.key).map_err(|error| fault("key", &error))?;
        let name = key.name().to_owned();
        let client = WitnessClient::new(&witness.url, vec![key]).map_err(|error| match error {
            ClientError::KeyType { .. } => fault("key", &error),
            _ => fault("url", &error),
        })?;
        clients.push((name, Client::Witness(WitnessAnchor::new(client, verifiers.to_vec()))));
    }
    for (idx, TimeStamps { name, url, root_file, interval }) in evidence.time_stamps.iter().enumerate() {
        let fault = |key: &str, what: &dyn fmt::Display| {
            GatewayError::Config(vec![format!("evidence.time_stamps[{idx}].{key}: {what}")])
        };
        let root = |path: &PathBuf| {
            let text = evidence.files.read(path, FileKind::Trusted, ROOTS_BYTES_MAX);
            let text = text.map_err(|error| fault("root_file", &error))?;
            Roots::from_pem(&text).map_err(|error| fault("root_file", &format!("{}: {error}", path.display())))
        };
        let roots = root_file.as_ref().map(root).transpose()?;
        let anchor = TimeStampAnchor::new(url, *interval, roots).map_err(|error| fault("url", &error))?;
        clients.push((name.clone(), Client::TimeStamp(anchor)));
    }
    for (idx, bucket) in evidence.buckets.iter().enumerate() {
        clients.push((bucket.name.clone(), Client::Bucket(bucket_anchor(config, idx, bucket, verifiers)?)));
    }
    for AnchorCommand { name, command, interval } in &evidence.commands {
        let (words, withheld, interval) = (command.clone(), config.secret_variables(), *interval);
        clients.push((name.clone(), Client::Command(CommandAnchor { words, withheld, interval })));
    }
    let anchor = |(name, client)| {
        let store = database::options(config).map(|options| PostgresSink::new(&options)).transpose();
        let store = store.map_err(|error| GatewayError::Config(vec![error.to_string()]))?;
        Ok(Anchor { name, client, store })
    };
    clients.into_iter().map(anchor).collect()
}

/// A bucket of the configuration. Its objects are checked with the keys of the log.
fn bucket_anchor(
    config: &Config,
    idx: usize,
    bucket: &Bucket,
    verifiers: &[VerifierKey],
) -> Result<BucketAnchor, GatewayError> {
    let fault = |key: &str, what: &dyn fmt::Display| {
        GatewayError::Config(vec![format!("evidence.buckets[{idx}].{key}: {what}")])
    };
    let secret = config.evidence.files.read(&bucket.secret_key_file, FileKind::Secret, ACCESS_KEY_BYTES_MAX);
    let secret = Zeroizing::new(secret.map_err(|error| fault("secret_key_file", &error))?);
    let secret = str::from_utf8(&secret).map_err(|_| fault("secret_key_file", &"the file is not UTF-8"))?;
    let settings = BucketSettings {
        url: bucket.url.clone(),
        region: bucket.region.clone(),
        key_id: bucket.access_key_id.clone(),
        secret: Zeroizing::new(secret.trim().to_owned()),
        interval: bucket.interval,
        needs_lock: bucket.require_lock,
        verifiers: verifiers.to_vec(),
    };
    BucketAnchor::new(settings).map_err(|error| fault("url", &error))
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
