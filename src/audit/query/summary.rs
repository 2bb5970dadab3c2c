//! Counts of the matching records: over time, and of the most frequent values of some columns.
//!
//! Up to [`Effort::exact_max`] records are counted. More are estimated: the range is divided into slices of the same
//! length, a part of each, at another place in each, is counted, and the counts are multiplied. Each part is read by
//! the index of the time, so that the cost depends on the sample and not on the range, and views over other databases
//! work too.

use std::collections::BTreeMap;

use sqlx::{Postgres, QueryBuilder, Row};

use super::filter::Filter;
use super::reading::Reading;
use super::select::conditions;
use crate::audit::record::{AuditRecord, Call, Status, Timestamp};
use crate::audit::sql::{self, Connection};

/// The effort of counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Most records that are counted one by one.
    pub exact_max: u64,
    /// Records that an estimate looks at, about.
    pub sample: u64,
}

impl Effort {
    /// For a person who waits. *Chosen*: a million is counted in a few seconds; of 200,000, the error is a few per cent
    /// for a value that one record in a hundred has.
    pub const PAGE: Self = Self { exact_max: 1_000_000, sample: 200_000 };
}

/// Parts of the range of which an estimate looks at a piece. *Chosen*: four for each interval of the histogram.
const SLICES: u32 = 240;

/// Most intervals of a histogram, if none is cut by the ends of the range. *Chosen*: bars that can be told apart on a
/// telephone.
const INTERVALS_MAX: i64 = 60;

/// Values of a facet. *Chosen*: the rest is found by a search.
const VALUES_MAX: usize = 8;

/// Longest time for counting, in milliseconds; after it, an estimate is made. *Chosen*: a person waits as long.
const COUNT_MS: u32 = 4_000;

/// Longest time for an estimate, in milliseconds. *Chosen*: with [`COUNT_MS`] less than a question to the trail takes.
const ESTIMATE_MS: u32 = 10_000;

/// Thirty days in seconds.
const MONTH: i64 = 2_592_000;

/// Lengths of an interval in seconds.
const LENGTHS: [i64; 21] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    MONTH,
];

/// The target of a row: `backend/tool`, or NULL.
pub(super) const TARGET: &str = "CASE WHEN coalesce(tool_name, resource_uri) IS NOT NULL
    THEN concat_ws('/', backend_name, coalesce(tool_name, resource_uri)) END";

/// The name of each facet, which is the name of its field in a search, and the value of a row.
const FACETS: [(&str, &str); 8] = [
    ("who", "client_subject"),
    ("tool", TARGET),
    ("status", "response_status"),
    ("role", "client_role"),
    ("backend", "backend_name"),
    ("client", "client_id"),
    ("method", "method"),
    ("gateway", "gateway_id::text"),
];

/// Counts of the matching records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// All of them.
    pub total: u64,
    /// The records that were looked at.
    pub basis: Basis,
    /// Beginning of the range, microseconds since 1970.
    pub since_micros: i64,
    /// End of the range, microseconds since 1970.
    pub until_micros: i64,
    /// Length of an interval in microseconds.
    pub length_micros: i64,
    /// The records by the beginning of their interval, a multiple of its length, and status. Intervals without records
    /// are left out.
    pub intervals: BTreeMap<i64, Vec<(Status, u64)>>,
    /// The most frequent values, in the order of the page.
    pub facets: Vec<Facet>,
}

/// The records from which counts were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// All that match.
    All,
    /// So many, of parts of the range: the counts are estimates.
    Sample(u64),
    /// The newest ones of an outbox that has more.
    Newest,
}

/// The most frequent values of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facet {
    /// The name of its field in a search.
    pub name: &'static str,
    /// At most [`VALUES_MAX`], the most frequent first.
    pub values: Vec<FacetValue>,
    /// True if there are more.
    pub has_more: bool,
}

/// A value of a facet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacetValue {
    /// The value, for a search.
    pub value: String,
    /// The readable name of a caller.
    pub label: Option<String>,
    /// Records that have it.
    pub count: u64,
}

/// A part of the range, in microseconds since 1970.
type Range = (i64, i64);

/// Counts or estimates the records that match, without regard to pages and limits.
///
/// # Errors
/// Any error of Postgres; 57014 if an estimate takes too long.
pub async fn summary(connection: &mut Connection, filter: &Filter, effort: Effort) -> Result<Summary, sqlx::Error> {
    let filter = Filter { before: None, after: None, ..filter.clone() };
    let mut reading = Reading::begin(connection).await?;
    let range = range(&mut reading, &filter).await?;
    let likely = planned_rows(&mut reading, &filter).await?;
    if likely <= effort.exact_max {
        limit_time(&mut reading, COUNT_MS).await?;
        match counted(&mut reading, &filter, range, effort).await {
            Ok(summary) if summary.total <= effort.exact_max => {
                reading.end().await?;
                return Ok(summary);
            }
            Ok(_) => {}
            // The estimate needs less.
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error),
        }
    }
    reading.end().await?;
    let mut reading = Reading::begin(connection).await?;
    let by_time = Filter { since_micros: filter.since_micros, until_micros: filter.until_micros, ..Filter::default() };
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let share = (effort.sample as f64 / planned_rows(&mut reading, &by_time).await?.max(1) as f64).min(1.0);
    limit_time(&mut reading, ESTIMATE_MS).await?;
    let estimate = estimated(&mut reading, &filter, range, share).await?;
    reading.end().await?;
    Ok(estimate)
}

/// Counts `records`, which are all that match, or the newest of them.
#[must_use]
pub fn summary_of(records: &[AuditRecord], filter: &Filter, is_whole: bool) -> Summary {
    let now = Timestamp::now().micros();
    let times = || records.iter().map(|record| record.entry.call.timestamp.micros());
    let until = filter.until_micros.unwrap_or(now).min(now.max(times().max().unwrap_or(now) + 1));
    let since = filter.since_micros.or_else(|| times().min()).unwrap_or(until).min(until);
    let mut summary = Summary::new((since, until));
    summary.basis = if is_whole { Basis::All } else { Basis::Newest };
    let mut counts: BTreeMap<(usize, String), (u64, Option<String>)> = BTreeMap::new();
    for record in records {
        let call = &record.entry.call;
        summary.add(call.timestamp.micros(), record.entry.response_status, 1);
        for (place, (name, _)) in FACETS.iter().enumerate() {
            if let Some(value) = facet_value(name, record) {
                let (count, label) = counts.entry((place, value)).or_default();
                *count += 1;
                if *name == "who" && label.is_none() {
                    *label = call.client_name.as_ref().map(ToString::to_string);
                }
            }
        }
    }
    for ((place, value), (count, label)) in counts {
        if let Some(facet) = summary.facets.get_mut(place) {
            facet.values.push(FacetValue { value, label, count });
        }
    }
    summary.ordered()
}

fn facet_value(name: &str, record: &AuditRecord) -> Option<String> {
    let call: &Call = &record.entry.call;
    let text = |text: Option<&str>| text.map(str::to_owned);
    match name {
        "who" => Some(call.client_subject.to_string()),
        "tool" => target(call),
        "status" => Some(record.entry.response_status.as_str().to_owned()),
        "role" => text(call.client_role.as_deref()),
        "backend" => text(call.backend_name.as_deref()),
        "client" => text(call.client_id.as_deref()),
        "method" => Some(call.method.to_string()),
        "gateway" => Some(record.position.gateway_id.0.to_string()),
        _ => None,
    }
}

/// The target of a call as a row has it, see [`TARGET`].
pub(super) fn target(call: &Call) -> Option<String> {
    let name = call.tool_name.as_deref().or(call.resource_uri.as_deref())?;
    Some(call.backend_name.as_deref().map_or_else(|| name.to_owned(), |backend| format!("{backend}/{name}")))
}

impl Summary {
    fn new((since_micros, until_micros): Range) -> Self {
        let seconds = (until_micros - since_micros).max(0) / 1_000_000;
        let fits = |length: &&i64| seconds <= **length * INTERVALS_MAX;
        // Several months, for a range of many years.
        let length =
            LENGTHS.iter().find(fits).copied().unwrap_or_else(|| (seconds / (MONTH * INTERVALS_MAX) + 1) * MONTH);
        let facets = FACETS.map(|(name, _)| Facet { name, values: Vec::new(), has_more: false }).to_vec();
        Self {
            total: 0,
            basis: Basis::All,
            since_micros,
            until_micros,
            length_micros: length * 1_000_000,
            intervals: BTreeMap::new(),
            facets,
        }
    }

    fn add(&mut self, micros: i64, status: Status, count: u64) {
        let begin = micros.div_euclid(self.length_micros) * self.length_micros;
        let interval = self.intervals.entry(begin).or_default();
        match interval.iter_mut().find(|(known, _)| *known == status) {
            Some((_, counted)) => *counted += count,
            None => interval.push((status, count)),
        }
        self.total += count;
    }

    /// Orders the values of each facet, and keeps the most frequent.
    fn ordered(mut self) -> Self {
        for facet in &mut self.facets {
            facet.values.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
            facet.has_more = facet.values.len() > VALUES_MAX;
            facet.values.truncate(VALUES_MAX);
        }
        self
    }

    /// All counts, multiplied.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn multiplied(mut self, factor: f64) -> Self {
        let scale = |count: &mut u64| *count = (*count as f64 * factor).round() as u64;
        self.intervals.values_mut().flatten().for_each(|(_, count)| scale(count));
        self.facets.iter_mut().flat_map(|facet| &mut facet.values).for_each(|value| scale(&mut value.count));
        scale(&mut self.total);
        self
    }
}

/// The range of the filter. Without a beginning it is that of the trail, without an end it is the time of the server.
async fn range(reading: &mut Reading<'_>, filter: &Filter) -> Result<Range, sqlx::Error> {
    let sql = reading.sql(
        r#"SELECT (extract(epoch FROM now()) * 1000000)::bigint,
        (SELECT (extract(epoch FROM min("timestamp")) * 1000000)::bigint FROM {log} WHERE $1)"#,
    );
    let query = sql::query_as(sql).bind(filter.since_micros.is_none());
    let (now, first): (i64, Option<i64>) = query.fetch_one(&mut *reading.transaction).await?;
    // The clock of a gateway may be ahead by a little.
    let until = filter.until_micros.unwrap_or(now.saturating_add(1_000_000));
    Ok((filter.since_micros.or(first).unwrap_or(until).min(until), until))
}

/// The number of matching records that Postgres expects.
async fn planned_rows(reading: &mut Reading<'_>, filter: &Filter) -> Result<u64, sqlx::Error> {
    let mut sql: QueryBuilder<Postgres> =
        QueryBuilder::new(format!("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE true", reading.table("audit_log")));
    conditions(&mut sql, filter);
    let row = sql.build().persistent(false).fetch_one(&mut *reading.transaction).await?;
    // Postgres sends JSON as its text.
    let plan: String = row.try_get_unchecked(0)?;
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap_or_default();
    let rows = plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_f64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float is clamped")]
    Ok(rows.unwrap_or(0.0) as u64)
}

async fn limit_time(reading: &mut Reading<'_>, millis: u32) -> Result<(), sqlx::Error> {
    // Compiling such a statement takes longer than what it saves.
    let sql = sqlx::AssertSqlSafe(format!("SET LOCAL jit = off; SET LOCAL statement_timeout = {millis}"));
    sqlx::raw_sql(sql).execute(&mut *reading.transaction).await.map(|_| ())
}

/// Returns true if the statement ran out of its time.
fn is_late(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "57014")
}

/// Counts them, one more than [`Effort::exact_max`] at most.
async fn counted(
    reading: &mut Reading<'_>,
    filter: &Filter,
    range: Range,
    effort: Effort,
) -> Result<Summary, sqlx::Error> {
    let mut sql = QueryBuilder::new("WITH found AS (");
    push_columns(&mut sql, reading);
    conditions(&mut sql, filter);
    sql.push(" LIMIT ").push_bind(i64::try_from(effort.exact_max + 1).unwrap_or(i64::MAX)).push(")");
    grouped(sql, reading, Summary::new(range)).await
}

/// Estimates them from this share of the range.
async fn estimated(
    reading: &mut Reading<'_>,
    filter: &Filter,
    range: Range,
    share: f64,
) -> Result<Summary, sqlx::Error> {
    let moment = |micros: i64| Timestamp::from_micros(micros).to_datetime();
    let (begins, ends): (Vec<_>, Vec<_>) =
        slices(range, share).into_iter().map(|(begin, end)| (moment(begin), moment(end))).unzip();
    let mut sql = QueryBuilder::new("WITH found AS (SELECT part.* FROM unnest(");
    sql.push_bind(begins).push("::timestamptz[], ").push_bind(ends);
    sql.push("::timestamptz[]) AS slice (slice_begin, slice_end) CROSS JOIN LATERAL (");
    push_columns(&mut sql, reading);
    sql.push(r#" AND "timestamp" >= slice_begin AND "timestamp" < slice_end"#);
    conditions(&mut sql, filter);
    sql.push(") AS part)");
    let summary = grouped(sql, reading, Summary::new(range)).await?;
    let basis = Basis::Sample(summary.total);
    Ok(Summary { basis, ..summary.multiplied(1.0 / share) })
}

/// A piece of each of [`SLICES`] parts of the range, which has this share of it.
fn slices((since, until): Range, share: f64) -> Vec<Range> {
    let span = (until - since).max(0);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "micros of a range, below 2^53")]
    let micros = |parts: f64| since + (span as f64 * parts / f64::from(SLICES)).round() as i64;
    let places = (0..SLICES).map(|number| {
        // Multiples of the golden ratio are spread evenly, and fall in step with nothing that repeats.
        let place = (f64::from(number) * 0.618_033_988_749_895).fract() * (1.0 - share);
        let begin = f64::from(number) + place;
        (micros(begin), micros(begin + share))
    });
    places.collect()
}

/// The columns that are counted, from all records.
fn push_columns(sql: &mut QueryBuilder<Postgres>, reading: &Reading<'_>) {
    sql.push(r#"SELECT "timestamp", client_name"#);
    for (name, value) in FACETS {
        sql.push(format!(r#", {value} AS "f_{name}""#));
    }
    sql.push(format!(" FROM {} WHERE true", reading.table("audit_log")));
}

/// Counts the rows of `found`.
async fn grouped(
    mut sql: QueryBuilder<Postgres>,
    reading: &mut Reading<'_>,
    mut summary: Summary,
) -> Result<Summary, sqlx::Error> {
    let names = FACETS.map(|(name, _)| format!("\"f_{name}\""));
    sql.push(r#", cut AS (SELECT *, floor(date_part('epoch', "timestamp") / "#);
    sql.push_bind(summary.length_micros / 1_000_000).push(")::bigint AS interval_number FROM found)");
    let all = names.join(", ");
    let sets = names.iter().map(|name| format!("({name})")).collect::<Vec<_>>().join(", ");
    sql.push(format!(
        ", grouped AS (SELECT GROUPING(interval_number, {all}) AS grouping_set, interval_number,
            coalesce({all}) AS value, min(client_name) AS label, count(*) AS number
            FROM cut GROUP BY GROUPING SETS ((interval_number, \"f_status\"), {sets})),
        ranked AS (SELECT *, row_number() OVER (PARTITION BY grouping_set ORDER BY number DESC, value) AS place
            FROM grouped WHERE value IS NOT NULL)
        SELECT grouping_set, interval_number, value, label, number FROM ranked
        WHERE interval_number IS NOT NULL OR place <= "
    ));
    sql.push_bind(i64::try_from(VALUES_MAX + 1).unwrap_or(i64::MAX));
    let rows = sql.build().persistent(false).fetch_all(&mut *reading.transaction).await?;
    for row in rows {
        let value: String = row.try_get(2)?;
        let count = row.try_get::<i64, _>(4)?.cast_unsigned();
        if let Some(number) = row.try_get::<Option<i64>, _>(1)? {
            let status = Status::from_word(&value)
                .ok_or_else(|| sqlx::Error::Protocol(format!("audit_log has the unknown status {value:?}")))?;
            summary.add(number.saturating_mul(summary.length_micros), status, count);
            continue;
        }
        // A bit is 0 if the rows are grouped by the column; the last argument has the lowest bit.
        let set: i32 = row.try_get(0)?;
        let place = (0..FACETS.len()).find(|place| set & 1 << (FACETS.len() - 1 - place) == 0);
        if let Some(facet) = place.and_then(|place| summary.facets.get_mut(place)) {
            let label = if facet.name == "who" { row.try_get(3)? } else { None };
            facet.values.push(FacetValue { value, label, count });
        }
    }
    Ok(summary.ordered())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn intervals_have_round_lengths_and_are_not_too_many() {
        for (micros, seconds) in [(0, 1), (60_000_000, 1), (61_000_000, 2), (HOUR, 60), (24 * HOUR, 1_800)] {
            assert_eq!(Summary::new((0, micros)).length_micros, seconds * 1_000_000, "{micros}");
        }
        let century = Summary::new((0, 100 * 366 * 24 * HOUR));
        assert!(100 * 366 * 24 * HOUR / century.length_micros <= INTERVALS_MAX);
    }

    #[test]
    fn slices_are_spread_over_the_range_and_have_its_share() {
        let range = (7 * HOUR, 31 * HOUR);
        let slices = slices(range, 0.1);
        assert_eq!(slices.len(), 240);
        let length: i64 = slices.iter().map(|(begin, end)| end - begin).sum();
        assert!((length - 24 * HOUR / 10).abs() < 1_000, "{length}");
        assert!(slices.iter().zip(slices.iter().skip(1)).all(|(one, next)| one.1 <= next.0));
        assert!(slices.iter().all(|(begin, end)| range.0 <= *begin && *end <= range.1));
        let whole = super::slices(range, 1.0);
        assert!(whole.iter().zip(whole.iter().skip(1)).all(|(one, next)| one.1 == next.0));
        assert_eq!((whole[0].0, whole[239].1), range);
    }
}
