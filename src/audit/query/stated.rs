//! The records that say something about other records, in `audit_log` and in quarantine.

use futures_util::TryStreamExt;
use sqlx::Row;
use uuid::Uuid;

use super::reading::Reading;
use super::row;
use crate::audit::codec;
use crate::audit::lost::{DAMAGE_METHOD, LostRuns};
use crate::audit::record::AuditRecord;
use crate::audit::sql::{self, Connection};

/// The losses that damage records name: those of one gateway, or all. A row that cannot be read, or does not match its
/// hash, says nothing.
///
/// # Errors
/// Any error of Postgres.
pub async fn lost_runs(connection: &mut Connection, gateway_id: Option<Uuid>) -> Result<LostRuns, sqlx::Error> {
    let mut lost = LostRuns::default();
    let mut reading = Reading::begin(connection).await?;
    each_with(&mut reading, &[DAMAGE_METHOD], gateway_id, |record| lost.add_record(record)).await?;
    reading.end().await?;
    Ok(lost)
}

/// Calls `use_record` with each record of these methods, and with each record in quarantine: those of one gateway, or
/// all. Records that cannot be read are left out. The methods must be constants, of those that the index
/// `audit_log_statements` has.
pub(super) async fn each_with(
    reading: &mut Reading<'_>,
    methods: &[&str],
    gateway_id: Option<Uuid>,
    mut use_record: impl FnMut(&AuditRecord),
) -> Result<(), sqlx::Error> {
    let methods = methods.iter().map(|method| format!("'{method}'")).collect::<Vec<_>>().join(", ");
    let columns = row::COLUMN_LIST.as_str();
    let of_gateway = "($1::uuid IS NULL OR gateway_id = $1)";
    let statement = reading.sql(&format!("SELECT {columns} FROM {{log}} WHERE method IN ({methods}) AND {of_gateway}"));
    let mut rows = sql::query(statement).bind(gateway_id).fetch(&mut *reading.transaction);
    while let Some(row) = rows.try_next().await? {
        if let Ok(record) = row::record(&row) {
            use_record(&record);
        }
    }
    drop(rows);
    let statement = reading.sql(&format!("SELECT frame FROM {{quarantine}} WHERE {of_gateway}"));
    let mut rows = sql::query(statement).bind(gateway_id).fetch(&mut *reading.transaction);
    while let Some(row) = rows.try_next().await? {
        if let Ok((record, _)) = codec::decode_record(row.try_get(0)?) {
            use_record(&record);
        }
    }
    Ok(())
}
