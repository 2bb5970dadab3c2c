//! Questions to the trail: which records, from Postgres or from the outbox.

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, Place, RequestId, Seq, Status, Timestamp,
};

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
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(
        r#"SELECT gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", method, client_subject, client_role,
        client_issuer, token_id, client_addr, session_id, rpc_id, tool_name, backend_name, request_args::text AS
        request_args, args_digest, response_status, error_message, response_digest, response_bytes, latency_ms
        FROM audit_log WHERE true"#,
    );
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
    let mut records = sql.build().fetch_all(connection).await?.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    records.reverse();
    Ok(records)
}

fn record(row: &PgRow) -> Result<AuditRecord, sqlx::Error> {
    let digest = |bytes: Vec<u8>| bytes.try_into().map_or(Digest::ZERO, Digest);
    let count = |column: &str| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    let place = Place {
        gateway_id: GatewayId(row.try_get("gateway_id")?),
        epoch: Epoch(count("epoch")?),
        seq: Seq(count("seq")?),
        prev_hash: digest(row.try_get("prev_hash")?),
        hash: digest(row.try_get("hash")?),
    };
    let mut call = Call::new(RequestId(row.try_get("request_id")?), row.try_get("method")?);
    let at: chrono::DateTime<chrono::Utc> = row.try_get("timestamp")?;
    call.timestamp = Timestamp::from_micros(at.timestamp_micros());
    call.client_subject = row.try_get("client_subject")?;
    call.client_role = row.try_get("client_role")?;
    call.client_issuer = row.try_get("client_issuer")?;
    call.token_id = row.try_get("token_id")?;
    call.client_addr = row.try_get("client_addr")?;
    call.session_id = row.try_get("session_id")?;
    call.rpc_id = row.try_get("rpc_id")?;
    call.tool_name = row.try_get("tool_name")?;
    call.backend_name = row.try_get("backend_name")?;
    call.request_args = row.try_get("request_args")?;
    call.args_digest = row.try_get::<Option<Vec<u8>>, _>("args_digest")?.map(digest);
    let word: String = row.try_get("response_status")?;
    let status = Status::from_word(&word)
        .ok_or_else(|| sqlx::Error::Decode(format!("response_status {word:?} is not known here").into()))?;
    let outcome = Outcome {
        status,
        error_message: row.try_get("error_message")?,
        response_digest: row.try_get::<Option<Vec<u8>>, _>("response_digest")?.map(digest),
        response_bytes: row.try_get::<Option<i64>, _>("response_bytes")?.map(i64::unsigned_abs),
    };
    let mut entry = Entry::new(call, outcome, std::time::Duration::ZERO);
    entry.latency_ms = row.try_get("latency_ms")?;
    Ok(AuditRecord { place, entry })
}
