//! A check of the streams in an outbox, for `gatepost audit verify` without Postgres.

use std::ops::ControlFlow;

use crate::audit::chain::Head;
use crate::audit::lost::LostRuns;
use crate::audit::outbox::{OutboxError, Reader};
use crate::audit::record::AuditRecord;
use crate::audit::verify::{Checker, Origin, Report, TrailRecord};

/// Most faults that a report lists. *Chosen*: more than a person reads.
pub const FAULTS_MAX: usize = 10_000;

/// Checks the stored streams. `progress` is called with the number of records read so far, and may end the check.
///
/// # Errors
/// A file of the outbox cannot be read.
pub fn check_trail(
    reader: &Reader,
    faults_max: usize,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Report, OutboxError> {
    let mut checker = Checker::new(Origin::Outbox, faults_max.min(FAULTS_MAX));
    let stats = reader.stats()?;
    if let Some(gateway_id) = stats.gateway_id {
        for stream in &stats.streams {
            // Only the seq: the checker does not compare the hash at the cursor of an outbox.
            checker.add_cursor((gateway_id, stream.epoch), Head { seq: stream.delivered, ..Head::START });
        }
    }
    // A loss is recorded after it, so the records of damage are read first.
    let mut lost = LostRuns::default();
    let mut add = |records: &[AuditRecord]| records.iter().for_each(|record| lost.add_record(record));
    each_segment(reader, &mut |records| {
        add(records);
        ControlFlow::Continue(())
    })?;
    checker.add_losses(lost);
    let mut records_read = 0;
    each_segment(reader, &mut |records| {
        records_read += records.len() as u64;
        for record in records {
            let (position, content) = (record.position, Ok(record.entry.clone()));
            checker.check(&TrailRecord { position, content, quarantined: false });
        }
        progress(records_read)
    })?;
    Ok(checker.finish())
}

/// Reads all stored records, oldest first, segment by segment, until `take` ends it.
fn each_segment(reader: &Reader, take: &mut dyn FnMut(&[AuditRecord]) -> ControlFlow<()>) -> Result<(), OutboxError> {
    let mut after = None;
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = Head::START;
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.position);
            if take(&records).is_break() {
                return Ok(());
            }
        }
        after = Some(epoch);
    }
    Ok(())
}
