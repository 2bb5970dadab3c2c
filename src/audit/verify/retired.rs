//! The runs of records that decisions retired, and how the walk passes over them.

use std::collections::BTreeMap;

use super::place::{Place, StreamId};
use crate::audit::chain::Head;
use crate::audit::record::{Seq, StreamPosition};
use crate::audit::retired::{Retired, RetiredRun};

/// A decision that retired records.
#[derive(Debug)]
struct RetiringDecision {
    position: StreamPosition,
    before: String,
    /// True if it copies statements, which count as soon as they are known.
    has_copies: bool,
    /// Records that are missing from the trail and that it names.
    passed: u64,
}

/// All of them, by stream and first seq.
#[derive(Debug, Default)]
pub(super) struct RetiredRuns {
    decisions: Vec<RetiringDecision>,
    runs: BTreeMap<StreamId, BTreeMap<Seq, Vec<(RetiredRun, usize)>>>,
    records: u64,
}

impl RetiredRuns {
    pub(super) fn add(&mut self, stream: StreamId, decision: StreamPosition, retired: &Retired) {
        let number = self.decisions.len();
        let (before, has_copies) = (retired.before.clone(), !retired.copies.is_empty());
        self.decisions.push(RetiringDecision { position: decision, before, has_copies, passed: 0 });
        let of_stream = self.runs.entry(stream).or_default();
        for run in retired.runs.iter().filter(|run| run.first <= run.last && run.first > Seq::ZERO) {
            of_stream.entry(run.first).or_default().push((*run, number));
            self.records = self.records.saturating_add(run.last.0 - run.first.0 + 1);
        }
    }

    /// The number of records in all runs.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// True if records of the stream were retired.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.runs.contains_key(&stream)
    }

    /// True if a run ends with this record.
    pub(super) fn ends_at(&self, stream: StreamId, head: Head) -> bool {
        let runs = self.runs.get(&stream).into_iter().flat_map(|runs| runs.range(..=head.seq));
        runs.flat_map(|(_, runs)| runs).any(|(run, _)| run.last == head.seq && run.last_hash == head.hash)
    }

    /// The run that follows `head` and ends before `next`: the chain leads over it. It then counts as passed.
    pub(super) fn pass(&mut self, stream: StreamId, head: Head, next: Seq) -> Option<RetiredRun> {
        let runs = self.runs.get(&stream)?.get(&head.seq.next())?;
        let (run, number) = *runs.iter().find(|(run, _)| run.before == head.hash && run.last < next)?;
        self.count(number, run.last.0 - run.first.0 + 1);
        Some(run)
    }

    /// The run that has `seq` and ends right before `next`, for a walk that begins within it. It then counts as passed.
    pub(super) fn pass_within(&mut self, stream: StreamId, seq: Seq, next: Seq) -> Option<RetiredRun> {
        let (_, runs) = self.runs.get(&stream)?.range(..=seq).next_back()?;
        let (run, number) = *runs.iter().find(|(run, _)| run.last >= seq && run.last.next() == next)?;
        self.count(number, run.last.0 - seq.0 + 1);
        Some(run)
    }

    fn count(&mut self, number: usize, records: u64) {
        if let Some(decision) = self.decisions.get_mut(number) {
            decision.passed = decision.passed.saturating_add(records);
        }
    }

    /// Sums up what was passed over. A decision whose records are all in the trail, as in a restored one, is left out.
    pub(super) fn summary(&self, is_confirmed: impl Fn(&StreamPosition) -> bool) -> RetiredSummary {
        let mut summary = RetiredSummary::default();
        for decision in self.decisions.iter().filter(|decision| decision.has_copies || decision.passed > 0) {
            if is_confirmed(&decision.position) {
                summary.confirmed.0 += 1;
                summary.confirmed.1 += decision.passed;
                summary.begins = summary.begins.max(Some(decision.before.clone()));
            } else {
                summary.others.0 += 1;
                summary.others.1 += decision.passed;
                let place = summary.place.get_or_insert_with(|| Place::at(&decision.position));
                place.first = place.first.min(Some(decision.position.seq));
                place.last = place.last.max(Some(decision.position.seq));
            }
        }
        summary
    }
}

/// The retired records, by whether a head confirms the decisions.
#[derive(Debug, Default)]
pub(super) struct RetiredSummary {
    /// Confirmed decisions, and the records that they name and that are missing.
    pub(super) confirmed: (u64, u64),
    /// The latest month with which they say that the trail begins.
    pub(super) begins: Option<String>,
    /// The same for decisions that nothing confirms.
    pub(super) others: (u64, u64),
    /// The place of these in the registrar's stream.
    pub(super) place: Option<Place>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Digest, Epoch, GatewayId};

    /// A run covers missing records only if the chain leads to it: its `before` is the hash of the record before them.
    #[test]
    fn run_is_passed_only_from_the_record_before_it() {
        let digest = |byte| Digest([byte; 32]);
        let run = |before| RetiredRun {
            first: Seq(4),
            last: Seq(6),
            before: digest(before),
            first_hash: digest(4),
            last_hash: digest(6),
        };
        let stream = (GatewayId(uuid::Uuid::from_u128(1)), Epoch(1));
        let position = StreamPosition {
            gateway_id: GatewayId(uuid::Uuid::from_u128(9)),
            epoch: Epoch(1),
            seq: Seq(2),
            prev_hash: digest(0),
            hash: digest(1),
        };
        let retired = Retired {
            before: "2026-08".to_owned(),
            records: 3,
            runs: vec![run(3)],
            copies: Vec::new(),
            export: None,
            heads: digest(0),
        };
        let mut runs = RetiredRuns::default();
        runs.add(stream, position, &retired);
        let head = |hash| Head { seq: Seq(3), hash: digest(hash) };
        assert_eq!(runs.pass(stream, head(2), Seq(7)), None, "another record was before the run");
        assert_eq!(runs.pass(stream, head(3), Seq(6)), None, "a record of the run is still there");
        assert_eq!(runs.pass(stream, Head { seq: Seq(2), hash: digest(3) }, Seq(7)), None);
        assert_eq!(runs.pass(stream, head(3), Seq(7)), Some(run(3)));
        assert_eq!(runs.summary(|_| true).confirmed, (1, 3));
    }
}
