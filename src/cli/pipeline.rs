//! The audit pipeline of a configuration.

use std::time::Duration;

use super::database;
use super::digest_key;
use super::gateway_error::GatewayError;
use super::opening;
use crate::audit::outbox::{Keep, Opening};
use crate::audit::pipeline::{self, Pipeline};
use crate::audit::record::{GatewayId, PolicyText};
use crate::audit::sink::Sink;
use crate::audit::sink::postgres::{Options, PostgresSink};
use crate::audit::{Timeouts, ring, scribe, shipper};
use crate::config::{Config, Level};

/// Longest wait for Postgres at the start. *Chosen*: a healthy server migrates in a second.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for which delivered records are kept at level `stored`, if the operator does not set another. *Spec*:
/// `src/config/settings_table/audit.rs`.
const KEEP_DELIVERED: Duration = Duration::from_hours(24);

/// The share of the quota that kept records may use, if the operator does not set another. *Spec*:
/// `src/config/settings_table/audit.rs`.
const KEEP_SHARE: u64 = 4;

/// Opens the outbox in `audit.dir` and starts the pipeline. If Postgres is not ready, records wait in the outbox.
///
/// # Errors
/// The configuration is wrong, or the outbox cannot be opened.
pub(super) async fn start(config: &Config) -> Result<Pipeline, GatewayError> {
    start_with(config, opening::of_dir).await
}

/// The same as [`start`] for the outbox that `open` opens.
///
/// # Errors
/// The configuration is wrong, or the error of `open`.
pub(super) async fn start_with(
    config: &Config,
    open: impl FnOnce(&Config) -> Result<Opening, GatewayError>,
) -> Result<Pipeline, GatewayError> {
    database::check_files(config).map_err(|fault| GatewayError::Config(vec![fault]))?;
    let options = database::options(config).map(|options| Options { migrate: config.postgres.migrate, ..options });
    let sink = options.map(|options| PostgresSink::new(&options)).transpose();
    let sink = sink.map_err(|error| GatewayError::Config(vec![error.to_string()]))?;
    let audit = &config.audit;
    let (mode, level) = match audit.level {
        Level::Stored => (scribe::Mode::Stored, "stored"),
        Level::Queued => (scribe::Mode::Queued { spill_after: audit.spill_after }, "queued"),
    };
    // Opened first, so that a directory that is refused stays as it is.
    let opening = open(config)?;
    let digest_key =
        digest_key::read_or_create(config).map_err(|error| GatewayError::Config(vec![error.to_string()]))?;
    let pipeline = pipeline::Config {
        dir: opening.dir().to_owned(),
        gateway_id: Some(opening.gateway_id),
        mode,
        ring: ring::RingLimits { records: audit.ring_records_max, bytes: audit.ring_bytes_max },
        outbox_bytes_max: audit.outbox_bytes_max,
        keep: keep(config),
        timeouts: Timeouts { admission: audit.admission_timeout, store: audit.store_timeout },
        batch: shipper::BatchLimits { records: config.postgres.batch_rows_max, bytes: config.postgres.batch_bytes_max },
        about: scribe::ConfigSummary {
            level,
            config_digest: digest_key.config_digest(config_text(config).as_bytes()),
            digest_key,
            policy: PolicyText::new(&config.policy()),
        },
    };
    let sink = match sink {
        Some(sink) => Some(prepared(sink, opening.gateway_id).await),
        None => None,
    };
    Ok(Pipeline::begin(opening, &pipeline, sink)?)
}

/// The limits of what is kept of delivered records; `None` keeps nothing.
fn keep(config: &Config) -> Option<Keep> {
    let audit = &config.audit;
    let default = if audit.level == Level::Stored { KEEP_DELIVERED } else { Duration::ZERO };
    let age = audit.keep_delivered.unwrap_or(default);
    let bytes = audit.keep_bytes_max.unwrap_or(audit.outbox_bytes_max / KEEP_SHARE);
    (config.postgres.url.is_some() && !age.is_zero()).then_some(Keep { age, bytes })
}

/// Prepares the sink, if Postgres is ready for it.
async fn prepared(mut sink: PostgresSink, gateway_id: GatewayId) -> PostgresSink {
    match tokio::time::timeout(PREPARE_TIMEOUT, sink.prepare(gateway_id)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "Postgres is not ready; records wait in the outbox"),
        Err(_) => {
            tracing::warn!(timeout = ?PREPARE_TIMEOUT, "Postgres does not answer; records wait in the outbox");
        }
    }
    sink
}

/// Stores and delivers the remaining records, and closes the epoch. Returns `served`, the result of serving until then,
/// unless records were lost.
pub(super) async fn stop(
    config: &Config,
    pipeline: Option<Pipeline>,
    served: Result<(), GatewayError>,
) -> Result<(), GatewayError> {
    let Some(pipeline) = pipeline else { return served };
    let stopped = pipeline.stop(config.audit.store_timeout, config.postgres.drain_timeout).await;
    tracing::info!(last = %stopped.last, delivered = %stopped.delivered, lost = stopped.lost, "epoch closed");
    if stopped.lost == 0 { served } else { Err(GatewayError::Lost(stopped.lost)) }
}

/// A configuration as text, for its digest. It contains secrets.
pub(super) fn config_text(config: &Config) -> String {
    let environments: Vec<_> = config.backends.iter().map(|(alias, backend)| (alias, &backend.env)).collect();
    let urls = (&config.postgres.url, &config.postgres.reader_url, &config.alarms.webhook_url);
    format!("{config:?}{urls:?}{environments:?}")
}
