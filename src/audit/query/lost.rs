//! The losses that damage records name.

use std::sync::LazyLock;

use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::row;
use crate::audit::codec;
use crate::audit::lost::{DAMAGE_METHOD, LostRuns};
use crate::audit::sql;

static DAMAGE_RECORDS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM audit_log WHERE method = '{DAMAGE_METHOD}' AND ($1::uuid IS NULL OR gateway_id = $1)
        ORDER BY gateway_id, epoch, seq",
        row::COLUMN_LIST.as_str()
    )
});

/// The losses that damage records name, in `audit_log` and in quarantine: those of one gateway, or all. A row that
/// cannot be read, or does not match its hash, says nothing.
///
/// # Errors
/// Any error of Postgres.
pub async fn lost_runs(connection: &mut PgConnection, gateway_id: Option<Uuid>) -> Result<LostRuns, sqlx::Error> {
    let mut lost = LostRuns::default();
    let mut rows = sql::query(DAMAGE_RECORDS.as_str()).bind(gateway_id).fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        if let Ok(record) = row::record(&row) {
            lost.add_record(&record);
        }
    }
    drop(rows);
    let frames = "SELECT frame FROM audit_quarantine WHERE $1::uuid IS NULL OR gateway_id = $1";
    let mut rows = sql::query(frames).bind(gateway_id).fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        if let Ok((record, _)) = codec::decode_record(row.try_get(0)?) {
            lost.add_record(&record);
        }
    }
    Ok(lost)
}
