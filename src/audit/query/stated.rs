//! The records that say something about other records, in `audit_log` and in quarantine.

use futures_util::TryStreamExt;
use sqlx::Row;
use uuid::Uuid;

use super::reading::Reading;
use super::row;
use crate::audit::codec;
use crate::audit::lost::{DAMAGE_METHOD, LostRuns};
use crate::audit::record::AuditRecord;
use crate::audit::retired::{RETIRED_METHOD, Retired};
use crate::audit::sql::{self, Connection};

/// The losses that damage records name: those of one gateway, or all. A row that cannot be read, or does not match its
/// hash, says nothing. Damage records that were retired are read from the decisions, which copy them.
///
/// # Errors
/// Any error of Postgres.
pub async fn lost_runs(connection: &mut Connection, gateway_id: Option<Uuid>) -> Result<LostRuns, sqlx::Error> {
    let mut lost = LostRuns::default();
    let mut reading = Reading::begin(connection).await?;
    each_with(&mut reading, &[DAMAGE_METHOD], gateway_id, |record| lost.add_record(record)).await?;
    if let Some([registrar]) = registrars(&mut reading).await?.as_deref() {
        // A gateway that is not the registrar decides nothing.
        each_with(&mut reading, &[RETIRED_METHOD], Some(*registrar), |record| {
            let retired = Retired::of_record(record).into_iter().flat_map(|retired| retired.copies);
            let is_wanted =
                |copy: &AuditRecord| gateway_id.is_none_or(|gateway_id| copy.position.gateway_id.0 == gateway_id);
            retired.filter(is_wanted).for_each(|copy| lost.add_record(&copy));
        })
        .await?;
    }
    reading.end().await?;
    Ok(lost)
}

/// The ids in `audit_registrar`, of which there should be one; `None` if there is no such table.
pub(super) async fn registrars(reading: &mut Reading<'_>) -> Result<Option<Vec<Uuid>>, sqlx::Error> {
    let table = reading.table("audit_registrar");
    let exists = sql::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&table);
    if !exists.fetch_one(&mut *reading.transaction).await? {
        return Ok(None);
    }
    let sql = sqlx::AssertSqlSafe(format!("SELECT gateway_id FROM {table}"));
    sql::query_scalar(sql).fetch_all(&mut *reading.transaction).await.map(Some)
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
