//! The end of a fork: rows that the gateway does not confirm are taken out of its stream, and the cursor goes to where
//! the gateway continues.

use std::collections::{BTreeMap, HashSet};

use sqlx::postgres::PgConnection;

use super::error::driver_error;
use super::registrar::{head, lock_stream};
use super::rows::bigint;
use crate::audit::chain::Head;
use crate::audit::outbox_head::OutboxHead;
use crate::audit::record::{Digest, Epoch, GatewayId, Seq};
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql;

/// The changes that ended a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The seqs of the first and the last row that were moved to `audit_foreign`, and their number.
    pub moved: Option<(Seq, Seq, u64)>,
    /// The first and the last seq before the new cursor that have no row.
    pub missing: Option<(Seq, Seq)>,
    /// The cursor before.
    pub before: Head,
    /// The cursor now.
    pub cursor: Head,
}

const OPERATION: &str = "resolve the fork";

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn fault(error: sqlx::Error) -> SinkError {
    driver_error(OPERATION, &error)
}

/// Ends the fork of the stream that `gateway` describes, in the transaction of `connection`. Returns `None` if the
/// gateway can continue at the cursor as it is; nothing changed then.
///
/// # Errors
/// See [`SinkError`]. Roll back then.
pub async fn resolve(connection: &mut PgConnection, gateway: &OutboxHead) -> Result<Option<Resolution>, SinkError> {
    let stream = (gateway.gateway, gateway.epoch);
    let known = known_records(gateway);
    let before = lock_stream(connection, stream.0, stream.1).await?.unwrap_or(Head::START);
    check_age(connection, gateway).await?;
    let rows = rows_at(connection, stream, &known).await?;
    let after = Head { seq: gateway.after.seq, hash: gateway.after.hash };
    let confirmed = last_confirmed(&known, &rows, gateway);
    let kept = Head { seq: gateway.kept.seq, hash: gateway.kept.hash };
    let Some(cursor) = confirmed.or_else(|| cursor_for_missing(before, kept, after)) else { return Ok(None) };
    let moved = move_foreign(connection, stream, cursor, &known).await?;
    if moved.is_none() && cursor == before {
        return Ok(None);
    }
    let first_missing = if before.seq < cursor.seq { before.seq.next() } else { cursor.seq };
    let missing = confirmed.is_none().then_some((first_missing, cursor.seq));
    let set = "INSERT INTO audit_stream (gateway_id, epoch, delivered_seq, head_hash) VALUES ($1, $2, $3, $4)
        ON CONFLICT (gateway_id, epoch) DO UPDATE
        SET delivered_seq = excluded.delivered_seq, head_hash = excluded.head_hash";
    let set = sql::query(set).bind(stream.0.0).bind(bigint(stream.1.0)).bind(bigint(cursor.seq.0));
    set.bind(cursor.hash.0.to_vec()).execute(connection).await.map_err(fault)?;
    Ok(Some(Resolution { moved, missing, before, cursor }))
}

/// The cursor for a stream that ends at `before`, and has not all rows that the gateway delivered. It keeps what is
/// after `kept`, and waits to deliver what is after `after`. `None`: what is missing it delivers again by itself.
fn cursor_for_missing(before: Head, kept: Head, after: Head) -> Option<Head> {
    match before.seq {
        seq if (kept.seq..after.seq).contains(&seq) => None,
        seq if seq < kept.seq => Some(kept),
        _ => Some(after),
    }
}

/// Checks that nothing was delivered after the gateway was asked: the gateway may have written it.
async fn check_age(connection: &mut PgConnection, gateway: &OutboxHead) -> Result<(), SinkError> {
    let sql = "SELECT EXISTS (SELECT FROM audit_stream WHERE gateway_id = $1 AND epoch = $2 AND delivered_at > $3)";
    let query = sql::query_scalar(sql).bind(gateway.gateway.0).bind(bigint(gateway.epoch.0));
    let is_older: bool = query.bind(gateway.time.to_datetime()).fetch_one(connection).await.map_err(fault)?;
    if !is_older {
        return Ok(());
    }
    let message = format!(
        "epoch {} was extended after the heads were printed: stop the other writer, run gatepost outbox heads again, and \
         use its output",
        gateway.epoch
    );
    Err(SinkError { operation: OPERATION, class: ErrorClass::Operator, sqlstate: None, message })
}

/// The records that the gateway vouches for.
fn known_records(gateway: &OutboxHead) -> BTreeMap<Seq, Digest> {
    let mut known = BTreeMap::from([(gateway.seq, gateway.hash)]);
    let mut seq = gateway.after.seq;
    for hash in &gateway.hashes {
        seq = seq.next();
        known.insert(seq, *hash);
    }
    for head in [gateway.kept, gateway.after] {
        if head.seq > Seq::ZERO {
            known.insert(head.seq, head.hash);
        }
    }
    known
}

/// The rows at the places of known records.
async fn rows_at(
    connection: &mut PgConnection,
    stream: (GatewayId, Epoch),
    known: &BTreeMap<Seq, Digest>,
) -> Result<HashSet<(Seq, Digest)>, SinkError> {
    let sql = "SELECT seq, hash FROM audit_log WHERE gateway_id = $1 AND epoch = $2 AND seq = ANY ($3)
        UNION SELECT seq, hash FROM audit_quarantine WHERE gateway_id = $1 AND epoch = $2 AND seq = ANY ($3)";
    let seqs: Vec<_> = known.keys().map(|seq| bigint(seq.0)).collect();
    let rows = sql::query(sql).bind(stream.0.0).bind(bigint(stream.1.0)).bind(seqs).fetch_all(connection).await;
    let rows = rows.map_err(fault)?;
    rows.iter().map(|row| head(row).map(|head| (head.seq, head.hash))).collect::<Result<_, _>>().map_err(fault)
}

/// The last row that the gateway confirms; `None` if it confirms none and its stream does not begin here.
fn last_confirmed(known: &BTreeMap<Seq, Digest>, rows: &HashSet<(Seq, Digest)>, gateway: &OutboxHead) -> Option<Head> {
    let is_there = |seq: Seq, hash: Digest| rows.contains(&(seq, hash));
    // The chain of the last record binds those before it.
    if is_there(gateway.seq, gateway.hash) {
        return Some(Head { seq: gateway.seq, hash: gateway.hash });
    }
    let mut last = match gateway.after.seq {
        Seq::ZERO => Head::START,
        seq if is_there(seq, gateway.after.hash) => Head { seq, hash: gateway.after.hash },
        _ => return None,
    };
    for (seq, hash) in known.range(last.seq.next()..) {
        if *seq != last.seq.next() || !is_there(*seq, *hash) {
            break;
        }
        last = Head { seq: *seq, hash: *hash };
    }
    Some(last)
}

/// Moves the rows after `cursor`, and those that are not the known record at their place, to `audit_foreign`. Returns
/// their first and last seq and their number.
async fn move_foreign(
    connection: &mut PgConnection,
    stream: (GatewayId, Epoch),
    cursor: Head,
    known: &BTreeMap<Seq, Digest>,
) -> Result<Option<(Seq, Seq, u64)>, SinkError> {
    let (seqs, hashes): (Vec<_>, Vec<_>) = known.iter().map(|(seq, hash)| (bigint(seq.0), hash.0.to_vec())).unzip();
    let mut moved: Option<(Seq, Seq, u64)> = None;
    for table in ["audit_log", "audit_quarantine"] {
        let sql = format!(
            "WITH moved AS (
                DELETE FROM {table} t WHERE t.gateway_id = $1 AND t.epoch = $2 AND (t.seq > $3 OR EXISTS (
                    SELECT FROM unnest($4::bigint[], $5::bytea[]) AS k(seq, hash) WHERE k.seq = t.seq AND k.hash <> t.hash))
                RETURNING *
            ), kept AS (
                INSERT INTO audit_foreign (gateway_id, epoch, seq, hash, source_table, source_row)
                SELECT m.gateway_id, m.epoch, m.seq, m.hash, '{table}', row_to_json(m) FROM moved m RETURNING seq
            ) SELECT min(seq), max(seq), count(*) FROM kept"
        );
        let query = sql::query_as(sqlx::AssertSqlSafe(sql)).bind(stream.0.0).bind(bigint(stream.1.0));
        let query = query.bind(bigint(cursor.seq.0)).bind(&seqs).bind(&hashes);
        let (first, last, count): (Option<i64>, Option<i64>, i64) =
            query.fetch_one(&mut *connection).await.map_err(fault)?;
        if let (Some(first), Some(last)) = (first, last) {
            let (first, last, count) = (Seq(first.cast_unsigned()), Seq(last.cast_unsigned()), count.cast_unsigned());
            moved = Some(
                moved.map_or((first, last, count), |(from, to, rows)| (from.min(first), to.max(last), rows + count)),
            );
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::audit::outbox_head::HeadAfter;
    use crate::audit::record::Timestamp;

    #[test]
    fn i4_kept_records_are_delivered_again_after_the_hole() {
        let at = |seq: u64| Head { seq: Seq(seq), hash: hash("own", seq) };
        let found = |before: u64, kept: u64| cursor_for_missing(at(before), at(kept), at(9)).map(|head| head.seq.0);
        // All that is missing is kept.
        assert_eq!((found(5, 5), found(8, 5), found(0, 0)), (None, None, None));
        // Some of it is not, and what is kept is not skipped.
        assert_eq!((found(4, 5), found(0, 1)), (Some(5), Some(1)));
        // Nothing is kept.
        assert_eq!((found(4, 9), found(9, 9), found(12, 9)), (Some(9), Some(9), Some(9)));
    }

    fn hash(name: &str, seq: u64) -> Digest {
        Digest::of(format!("{name} {seq}").as_bytes())
    }

    /// A gateway that has the records after `after`, up to `last`, and has room for two hashes.
    fn gateway(after: u64, last: u64) -> OutboxHead {
        let after_hash = if after == 0 { Digest::ZERO } else { hash("own", after) };
        OutboxHead {
            gateway: GatewayId(Uuid::nil()),
            epoch: Epoch(1),
            seq: Seq(last),
            hash: hash("own", last),
            time: Timestamp::from_micros(0),
            after: HeadAfter { seq: Seq(after), hash: after_hash },
            kept: HeadAfter { seq: Seq(after), hash: after_hash },
            hashes: (after + 1..=last).take(2).map(|seq| hash("own", seq)).collect(),
        }
    }

    #[test]
    fn cursor_goes_to_the_last_row_that_the_gateway_confirms() {
        // What is in Postgres: rows of the gateway's own, then foreign ones.
        let confirmed = |gateway: &OutboxHead, own: &[u64], foreign: &[u64]| {
            let rows = own.iter().map(|seq| (Seq(*seq), hash("own", *seq)));
            let rows = rows.chain(foreign.iter().map(|seq| (Seq(*seq), hash("foreign", *seq)))).collect();
            last_confirmed(&known_records(gateway), &rows, gateway).map(|head| head.seq.0)
        };
        let middle = gateway(5, 9);
        assert_eq!(confirmed(&middle, &[4, 5], &[6, 7]), Some(5));
        assert_eq!(confirmed(&middle, &[4, 5, 6], &[7]), Some(6), "not forgotten yet");
        assert_eq!(confirmed(&middle, &[5, 6, 7], &[8]), Some(7));
        assert_eq!(confirmed(&middle, &[5, 6, 7, 8, 9], &[10]), Some(9), "all of them");
        assert_eq!(confirmed(&middle, &[4], &[]), None, "rows are missing");
        assert_eq!(confirmed(&middle, &[4], &[5, 6]), None);
        assert_eq!(confirmed(&gateway(0, 9), &[], &[1, 2]), Some(0));
        assert_eq!(confirmed(&gateway(0, 9), &[1], &[2]), Some(1));
        assert_eq!(confirmed(&gateway(9, 9), &[9], &[10]), Some(9), "nothing waits");
    }
}
