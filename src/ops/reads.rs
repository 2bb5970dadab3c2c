//! What `gatepost audit` asks of an outbox besides its records.

use crate::audit::chain::Head;
use crate::audit::outbox::{Error, Reader};
use crate::audit::verify::{Checker, Item, Origin, Report};

/// Most faults that an answer lists. *Chosen*: more are no longer read by a person.
pub const FAULTS_MAX: usize = 10_000;

/// Checks the stored streams.
///
/// # Errors
/// A file of the outbox cannot be read.
pub fn check(reader: &Reader, faults_max: usize) -> Result<Report, Error> {
    let mut checker = Checker::new(Origin::Outbox, faults_max.min(FAULTS_MAX));
    let stats = reader.stats()?;
    if let Some(gateway_id) = stats.gateway_id {
        for stream in &stats.streams {
            // The hash at this place is not asked for.
            checker.cursor((gateway_id, stream.epoch), Head { seq: stream.delivered, ..Head::START });
        }
    }
    let mut after = None;
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = Head::START;
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.place);
            for record in records {
                checker.record(&Item { place: record.place, content: Ok(record.entry), quarantined: false });
            }
        }
        after = Some(epoch);
    }
    Ok(checker.finish())
}
