//! Records that the scribe stores at once, at either level: damage records, for which the shipper waits, the ends of
//! earlier epochs, and what is known of a restored database.

use crate::audit::outbox::damage::Damage;
use crate::audit::record::{Epoch, Seq};

/// Damage records, settled epochs and restored streams that are not stored yet.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// Each damage, with the seqs of its first and its last record.
    damages: Vec<(Damage, (Seq, Seq))>,
    /// Earlier epochs whose end in Postgres is settled.
    settled: Vec<Epoch>,
    /// True if a record says that Postgres went back: it is stored with the watermark that goes back too.
    restored: bool,
}

impl Urgent {
    /// Returns true if everything is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.damages.is_empty() && self.settled.is_empty() && !self.restored
    }

    /// Adds damage with its records, from the first to the last.
    pub(super) fn add_damage(&mut self, damage: Damage, records: (Seq, Seq)) {
        self.damages.push((damage, records));
    }

    /// Adds an epoch that is settled.
    pub(super) fn settle(&mut self, epoch: Epoch) {
        self.settled.push(epoch);
    }

    /// Notes that a record about a restored database is not stored yet.
    pub(super) fn add_restored(&mut self) {
        self.restored = true;
    }

    /// The epochs that the next commit settles.
    pub(super) fn settled(&self) -> &[Epoch] {
        &self.settled
    }

    /// Notes that records up to `seq` and the settled epochs are stored. Returns the damage whose records are.
    pub(super) fn stored(&mut self, seq: Seq) -> Vec<(Damage, (Seq, Seq))> {
        self.settled.clear();
        self.restored = false;
        self.damages.extract_if(.., |(_, (_, last))| *last <= seq).collect()
    }
}
