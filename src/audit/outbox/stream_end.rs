//! The end of a stream, read from the newest file that contains a part of it.

use super::error::OutboxError;
use super::generation::{FileMeta, Generation};
use super::salvage;
use crate::audit::chain::Head;

/// The last record in `newest` and the files before it.
pub(super) fn stream_end(newest: &Generation, meta: &FileMeta) -> Result<Head, OutboxError> {
    let Some(segment) = newest.last_segment()? else { return Ok(delivered_end(newest, meta)?.unwrap_or(meta.head)) };
    let records = salvage::records(&segment, meta.gateway_id, Head::START, None);
    Ok(records.last().map_or(meta.head, |record| Head::after(&record.position)))
}

/// The watermark of the file's own epoch, which is the last record if all segments were delivered and removed.
fn delivered_end(newest: &Generation, meta: &FileMeta) -> Result<Option<Head>, OutboxError> {
    let own_epoch = newest.delivered()?.into_iter().find(|(epoch, _)| *epoch == meta.epoch);
    Ok(own_epoch.map(|(_, head)| head).filter(|head| head.seq > meta.head.seq))
}
