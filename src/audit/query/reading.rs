//! The transaction in which everything is read.

use std::collections::BTreeSet;

use sqlx::postgres::PgTransaction;
use sqlx::{AssertSqlSafe, Connection as _, Row};
use uuid::Uuid;

use crate::audit::sql::{self, Connection};

/// `repeatable read`: all rows are from one moment, whatever is delivered meanwhile. Without row security, Postgres
/// refuses a query whose result a policy would change, instead of showing a part of the trail.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE; SET LOCAL row_security = off";

/// The schema whose `audit_log` the connection would use, if that is not a temporary table, and the schemas that it
/// searches, without Postgres's own.
const SCHEMA: &str = "SELECT n.nspname::text, pg_catalog.current_schemas(false)::text[] FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('audit_log')
    AND c.relpersistence OPERATOR(pg_catalog.<>) 't'";

/// Fails with the error of Postgres if there are no tables, or the login may not read them.
const PROBE: &str = "SELECT FROM audit_log LIMIT 0";

/// The next gateway that has records. A statement for each: a database that is divided among servers (Citus) runs no
/// recursive query over all of them.
const NEXT_GATEWAY: &str =
    "SELECT gateway_id FROM {log} WHERE $1::uuid IS NULL OR gateway_id > $1 ORDER BY gateway_id LIMIT 1";

/// Gateways that have records in quarantine.
const QUARANTINED: &str = "SELECT DISTINCT gateway_id FROM {quarantine}";

/// A transaction that reads, and the schema of the tables in it.
pub(super) struct Reading<'c> {
    pub(super) transaction: PgTransaction<'c>,
    pub(super) schema: String,
    /// The schemas that this role's connections search.
    pub(super) search_path: Vec<String>,
}

impl<'c> Reading<'c> {
    /// Begins it, and finds the tables. From then on, names mean what they mean in Postgres itself, and tables need
    /// [`Reading::table`].
    pub(super) async fn begin(connection: &'c mut Connection) -> Result<Self, sqlx::Error> {
        let begin = format!("{BEGIN}; {}", sql::settings(connection.read_timeout()));
        let mut transaction = connection.begin_with(AssertSqlSafe(begin)).await?;
        sql::query(PROBE).execute(&mut *transaction).await?;
        let row = sql::query(SCHEMA).fetch_optional(&mut *transaction).await?;
        let (schema, search) = match row {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => return Err(sqlx::Error::Protocol("audit_log is a temporary table of this session".to_owned())),
        };
        let search_path = "SET LOCAL search_path = pg_catalog, pg_temp";
        sqlx::raw_sql(search_path).execute(&mut *transaction).await?;
        Ok(Self { transaction, schema, search_path: search })
    }

    /// The qualified name of a table of the trail.
    pub(super) fn table(&self, name: &str) -> String {
        qualified(&self.schema, name)
    }

    /// `sql` with the qualified names of the trail's tables in place of `{log}`, `{stream}`, `{quarantine}`,
    /// `{policy}`, `{gateway}`, `{checkpoint}`, `{anchor}` and `{retired}`. Only constant texts are passed, and the
    /// name of the schema is quoted.
    pub(super) fn sql(&self, sql: &str) -> AssertSqlSafe<String> {
        let mut sql = sql.to_owned();
        for (placeholder, table) in [
            ("{log}", "audit_log"),
            ("{stream}", "audit_stream"),
            ("{quarantine}", "audit_quarantine"),
            ("{policy}", "audit_policy"),
            ("{gateway}", "audit_gateway"),
            ("{checkpoint}", "audit_checkpoint"),
            ("{anchor}", "audit_anchor"),
            ("{retired}", "audit_retired_hash"),
        ] {
            sql = sql.replace(placeholder, &self.table(table));
        }
        AssertSqlSafe(sql)
    }

    /// The gateways that have records.
    pub(super) async fn gateways(&mut self) -> Result<BTreeSet<Uuid>, sqlx::Error> {
        let sql = self.sql(QUARANTINED);
        let mut all: BTreeSet<Uuid> =
            sql::query_scalar(sql).fetch_all(&mut *self.transaction).await?.into_iter().collect();
        let mut last: Option<Uuid> = None;
        loop {
            let sql = self.sql(NEXT_GATEWAY);
            last = sql::query_scalar(sql).bind(last).fetch_optional(&mut *self.transaction).await?;
            let Some(gateway) = last else { return Ok(all) };
            all.insert(gateway);
        }
    }

    /// Ends it.
    pub(super) async fn end(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }
}

fn qualified(schema: &str, name: &str) -> String {
    format!("\"{}\".\"{name}\"", schema.replace('"', "\"\""))
}

/// A count as the `bigint` of a parameter.
pub(super) fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
