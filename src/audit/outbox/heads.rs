//! The ends of the stored streams, and where their delivery continues.

use super::error::OutboxError;
use super::reader::{Reader, StoredStream};
use crate::audit::chain::Head;
use crate::audit::outbox_head::{HeadAfter, OutboxHead};
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Seq, Timestamp};

/// Most hashes of one stream. *Chosen*: more than are delivered between two notes of how far delivery is, and a line of
/// at most 70 KB.
const HASHES_MAX: usize = 1_000;

impl Reader {
    /// The streams with stored records, and those whose delivered end is known, oldest first. `delivered` is what a
    /// live gateway knows of the delivery of its current epoch, whose records it may have delivered before they were
    /// stored, or forgotten.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn heads(
        &self,
        time: Timestamp,
        delivered: Option<(GatewayId, Epoch, Head)>,
    ) -> Result<Vec<OutboxHead>, OutboxError> {
        let stats = self.stats()?;
        let Some(gateway) = stats.gateway_id.or(delivered.map(|(gateway, ..)| gateway)) else { return Ok(Vec::new()) };
        let mut heads = Vec::new();
        for stream in &stats.streams {
            let known = delivered.filter(|(_, epoch, _)| *epoch == stream.epoch).map(|(.., head)| head);
            heads.extend(self.stream_head(gateway, stream, time, known)?);
        }
        // Streams that this gateway delivered and of which nothing is stored now.
        let live = delivered.map(|(_, epoch, head)| (epoch, head));
        let others =
            self.delivered_ends()?.into_iter().filter(|(epoch, _)| live.is_none_or(|(live, _)| live != *epoch));
        for (epoch, Head { seq, hash }) in others.chain(live) {
            if seq > Seq::ZERO && heads.iter().all(|head| head.epoch != epoch) {
                let (after, hashes) = (HeadAfter { seq, hash }, Vec::new());
                heads.push(OutboxHead { gateway, epoch, seq, hash, time, after, kept: after, hashes });
            }
        }
        heads.sort_unstable_by_key(|head| head.epoch);
        Ok(heads)
    }

    fn stream_head(
        &self,
        gateway: GatewayId,
        stream: &StoredStream,
        time: Timestamp,
        delivered: Option<Head>,
    ) -> Result<Option<OutboxHead>, OutboxError> {
        let epoch = stream.epoch;
        // `None` if the file was unlinked meanwhile: then all its records are delivered.
        let Some(last) = self.read_before((epoch, stream.last.next()))?.pop() else { return Ok(None) };
        let stored = Head::after(&last.position);
        let Head { seq, hash } = delivered.filter(|head| head.seq > stored.seq).unwrap_or(stored);
        let noted = stream.delivered.max(delivered.map_or(Seq::ZERO, |head| head.seq));
        let first = self.read(epoch, Head { seq: Seq(stream.first.0.saturating_sub(1)), hash: Digest::ZERO })?;
        let before =
            |first: &AuditRecord| HeadAfter { seq: Seq(first.position.seq.0 - 1), hash: first.position.prev_hash };
        let kept = first.first().map(before);
        let mut head = Head { seq: noted.max(Seq(stream.first.0.saturating_sub(1))), hash: Digest::ZERO };
        let (mut after, mut hashes) = (None, Vec::new());
        while hashes.len() < HASHES_MAX {
            let records = self.read(epoch, head)?;
            let (Some(first), Some(last)) = (records.first(), records.last()) else { break };
            after.get_or_insert(before(first));
            head = Head::after(&last.position);
            hashes.extend(records.iter().map(|record| record.position.hash).take(HASHES_MAX - hashes.len()));
        }
        // Nothing waits: delivery continues after the last record.
        let after = after.unwrap_or(HeadAfter { seq, hash });
        Ok(Some(OutboxHead { gateway, epoch, seq, hash, time, after, kept: kept.unwrap_or(after), hashes }))
    }
}
