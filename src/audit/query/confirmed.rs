//! The confirmations of a record: what anchors said of checkpoints at or after it.

use sqlx::Row;

use super::reading::{Reading, bigint};
use crate::audit::record::{StreamPosition, Timestamp};
use crate::audit::sql::{self, Connection};

/// The earliest confirmation by each anchor. A log is named by its first epoch, and has all records from there on.
const CONFIRMED: &str = "SELECT a.anchor, a.kind, (extract(epoch FROM min(a.first_at)) * 1000000)::bigint
    FROM {checkpoint} c JOIN {anchor} a ON a.gateway_id = c.gateway_id AND a.log = c.log AND a.size = c.size
    WHERE c.gateway_id = $1 AND c.log <= $2 AND (c.epoch, c.seq) >= ($2, $3)
    GROUP BY a.anchor, a.kind ORDER BY a.anchor";

/// A confirmation of a record, as the database has it. Nothing is verified: that takes the record's proof.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Confirmation {
    /// The name of the anchor.
    pub anchor: String,
    /// Its kind: `witness`, `tsa`, `s3` or `command`.
    pub kind: String,
    /// The time of the first one, by the clock of the database.
    pub at: Timestamp,
}

/// The first confirmation by each anchor of a checkpoint that covers the record at `position`.
///
/// # Errors
/// Any error of Postgres; see [`super::remedy`].
pub async fn confirmations(
    connection: &mut Connection,
    position: &StreamPosition,
) -> Result<Vec<Confirmation>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let sql = reading.sql(CONFIRMED);
    let query = sql::query(sql).bind(position.gateway_id.0).bind(bigint(position.epoch.0)).bind(bigint(position.seq.0));
    let rows = query.fetch_all(&mut *reading.transaction).await?;
    reading.end().await?;
    let confirmation = |row: &sqlx::postgres::PgRow| {
        let at = Timestamp::from_micros(row.try_get(2)?);
        Ok(Confirmation { anchor: row.try_get(0)?, kind: row.try_get(1)?, at })
    };
    rows.iter().map(confirmation).collect()
}
