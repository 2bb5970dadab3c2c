//! Checkpoints of logs and the hashes between them, from one snapshot of the database.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::reading::{Reading, bigint};
use super::row::{digest, timestamp};
use crate::audit::record::{Digest, Epoch, GatewayId, Seq, StreamPosition, Timestamp};
use crate::audit::sql::{self, Connection};
use crate::audit::tree::Tree;
use crate::evidence::tree::{Edge, Hash, TreeHead, WantedNodes};

/// The columns of a checkpoint.
const COLUMNS: &str = "c.log, c.size, c.epoch, c.seq, c.root, c.edge, c.note, c.stored_at";

/// The first checkpoint that covers a record, and that an anchor of a kind confirmed if `$4` is not NULL.
const COVERING: &str = "FROM {checkpoint} c WHERE c.gateway_id = $1 AND c.log <= $2 AND (c.epoch, c.seq) >= ($2, $3)
    AND ($4::text IS NULL OR EXISTS (SELECT FROM {anchor} a WHERE a.gateway_id = c.gateway_id AND a.log = c.log
        AND a.size = c.size AND a.kind = $4))
    ORDER BY c.log DESC, c.size LIMIT 1";

/// The last checkpoint of a log that does not cover a record.
const BEFORE: &str = "FROM {checkpoint} c WHERE c.gateway_id = $1 AND c.log = $2 AND (c.epoch, c.seq) < ($3, $4)
    ORDER BY c.size DESC LIMIT 1";

/// Checkpoints of a log that cover a record and have rows of anchors, the smallest first.
const ANCHORED_FROM: &str =
    "FROM {checkpoint} c WHERE c.gateway_id = $1 AND c.log = $2 AND (c.epoch, c.seq) >= ($3, $4)
    AND EXISTS (SELECT FROM {anchor} a WHERE a.gateway_id = c.gateway_id AND a.log = c.log AND a.size = c.size)
    ORDER BY c.size LIMIT $5";

/// Checkpoints of a log below a size that have rows of anchors, the largest first.
const ANCHORED_BELOW: &str = "FROM {checkpoint} c WHERE c.gateway_id = $1 AND c.log = $2 AND c.size < $3
    AND EXISTS (SELECT FROM {anchor} a WHERE a.gateway_id = c.gateway_id AND a.log = c.log AND a.size = c.size)
    ORDER BY c.size DESC LIMIT $4";

/// The confirmations of the checkpoints of these logs and sizes.
const ANCHORS: &str = "SELECT log, size, anchor, kind, first_proof, first_at, last_proof, last_at FROM {anchor}
    WHERE gateway_id = $1 AND (log, size) IN (SELECT * FROM unnest($2::bigint[], $3::bigint[])) ORDER BY anchor";

/// The number of records after one place and before another one, also of retired ones that are still needed.
const BETWEEN: &str = "SELECT
    (SELECT count(*) FROM {log} WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3) AND (epoch, seq) < ($4, $5))
    + (SELECT count(*) FROM {quarantine}
        WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3) AND (epoch, seq) < ($4, $5))
    + (SELECT count(*) FROM {retired}
        WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3) AND (epoch, seq) < ($4, $5))";

/// The number of hashes that are read at once. *Chosen*: they are hashed in about a millisecond, for so long a call of
/// a gateway may wait for the thread.
const HASHES_PAGE: i64 = 2048;

/// Checkpoints in the order of log and size.
const PAGE: &str = "FROM {checkpoint} c WHERE c.gateway_id = $1 AND (c.log, c.size) > ($2, $3)
    ORDER BY c.log, c.size LIMIT $4";

/// The hashes of the records after one place. The limit is in each part, so that an index gives the order.
const HASHES_AFTER: &str = "SELECT r.epoch, r.seq, r.hash FROM (
        (SELECT epoch, seq, hash FROM {log} WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3)
            ORDER BY epoch, seq LIMIT $4)
        UNION ALL (SELECT epoch, seq, hash FROM {quarantine} WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3)
            ORDER BY epoch, seq LIMIT $4)
        UNION ALL (SELECT epoch, seq, hash FROM {retired} WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3)
            ORDER BY epoch, seq LIMIT $4)) r
    ORDER BY r.epoch, r.seq LIMIT $4";

/// The places and hashes of a gateway's records from an epoch on.
const RECORDS: &str = "SELECT r.epoch, r.seq, r.hash FROM (
        SELECT epoch, seq, hash FROM {log} WHERE gateway_id = $1 AND epoch >= $2
        UNION ALL SELECT epoch, seq, hash FROM {quarantine} WHERE gateway_id = $1 AND epoch >= $2) r
    ORDER BY r.epoch, r.seq";

/// Each log that has checkpoints, with the smallest and the largest one.
const LOGS: &str = "SELECT l.gateway_id, l.log, l.largest, f.note, t.note FROM (
        SELECT gateway_id, log, min(size) AS smallest, max(size) AS largest FROM {checkpoint} GROUP BY gateway_id, log) l
    JOIN {checkpoint} f ON f.gateway_id = l.gateway_id AND f.log = l.log AND f.size = l.smallest
    JOIN {checkpoint} t ON t.gateway_id = l.gateway_id AND t.log = l.log AND t.size = l.largest
    ORDER BY l.gateway_id, l.log";

/// A log of which checkpoints are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLog {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The log, named by its first epoch.
    pub log: Epoch,
    /// The number of records in the largest checkpoint.
    pub size: u64,
    /// The note of the smallest checkpoint.
    pub first: String,
    /// The note of the largest checkpoint.
    pub last: String,
}

/// All logs of which the database has checkpoints, by gateway and first epoch.
///
/// # Errors
/// Any error of Postgres; see [`super::remedy`].
pub async fn stored_logs(connection: &mut Connection) -> Result<Vec<StoredLog>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let sql = reading.sql(LOGS);
    let rows = sql::query(sql).fetch_all(&mut *reading.transaction).await?;
    reading.end().await?;
    let log = |row: &PgRow| {
        Ok(StoredLog {
            gateway_id: GatewayId(row.try_get(0)?),
            log: Epoch(row.try_get::<i64, _>(1)?.unsigned_abs()),
            size: row.try_get::<i64, _>(2)?.unsigned_abs(),
            first: row.try_get(3)?,
            last: row.try_get(4)?,
        })
    };
    rows.iter().map(log).collect()
}

/// Checkpoints that a witness had signed at a time, the newest first, after that of the log `$5` and the size `$6`.
const WITNESSED_BEFORE: &str = "FROM {checkpoint} c WHERE c.gateway_id = $1 AND ($2::bigint IS NULL OR c.log = $2)
    AND ($5::bigint IS NULL OR (c.log, c.size) < ($5, $6))
    AND EXISTS (SELECT FROM {anchor} a WHERE a.gateway_id = c.gateway_id AND a.log = c.log AND a.size = c.size
        AND a.kind = 'witness' AND a.first_at <= $3) ORDER BY c.log DESC, c.size DESC LIMIT $4";

/// Checkpoints that a witness signed since a time, the oldest first, after that of the log `$5` and the size `$6`.
const WITNESSED_AFTER: &str = "FROM {checkpoint} c WHERE c.gateway_id = $1 AND ($2::bigint IS NULL OR c.log = $2)
    AND ($5::bigint IS NULL OR (c.log, c.size) > ($5, $6))
    AND EXISTS (SELECT FROM {anchor} a WHERE a.gateway_id = c.gateway_id AND a.log = c.log AND a.size = c.size
        AND a.kind = 'witness' AND a.last_at >= $3) ORDER BY c.log, c.size LIMIT $4";

/// Checkpoints of one read among which one is looked for. *Derived*: a checkpoint each 10 s for twice
/// [`CLOCKS_DIFFER`], so that the first page suffices if no checkpoint is refused.
const CANDIDATES: i64 = 120;

/// The difference of the clocks of witnesses and the database, in microseconds. *Chosen*: a gateway takes no signature
/// whose time is more than 5 min away from its own clock.
const CLOCKS_DIFFER: i64 = 600_000_000;

/// A side of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before it, from the newest to the oldest.
    Before,
    /// After it, from the oldest to the newest.
    After,
}

/// A checkpoint in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The log, named by its first epoch.
    pub log: Epoch,
    /// The tree.
    pub head: TreeHead,
    /// The place of the last record in the tree.
    pub last: (Epoch, Seq),
    /// The right edge of the tree.
    pub edge: Edge,
    /// The note as its gateway signed it.
    pub note: String,
    /// When it was stored, by the database's clock.
    pub stored_at: Timestamp,
    /// The confirmations of anchors.
    pub anchors: Vec<StoredAnchor>,
}

/// The confirmation of a checkpoint by an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnchor {
    /// Its name in the configuration of the gateway.
    pub name: String,
    /// Its kind: `witness`, `tsa`, `s3` or `command`.
    pub kind: String,
    /// Its first answer, and when it came.
    pub first: (Vec<u8>, Timestamp),
    /// Its last answer, and when it came.
    pub last: (Vec<u8>, Timestamp),
}

/// One snapshot of the checkpoints and records of a gateway.
pub struct LogReading<'c> {
    reading: Reading<'c>,
    gateway_id: GatewayId,
}

impl std::fmt::Debug for LogReading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReading").field("gateway_id", &self.gateway_id).finish_non_exhaustive()
    }
}

impl<'c> LogReading<'c> {
    /// Begins a snapshot.
    ///
    /// # Errors
    /// Any error of Postgres; see [`super::remedy`].
    pub async fn begin(connection: &'c mut Connection, gateway_id: GatewayId) -> Result<Self, sqlx::Error> {
        Ok(Self { reading: Reading::begin(connection).await?, gateway_id })
    }

    /// The first checkpoint that covers the record at `place`; with `kind`, the first that such an anchor confirmed.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn covering(
        &mut self,
        place: (Epoch, Seq),
        kind: Option<&str>,
    ) -> Result<Option<StoredCheckpoint>, sqlx::Error> {
        let sql = self.reading.sql(&format!("SELECT {COLUMNS} {COVERING}"));
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(place.0.0)).bind(bigint(place.1.0)).bind(kind);
        let row = query.fetch_optional(&mut *self.reading.transaction).await?;
        Ok(self.with_anchors(row).await?.pop())
    }

    /// A page of the checkpoints that witnesses signed around a time or on that side of it, the nearest first, of one
    /// log or all; `after` is the log and size of the last one of the page before. An empty page is the end.
    /// The times are those of the database's clock: the signatures have their own.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn witnessed(
        &mut self,
        log: Option<Epoch>,
        (side, time): (Side, Timestamp),
        after: Option<(Epoch, u64)>,
    ) -> Result<Vec<StoredCheckpoint>, sqlx::Error> {
        let (which, slack) = match side {
            Side::Before => (WITNESSED_BEFORE, CLOCKS_DIFFER),
            Side::After => (WITNESSED_AFTER, -CLOCKS_DIFFER),
        };
        let limit = Timestamp::from_micros(time.micros().saturating_add(slack)).to_datetime();
        let sql = self.reading.sql(&format!("SELECT {COLUMNS} {which}"));
        let query = sql::query(sql).bind(self.gateway_id.0).bind(log.map(|log| bigint(log.0)));
        let query = query.bind(limit).bind(CANDIDATES);
        let query = query.bind(after.map(|(log, _)| bigint(log.0))).bind(after.map(|(_, size)| bigint(size)));
        let rows = query.fetch_all(&mut *self.reading.transaction).await?;
        self.with_anchors(rows).await
    }

    /// The first epochs of the logs of which there are checkpoints.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn logs(&mut self) -> Result<Vec<Epoch>, sqlx::Error> {
        let sql = self.reading.sql("SELECT DISTINCT log FROM {checkpoint} WHERE gateway_id = $1 ORDER BY log");
        let logs = sql::query_scalar(sql).bind(self.gateway_id.0).fetch_all(&mut *self.reading.transaction).await?;
        Ok(logs.into_iter().map(|log: i64| Epoch(log.unsigned_abs())).collect())
    }

    /// At most `limit` checkpoints after that of a log and a size, in this order.
    ///
    /// # Errors
    /// As for [`LogReading::begin`]; a row that is not a checkpoint is one.
    pub async fn checkpoints_after(
        &mut self,
        (log, size): (Epoch, u64),
        limit: i64,
    ) -> Result<Vec<StoredCheckpoint>, sqlx::Error> {
        let sql = self.reading.sql(&format!("SELECT {COLUMNS} {PAGE}"));
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(log.0)).bind(bigint(size)).bind(limit);
        let rows = query.fetch_all(&mut *self.reading.transaction).await?;
        self.with_anchors(rows).await
    }

    /// The places and hashes of at most `limit` records after a place.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn hashes_after(
        &mut self,
        (epoch, seq): (Epoch, Seq),
        limit: i64,
    ) -> Result<Vec<((Epoch, Seq), Digest)>, sqlx::Error> {
        let sql = self.reading.sql(HASHES_AFTER);
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(epoch.0)).bind(bigint(seq.0)).bind(limit);
        let rows = query.fetch_all(&mut *self.reading.transaction).await?;
        let row = |row: &PgRow| {
            let number = |idx: usize| row.try_get::<i64, _>(idx).map(i64::unsigned_abs);
            Ok(((Epoch(number(0)?), Seq(number(1)?)), digest(row.try_get(2)?)))
        };
        rows.iter().map(row).collect()
    }

    /// At most `limit` checkpoints of the log that cover the record at `place` and have rows of anchors, the smallest
    /// first. The rows prove nothing by themselves.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn anchored_from(
        &mut self,
        log: Epoch,
        place: (Epoch, Seq),
        limit: i64,
    ) -> Result<Vec<StoredCheckpoint>, sqlx::Error> {
        let sql = self.reading.sql(&format!("SELECT {COLUMNS} {ANCHORED_FROM}"));
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(log.0));
        let query = query.bind(bigint(place.0.0)).bind(bigint(place.1.0)).bind(limit);
        let rows = query.fetch_all(&mut *self.reading.transaction).await?;
        self.with_anchors(rows).await
    }

    /// At most `limit` checkpoints of the log with fewer than `size` records that have rows of anchors, the largest
    /// first.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn anchored_below(
        &mut self,
        log: Epoch,
        size: u64,
        limit: i64,
    ) -> Result<Vec<StoredCheckpoint>, sqlx::Error> {
        let sql = self.reading.sql(&format!("SELECT {COLUMNS} {ANCHORED_BELOW}"));
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(log.0)).bind(bigint(size)).bind(limit);
        let rows = query.fetch_all(&mut *self.reading.transaction).await?;
        self.with_anchors(rows).await
    }

    /// The last checkpoint of the log that does not cover the record at `place`.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn before(&mut self, log: Epoch, place: (Epoch, Seq)) -> Result<Option<StoredCheckpoint>, sqlx::Error> {
        let sql = self.reading.sql(&format!("SELECT {COLUMNS} {BEFORE}"));
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(log.0));
        let query = query.bind(bigint(place.0.0)).bind(bigint(place.1.0));
        let row = query.fetch_optional(&mut *self.reading.transaction).await?;
        Ok(self.with_anchors(row).await?.pop())
    }

    /// The largest checkpoint of the log.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn last(&mut self, log: Epoch) -> Result<Option<StoredCheckpoint>, sqlx::Error> {
        let end = i64::MAX.unsigned_abs();
        self.before(log, (Epoch(end), Seq(end))).await
    }

    /// The tree of all records in the database from the log's first epoch on, and their hashes: for a log of few
    /// records, that of the registrar.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn tree(&mut self, log: Epoch) -> Result<(Tree, Vec<[u8; 32]>), sqlx::Error> {
        let sql = self.reading.sql(RECORDS);
        let query = sql::query(sql).bind(self.gateway_id.0).bind(bigint(log.0));
        let (mut tree, mut hashes) = (Tree::begin(log), Vec::new());
        for row in query.fetch_all(&mut *self.reading.transaction).await? {
            let number = |idx: usize| row.try_get::<i64, _>(idx).map(i64::unsigned_abs);
            let (epoch, seq) = (Epoch(number(0)?), Seq(number(1)?));
            let hash: Vec<u8> = row.try_get(2)?;
            let hash = hash.try_into().map_err(|_| sqlx::Error::Decode("a hash does not have 32 bytes".into()))?;
            let (gateway_id, prev_hash) = (self.gateway_id, Digest::ZERO);
            tree.push(&StreamPosition { gateway_id, epoch, seq, prev_hash, hash: Digest(hash) });
            hashes.push(hash);
        }
        Ok((tree, hashes))
    }

    /// The index of the record at `place` in the tree of `to`, and the nodes that its proof needs. The records after
    /// the tree of `from` (none: the empty tree), which does not have it, are read page by page.
    ///
    /// # Errors
    /// As for [`LogReading::begin`], and [`sqlx::Error::RowNotFound`] if records in between are missing.
    pub async fn nodes(
        &mut self,
        from: Option<&StoredCheckpoint>,
        to: &StoredCheckpoint,
        place: (Epoch, Seq),
    ) -> Result<(u64, WantedNodes), sqlx::Error> {
        let (edge, mut after) = match from {
            Some(from) => (from.edge.clone(), from.last),
            None => (Edge::default(), (to.log, Seq::ZERO)),
        };
        let sql = self.reading.sql(BETWEEN);
        let query = sql::query_scalar(sql).bind(self.gateway_id.0).bind(bigint(after.0.0)).bind(bigint(after.1.0));
        let query = query.bind(bigint(place.0.0)).bind(bigint(place.1.0));
        let between: i64 = query.fetch_one(&mut *self.reading.transaction).await?;
        let index = edge.size() + between.unsigned_abs();
        let size = to.head.size;
        let nodes = WantedNodes::of_inclusion(index, size, edge);
        let mut nodes = nodes.map_err(|_| sqlx::Error::RowNotFound)?;
        while nodes.size() < size {
            let page = self.hashes_after(after, HASHES_PAGE).await?;
            let page = page.into_iter().take_while(|(place, _)| *place <= to.last).collect::<Vec<_>>();
            after = page.last().ok_or(sqlx::Error::RowNotFound)?.0;
            nodes.extend(page.iter().map(|(_, hash)| &hash.0), size);
        }
        Ok((index, nodes))
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// As for [`LogReading::begin`].
    pub async fn end(self) -> Result<(), sqlx::Error> {
        self.reading.end().await
    }

    /// The checkpoints of these rows, with their confirmations: one query for all.
    async fn with_anchors(
        &mut self,
        rows: impl IntoIterator<Item = PgRow>,
    ) -> Result<Vec<StoredCheckpoint>, sqlx::Error> {
        let mut found = rows.into_iter().map(|row| checkpoint(&row)).collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            return Ok(found);
        }
        let (logs, sizes): (Vec<_>, Vec<_>) = found.iter().map(|at| (bigint(at.log.0), bigint(at.head.size))).unzip();
        let sql = self.reading.sql(ANCHORS);
        let query = sql::query(sql).bind(self.gateway_id.0).bind(logs).bind(sizes);
        let mut anchors: BTreeMap<(i64, i64), Vec<StoredAnchor>> = BTreeMap::new();
        for row in query.fetch_all(&mut *self.reading.transaction).await? {
            anchors.entry((row.try_get(0)?, row.try_get(1)?)).or_default().push(StoredAnchor {
                name: row.try_get(2)?,
                kind: row.try_get(3)?,
                first: (row.try_get(4)?, timestamp(&row, 5)?),
                last: (row.try_get(6)?, timestamp(&row, 7)?),
            });
        }
        for at in &mut found {
            at.anchors = anchors.remove(&(bigint(at.log.0), bigint(at.head.size))).unwrap_or_default();
        }
        Ok(found)
    }
}

/// The gateways of which there are checkpoints.
///
/// # Errors
/// As for [`LogReading::begin`].
pub async fn signing_gateways(connection: &mut Connection) -> Result<Vec<GatewayId>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let sql = reading.sql("SELECT DISTINCT gateway_id FROM {checkpoint} ORDER BY gateway_id");
    let ids: Vec<uuid::Uuid> = sql::query_scalar(sql).fetch_all(&mut *reading.transaction).await?;
    reading.end().await?;
    Ok(ids.into_iter().map(GatewayId).collect())
}

fn checkpoint(row: &PgRow) -> Result<StoredCheckpoint, sqlx::Error> {
    let number = |idx: usize| row.try_get::<i64, _>(idx).map(i64::unsigned_abs);
    let damaged = |what: &str| sqlx::Error::Decode(format!("a row of audit_checkpoint has a damaged {what}").into());
    let (size, root, edge) = (number(1)?, row.try_get::<Vec<u8>, _>(4)?, row.try_get::<Vec<u8>, _>(5)?);
    let root = Hash(root.try_into().map_err(|_| damaged("root"))?);
    let (hashes, rest) = edge.as_chunks::<32>();
    let hashes = hashes.iter().map(|hash| Hash(*hash)).collect();
    let edge = Edge::from_hashes(size, hashes).ok().filter(|edge| rest.is_empty() && edge.root() == root);
    Ok(StoredCheckpoint {
        log: Epoch(number(0)?),
        head: TreeHead { size, root },
        last: (Epoch(number(2)?), Seq(number(3)?)),
        edge: edge.ok_or_else(|| damaged("edge"))?,
        note: row.try_get(6)?,
        stored_at: timestamp(row, 7)?,
        anchors: Vec::new(),
    })
}
