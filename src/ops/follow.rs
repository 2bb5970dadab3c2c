//! New records of the trail, as they come.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::record_ref::EpochSeq;
use super::trail::{OutboxAccess, TrailError, TrailReader};
use crate::audit::query::{Filter, LIMIT_MAX};
use crate::audit::record::AuditRecord;

/// The last position of each stream that was returned. Arrival times would miss records: a stream has its records in
/// the order in which their calls end, so a later record can have an earlier arrival.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    printed: BTreeMap<(Uuid, u64), u64>,
    /// Records of the first result, which may be after these positions.
    skipped: Vec<(Uuid, EpochSeq)>,
}

impl Follower {
    /// Begins after the records that are there.
    pub(crate) async fn new<O: OutboxAccess>(trail: &mut TrailReader<O>) -> Result<Self, TrailError> {
        let mut printed = BTreeMap::new();
        match trail {
            TrailReader::Postgres(_) => {
                let positions = trail.delivered_positions(true).await?;
                printed.extend(positions.into_iter().map(|(id, at)| ((id, at.epoch), at.seq)));
            }
            TrailReader::Outbox(_) => {
                let newest = trail.records(Filter { limit: 1, ..Filter::default() }).await?;
                printed.extend(newest.first().map(EpochSeq::of).map(|at| ((Uuid::nil(), at.epoch), at.seq)));
            }
        }
        Ok(Self { printed, skipped: Vec::new() })
    }

    /// Does not return these records again.
    pub(crate) fn skip(&mut self, records: &[AuditRecord]) {
        self.skipped = records.iter().map(position).collect();
    }

    /// The matching records since the last time.
    pub(crate) async fn next<O: OutboxAccess>(
        &mut self,
        trail: &mut TrailReader<O>,
        filter: &Filter,
    ) -> Result<Vec<AuditRecord>, TrailError> {
        let filter = Filter { limit: LIMIT_MAX, ..filter.clone() };
        let mut records = match trail {
            TrailReader::Postgres(_) => self.next_delivered(trail, &filter).await?,
            TrailReader::Outbox(_) => self.next_stored(trail, &filter).await?,
        };
        records.retain(|record| !self.skipped.contains(&position(record)));
        Ok(records)
    }

    async fn next_delivered<O: OutboxAccess>(
        &mut self,
        trail: &mut TrailReader<O>,
        filter: &Filter,
    ) -> Result<Vec<AuditRecord>, TrailError> {
        let mut records = Vec::new();
        for (id, EpochSeq { epoch, seq }) in trail.delivered_positions(false).await? {
            let printed = self.printed.entry((id, epoch)).or_insert(0);
            while *printed < seq {
                let after = Some((epoch, *printed));
                let filter = Filter { gateway_id: Some(id), epoch: Some(epoch), after, ..filter.clone() };
                let page = trail.records(filter).await?;
                // The page may have records since the positions were read; records that do not match are skipped.
                *printed = page.last().map_or(seq, |record| record.position.seq.0);
                records.extend(page);
            }
        }
        Ok(records)
    }

    async fn next_stored<O: OutboxAccess>(
        &mut self,
        trail: &mut TrailReader<O>,
        filter: &Filter,
    ) -> Result<Vec<AuditRecord>, TrailError> {
        let printed = self.printed.last_key_value().map_or((0, 0), |((_, epoch), seq)| (*epoch, *seq));
        // All of them, so that records that do not match are not read again and again.
        let all = Filter { after: Some(printed), limit: LIMIT_MAX, ..Filter::default() };
        let page = trail.records(all).await?;
        let Some(last) = page.last().map(EpochSeq::of) else { return Ok(Vec::new()) };
        self.printed.insert((Uuid::nil(), last.epoch), last.seq);
        let mut records = trail.records(Filter { after: Some(printed), ..filter.clone() }).await?;
        records.retain(|record| EpochSeq::of(record) <= last);
        Ok(records)
    }
}

fn position(record: &AuditRecord) -> (Uuid, EpochSeq) {
    (record.position.gateway_id.0, EpochSeq::of(record))
}
