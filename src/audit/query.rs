//! Questions to the trail: which records, from Postgres or from the outbox.

mod row;
mod walk;

use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::codec;
use super::record::{AuditRecord, Timestamp};

pub use sqlx::Error;
pub use walk::verify;

/// Most records that one question gives. *Chosen*: more are a job for SQL or an export.
pub const LIMIT_MAX: usize = 10_000;

/// Most bytes of records in one answer. *Chosen*: a thousand records with the longest ordinary arguments.
pub const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How far a call's time of arrival may be from that in its id. *Chosen*: the gateway takes both at once; this is for a
/// clock that was stepped between them.
const ID_SLACK_SECONDS: i64 = 3_600;

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
    /// Before this moment, microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_micros: Option<i64>,
    /// Text in the arguments, as they stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// The session, or the first request of what this one goes on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<Uuid>,
    /// Only those before this one, to go on with an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PageKey>,
    /// Only those behind this epoch and seq, and of these the oldest, in the order of their places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<(u64, u64)>,
    /// The newest so many; at most [`LIMIT_MAX`].
    pub limit: usize,
}

/// A record's place in an answer: records are ordered by time of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageKey {
    /// Arrival, microseconds since 1970.
    pub micros: i64,
    /// Its epoch.
    pub epoch: u64,
    /// Its seq.
    pub seq: u64,
    /// Its gateway.
    pub gateway_id: Uuid,
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
        let AuditRecord { position, entry } = record;
        let call = &entry.call;
        is(self.subject.as_ref(), Some(&call.client_subject))
            && is(self.role.as_ref(), call.client_role.as_deref())
            && is(self.tool.as_ref(), call.tool_name.as_deref())
            && is(self.backend.as_ref(), call.backend_name.as_deref())
            && is(self.status.as_ref(), Some(entry.response_status.as_str()))
            && is(self.method.as_ref(), Some(&call.method))
            && self.request_id.is_none_or(|id| call.request_id.0 == id)
            && self.since_micros.is_none_or(|since| call.timestamp.micros() >= since)
            && self.epoch.is_none_or(|epoch| position.epoch.0 == epoch)
            && self.seq.is_none_or(|seq| position.seq.0 == seq)
            && self.until_micros.is_none_or(|until| call.timestamp.micros() < until)
            && self.args.as_ref().is_none_or(|text| call.request_args.as_ref().is_some_and(|args| args.contains(text)))
            && is(self.session_id.as_ref(), call.session_id.as_deref())
            && self.gateway_id.is_none_or(|id| position.gateway_id.0 == id)
            // An outbox is one gateway's, and in the order of its places.
            && self.before.is_none_or(|key| (position.epoch.0, position.seq.0) < (key.epoch, key.seq))
            && self.after.is_none_or(|after| (position.epoch.0, position.seq.0) > after)
    }
}

/// The newest records in `audit_log` that match, oldest first; fewer than there are where they are longer than
/// [`RESULT_BYTES_MAX`] together.
///
/// # Errors
/// Any error of Postgres; 42P01 where the schema is missing.
pub async fn query(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let made = filter.request_id.and_then(|id| id.get_timestamp()).map(|time| time.to_unix().0.cast_signed());
    if let (Some(seconds), None, None) = (made, filter.since_micros, filter.until_micros) {
        // No index has the request id, but a v7 tells when it was made, which is when the call arrived.
        let micros = |seconds: i64| Some(seconds.saturating_mul(1_000_000));
        let (since_micros, until_micros) = (micros(seconds - ID_SLACK_SECONDS), micros(seconds + ID_SLACK_SECONDS));
        let records = select(connection, &Filter { since_micros, until_micros, ..filter.clone() }).await?;
        if !records.is_empty() {
            return Ok(records);
        }
    }
    select(connection, filter).await
}

async fn select(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let mut sql: QueryBuilder<Postgres> =
        QueryBuilder::new(concat!("SELECT ", row::columns!(), " FROM audit_log WHERE true"));
    conditions(&mut sql, filter);
    sql.push(match filter.after {
        Some(_) => " ORDER BY gateway_id, epoch, seq LIMIT ",
        None => r#" ORDER BY "timestamp" DESC, epoch DESC, seq DESC, gateway_id DESC LIMIT "#,
    });
    sql.push_bind(i64::try_from(filter.limit()).unwrap_or(i64::MAX));
    let (mut records, mut bytes) = (Vec::new(), 0);
    let mut rows = sql.build().fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let record = row::record(&row)?;
        // I6: an answer is bounded by count and by bytes; at least one record is given.
        bytes += record.entry.size_bytes();
        if bytes > RESULT_BYTES_MAX && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    drop(rows);
    if filter.after.is_none() {
        records.reverse();
    }
    Ok(records)
}

fn conditions(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    let texts = [
        (" AND client_subject = ", &filter.subject),
        (" AND client_role = ", &filter.role),
        (" AND tool_name = ", &filter.tool),
        (" AND backend_name = ", &filter.backend),
        (" AND response_status = ", &filter.status),
        (" AND method = ", &filter.method),
        (" AND session_id = ", &filter.session_id),
        (" AND 0 < strpos(request_args::text, ", &filter.args),
    ];
    for (clause, value) in texts {
        if let Some(value) = value {
            sql.push(clause).push_bind(value);
            sql.push(if clause.contains('(') { ")" } else { "" });
        }
    }
    for (clause, value) in [(" AND request_id = ", filter.request_id), (" AND gateway_id = ", filter.gateway_id)] {
        if let Some(value) = value {
            sql.push(clause).push_bind(value);
        }
    }
    let moment = |micros| Timestamp::from_micros(micros).to_datetime();
    for (clause, value) in
        [(r#" AND "timestamp" >= "#, filter.since_micros), (r#" AND "timestamp" < "#, filter.until_micros)]
    {
        if let Some(value) = value {
            sql.push(clause).push_bind(moment(value));
        }
    }
    let bigint = |count| i64::try_from(count).unwrap_or(i64::MAX);
    for (clause, value) in [(" AND epoch = ", filter.epoch), (" AND seq = ", filter.seq)] {
        if let Some(value) = value {
            sql.push(clause).push_bind(bigint(value));
        }
    }
    if let Some((epoch, seq)) = filter.after {
        sql.push(" AND (epoch, seq) > (").push_bind(bigint(epoch)).push(", ").push_bind(bigint(seq)).push(")");
    }
    if let Some(key) = filter.before {
        sql.push(r#" AND ("timestamp", epoch, seq, gateway_id) < ("#).push_bind(moment(key.micros));
        sql.push(", ").push_bind(bigint(key.epoch)).push(", ").push_bind(bigint(key.seq));
        sql.push(", ").push_bind(key.gateway_id).push(")");
    }
}

/// How far each stream was delivered, of those that were delivered to in the last minutes, or of all.
///
/// # Errors
/// As for [`query`].
pub async fn delivered_positions(
    connection: &mut PgConnection,
    all: bool,
) -> Result<Vec<(Uuid, u64, u64)>, sqlx::Error> {
    // Longer than a delivery may take from its `now()` to its commit.
    let sql = "SELECT gateway_id, epoch, delivered_seq FROM audit_stream
        WHERE $1 OR delivered_at > now() - interval '5 minutes' ORDER BY gateway_id, epoch";
    let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(sql).bind(all).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(id, epoch, seq)| (id, epoch.cast_unsigned(), seq.cast_unsigned())).collect())
}

/// What stands in quarantine of a call, or in a place: the record, and why it is there.
///
/// # Errors
/// As for [`query`].
pub async fn quarantined(
    connection: &mut PgConnection,
    filter: &Filter,
) -> Result<Vec<(AuditRecord, String)>, sqlx::Error> {
    let sql = "SELECT frame, concat_ws(': ', sqlstate, error) FROM audit_quarantine
        WHERE ($1 IS NULL OR request_id = $1) AND ($2 IS NULL OR epoch = $2) AND ($3 IS NULL OR seq = $3)
        AND ($4 IS NULL OR gateway_id = $4) ORDER BY gateway_id, epoch, seq LIMIT 10";
    let bigint = |count: Option<u64>| count.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let asked = sqlx::query_as(sql).bind(filter.request_id).bind(bigint(filter.epoch)).bind(bigint(filter.seq));
    let rows: Vec<(Vec<u8>, String)> = asked.bind(filter.gateway_id).fetch_all(connection).await?;
    let thaw = |(frame, why): (Vec<u8>, String)| {
        let (record, _) = codec::decode_record(&frame).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok((record, why))
    };
    rows.into_iter().map(thaw).collect()
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
