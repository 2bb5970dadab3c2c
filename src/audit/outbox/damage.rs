//! The description of a damaged file, for the trail and for operators.

use crate::audit::lost::{LostRun, LostRuns, RUNS_PER_RECORD};
use crate::audit::record::{Epoch, GatewayId, RequestId};

/// A damaged file: what was kept of it and what was lost.
///
/// It is stored as JSON in the file that replaces the damaged one (`outbox/generation.rs`), beside the damaged one in
/// `quarantine/` (`outbox/damage_log.rs`), and in `gateway/damage` records. Never rename a field: files and trails of
/// earlier versions have these names.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Damage {
    /// The name of the file in `quarantine/`; of a file that is still in use, because only some records in it are
    /// damaged, its name in the outbox directory.
    pub file: String,
    /// The epoch of the records, if any could be read.
    pub epoch: Option<Epoch>,
    /// The first and the last epoch that the records may have, if none could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<(Epoch, Epoch)>,
    /// The number of records that were kept.
    pub kept: u64,
    /// The number of records that are lost, each replaced by a stand-in (`gateway/gap`).
    pub lost: u64,
    /// True if the end of the records is known. If not, more may be lost after the last record that was kept.
    pub end_known: bool,
    /// The lost records.
    pub runs: Vec<LostRun>,
    /// Calls of which it can no longer be determined whether they were open when the gateway crashed.
    pub maybe_open: Vec<RequestId>,
    /// The reason why the file could not be opened, or the records not be read.
    pub cause: String,
}

impl Damage {
    /// Adds the losses in an outbox of `gateway_id` to `lost`, as its damage records will.
    pub(super) fn add_to(&self, lost: &mut LostRuns, gateway_id: GatewayId) {
        lost.add_damage(gateway_id, (self.epoch.filter(|_| !self.end_known), self.epochs), &self.runs);
    }

    /// The details of the damage records, in order. Each has at most [`RUNS_PER_RECORD`] runs and as many calls; all
    /// but the last have `"more": true`. Nothing is left out.
    #[must_use]
    pub fn details(&self) -> Vec<serde_json::Value> {
        let count = self.runs.len().max(self.maybe_open.len()).div_ceil(RUNS_PER_RECORD).max(1);
        let without_lists = Self {
            file: self.file.clone(),
            runs: Vec::new(),
            maybe_open: Vec::new(),
            cause: self.cause.clone(),
            ..*self
        };
        let (mut runs, mut calls) = (self.runs.chunks(RUNS_PER_RECORD), self.maybe_open.chunks(RUNS_PER_RECORD));
        let part = |idx| {
            let runs = runs.next().unwrap_or_default().to_vec();
            let maybe_open = calls.next().unwrap_or_default().to_vec();
            let mut details =
                serde_json::to_value(Self { runs, maybe_open, ..without_lists.clone() }).unwrap_or_default();
            if let Some(details) = details.as_object_mut().filter(|_| idx < count) {
                details.insert("more".to_owned(), true.into());
            }
            details
        };
        (1..=count).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Seq, Timestamp};

    #[test]
    fn runs_are_continued_in_further_records_and_never_cut() {
        let run = |seq| LostRun {
            epoch: Epoch(1),
            first: Seq(seq),
            last: Seq(seq),
            prev_hash: None,
            hash: None,
            timestamp: Timestamp::from_micros(0),
        };
        let damage = |runs: u64, calls: usize| Damage {
            file: "outbox-000001.redb.1".to_owned(),
            epoch: Some(Epoch(1)),
            epochs: None,
            kept: 3,
            lost: runs,
            end_known: true,
            runs: (0..runs).map(|idx| run(2 * idx + 1)).collect(),
            maybe_open: (0..calls).map(|_| RequestId::new()).collect(),
            cause: "a test".to_owned(),
        };
        for (runs, calls, records) in [(0, 0, 1), (256, 0, 1), (257, 0, 2), (3, 600, 3), (1000, 1, 4)] {
            let damage = damage(runs, calls);
            let details = damage.details();
            assert_eq!(details.len(), records);
            let parts: Vec<Damage> =
                details.iter().map(|details| serde_json::from_value(details.clone()).unwrap()).collect();
            assert!(parts.iter().all(|part| part.runs.len() <= RUNS_PER_RECORD && part.lost == runs));
            let joined = parts.iter().flat_map(|part| part.runs.clone()).collect::<Vec<_>>();
            assert_eq!(joined, damage.runs);
            let joined = parts.iter().flat_map(|part| part.maybe_open.clone()).collect::<Vec<_>>();
            assert_eq!(joined, damage.maybe_open);
            let more: Vec<_> = details.iter().map(|details| details.get("more").is_some()).collect();
            assert_eq!(more, (1..=records).map(|idx| idx < records).collect::<Vec<_>>());
        }
    }
}
