//! Refused requests by caller and target.

use std::collections::BTreeMap;

use sqlx::{Postgres, QueryBuilder, Row};

use super::filter::Filter;
use super::reading::Reading;
use super::select::conditions;
use super::summary::TARGET;
use crate::audit::record::{AuditRecord, Status, Timestamp};
use crate::audit::sql::Connection;

/// Most rows of a result. *Chosen*: a few screens; a narrower search shows the rest.
pub const DENIALS_MAX: usize = 200;

/// The method of a record that counts refusals.
const REFUSALS: &str = "gateway/refusals";

/// Requests of one caller to one target that ended in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The caller's subject.
    pub subject: String,
    /// The caller's readable name.
    pub name: Option<String>,
    /// The role.
    pub role: Option<String>,
    /// `backend/tool`, or the method if there is none.
    pub target: String,
    /// True if the target is a method.
    pub is_method: bool,
    /// The outcome.
    pub status: Status,
    /// Requests, with those that a `gateway/refusals` record counts.
    pub count: u64,
    /// The last one.
    pub last: Timestamp,
}

/// The matching requests by caller, role, target and status, the most frequent first; at most [`DENIALS_MAX`] rows.
///
/// # Errors
/// Any error of Postgres; 57014 if it takes longer than a statement that reads may.
pub async fn denials(connection: &mut Connection, filter: &Filter) -> Result<Vec<Denial>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(format!(
        r#"SELECT client_subject, min(client_name), client_role, coalesce(target, method), target IS NULL,
        response_status, sum(number)::bigint, (extract(epoch FROM max("timestamp")) * 1000000)::bigint
        FROM (SELECT client_subject, client_name, client_role, method, response_status, "timestamp", {TARGET} AS target,
            CASE WHEN method = '{REFUSALS}' AND request_args ->> 'count' ~ '^[0-9]{{1,15}}$'
            THEN (request_args ->> 'count')::bigint ELSE 1 END AS number FROM {} WHERE true"#,
        reading.table("audit_log")
    ));
    conditions(&mut sql, filter);
    sql.push(") AS found GROUP BY 1, 3, 4, 5, 6 ORDER BY 7 DESC, 8 DESC, 1, 3, 4 LIMIT ");
    sql.push_bind(i64::try_from(DENIALS_MAX).unwrap_or(i64::MAX));
    let rows = sql.build().persistent(false).fetch_all(&mut *reading.transaction).await?;
    reading.end().await?;
    let denial = |row: &sqlx::postgres::PgRow| {
        let status: String = row.try_get(5)?;
        Ok(Denial {
            subject: row.try_get(0)?,
            name: row.try_get(1)?,
            role: row.try_get(2)?,
            target: row.try_get(3)?,
            is_method: row.try_get(4)?,
            status: Status::from_word(&status)
                .ok_or_else(|| sqlx::Error::Protocol(format!("audit_log has the unknown status {status:?}")))?,
            count: row.try_get::<i64, _>(6)?.cast_unsigned(),
            last: Timestamp::from_micros(row.try_get(7)?),
        })
    };
    rows.iter().map(denial).collect()
}

/// The same of `records`.
#[must_use]
pub fn denials_of(records: &[AuditRecord]) -> Vec<Denial> {
    let mut found: BTreeMap<_, Denial> = BTreeMap::new();
    for record in records {
        let call = &record.entry.call;
        let target = super::summary::target(call);
        let counted = call.request_args.as_deref().filter(|_| call.method == REFUSALS);
        let counted = counted.and_then(|args| serde_json::from_str::<serde_json::Value>(args).ok());
        let count = counted.and_then(|args| args.get("count")?.as_u64()).unwrap_or(1);
        let denial = Denial {
            subject: call.client_subject.to_string(),
            name: None,
            role: call.client_role.as_ref().map(ToString::to_string),
            is_method: target.is_none(),
            target: target.unwrap_or_else(|| call.method.to_string()),
            status: record.entry.response_status,
            count: 0,
            last: call.timestamp,
        };
        let key = (denial.subject.clone(), denial.role.clone(), denial.target.clone(), denial.status.as_str());
        let denial = found.entry(key).or_insert(denial);
        denial.count += count;
        denial.last = denial.last.max(call.timestamp);
        let name = call.client_name.as_ref().map(ToString::to_string);
        denial.name = denial.name.take().into_iter().chain(name).min();
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by(|a, b| b.count.cmp(&a.count).then(b.last.cmp(&a.last)));
    found.truncate(DENIALS_MAX);
    found
}
