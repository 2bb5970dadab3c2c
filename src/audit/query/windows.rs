//! The parts of streams that a selection covers, with their neighbours: the record before and the one after each part,
//! the end of the epoch before, and the beginning of the epoch after.

use std::collections::BTreeMap;

use sqlx::Row;

use super::reading::bigint;
use super::snapshot::TrailSnapshot;
use crate::audit::record::{Epoch, GatewayId, Seq, Timestamp};
use crate::audit::sql;
use crate::audit::verify::{StreamId, Window};

/// The first and the last seq of each stream within times.
const BY_TIME: &str = r#"SELECT gateway_id, epoch, min(seq), max(seq) FROM {log}
    WHERE "timestamp" >= $1 AND "timestamp" < $2 AND ($3::uuid IS NULL OR gateway_id = $3)
    AND ($4::bigint IS NULL OR epoch = $4) AND epoch > 0 AND seq > 0 GROUP BY gateway_id, epoch"#;

/// The last seq of a stream.
const LAST: &str = "SELECT max(seq) FROM (
    (SELECT seq FROM {log} WHERE gateway_id = $1 AND epoch = $2 ORDER BY seq DESC LIMIT 1)
    UNION ALL (SELECT seq FROM {quarantine} WHERE gateway_id = $1 AND epoch = $2 ORDER BY seq DESC LIMIT 1)) ends";

/// The windows of the snapshot's selection; `None` if it is the whole trail.
pub(super) async fn windows(
    snapshot: &mut TrailSnapshot<'_>,
) -> Result<Option<BTreeMap<StreamId, Window>>, sqlx::Error> {
    let selection = snapshot.source.selection;
    if selection.is_all() {
        return Ok(None);
    }
    let mut windows = BTreeMap::new();
    if selection.has_times() {
        for (stream, first, last) in by_time(snapshot).await? {
            let end = last_seq(snapshot, stream).await?;
            let window = Window { first: Seq(first.0.saturating_sub(1)), last: (last < end).then(|| last.next()) };
            windows.insert(stream, window);
        }
    } else {
        windows = snapshot
            .streams
            .iter()
            .chain(snapshot.cursors.keys())
            .filter(|stream| selection.contains(**stream))
            .map(|stream| (*stream, Window::ALL))
            .collect();
    }
    let selected: Vec<(StreamId, Window)> = windows.iter().map(|(stream, window)| (*stream, *window)).collect();
    for (stream, window) in selected {
        if window.first <= Seq(1)
            && let Some(before) = neighbour(snapshot, stream, false)
            && !windows.contains_key(&before)
        {
            let first = last_seq(snapshot, before).await?;
            windows.insert(before, Window { first, last: None });
        }
        if window.last.is_none()
            && let Some(after) = neighbour(snapshot, stream, true)
        {
            windows.entry(after).or_insert(Window { first: Seq(1), last: Some(Seq(1)) });
        }
    }
    Ok(Some(windows))
}

/// The epoch before or after `stream`, if the trail has it.
fn neighbour(snapshot: &TrailSnapshot<'_>, (gateway_id, epoch): StreamId, is_after: bool) -> Option<StreamId> {
    let mut same = snapshot.streams.range((gateway_id, Epoch(0))..=(gateway_id, Epoch(u64::MAX)));
    if is_after {
        same.find(|(_, other)| *other > epoch).copied()
    } else {
        same.rfind(|(_, other)| *other < epoch).copied()
    }
}

async fn by_time(snapshot: &mut TrailSnapshot<'_>) -> Result<Vec<(StreamId, Seq, Seq)>, sqlx::Error> {
    let selection = snapshot.source.selection;
    let sql = snapshot.reading.sql(BY_TIME);
    let [since, until] = [
        selection.since.unwrap_or(Timestamp::from_micros(i64::MIN)),
        selection.until.unwrap_or(Timestamp::from_micros(i64::MAX)),
    ];
    let query = sql::query(sql).bind(since.to_datetime()).bind(until.to_datetime());
    let query =
        query.bind(selection.gateway.map(|gateway| gateway.0)).bind(selection.epoch.map(|epoch| bigint(epoch.0)));
    let rows = query.fetch_all(&mut *snapshot.reading.transaction).await?;
    rows.into_iter()
        .map(|row| {
            let [epoch, first, last] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?].map(i64::cast_unsigned);
            Ok(((GatewayId(row.try_get(0)?), Epoch(epoch)), Seq(first), Seq(last)))
        })
        .collect()
}

async fn last_seq(snapshot: &mut TrailSnapshot<'_>, (gateway_id, epoch): StreamId) -> Result<Seq, sqlx::Error> {
    let sql = snapshot.reading.sql(LAST);
    let query = sql::query_scalar(sql).bind(gateway_id.0).bind(bigint(epoch.0));
    let last: Option<i64> = query.fetch_one(&mut *snapshot.reading.transaction).await?;
    Ok(Seq(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0)))
}
