//! Explanations for records or files that are not in an outbox: they were delivered, or lost with a file of which
//! nothing could be read. What was pruned, `gateway/pruned` records say.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::damage_log::quarantined_number;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::generation::catch_panic;
use super::reader::Reader;
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::lost::{DAMAGE_METHOD, LostRuns};
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq};

/// The explanations in one outbox.
pub(super) struct Absent<'a> {
    reader: &'a Reader,
    /// The delivery watermarks; `None` if the newest file cannot be read, which is a fault when its turn comes.
    delivered: Option<BTreeMap<Epoch, Head>>,
    recorded: OnceCell<Recorded>,
}

/// The contents of the damage records in the outbox, as far as its files can be read.
#[derive(Default)]
struct Recorded {
    lost: LostRuns,
    /// Files of which nothing could be read.
    unreadable: BTreeSet<FileNumber>,
}

impl<'a> Absent<'a> {
    /// The explanations in the outbox of `reader`. Reads the newest file.
    pub(super) fn new(reader: &'a Reader) -> Self {
        let newest = reader.numbers().last().copied();
        let read = || newest.and_then(|newest| reader.file(newest).ok()?).and_then(|file| file.delivered().ok());
        let delivered = catch_panic(read).ok().flatten().map(|delivered| delivered.into_iter().collect());
        Self { reader, delivered, recorded: OnceCell::new() }
    }

    /// Returns true if nothing was ever delivered from this outbox.
    pub(super) fn is_store_only(&self) -> bool {
        self.delivered.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// Returns true if the records of `epoch` up to `seq` may have been delivered. An epoch is delivered before the
    /// next one, unless it is held because of a fork; then its files stay.
    pub(super) fn may_be_delivered(&self, epoch: Epoch, seq: Seq) -> bool {
        let Some(delivered) = &self.delivered else { return true };
        match delivered.get(&epoch) {
            Some(head) => head.seq >= seq,
            None => delivered.keys().next_back().is_some_and(|last| *last > epoch),
        }
    }

    /// Returns true if a damage record says that nothing could be read of the file.
    pub(super) fn was_unreadable(&self, number: FileNumber) -> bool {
        self.recorded().unreadable.contains(&number)
    }

    /// See [`LostRuns::explains_epochs`].
    pub(super) fn explains_epochs(&self, gateway_id: GatewayId, first: Epoch, last: Epoch) -> bool {
        first > last || self.recorded().lost.explains_epochs(gateway_id, first, last)
    }

    /// See [`LostRuns::has_unknown_end`].
    pub(super) fn has_unknown_end(&self, gateway_id: GatewayId, epoch: Epoch) -> bool {
        self.recorded().lost.has_unknown_end(gateway_id, epoch)
    }

    /// Returns true if a damage record explains the stand-in `record`, or damage that this process found and is about
    /// to record.
    pub(super) fn explains(&self, record: &AuditRecord) -> bool {
        self.recorded().lost.explains(record) || self.reader.is_known_loss(record)
    }

    /// Damage records come after what they explain, so all of them are read when the first explanation is needed.
    fn recorded(&self) -> &Recorded {
        self.recorded.get_or_init(|| {
            let mut recorded = Recorded::default();
            for number in self.reader.numbers() {
                let add = || {
                    let Some(file) = self.reader.file(number)? else { return Ok(()) };
                    let mut key = None;
                    while let Some(segment) = file.next_segment(key)? {
                        key = Some((segment.epoch, segment.first));
                        let records = codec::decode_segment(segment.frames()).filter_map(Result::ok);
                        records.for_each(|record| recorded.add(&record));
                    }
                    Ok::<_, OutboxError>(())
                };
                // A file that cannot be read is a fault when its turn comes.
                catch_panic(add).map(Result::ok).ok();
            }
            recorded
        })
    }
}

impl Recorded {
    fn add(&mut self, record: &AuditRecord) {
        if record.entry.call.method != DAMAGE_METHOD {
            return;
        }
        self.lost.add_record(record);
        let details = || serde_json::from_str::<serde_json::Value>(record.entry.call.request_args.as_deref()?).ok();
        let unreadable = |details: serde_json::Value| {
            details.get("epoch").filter(|epoch| epoch.is_null())?;
            quarantined_number(details.get("file")?.as_str()?)
        };
        self.unreadable.extend(details().and_then(unreadable));
    }
}
