//! The Postgres implementation of [`Sink`].

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use super::connection::{Options, REPLY_GRACE, connect, parse_url};
use super::database_state::DatabaseState;
use super::error::{driver_error, timed_out};
use super::migrations::{check_version, migrate};
use super::rows::{bigint, call_with_batch, insert};
use super::transaction::{begin, check_durable, commit, roll_back};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Seq};
use crate::audit::sink::interface::{CursorUpdate, Sink, SinkError};
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql::{self, Connection};

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
///
/// The last two columns are those of [`sql::DURABILITY`], read in the transaction that is then committed.
pub(super) static DELIVER: LazyLock<String> =
    LazyLock::new(|| format!("{}, {}", call_with_batch("gatepost_deliver"), sql::DURABILITY));

/// Inserts one record and rolls it back.
static DRY_RUN: LazyLock<String> = LazyLock::new(|| call_with_batch("gatepost_dry_run"));

/// Like [`DELIVER`], for one record that goes to `audit_quarantine`.
static QUARANTINE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT gatepost_quarantine($1, $2, $3, $4, $5, $6, $7, $8, $9), {}", sql::DURABILITY));

/// The SQLSTATE of a gateway that the owner of the tables has not registered. *Spec*: `migrations/0001_audit.sql`.
pub(super) const NOT_REGISTERED: &str = "GP001";

/// The effect of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Records are delivered: the commit has to be durable, see [`sql::DURABILITY`].
    Delivery,
    /// Nothing that has to be there after a crash of the server.
    None,
}

/// Delivers to Postgres over one connection, which is opened at its first use.
#[derive(Debug)]
pub struct PostgresSink {
    options: Options,
    /// Taken out while a transaction runs, and put back if it succeeded or was rolled back for a row. After any other
    /// error, or if the future was dropped, the connection is closed, because its reply may still arrive.
    connection: Option<Connection>,
    reply_timeout: Duration,
    /// True once the operator was told of what weakens the trail without stopping delivery.
    weaknesses_told: bool,
}

impl PostgresSink {
    /// A sink that is not connected yet.
    ///
    /// # Errors
    /// The URL is not a Postgres URL.
    pub fn new(options: &Options) -> Result<Self, SinkError> {
        parse_url(options)?;
        let reply_timeout = options.statement_timeout + REPLY_GRACE;
        Ok(Self { options: options.clone(), connection: None, reply_timeout, weaknesses_told: false })
    }

    async fn take_connection(&mut self) -> Result<Connection, SinkError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.options).await,
        }
    }

    /// A connection on which a transaction was begun.
    async fn begin(&mut self) -> Result<Connection, SinkError> {
        if let Some(mut connection) = self.connection.take() {
            // A server, a pooler or a firewall may have closed it while it was idle. Nothing was sent yet, so an error
            // says nothing about the server: a new connection does.
            match self.begin_on(&mut connection).await {
                Ok(()) => return Ok(connection),
                Err(error) => tracing::debug!(%error, "the idle connection to Postgres was closed; connecting anew"),
            }
        }
        let mut connection = connect(&self.options).await?;
        self.begin_on(&mut connection).await?;
        Ok(connection)
    }

    async fn begin_on(&self, connection: &mut PgConnection) -> Result<(), SinkError> {
        let begun = begin(connection, self.options.statement_timeout);
        let operation = "begin a transaction";
        tokio::time::timeout(self.reply_timeout, begun).await.unwrap_or_else(|_| Err(self.late(operation)))
    }

    /// The error for an operator if the schema is missing or older than this program.
    async fn schema_is_complete(&mut self) -> Result<Result<(), SinkError>, SinkError> {
        let mut connection = self.take_connection().await?;
        let checked = tokio::time::timeout(self.reply_timeout, check_version(&mut connection)).await;
        let complete = checked.unwrap_or_else(|_| Err(self.late("read the schema's version")))?;
        self.connection = Some(connection);
        Ok(complete)
    }

    /// Fails if tables would lose their rows in a crash of the server. Warns once of what else weakens the trail.
    async fn check_database(&mut self) -> Result<(), SinkError> {
        let mut connection = self.begin().await?;
        let checked = tokio::time::timeout(self.reply_timeout, DatabaseState::read(&mut connection)).await;
        let state = checked.unwrap_or_else(|_| Err(self.late("look at the database")))?;
        roll_back(&mut connection).await?;
        self.connection = Some(connection);
        state.check_tables()?;
        if !std::mem::replace(&mut self.weaknesses_told, true) {
            state.warn();
        }
        Ok(())
    }

    /// Makes partitions ahead, from now or another time on.
    async fn make_partitions(
        &mut self,
        gateway_id: GatewayId,
        from: Option<DateTime<Utc>>,
        months: i32,
    ) -> Result<(), SinkError> {
        let partitions = sql::query("SELECT gatepost_make_partitions($1, coalesce($2, now()), $3)");
        let partitions = partitions.bind(gateway_id.0).bind(from).bind(months);
        self.fetch("make partitions", partitions, Effect::None).await.map(|_| ())
    }

    fn late(&self, operation: &'static str) -> SinkError {
        timed_out(operation, self.reply_timeout, ErrorClass::TooMuch)
    }

    /// Runs one statement in a transaction of its own, which is committed if that is as durable as `effect` needs.
    pub(super) async fn fetch(
        &mut self,
        operation: &'static str,
        statement: Query<'_, Postgres, PgArguments>,
        effect: Effect,
    ) -> Result<PgRow, SinkError> {
        let mut connection = self.begin().await?;
        let ran = async {
            let row = statement.fetch_one(&mut *connection).await.map_err(|error| driver_error(operation, &error))?;
            if effect == Effect::Delivery {
                check_durable(operation, &row)?;
            }
            commit(&mut connection).await?;
            Ok(row)
        };
        let result = match tokio::time::timeout(self.reply_timeout, ran).await {
            Ok(result) => result,
            Err(_) => Err(self.late(operation)),
        };
        match &result {
            Ok(_) => self.connection = Some(connection),
            Err(error) if error.class == ErrorClass::Row => {
                let rolled_back = tokio::time::timeout(self.reply_timeout, roll_back(&mut connection)).await;
                self.connection = rolled_back.is_ok_and(|result| result.is_ok()).then_some(connection);
            }
            Err(_) => {}
        }
        result
    }
}

/// True if no partition of `audit_log` takes the record, see [`driver_error`].
fn is_without_partition(error: &SinkError) -> bool {
    error.class == ErrorClass::Operator && error.sqlstate.as_deref() == Some("23514")
}

fn with_partition_advice(error: SinkError) -> SinkError {
    if !is_without_partition(&error) {
        return error;
    }
    let advice = "no partition takes a record of this time, so it is held: run \
                  CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT";
    SinkError { message: format!("{}; {advice}", error.message), ..error }
}

/// The error of a migration, with what to do if this login may not make the schema.
fn needs_the_owner(error: SinkError) -> SinkError {
    let advice = "the schema is missing or not complete: run gatepost migrate with the owner's login, and set \
                  postgres.migrate = false here if this one may not";
    SinkError { message: format!("{}; {advice}", error.message), ..error }
}

impl Sink for PostgresSink {
    async fn prepare(&mut self, gateway_id: GatewayId) -> Result<(), SinkError> {
        // A schema that is complete needs no right to create.
        if let Err(error) = self.schema_is_complete().await? {
            if !self.options.migrate {
                return Err(error);
            }
            let mut connection = self.take_connection().await?;
            match tokio::time::timeout(self.reply_timeout, migrate(&mut connection)).await {
                Ok(Err(error)) if error.class == ErrorClass::Operator => return Err(needs_the_owner(error)),
                Ok(result) => result?,
                Err(_) => return Err(timed_out("migrate", self.reply_timeout, ErrorClass::Transient)),
            };
            self.connection = Some(connection);
        }
        self.check_database().await?;
        match self.make_partitions(gateway_id, None, PARTITION_MONTHS).await {
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
            result => result,
        }
    }

    async fn cursor(&mut self, gateway_id: GatewayId, epoch: Epoch) -> Result<Head, SinkError> {
        let operation = "read the cursor";
        let open = sql::query("SELECT seq, hash FROM gatepost_open_stream($1, $2)");
        let row = self.fetch(operation, open.bind(gateway_id.0).bind(bigint(epoch.0)), Effect::None).await?;
        let seq: i64 = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
        let hash: Vec<u8> = row.try_get(1).map_err(|error| driver_error(operation, &error))?;
        let hash = hash.try_into().map_or(Digest::ZERO, Digest);
        Ok(Head { seq: Seq(seq.unsigned_abs()), hash })
    }

    async fn renew_lease(
        &mut self,
        gateway_id: GatewayId,
        epoch: Epoch,
        length: Duration,
    ) -> Result<Vec<GatewayId>, SinkError> {
        let operation = "renew the lease";
        let seconds = i32::try_from(length.as_secs()).unwrap_or(i32::MAX);
        let renew = sql::query("SELECT gatepost_renew_lease($1, $2, $3)");
        let renew = renew.bind(gateway_id.0).bind(bigint(epoch.0)).bind(seconds);
        let row = self.fetch(operation, renew, Effect::None).await?;
        let silent: Vec<uuid::Uuid> = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
        Ok(silent.into_iter().map(GatewayId).collect())
    }

    async fn deliver<R: AsRef<AuditRecord> + Sync>(&mut self, batch: &[R]) -> Result<CursorUpdate, SinkError> {
        let Some(first) = batch.first() else { return Ok(CursorUpdate::Moved) };
        // I5: the function changes cursor and rows in one transaction.
        let AuditRecord { position, entry } = first.as_ref();
        let mut row = self.fetch("deliver", insert(&DELIVER, *position, batch), Effect::Delivery).await;
        if row.as_ref().is_err_and(is_without_partition) {
            // No default partition, and none of this month: an operator dropped or detached them, or the clock was set.
            let time = entry.call.timestamp.to_datetime();
            if let Err(error) = self.make_partitions(position.gateway_id, Some(time), 1).await {
                tracing::warn!(%error, "could not create the partition of a record");
            }
            row = self.fetch("deliver", insert(&DELIVER, *position, batch), Effect::Delivery).await;
        }
        row.map_err(with_partition_advice).and_then(|row| cursor_update("deliver", &row))
    }

    async fn dry_run(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        let batch = [record];
        self.fetch("dry run", insert(&DRY_RUN, record.position, &batch), Effect::None).await.map(|_| ())
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
        let statement = sql::query(QUARANTINE.as_str())
            .bind(position.gateway_id.0)
            .bind(bigint(position.epoch.0))
            .bind(bigint(position.seq.0))
            .bind(position.prev_hash.0.to_vec())
            .bind(position.hash.0.to_vec())
            .bind(record.entry.call.request_id.0)
            .bind(frame)
            .bind(reason.sqlstate.clone())
            .bind(reason.message.replace('\0', "\u{fffd}"));
        self.fetch("quarantine", statement, Effect::Delivery).await.and_then(|row| cursor_update("quarantine", &row))
    }
}

/// The result of [`DELIVER`], [`QUARANTINE`] and the requeue statement.
pub(super) fn cursor_update(operation: &'static str, row: &PgRow) -> Result<CursorUpdate, SinkError> {
    let moved: bool = row.try_get(0).map_err(|error| driver_error(operation, &error))?;
    Ok(if moved { CursorUpdate::Moved } else { CursorUpdate::Unchanged })
}
