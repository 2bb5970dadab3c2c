//! An outbox in memory, for the real scribe: it stores, or fails by chance, and lets others run before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::schedules::sync::chance;
use gatepost::audit::chain::Head;
use gatepost::audit::codec;
use gatepost::audit::outbox::damage::Damage;
pub use gatepost::audit::outbox::{Commit, FoundDamage, OutboxError, PreviousEpoch, Segment, Space, damage};
use gatepost::audit::record::{AuditRecord, Call, Epoch, GatewayId, RequestId, Seq};
use gatepost::audit::tree::Tree;

/// What is in it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stored(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    records: BTreeMap<Seq, AuditRecord>,
    intents: BTreeSet<RequestId>,
    closed: bool,
    forgotten: Seq,
}

impl Default for Inner {
    fn default() -> Self {
        Self { records: BTreeMap::new(), intents: BTreeSet::new(), closed: false, forgotten: Seq::ZERO }
    }
}

impl Stored {
    pub fn records_behind(&self, seq: Seq) -> Vec<AuditRecord> {
        let inner = self.0.lock().unwrap();
        assert!(inner.forgotten <= seq, "I4");
        inner.records.range(seq.next()..).map(|(_, record)| record.clone()).collect()
    }

    /// Whether a call's intent or its record was ever stored.
    pub fn knows(&self, id: RequestId) -> bool {
        self.open_intents().contains(&id) || self.has_record(id)
    }

    pub fn has_record(&self, id: RequestId) -> bool {
        self.0.lock().unwrap().records.values().any(|record| record.entry.call.request_id == id)
    }

    pub fn open_intents(&self) -> BTreeSet<RequestId> {
        self.0.lock().unwrap().intents.clone()
    }

    pub fn is_closed(&self) -> bool {
        self.0.lock().unwrap().closed
    }
}

/// What the scribe begins from.
#[derive(Debug)]
pub struct Opening {
    pub gateway_id: GatewayId,
    pub epoch: Epoch,
    pub previous: Option<PreviousEpoch>,
    pub interrupted: Vec<Call>,
    pub damages: Vec<FoundDamage>,
    pub tree: Tree,
    pub queued: bool,
    pub stored: Stored,
    /// One in so many commits fails; none where it is 0.
    pub fails: u32,
}

#[derive(Debug)]
pub struct Outbox {
    stored: Stored,
    fails: u32,
    step: shuttle::sync::atomic::AtomicUsize,
}

#[derive(Debug)]
pub struct Reader;

impl Opening {
    pub fn begin(self, first: &Commit<'_>, _bytes_max: u64) -> Result<Outbox, OutboxError> {
        let step = shuttle::sync::atomic::AtomicUsize::new(0);
        let mut outbox = Outbox { stored: self.stored, fails: 0, step };
        outbox.commit(first)?;
        outbox.fails = self.fails;
        Ok(outbox)
    }
}

impl Outbox {
    pub fn reader(&self) -> Reader {
        Reader
    }

    pub fn commit(&mut self, commit: &Commit<'_>) -> Result<(), OutboxError> {
        self.step.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.fails > 0 && chance(self.fails) {
            return Err(OutboxError::DirectoryReplaced { path: PathBuf::new() });
        }
        let mut inner = self.stored.0.lock().unwrap();
        for segment in commit.segments {
            for record in codec::decode_segment(segment.frames()).map(Result::unwrap) {
                assert!(!inner.closed, "I3: nothing may follow the closing record");
                let known = inner.records.insert(record.position.seq, record.clone());
                assert!(known.is_none(), "{:?} is stored twice", record.position);
            }
        }
        inner.intents.extend(commit.begun.iter().map(|(id, _)| *id));
        for id in commit.ended {
            assert!(inner.intents.remove(id), "an intent is removed once");
        }
        for (_, head) in commit.delivered {
            inner.forgotten = inner.forgotten.max(head.seq);
        }
        inner.closed |= commit.closes;
        drop(inner);
        self.step.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }

    pub fn go_back(&mut self) {}

    pub fn remove_delivered(&mut self, _delivered: &[(Epoch, Head)]) {}

    pub fn keeps(&self) -> bool {
        false
    }

    pub fn expire(&mut self) {}

    pub fn take_damages(&self) -> Vec<FoundDamage> {
        Vec::new()
    }

    pub fn mark_recorded(&self, _damage: &Damage, _records: (Seq, Seq)) {}

    pub fn space(&self) -> Space {
        Space { used_bytes: 0, kept_bytes: 0, max_bytes: 1, disk_full: false }
    }
}
