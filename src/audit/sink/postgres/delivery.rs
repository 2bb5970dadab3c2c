//! The Postgres implementation of [`Sink`].

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{Postgres, Row};

use super::connection::{Options, REPLY_GRACE, connect, connect_options};
use super::error::{driver_error, timed_out};
use super::migrations::{check_version, migrate};
use super::rights::may_change_rows;
use super::rows::{bigint, call_with_batch, insert};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Seq};
use crate::audit::sink::interface::{CursorUpdate, Sink, SinkError};
use crate::audit::sink::sqlstate::ErrorClass;

/// Months for which partitions are created ahead, including the current one. *Chosen*: they are created daily, so a few
/// months allow for a long outage of the database.
const PARTITION_MONTHS: i32 = 4;

/// Moves the cursor and inserts the rows. Returns whether it did.
///
/// The cursor moves only if it is at the position and hash where the batch begins, and the rows are inserted only if it
/// moved. So a repeated, late or foreign batch has no effect. The function itself checks that the batch is a chain.
///
/// If a trigger of the operator silently keeps rows out, the function fails with 23000 and the counts, and nothing
/// takes effect. The rows are then found and quarantined like refused ones; they never count as delivered.
pub(super) static DELIVER: LazyLock<String> = LazyLock::new(|| call_with_batch("gatepost_deliver"));

/// Inserts one record and rolls it back.
static DRY_RUN: LazyLock<String> = LazyLock::new(|| call_with_batch("gatepost_dry_run"));

/// Like [`DELIVER`], for one record that goes to `audit_quarantine`.
const QUARANTINE: &str = "SELECT gatepost_quarantine($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// The SQLSTATE of a gateway that the owner of the tables has not registered. *Spec*: `migrations/0001_audit.sql`.
const NOT_REGISTERED: &str = "GP001";

/// Delivers to Postgres over one connection, which is opened at its first use.
#[derive(Debug)]
pub struct PostgresSink {
    options: Options,
    /// Taken out while a statement runs, and put back if it succeeded or failed with class `Row`. After any other
    /// error, or if the future was dropped, the connection is closed, because its reply may still arrive.
    connection: Option<PgConnection>,
    reply_timeout: Duration,
    /// True once the login's rights were checked.
    rights_checked: bool,
}

impl PostgresSink {
    /// A sink that is not connected yet.
    ///
    /// # Errors
    /// The URL is not a Postgres URL.
    pub fn new(options: &Options) -> Result<Self, SinkError> {
        connect_options(&Options { password_file: None, ..options.clone() })?;
        let reply_timeout = options.statement_timeout + REPLY_GRACE;
        Ok(Self { options: options.clone(), connection: None, reply_timeout, rights_checked: false })
    }

    async fn take_connection(&mut self) -> Result<PgConnection, SinkError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&connect_options(&self.options)?).await,
        }
    }

    /// The error for an operator if the schema is missing or older than this program.
    async fn schema_is_complete(&mut self) -> Result<Result<(), SinkError>, SinkError> {
        let mut connection = self.take_connection().await?;
        let checked = tokio::time::timeout(self.reply_timeout, check_version(&mut connection)).await;
        let complete = checked.unwrap_or_else(|_| Err(self.late("read the schema's version")))?;
        self.connection = Some(connection);
        Ok(complete)
    }

    /// Warns once if the login can do more to the trail than deliver.
    async fn check_rights(&mut self) -> Result<(), SinkError> {
        if self.rights_checked {
            return Ok(());
        }
        let mut connection = self.take_connection().await?;
        let checked = tokio::time::timeout(self.reply_timeout, may_change_rows(&mut connection)).await;
        if checked.unwrap_or_else(|_| Err(self.late("read the login's rights")))? {
            tracing::warn!(
                "the login of postgres.url owns tables of the trail or may change their rows, and so may anyone with \
                 its password; use a login that is only a member of gatepost_writer (docs/security.md)"
            );
        }
        self.rights_checked = true;
        self.connection = Some(connection);
        Ok(())
    }

    fn late(&self, operation: &'static str) -> SinkError {
        timed_out(operation, self.reply_timeout, ErrorClass::TooMuch)
    }

    async fn fetch(
        &mut self,
        operation: &'static str,
        statement: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<PgRow, SinkError> {
        let mut connection = self.take_connection().await?;
        let result = self.with_timeout(operation, statement.fetch_one(&mut connection)).await;
        self.return_connection(connection, result)
    }

    async fn with_timeout<T>(
        &self,
        operation: &'static str,
        reply: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(self.reply_timeout, reply).await {
            Ok(result) => result.map_err(|error| driver_error(operation, &error)),
            Err(_) => Err(self.late(operation)),
        }
    }

    fn return_connection<T>(&mut self, connection: PgConnection, result: Result<T, SinkError>) -> Result<T, SinkError> {
        if result.as_ref().map_or_else(|error| error.class == ErrorClass::Row, |_| true) {
            self.connection = Some(connection);
        }
        result
    }
}

impl Sink for PostgresSink {
    async fn prepare(&mut self, gateway_id: GatewayId) -> Result<(), SinkError> {
        // A schema that is complete needs no right to create.
        if let Err(error) = self.schema_is_complete().await? {
            if !self.options.migrate {
                return Err(error);
            }
            let mut connection = self.take_connection().await?;
            // After an error the connection still has the lock of the migrations, so it is closed.
            match tokio::time::timeout(self.reply_timeout, migrate(&mut connection)).await {
                Ok(result) => result?,
                Err(_) => return Err(timed_out("migrate", self.reply_timeout, ErrorClass::Transient)),
            };
            self.connection = Some(connection);
        }
        self.check_rights().await?;
        let partitions = sqlx::query("SELECT gatepost_make_partitions($1, now(), $2)");
        match self.fetch("make partitions", partitions.bind(gateway_id.0).bind(PARTITION_MONTHS)).await {
            Err(error) if matches!(error.sqlstate.as_deref(), Some(NOT_REGISTERED)) => Err(error),
            // A record without a monthly partition goes to the default partition, so a missing one does not block
            // delivery. 57014 and 55P03 are the server's own time limits, reached if the default partition is large.
            Err(error)
                if !matches!(error.class, ErrorClass::Transient | ErrorClass::TooMuch)
                    || matches!(error.sqlstate.as_deref(), Some("57014" | "55P03")) =>
            {
                tracing::error!(%error, "could not create partitions ahead; records go to the default partition");
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    async fn cursor(&mut self, gateway_id: GatewayId, epoch: Epoch) -> Result<Head, SinkError> {
        let operation = "read the cursor";
        let open = sqlx::query("SELECT seq, hash FROM gatepost_open_stream($1, $2)");
        let row = self.fetch(operation, open.bind(gateway_id.0).bind(bigint(epoch.0))).await?;
        let seq: i64 = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
        let hash: Vec<u8> = row.try_get(1).map_err(|error| driver_error(operation, &error))?;
        let hash = hash.try_into().map_or(Digest::ZERO, Digest);
        Ok(Head { seq: Seq(seq.unsigned_abs()), hash })
    }

    async fn deliver<R: AsRef<AuditRecord> + Sync>(&mut self, batch: &[R]) -> Result<CursorUpdate, SinkError> {
        let Some(first) = batch.first() else { return Ok(CursorUpdate::Moved) };
        // I5: the function changes cursor and rows in one transaction.
        let statement = insert(&DELIVER, first.as_ref().position, batch);
        self.fetch("deliver", statement).await.and_then(|row| cursor_update("deliver", &row))
    }

    async fn dry_run(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        let batch = [record];
        self.fetch("dry run", insert(&DRY_RUN, record.position, &batch)).await.map(|_| ())
    }

    async fn quarantine(&mut self, record: &AuditRecord, reason: &SinkError) -> Result<CursorUpdate, SinkError> {
        let position = record.position;
        let mut frame = Vec::new();
        codec::encode_record(record, &mut frame).map_err(|error| SinkError {
            operation: "quarantine",
            class: ErrorClass::Operator,
            sqlstate: None,
            message: error.to_string(),
        })?;
        let statement = sqlx::query(QUARANTINE)
            .bind(position.gateway_id.0)
            .bind(bigint(position.epoch.0))
            .bind(bigint(position.seq.0))
            .bind(position.prev_hash.0.to_vec())
            .bind(position.hash.0.to_vec())
            .bind(record.entry.call.request_id.0)
            .bind(frame)
            .bind(reason.sqlstate.clone())
            .bind(reason.message.replace('\0', "\u{fffd}"));
        self.fetch("quarantine", statement).await.and_then(|row| cursor_update("quarantine", &row))
    }
}

/// The result of [`DELIVER`], [`QUARANTINE`] and the requeue statement.
pub(super) fn cursor_update(operation: &'static str, row: &PgRow) -> Result<CursorUpdate, SinkError> {
    let moved: bool = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
    Ok(if moved { CursorUpdate::Moved } else { CursorUpdate::Unchanged })
}
