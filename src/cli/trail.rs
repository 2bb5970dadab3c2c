//! The trail of a configuration, for `gatepost audit`.

use std::ops::ControlFlow;

use anyhow::Context;

use super::database;
use super::exit::{CommandError, FAILED};
use super::outbox_client::OutboxClient;
use super::output::print_error;
use super::slots;
use crate::audit::query::Filter;
use crate::audit::sink::ErrorClass;
use crate::config::Config;
use crate::ops::admin;
use crate::ops::protocol::Question;
use crate::ops::read_log::{ReadCommand, TrailRead};
use crate::ops::trail::{TrailError, TrailReader};

/// A reader of the trail.
pub(super) type Trail = TrailReader<OutboxClient>;

/// The ways to name a database.
const DATABASE: &str = "name the database in the configuration (--config), as GATEPOST_POSTGRES_URL or in a file of variables (--env-file)";

/// Opens the trail: in Postgres if it is configured, otherwise in the outbox.
///
/// # Errors
/// Postgres cannot be reached; the directory does not exist; or it is that of a gateway that delivers to Postgres, so
/// that the trail is not there.
pub(super) async fn open(config: &Config) -> anyhow::Result<Trail> {
    let (postgres, dir) = (database::reader_options(config), &config.audit.dir);
    let not_configured = |message: String| CommandError::NotConfigured { message, code: FAILED };
    if postgres.is_none() && !dir.is_dir() {
        return Err(not_configured(format!(
            "{} is not an outbox directory, and postgres.url is not set: name a directory with --dir, or {DATABASE}",
            dir.display()
        ))
        .into());
    }
    let outboxes = slots::outboxes(dir).unwrap_or_default();
    if let ([first, _, ..], None) = (&outboxes[..], &postgres) {
        anyhow::bail!(
            "postgres.url is not set, and {} has {} slots, each with a trail of its own: name one, for example --dir {}, \
             or use gatepost outbox for all",
            dir.display(),
            outboxes.len(),
            first.display()
        );
    }
    let outbox = OutboxClient::new(outboxes.first().unwrap_or(dir));
    if postgres.is_none() && outbox.has_delivered().await? {
        return Err(not_configured(format!(
            "the gateway of {} delivers to Postgres, and its outbox has only what is not delivered yet: {DATABASE}, or \
             use gatepost outbox for what waits",
            dir.display()
        ))
        .into());
    }
    Trail::open(postgres.as_ref(), outbox).await.map_err(|error| match error {
        TrailError::Connect(error) if error.class == ErrorClass::Transient => anyhow::anyhow!(
            "Postgres does not answer: {error}; records that are not delivered yet: gatepost outbox list, the state of \
             delivery: gatepost outbox stats"
        ),
        error => error.into(),
    })
}

/// True if a live gateway can be asked to record reads.
pub(super) fn has_gateway(config: &Config) -> bool {
    !slots::live(&config.audit.dir).is_empty()
}

/// Has the live gateway of `audit.dir`, or of one of its slots, record the read before anything is shown. Without a
/// live gateway the read cannot be recorded, since a reader of Postgres cannot write records and only a gateway extends
/// a stream. A line on standard error then says so.
///
/// # Errors
/// A gateway runs there and does not record the read: then nothing may be shown.
pub(super) async fn record_read(
    config: &Config,
    trail: &Trail,
    command: ReadCommand,
    filter: Option<&Filter>,
    rows: u64,
) -> anyhow::Result<()> {
    let dir = &config.audit.dir;
    let read = TrailRead { command, from: trail.source(), filter: filter.cloned(), rows };
    let question = Question::RecordRead { read: Box::new(read) };
    let mut recorded = None;
    for gateway in slots::live(dir) {
        let asked = admin::ask(&gateway, &question, &mut |_| ControlFlow::Continue(())).await;
        if asked.is_ok() {
            return Ok(());
        }
        recorded = Some(asked);
    }
    let Some(failed) = recorded else {
        print_error(&format!("this read is not recorded: no live gateway in {} (--dir) can be asked", dir.display()));
        return Ok(());
    };
    failed.context("the live gateway did not record this read (gateway/read); nothing is shown")
}
