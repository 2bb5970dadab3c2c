//! A snapshot of the trail in Postgres: its cursors, its heads, and what it was read from.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::reading::{Reading, bigint};
use super::row;
use super::stated::{each_with, registrars};
use super::tables::{TableFindings, check_tables};
use crate::audit::chain::Head;
use crate::audit::record::{Epoch, GatewayId, Seq, Timestamp};
use crate::audit::sql::{self, Connection};
use crate::audit::verify::{
    Cursor, Place, STATEMENT_METHODS, Selection, Source, Statements, StreamHead, StreamId, UnprovenKind,
};

/// A full scan takes as long as it takes. Without sorts the server returns rows in the order of the keys, and buffers
/// none of them.
const SETTINGS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL enable_sort = off; SET LOCAL enable_hashjoin = off; \
    SET LOCAL jit = off";

const SOURCE: &str = "SELECT now(), current_database()::text, session_user::text, current_user::text,
        host(inet_server_addr()), inet_server_port(), current_setting('server_version'), pg_current_snapshot()::text,
        pg_is_in_recovery(), pg_get_userbyid(c.relowner)::text
    FROM pg_class c WHERE c.oid = to_regclass($1)";

const CURSORS: &str = "SELECT gateway_id, epoch, delivered_seq, head_hash, begun_at, delivered_at FROM {stream} ORDER BY gateway_id, epoch";

/// The epochs of a gateway that have records. Each step finds the next one in the primary key, so that few rows are
/// read.
const EPOCHS: &str = "WITH RECURSIVE epochs AS (
        (SELECT epoch FROM {log} WHERE gateway_id = $1 ORDER BY epoch LIMIT 1)
        UNION ALL
        SELECT (SELECT l.epoch FROM {log} l WHERE l.gateway_id = $1 AND l.epoch > e.epoch ORDER BY l.epoch LIMIT 1)
        FROM epochs e WHERE e.epoch IS NOT NULL
    )
    SELECT epoch FROM epochs WHERE epoch IS NOT NULL
    UNION SELECT epoch FROM {quarantine} WHERE gateway_id = $1";

/// A snapshot of the trail.
pub struct TrailSnapshot<'c> {
    pub(super) reading: Reading<'c>,
    pub(super) source: Source,
    pub(super) tables: TableFindings,
    pub(super) cursors: BTreeMap<StreamId, Cursor>,
    /// All gateways that have rows, also at positions that cannot exist.
    pub(super) gateways: BTreeSet<Uuid>,
    pub(super) streams: BTreeSet<StreamId>,
}

impl std::fmt::Debug for TrailSnapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrailSnapshot").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<'c> TrailSnapshot<'c> {
    /// Begins a snapshot, reads the cursors, and checks the tables.
    ///
    /// # Errors
    /// Any error of Postgres; see [`super::remedy`].
    pub async fn begin(connection: &'c mut Connection, selection: Selection) -> Result<Self, sqlx::Error> {
        let mut reading = Reading::begin(connection).await?;
        sqlx::raw_sql(SETTINGS).execute(&mut *reading.transaction).await?;
        let source = source(&mut reading, selection).await?;
        let tables = check_tables(&mut reading).await?;
        let (mut cursors, mut streams) = (BTreeMap::new(), BTreeSet::new());
        let sql = reading.sql(CURSORS);
        for row in sql::query(sql).fetch_all(&mut *reading.transaction).await? {
            if let Some((stream, cursor)) = cursor(&row)? {
                cursors.insert(stream, cursor);
            }
        }
        let gateways = reading.gateways().await?;
        for gateway in &gateways {
            let sql = reading.sql(EPOCHS);
            let epochs: Vec<i64> = sql::query_scalar(sql).bind(gateway).fetch_all(&mut *reading.transaction).await?;
            streams.extend(epochs.into_iter().filter_map(|epoch| stream_id(*gateway, epoch)));
        }
        Ok(Self { reading, source, tables, cursors, gateways, streams })
    }

    /// The last delivered record of a stream.
    #[must_use]
    pub fn cursor(&self, stream: StreamId) -> Option<Head> {
        self.cursors.get(&stream).map(|cursor| cursor.head)
    }

    /// The time of the snapshot, by the server's clock.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.source.checked_at
    }

    /// True if the server is a replica.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.source.replica == Some(true)
    }

    /// The heads of all streams that were delivered to, by their cursors.
    #[must_use]
    pub fn heads(&self) -> Vec<StreamHead> {
        let head = |(stream, cursor): (&StreamId, &Cursor)| {
            let Head { seq, hash } = cursor.head;
            StreamHead { gateway: stream.0, epoch: stream.1, seq, hash, time: self.source.checked_at }
        };
        self.cursors.iter().filter(|(_, cursor)| cursor.head.seq > Seq::ZERO).map(head).collect()
    }

    /// The heads of all streams, and the records before those places that a decision accepts: without these, nothing
    /// would confirm the records before a break in the chain.
    ///
    /// # Errors
    /// As for [`TrailSnapshot::begin`].
    pub async fn heads_to_keep(&mut self) -> Result<Vec<StreamHead>, sqlx::Error> {
        let mut heads = self.heads();
        let places = self.statements().await?.accepted_places();
        for ((gateway, epoch), first) in places {
            let sql = self.reading.sql(
                "SELECT seq, hash FROM {log} WHERE gateway_id = $1 AND epoch = $2 AND seq = $3
                UNION ALL SELECT seq, hash FROM {quarantine} WHERE gateway_id = $1 AND epoch = $2 AND seq = $3 LIMIT 1",
            );
            let before = bigint(first.0.saturating_sub(1));
            let query = sql::query(sql).bind(gateway.0).bind(bigint(epoch.0)).bind(before);
            if let Some(row) = query.fetch_optional(&mut *self.reading.transaction).await? {
                let (seq, hash) = (Seq(row.try_get::<i64, _>(0)?.cast_unsigned()), row::digest(row.try_get(1)?));
                heads.push(StreamHead { gateway, epoch, seq, hash, time: self.source.checked_at });
            }
        }
        Ok(heads)
    }

    /// Reads the records that say something about other records.
    pub(super) async fn statements(&mut self) -> Result<Statements, sqlx::Error> {
        let mut statements = Statements::default();
        match registrars(&mut self.reading).await?.as_deref() {
            None => {}
            Some([id]) => statements.set_registrar(GatewayId(*id)),
            Some(_) => {
                let what = "audit_registrar must have one row: nothing that the owner decided counts".to_owned();
                self.tables.unproven.push((UnprovenKind::Shadow, Place::ALL, what));
            }
        }
        // What cannot be read is reported when the walk passes it.
        each_with(&mut self.reading, &STATEMENT_METHODS, None, |record| statements.add(record)).await?;
        Ok(statements)
    }

    /// Reads the heads again, and returns true if the stream continues from its cursor in this snapshot to `head`, by
    /// its links alone. `connection` is another one.
    ///
    /// # Errors
    /// As for [`TrailSnapshot::begin`].
    pub async fn leads_to(
        &self,
        connection: &mut Connection,
        stream: StreamId,
        head: Head,
    ) -> Result<bool, sqlx::Error> {
        let Some(cursor) = self.cursor(stream) else { return Ok(false) };
        let mut reading = Reading::begin(connection).await?;
        let sql = reading.sql(
            "SELECT seq, prev_hash, hash FROM {log} WHERE gateway_id = $1 AND epoch = $2 AND seq > $3 AND seq <= $4
            UNION ALL SELECT seq, prev_hash, hash FROM {quarantine}
            WHERE gateway_id = $1 AND epoch = $2 AND seq > $3 AND seq <= $4 ORDER BY seq",
        );
        let query = sql::query(sql).bind(stream.0.0).bind(bigint(stream.1.0));
        let query = query.bind(bigint(cursor.seq.0)).bind(bigint(head.seq.0));
        let mut rows = query.fetch(&mut *reading.transaction);
        let mut at = cursor;
        while let Some(row) = futures_util::TryStreamExt::try_next(&mut rows).await? {
            let seq = Seq(row.try_get::<i64, _>(0)?.cast_unsigned());
            if seq != at.seq.next() || row::digest(row.try_get(1)?) != at.hash {
                break;
            }
            at = Head { seq, hash: row::digest(row.try_get(2)?) };
        }
        drop(rows);
        reading.end().await?;
        Ok(at == head)
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// As for [`TrailSnapshot::begin`].
    pub async fn end(self) -> Result<(), sqlx::Error> {
        self.reading.end().await
    }
}

async fn source(reading: &mut Reading<'_>, selection: Selection) -> Result<Source, sqlx::Error> {
    let log = reading.table("audit_log");
    let row = sql::query(SOURCE).bind(log).fetch_one(&mut *reading.transaction).await?;
    let (session, current): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    let (address, port): (Option<String>, Option<i32>) = (row.try_get(4)?, row.try_get(5)?);
    let server = match (address, port) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        _ => "a socket of this machine".to_owned(),
    };
    Ok(Source {
        server: Some(server),
        server_version: Some(row.try_get(6)?),
        replica: Some(row.try_get(8)?),
        database: Some(row.try_get(1)?),
        schema: Some(reading.schema.clone()),
        owner: Some(row.try_get(9)?),
        role: Some(if session == current { session } else { format!("{current} (session of {session})") }),
        snapshot: Some(row.try_get(7)?),
        ..Source::new("postgres", row::timestamp(&row, "now")?, selection)
    })
}

/// A stream's gateway and epoch; `None` for an epoch that cannot exist, whose rows the walk reports.
fn stream_id(gateway: Uuid, epoch: i64) -> Option<StreamId> {
    let epoch = u64::try_from(epoch).ok().filter(|epoch| *epoch > 0)?;
    Some((GatewayId(gateway), Epoch(epoch)))
}

fn cursor(row: &PgRow) -> Result<Option<(StreamId, Cursor)>, sqlx::Error> {
    let Some(stream) = stream_id(row.try_get("gateway_id")?, row.try_get("epoch")?) else { return Ok(None) };
    let seq = u64::try_from(row.try_get::<i64, _>("delivered_seq")?).unwrap_or(0);
    let head = Head { seq: Seq(seq), hash: row::digest(row.try_get("head_hash")?) };
    let begun_at = Some(row::timestamp(row, "begun_at")?);
    let is_delivered = row.try_get_raw("delivered_at").is_ok_and(|value| !sqlx::ValueRef::is_null(&value));
    let delivered_at = if is_delivered { Some(row::timestamp(row, "delivered_at")?) } else { None };
    Ok(Some((stream, Cursor { head, begun_at, delivered_at })))
}
