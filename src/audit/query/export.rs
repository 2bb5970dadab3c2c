//! All matching records, those in quarantine too, page by page in the order of their positions.

use std::collections::VecDeque;

use sqlx::Row;
use uuid::Uuid;

use super::filter::Filter;
use super::reading::{Reading, bigint};
use super::select::select_in;
use crate::audit::codec;
use crate::audit::record::AuditRecord;
use crate::audit::sql::{self, Connection};

/// Most records of a page. *Chosen*: a page is read in a moment, so that no transaction is open for long, and its cost
/// is that of its records.
const PAGE: usize = 4_096;

/// The rows of one gateway in quarantine between two positions.
const QUARANTINED: &str = "SELECT epoch, seq, frame, concat_ws(': ', sqlstate, error) FROM {quarantine}
    WHERE gateway_id = $1 AND (epoch, seq) > ($2, $3) AND (epoch, seq) <= ($4, $5) ORDER BY epoch, seq LIMIT $6";

/// A record of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The record.
    pub record: AuditRecord,
    /// The reason why it is in quarantine.
    pub quarantined: Option<String>,
}

/// Reads all matching records. Each page is read in a transaction of its own, and at most two are in memory.
#[derive(Debug)]
pub struct Pager {
    filter: Filter,
    gateways: VecDeque<Uuid>,
    /// The position up to which the first of the gateways was read.
    after: (u64, u64),
}

impl Pager {
    /// Begins after a position: gateway, epoch and seq. Without `until` in the filter it ends at the time of the server
    /// when it began: a trail that grows has an end.
    ///
    /// # Errors
    /// Any error of Postgres; see [`super::remedy`].
    pub async fn begin(
        connection: &mut Connection,
        filter: &Filter,
        after: Option<(Uuid, u64, u64)>,
    ) -> Result<Self, sqlx::Error> {
        let mut reading = Reading::begin(connection).await?;
        let now = "SELECT (extract(epoch FROM now()) * 1000000)::bigint";
        let now: i64 = sql::query_scalar(now).fetch_one(&mut *reading.transaction).await?;
        let mut gateways: VecDeque<Uuid> = reading.gateways().await?.into_iter().collect();
        reading.end().await?;
        gateways.retain(|id| filter.gateway_id.is_none_or(|only| only == *id));
        let mut from = (0, 0);
        if let Some((gateway, epoch, seq)) = after {
            gateways.retain(|id| *id >= gateway);
            from = if gateways.front() == Some(&gateway) { (epoch, seq) } else { from };
        }
        let until_micros = filter.until_micros.or(Some(now));
        Ok(Self { filter: Filter { until_micros, limit: PAGE, ..filter.clone() }, gateways, after: from })
    }

    /// The filter, with the time at which the export ends.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The next records; `None` at the end.
    ///
    /// # Errors
    /// Any error of Postgres, or a record in quarantine cannot be decoded.
    pub async fn next(&mut self, connection: &mut Connection) -> Result<Option<Vec<Exported>>, sqlx::Error> {
        while let Some(gateway) = self.gateways.front().copied() {
            let (page, read_to) = self.page(connection, gateway).await?;
            self.after = read_to.unwrap_or((0, 0));
            if read_to.is_none() {
                self.gateways.pop_front();
            }
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// The next records of one gateway, and the position up to which it was read; `None`: to its end.
    async fn page(
        &self,
        connection: &mut Connection,
        gateway: Uuid,
    ) -> Result<(Vec<Exported>, Option<(u64, u64)>), sqlx::Error> {
        let mut reading = Reading::begin(connection).await?;
        // A search for few records among many takes as long as it takes.
        sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *reading.transaction).await?;
        let filter = Filter { gateway_id: Some(gateway), after: Some(self.after), ..self.filter.clone() };
        let records = select_in(&mut reading, &filter).await?;
        let mut read_to = records.last().map(position);
        let (to_epoch, to_seq) = read_to.unwrap_or((u64::MAX, u64::MAX));
        let sql = reading.sql(QUARANTINED);
        let query = sql::query(sql).bind(gateway).bind(bigint(self.after.0)).bind(bigint(self.after.1));
        let query = query.bind(bigint(to_epoch)).bind(bigint(to_seq)).bind(i64::try_from(PAGE).unwrap_or(i64::MAX));
        let rows = query.fetch_all(&mut *reading.transaction).await?;
        reading.end().await?;
        if rows.len() == PAGE
            && let Some(last) = rows.last()
        {
            read_to = Some((last.try_get::<i64, _>(0)?.cast_unsigned(), last.try_get::<i64, _>(1)?.cast_unsigned()));
        }
        let mut page: Vec<Exported> =
            records.into_iter().map(|record| Exported { record, quarantined: None }).collect();
        page.retain(|exported| read_to.is_none_or(|read_to| position(&exported.record) <= read_to));
        for row in rows {
            let decoded = codec::decode_record(row.try_get(2)?).map_err(|error| {
                let (epoch, seq) = (row.try_get::<i64, _>(0).unwrap_or(0), row.try_get::<i64, _>(1).unwrap_or(0));
                sqlx::Error::Protocol(format!(
                    "audit_quarantine has bytes at {gateway}/{epoch}/{seq} that cannot be decoded: {error}"
                ))
            });
            let (record, _) = decoded?;
            if filter.matches(&record) {
                page.push(Exported { record, quarantined: Some(row.try_get(3)?) });
            }
        }
        page.sort_by_key(|exported| position(&exported.record));
        Ok((page, read_to))
    }
}

fn position(record: &AuditRecord) -> (u64, u64) {
    (record.position.epoch.0, record.position.seq.0)
}
