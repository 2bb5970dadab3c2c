//! The end of a stream, read from the newest file that contains a part of it.

use super::error::OutboxError;
use super::generation::{FileMeta, Generation};
use super::salvage;
use super::segment::Segment;
use crate::audit::chain::Head;

/// The last record in `newest` and the files before it.
pub(super) fn stream_end(newest: &Generation, meta: &FileMeta) -> Result<Head, OutboxError> {
    let Some(segment) = newest.last_segment()? else { return Ok(delivered_end(newest, meta)?.unwrap_or(meta.head)) };
    let before = head_before(newest, meta, &segment)?;
    let records = salvage::records(&segment, meta.gateway_id, before, None).records;
    Ok(records.last().map_or(meta.head, |record| Head::after(&record.position)))
}

/// The head before `segment`, as far as its own file knows it.
pub(super) fn head_before(file: &Generation, meta: &FileMeta, segment: &Segment) -> Result<Option<Head>, OutboxError> {
    let ahead = file.segment_before((segment.epoch, segment.first))?;
    let last = ahead.and_then(|ahead| salvage::records(&ahead, meta.gateway_id, None, None).records.pop());
    let known = match last {
        Some(last) => Some(Head::after(&last.position)),
        None => delivered_end(file, meta)?.or(Some(meta.head)),
    };
    Ok(known.filter(|head| head.seq.next() == segment.first))
}

/// The watermark of the file's own epoch, which is the last record if all segments were delivered and removed.
fn delivered_end(newest: &Generation, meta: &FileMeta) -> Result<Option<Head>, OutboxError> {
    let own_epoch = newest.delivered()?.into_iter().find(|(epoch, _)| *epoch == meta.epoch);
    Ok(own_epoch.map(|(_, head)| head).filter(|head| head.seq > meta.head.seq))
}
