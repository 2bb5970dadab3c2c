//! The removal of retired rows: whole partitions are dropped, other rows are deleted.
//!
//! Two locks matter. The old partitions are locked against new rows while their rows are counted again, so that nothing
//! is dropped that was not read. Then the table itself is locked, for a moment: detaching a partition needs it, since
//! the table has a default partition. Each lock is waited for at most `lock_timeout`; deliveries wait as long.

mod evidence;

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::error::driver_error;
use super::rows::bigint;
use super::transaction::read_transaction;
use crate::audit::record::column::COLUMNS;
use crate::audit::record::{Digest, Epoch, GatewayId, Seq, StreamPosition, Timestamp};
use crate::audit::sink::interface::SinkError;
use crate::audit::sql::{self, Connection};

const OPERATION: &str = "retire records";

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn fault(error: sqlx::Error) -> SinkError {
    driver_error(OPERATION, &error)
}

/// Returns true if another session held a lock for longer than the limit: the same may be tried again.
#[must_use]
pub fn is_busy(error: &SinkError) -> bool {
    matches!(error.sqlstate.as_deref(), Some("55P03" | "40P01"))
}

/// The server's time.
///
/// # Errors
/// See [`SinkError`].
pub async fn server_time(connection: &mut Connection) -> Result<Timestamp, SinkError> {
    let sql = "SELECT (extract(epoch FROM now()) * 1000000)::bigint";
    let mut reading = read_transaction(connection).await?;
    let micros: i64 = sql::query_scalar(sql).fetch_one(&mut *reading).await.map_err(fault)?;
    Ok(Timestamp::from_micros(micros))
}

/// The first epoch of a gateway of which records from `cut` on are in the trail, or may still arrive.
///
/// # Errors
/// See [`SinkError`].
pub async fn first_kept_epoch(
    connection: &mut Connection,
    gateway: GatewayId,
    cut: Timestamp,
) -> Result<Option<Epoch>, SinkError> {
    let sql = r#"SELECT least(
        (SELECT min(epoch) FROM audit_log WHERE gateway_id = $1 AND "timestamp" >= $2),
        (SELECT max(epoch) FROM audit_stream WHERE gateway_id = $1))"#;
    let mut reading = read_transaction(connection).await?;
    let query = sql::query_scalar(sql).bind(gateway.0).bind(cut.to_datetime());
    let epoch: Option<i64> = query.fetch_one(&mut *reading).await.map_err(fault)?;
    Ok(epoch.map(|epoch| Epoch(epoch.cast_unsigned())))
}

/// The hash of the record at a position; `None` if there is none.
///
/// # Errors
/// See [`SinkError`].
pub async fn hash_at(
    connection: &mut Connection,
    stream: (GatewayId, Epoch),
    seq: Seq,
) -> Result<Option<Digest>, SinkError> {
    let sql = "SELECT hash FROM audit_log WHERE gateway_id = $1 AND epoch = $2 AND seq = $3
        UNION ALL SELECT hash FROM audit_quarantine WHERE gateway_id = $1 AND epoch = $2 AND seq = $3 LIMIT 1";
    let mut reading = read_transaction(connection).await?;
    let query = sql::query_scalar(sql).bind(stream.0.0).bind(bigint(stream.1.0)).bind(bigint(seq.0));
    let hash: Option<Vec<u8>> = query.fetch_optional(&mut *reading).await.map_err(fault)?;
    Ok(hash.and_then(|hash| hash.try_into().ok().map(Digest)))
}

/// The rows in `audit_foreign` that are older than `cut`, by their own time or else by that at which they were moved.
///
/// # Errors
/// See [`SinkError`].
pub async fn foreign_rows(connection: &mut Connection, cut: Timestamp) -> Result<u64, SinkError> {
    let sql = "SELECT count(*) FROM audit_foreign
        WHERE coalesce((source_row ->> 'timestamp')::timestamptz, moved_at) < $1";
    let mut reading = read_transaction(connection).await?;
    let count = sql::query_scalar::<i64>(sql).bind(cut.to_datetime());
    Ok(count.fetch_one(&mut *reading).await.map_err(fault)?.unsigned_abs())
}

/// Keeps the texts of policies.
///
/// # Errors
/// See [`SinkError`].
pub async fn keep_policies<'a>(
    connection: &mut PgConnection,
    policies: impl Iterator<Item = (&'a Digest, &'a String)>,
) -> Result<(), SinkError> {
    let (digests, texts): (Vec<Vec<u8>>, Vec<&String>) =
        policies.map(|(digest, text)| (digest.0.to_vec(), text)).unzip();
    let sql = "INSERT INTO audit_policy (policy_digest, policy) SELECT * FROM unnest($1::bytea[], $2::text[])
        ON CONFLICT (policy_digest) DO NOTHING";
    sql::query(sql).bind(digests).bind(texts).execute(connection).await.map_err(fault)?;
    Ok(())
}

/// The removal of the rows before a time, in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    registrar: GatewayId,
    /// The qualified, quoted names of the partitions that are dropped.
    partitions: Vec<String>,
    /// Rows in these partitions, deleted rows, and rows taken out of quarantine.
    rows: u64,
}

impl Removal {
    /// Locks and counts what is to be dropped, and deletes the other rows. The records of the registrar are kept, and
    /// the hashes of those records of `gateways` that proofs need. Checkpoints of that time are thinned out.
    ///
    /// # Errors
    /// See [`SinkError`]; see also [`is_busy`]. Roll back then.
    pub async fn begin(
        connection: &mut PgConnection,
        registrar: GatewayId,
        cut: Timestamp,
        gateways: &BTreeSet<GatewayId>,
        quarantined: &[StreamPosition],
        lock_timeout: Duration,
    ) -> Result<Self, SinkError> {
        // The bounds of partitions are printed by these settings.
        let settings = format!(
            "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL statement_timeout = 0; \
             SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL lock_timeout = {}",
            lock_timeout.as_millis()
        );
        sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *connection).await.map_err(fault)?;
        evidence::thin_checkpoints(connection, registrar, cut).await?;
        for gateway in gateways {
            evidence::keep_hashes(connection, *gateway, cut, quarantined).await?;
        }
        let sql = r"SELECT format('%I.%I', n.nspname, c.relname), coalesce(
                substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']+)''\)')::timestamptz <= $1, false)
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE i.inhparent = 'audit_log'::regclass ORDER BY 1";
        let all: Vec<(String, bool)> =
            sql::query_as(sql).bind(cut.to_datetime()).fetch_all(&mut *connection).await.map_err(fault)?;
        let (mut partitions, mut rows) = (Vec::new(), 0);
        for (partition, is_old) in all {
            if is_old {
                let lock = format!("LOCK TABLE {partition} IN SHARE MODE");
                sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *connection).await.map_err(fault)?;
                let count = format!("SELECT count(*) FROM {partition} WHERE gateway_id <> $1");
                let count = sql::query_scalar::<i64>(AssertSqlSafe(count)).bind(registrar.0);
                rows += count.fetch_one(&mut *connection).await.map_err(fault)?.unsigned_abs();
                partitions.push(partition);
            } else {
                let delete = format!(r#"DELETE FROM {partition} WHERE "timestamp" < $1 AND gateway_id <> $2"#);
                let delete = sql::query(AssertSqlSafe(delete)).bind(cut.to_datetime()).bind(registrar.0);
                rows += delete.execute(&mut *connection).await.map_err(fault)?.rows_affected();
            }
        }
        rows += delete_quarantined(connection, quarantined).await?;
        Ok(Self { registrar, partitions, rows })
    }

    /// The number of rows that are removed.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The partitions that are dropped.
    #[must_use]
    pub fn partitions(&self) -> &[String] {
        &self.partitions
    }

    /// Locks the table: from here to the end of the transaction nothing is delivered.
    ///
    /// # Errors
    /// As for [`Removal::begin`].
    pub async fn lock(&self, connection: &mut PgConnection) -> Result<(), SinkError> {
        if self.partitions.is_empty() {
            return Ok(());
        }
        let sql = "LOCK TABLE ONLY audit_log IN ACCESS EXCLUSIVE MODE";
        sqlx::raw_sql(sql).execute(connection).await.map(|_| ()).map_err(fault)
    }

    /// Detaches and drops the partitions. The registrar's rows in them go to the default partition.
    ///
    /// # Errors
    /// As for [`Removal::begin`].
    pub async fn drop_partitions(&self, connection: &mut PgConnection) -> Result<(), SinkError> {
        let columns = COLUMNS.each_ref().map(|column| format!("\"{}\"", column.name)).join(", ");
        for partition in &self.partitions {
            let detach = format!("ALTER TABLE audit_log DETACH PARTITION {partition}");
            sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *connection).await.map_err(fault)?;
            let keep =
                format!("INSERT INTO audit_log ({columns}) SELECT {columns} FROM {partition} WHERE gateway_id = $1");
            let keep = sql::query(AssertSqlSafe(keep)).bind(self.registrar.0);
            keep.execute(&mut *connection).await.map_err(fault)?;
            let drop = format!("DROP TABLE {partition}");
            sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *connection).await.map_err(fault)?;
        }
        Ok(())
    }
}

async fn delete_quarantined(connection: &mut PgConnection, positions: &[StreamPosition]) -> Result<u64, SinkError> {
    let gateways: Vec<_> = positions.iter().map(|position| position.gateway_id.0).collect();
    let epochs: Vec<_> = positions.iter().map(|position| bigint(position.epoch.0)).collect();
    let seqs: Vec<_> = positions.iter().map(|position| bigint(position.seq.0)).collect();
    let sql = "DELETE FROM audit_quarantine WHERE (gateway_id, epoch, seq) IN (
        SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]))";
    let delete = sql::query(sql).bind(gateways).bind(epochs).bind(seqs);
    Ok(delete.execute(connection).await.map_err(fault)?.rows_affected())
}
