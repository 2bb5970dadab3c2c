//! Records, cursors and quarantined records from Postgres.

use futures_util::TryStreamExt;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::filter::{Filter, READ, RESULT_BYTES_MAX, addr_patterns};
use super::reading::Reading;
use super::row;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Digest, Timestamp};
use crate::audit::sql::{self, Connection};
use crate::audit::verify::ID_SLACK;

/// The newest matching records in `audit_log`, oldest first. Fewer than the limit if they exceed [`RESULT_BYTES_MAX`].
///
/// # Errors
/// Any error of Postgres; 42P01 if the schema is missing.
pub async fn query(connection: &mut Connection, filter: &Filter) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let made = filter.request_id.and_then(|id| id.get_timestamp()).map(|time| time.to_unix().0.cast_signed());
    if let (Some(seconds), None, None) = (made, filter.since_micros, filter.until_micros) {
        // No index contains the request id, but a v7 id contains the time of the call's arrival.
        let slack = i64::try_from(ID_SLACK.as_secs()).unwrap_or(i64::MAX);
        let micros = |seconds: i64| Some(seconds.saturating_mul(1_000_000));
        let (since_micros, until_micros) = (micros(seconds - slack), micros(seconds + slack));
        let records = select(connection, &Filter { since_micros, until_micros, ..filter.clone() }).await?;
        if !records.is_empty() {
            return Ok(records);
        }
    }
    select(connection, filter).await
}

async fn select(connection: &mut Connection, filter: &Filter) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let records = select_in(&mut reading, filter).await?;
    reading.end().await?;
    Ok(records)
}

/// The same in a transaction that was begun.
pub(super) async fn select_in(reading: &mut Reading<'_>, filter: &Filter) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(format!(
        "SELECT {} FROM {} WHERE true",
        row::COLUMN_LIST.as_str(),
        reading.table("audit_log")
    ));
    conditions(&mut sql, filter);
    sql.push(match filter.after {
        Some(_) => " ORDER BY gateway_id, epoch, seq LIMIT ",
        None => r#" ORDER BY "timestamp" DESC, epoch DESC, seq DESC, gateway_id DESC LIMIT "#,
    });
    sql.push_bind(i64::try_from(filter.limit()).unwrap_or(i64::MAX));
    let (mut records, mut bytes) = (Vec::new(), 0);
    let mut rows = sql.build().persistent(false).fetch(&mut *reading.transaction);
    while let Some(row) = rows.try_next().await? {
        let record = row::record(&row)?;
        // I6: a result is bounded by count and by bytes; it has at least one record.
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

pub(super) fn conditions(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    exact_texts(sql, filter);
    let texts = [
        (&filter.who, &["client_subject", "client_name"][..]),
        (&filter.client, &["client_id", "context -> 'client_info' ->> 'name'"]),
        (&filter.actor, &["actor_subject"]),
        (&filter.resource, &["resource_uri"]),
    ];
    for (pattern, columns) in texts {
        if let Some(pattern) = pattern {
            matches(sql, columns, &[pattern]);
        }
    }
    if let Some(addr) = &filter.addr {
        let [whole, with_port] = addr_patterns(addr);
        matches(sql, &["client_addr"], &[&whole, &with_port]);
    }
    if let Some(tool) = &filter.tool {
        // A tool's own name may contain a slash. A resource is found as a tool is.
        sql.push(" AND (tool_name = ").push_bind(tool).push(" OR resource_uri = ").push_bind(tool);
        if let Some((backend, tool)) = tool.split_once('/') {
            sql.push(" OR (backend_name = ").push_bind(backend).push(" AND (tool_name = ").push_bind(tool);
            sql.push(" OR resource_uri = ").push_bind(tool).push("))");
        }
        sql.push(")");
    }
    if filter.hides_reads {
        sql.push(" AND method <> ").push_bind(READ);
    }
    if !filter.status.is_empty() {
        sql.push(" AND response_status = ANY(").push_bind(&filter.status).push(")");
    }
    let ids = [
        (" AND request_id = ", filter.request_id),
        (" AND parent_id = ", filter.parent_id),
        (" AND gateway_id = ", filter.gateway_id),
    ];
    for (clause, value) in ids {
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

/// The conditions on texts that are compared as they are.
fn exact_texts(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    let texts = [
        (" AND client_role = ", &filter.role),
        (" AND backend_name = ", &filter.backend),
        (" AND method = ", &filter.method),
        (" AND session_id = ", &filter.session_id),
        (" AND client_issuer = ", &filter.issuer),
        (" AND token_id = ", &filter.token_id),
        (" AND 0 < strpos(request_args::text, ", &filter.args),
    ];
    for (clause, value) in texts {
        if let Some(value) = value {
            sql.push(clause).push_bind(value);
            sql.push(if clause.contains('(') { ")" } else { "" });
        }
    }
}

/// One of `columns` is one of `patterns`, in which `*` stands for any characters.
fn matches(sql: &mut QueryBuilder<Postgres>, columns: &[&'static str], patterns: &[&str]) {
    let mut clause = " AND (";
    for (column, pattern) in columns.iter().flat_map(|column| patterns.iter().map(move |pattern| (column, pattern))) {
        sql.push(clause).push(*column);
        clause = " OR ";
        // Without a star, an index can be used.
        if pattern.contains('*') {
            let escaped = pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            sql.push(" LIKE ").push_bind(escaped.replace('*', "%"));
        } else {
            sql.push(" = ").push_bind((*pattern).to_owned());
        }
    }
    sql.push(")");
}

/// The last delivered seq of each stream: of all streams, or of those with a delivery in the last five minutes.
///
/// # Errors
/// As for [`query`].
pub async fn delivered_positions(connection: &mut Connection, all: bool) -> Result<Vec<(Uuid, u64, u64)>, sqlx::Error> {
    // Longer than a delivery takes from its `now()` to its commit.
    let mut reading = Reading::begin(connection).await?;
    let sql = reading.sql(
        "SELECT gateway_id, epoch, delivered_seq FROM {stream}
        WHERE $1 OR delivered_at > now() - interval '5 minutes' ORDER BY gateway_id, epoch",
    );
    let rows: Vec<(Uuid, i64, i64)> = sql::query_as(sql).bind(all).fetch_all(&mut *reading.transaction).await?;
    reading.end().await?;
    Ok(rows.into_iter().map(|(id, epoch, seq)| (id, epoch.cast_unsigned(), seq.cast_unsigned())).collect())
}

/// The text of a policy whose records were retired; `None` if it was not kept.
///
/// # Errors
/// As for [`query`].
pub async fn kept_policy(connection: &mut Connection, digest: Digest) -> Result<Option<String>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let text = reading.sql("SELECT policy FROM {policy} WHERE policy_digest = $1");
    let query = sql::query_scalar(text).bind(digest.0.to_vec());
    let text = query.fetch_optional(&mut *reading.transaction).await?;
    reading.end().await?;
    Ok(text)
}

/// The quarantined records of a call or at a position, each with the reason.
///
/// # Errors
/// As for [`query`].
pub async fn quarantined(
    connection: &mut Connection,
    filter: &Filter,
) -> Result<Vec<(AuditRecord, String)>, sqlx::Error> {
    let mut reading = Reading::begin(connection).await?;
    let sql = reading.sql(
        "SELECT frame, concat_ws(': ', sqlstate, error) FROM {quarantine}
        WHERE ($1 IS NULL OR request_id = $1) AND ($2 IS NULL OR epoch = $2) AND ($3 IS NULL OR seq = $3)
        AND ($4 IS NULL OR gateway_id = $4) ORDER BY gateway_id, epoch, seq LIMIT 10",
    );
    let bigint = |count: Option<u64>| count.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let query = sql::query_as(sql).bind(filter.request_id).bind(bigint(filter.epoch)).bind(bigint(filter.seq));
    let rows: Vec<(Vec<u8>, String)> = query.bind(filter.gateway_id).fetch_all(&mut *reading.transaction).await?;
    reading.end().await?;
    let decode = |(frame, reason): (Vec<u8>, String)| {
        let (record, _) = codec::decode_record(&frame).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok((record, reason))
    };
    rows.into_iter().map(decode).collect()
}

/// Advice on an error of Postgres, if the caller can fix it.
#[must_use]
pub fn remedy(error: &sqlx::Error) -> Option<&'static str> {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code)?;
    let hidden = || error.to_string().contains("row-level security");
    Some(match code.as_ref() {
        "42501" if hidden() => {
            "a row security policy hides a part of the trail from this role, so that nothing is shown"
        }
        "42P01" | "3F000" => "this database has no Gatepost schema: run gatepost migrate, or use the right database",
        "42703" | "42804" => {
            "the schema is from another version of Gatepost: run gatepost migrate of the newest version"
        }
        "42501" => {
            "this login cannot read the trail: set postgres.reader_url to one that is a member of gatepost_reader"
        }
        "57014" => "the query took longer than half a minute: narrow it, for example with --since",
        _ => return None,
    })
}
