//! A check of the streams in an outbox, for `gatepost audit verify` without Postgres.

use std::ops::ControlFlow;

use crate::audit::chain::Head;
use crate::audit::outbox::{OutboxError, Reader};
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
    let (mut after, mut records_read) = (None, 0);
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = Head::START;
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.position);
            records_read += records.len() as u64;
            for record in records {
                let (position, content) = (record.position, Ok(record.entry));
                checker.check(&TrailRecord { position, content, quarantined: false });
            }
            if progress(records_read).is_break() {
                return Ok(checker.finish());
            }
        }
        after = Some(epoch);
    }
    Ok(checker.finish())
}
