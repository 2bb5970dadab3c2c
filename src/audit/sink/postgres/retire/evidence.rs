//! Checkpoints and retired records: the hashes that proofs of kept records need.
//!
//! A proof needs a checkpoint before its record, and the hashes of all records from there to a later checkpoint. Some
//! of these records may be retired: those between that checkpoint and the first kept record, and calls that arrived
//! before the cut and ended after it. Their hashes stay in `audit_retired_hash`, as do all after the last checkpoint
//! that each witness has signed: it signs a later one only with a proof that it continues that one.

use sqlx::postgres::PgConnection;

use crate::audit::record::{GatewayId, StreamPosition, Timestamp};
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::postgres::error::driver_error;
use crate::audit::sink::postgres::rows::bigint;
use crate::audit::sql;

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn fault(error: sqlx::Error) -> SinkError {
    driver_error("keep what proofs need of retired records", &error)
}

/// Thins out the checkpoints that were stored before `cut`: of each log, hour and anchor the largest one remains that
/// it confirmed; the largest one of an hour in which no anchor confirmed any; and the largest one of each log.
pub(super) async fn thin_checkpoints(
    connection: &mut PgConnection,
    registrar: GatewayId,
    cut: Timestamp,
) -> Result<(), SinkError> {
    let sql = "WITH ranked AS (
            SELECT c.gateway_id, c.log, c.size, c.stored_at, a.anchor,
                c.size = max(c.size) OVER (PARTITION BY c.gateway_id, c.log) AS is_last,
                c.size = max(c.size) OVER (
                    PARTITION BY c.gateway_id, c.log, date_trunc('hour', c.stored_at), a.anchor) AS is_largest,
                count(a.anchor) OVER (PARTITION BY c.gateway_id, c.log, date_trunc('hour', c.stored_at)) AS confirmed
            FROM audit_checkpoint c
            LEFT JOIN audit_anchor a ON a.gateway_id = c.gateway_id AND a.log = c.log AND a.size = c.size
            WHERE c.gateway_id <> $2),
        thinned AS (
            SELECT gateway_id, log, size FROM ranked WHERE stored_at < $1 GROUP BY gateway_id, log, size
            HAVING NOT bool_or(is_last OR is_largest AND (anchor IS NOT NULL OR confirmed = 0))),
        gone AS (
            DELETE FROM audit_checkpoint c USING thinned t
            WHERE c.gateway_id = t.gateway_id AND c.log = t.log AND c.size = t.size
            RETURNING c.gateway_id, c.log, c.size)
        DELETE FROM audit_anchor a USING gone g
        WHERE a.gateway_id = g.gateway_id AND a.log = g.log AND a.size = g.size";
    let delete = sql::query(sql).bind(cut.to_datetime()).bind(registrar.0);
    delete.execute(connection).await.map(|_| ()).map_err(fault)
}

/// Keeps the hashes of the records of a gateway before `cut` that proofs of its other records need; none if it has no
/// checkpoint. `quarantined` are those of its records in quarantine that are retired.
pub(super) async fn keep_hashes(
    connection: &mut PgConnection,
    gateway: GatewayId,
    cut: Timestamp,
    quarantined: &[StreamPosition],
) -> Result<(), SinkError> {
    let Some((epoch, seq)) = last_before_kept(connection, gateway, cut).await? else { return Ok(()) };
    let sql = r#"INSERT INTO audit_retired_hash (gateway_id, epoch, seq, hash)
        SELECT gateway_id, epoch, seq, hash FROM audit_log
        WHERE gateway_id = $1 AND "timestamp" < $2 AND (epoch, seq) > ($3, $4)
        UNION SELECT $1, * FROM unnest($5::bigint[], $6::bigint[], $7::bytea[]) AS q (epoch, seq, hash)
        WHERE (q.epoch, q.seq) > ($3, $4) ON CONFLICT DO NOTHING"#;
    let own = || quarantined.iter().filter(|position| position.gateway_id == gateway);
    let keep = sql::query(sql).bind(gateway.0).bind(cut.to_datetime()).bind(epoch).bind(seq);
    let keep = keep.bind(own().map(|position| bigint(position.epoch.0)).collect::<Vec<_>>());
    let keep = keep.bind(own().map(|position| bigint(position.seq.0)).collect::<Vec<_>>());
    let keep = keep.bind(own().map(|position| position.hash.0.to_vec()).collect::<Vec<_>>());
    keep.execute(connection).await.map(|_| ()).map_err(fault)
}

/// The last record in the last checkpoint that has no kept record, and none that a witness of the log has still to sign
/// for; zeros if each has one, `None` without checkpoints.
async fn last_before_kept(
    connection: &mut PgConnection,
    gateway: GatewayId,
    cut: Timestamp,
) -> Result<Option<(i64, i64)>, SinkError> {
    let sql =
        r#"SELECT epoch, seq FROM audit_log WHERE gateway_id = $1 AND "timestamp" >= $2 ORDER BY epoch, seq LIMIT 1"#;
    let first = sql::query_as(sql).bind(gateway.0).bind(cut.to_datetime()).fetch_optional(&mut *connection).await;
    let mut first: (i64, i64) = first.map_err(fault)?.unwrap_or((i64::MAX, i64::MAX));
    let sql = "SELECT c.epoch, c.seq FROM audit_checkpoint c JOIN (
            SELECT log, max(size) AS size FROM audit_anchor WHERE gateway_id = $1 AND kind = 'witness'
            GROUP BY log, anchor) w ON w.log = c.log AND w.size = c.size
        WHERE c.gateway_id = $1 AND c.log = (SELECT max(log) FROM audit_checkpoint WHERE gateway_id = $1)
        ORDER BY c.size LIMIT 1";
    let behind = sql::query_as(sql).bind(gateway.0).fetch_optional(&mut *connection).await;
    let behind: Option<(i64, i64)> = behind.map_err(fault)?;
    if let Some((epoch, seq)) = behind {
        first = first.min((epoch, seq + 1));
    }
    let (epoch, seq) = first;
    let sql = "SELECT EXISTS (SELECT FROM audit_checkpoint WHERE gateway_id = $1), b.epoch, b.seq
        FROM (VALUES (1)) AS one LEFT JOIN LATERAL (SELECT c.epoch, c.seq FROM audit_checkpoint c
            WHERE c.gateway_id = $1 AND (c.epoch, c.seq) < ($2, $3) ORDER BY c.log DESC, c.size DESC LIMIT 1) b ON true";
    let row = sql::query_as(sql).bind(gateway.0).bind(epoch).bind(seq).fetch_one(connection).await;
    let (signs, epoch, seq): (bool, Option<i64>, Option<i64>) = row.map_err(fault)?;
    Ok(signs.then_some((epoch.unwrap_or(0), seq.unwrap_or(0))))
}
