//! Questions to the trail: which records, from Postgres or from the outbox.

mod row;
mod walk;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::record::{AuditRecord, Timestamp};

pub use sqlx::Error;
pub use walk::verify;

/// Most records that one question gives. *Chosen*: more are a job for SQL or an export.
pub const LIMIT_MAX: usize = 10_000;

/// Which records. A field that is not set matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The token's subject.
    pub subject: Option<String>,
    /// The role.
    pub role: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// The backend.
    pub backend: Option<String>,
    /// The word in `response_status`.
    pub status: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// The call.
    pub request_id: Option<Uuid>,
    /// Not before, microseconds since 1970.
    pub since_micros: Option<i64>,
    /// The epoch.
    pub epoch: Option<u64>,
    /// The seq.
    pub seq: Option<u64>,
    /// The newest so many; at most [`LIMIT_MAX`].
    pub limit: usize,
}

impl Filter {
    /// How many records are given at most.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, LIMIT_MAX)
    }

    /// Whether `record` is one of those asked for.
    #[must_use]
    pub fn matches(&self, record: &AuditRecord) -> bool {
        fn is(want: Option<&String>, have: Option<&str>) -> bool {
            want.is_none_or(|want| have == Some(want))
        }
        let AuditRecord { place, entry } = record;
        let call = &entry.call;
        is(self.subject.as_ref(), Some(&call.client_subject))
            && is(self.role.as_ref(), call.client_role.as_deref())
            && is(self.tool.as_ref(), call.tool_name.as_deref())
            && is(self.backend.as_ref(), call.backend_name.as_deref())
            && is(self.status.as_ref(), Some(entry.response_status.as_str()))
            && is(self.method.as_ref(), Some(&call.method))
            && self.request_id.is_none_or(|id| call.request_id.0 == id)
            && self.since_micros.is_none_or(|since| call.timestamp.micros() >= since)
            && self.epoch.is_none_or(|epoch| place.epoch.0 == epoch)
            && self.seq.is_none_or(|seq| place.seq.0 == seq)
    }
}

/// The newest records in `audit_log` that match, oldest first.
///
/// # Errors
/// Any error of Postgres; 42P01 where the schema is missing.
pub async fn query(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let mut sql: QueryBuilder<Postgres> =
        QueryBuilder::new(concat!("SELECT ", row::columns!(), " FROM audit_log WHERE true"));
    let texts = [
        (" AND client_subject = ", &filter.subject),
        (" AND client_role = ", &filter.role),
        (" AND tool_name = ", &filter.tool),
        (" AND backend_name = ", &filter.backend),
        (" AND response_status = ", &filter.status),
        (" AND method = ", &filter.method),
    ];
    for (clause, value) in texts {
        if let Some(value) = value {
            sql.push(clause).push_bind(value);
        }
    }
    if let Some(id) = filter.request_id {
        sql.push(" AND request_id = ").push_bind(id);
    }
    if let Some(since) = filter.since_micros {
        sql.push(r#" AND "timestamp" >= "#).push_bind(Timestamp::from_micros(since).to_datetime());
    }
    for (clause, value) in [(" AND epoch = ", filter.epoch), (" AND seq = ", filter.seq)] {
        if let Some(value) = value {
            sql.push(clause).push_bind(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    sql.push(r#" ORDER BY "timestamp" DESC, epoch DESC, seq DESC LIMIT "#);
    sql.push_bind(i64::try_from(filter.limit()).unwrap_or(i64::MAX));
    let mut records =
        sql.build().fetch_all(connection).await?.iter().map(row::record).collect::<Result<Vec<_>, _>>()?;
    records.reverse();
    Ok(records)
}

/// What to do about an error of Postgres, where the one who asks can do something.
#[must_use]
pub fn remedy(error: &sqlx::Error) -> Option<&'static str> {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code)?;
    Some(match code.as_ref() {
        "42P01" | "3F000" => "this database has no Gatepost schema: run gatepost migrate, or name the right database",
        "42703" | "42804" => "the schema is of another version of Gatepost: run gatepost migrate of the newest one",
        "42501" => "this role may not read the trail: GRANT gatepost_reader to it",
        "57014" => "the question took longer than postgres.statement_timeout: narrow it, as by --since",
        _ => return None,
    })
}
