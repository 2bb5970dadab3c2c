//! Reading an outbox from its first record to its last, and back again.

use gatepost::audit::chain::Head;
use gatepost::audit::outbox::Reader;
use gatepost::audit::record::{AuditRecord, Epoch, Seq};

/// All records that `reader` finds, epoch by epoch.
pub fn stored_records(reader: &Reader) -> Vec<AuditRecord> {
    let (mut records, mut after) = (Vec::new(), None);
    while let Some(epoch) = reader.next_epoch(after).unwrap() {
        let mut head = Head::START;
        loop {
            let some = reader.read(epoch, head).unwrap();
            let Some(last) = some.last() else { break };
            head = Head::after(&last.position);
            records.extend(some);
        }
        after = Some(epoch);
    }
    let mut back = stored_back(reader, records.last());
    // What was delivered meanwhile may have been forgotten.
    back.retain(|record| records.first().is_some_and(|first| position(first) <= position(record)));
    assert!(records.ends_with(&back), "read from the newest back, other records are stored");
    records
}

/// Where `record` stands in the outbox.
fn position(record: &AuditRecord) -> (Epoch, Seq) {
    (record.position.epoch, record.position.seq)
}

/// All records up to `last`, found from there back, oldest first.
pub fn stored_back(reader: &Reader, last: Option<&AuditRecord>) -> Vec<AuditRecord> {
    let mut before = last.map_or((Epoch(0), Seq(0)), |last| (last.position.epoch, last.position.seq.next()));
    let mut found: Vec<AuditRecord> = Vec::new();
    loop {
        let some = reader.read_before(before).unwrap();
        let Some(first) = some.first() else { break };
        before = position(first);
        found.extend(some.into_iter().rev());
    }
    found.reverse();
    found
}
