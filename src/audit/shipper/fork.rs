//! Forked streams, and the alarm that names them.

use std::collections::BTreeMap;

use super::state::ShipperState;
use crate::audit::chain::Head;
use crate::audit::record::{AuditRecord, Epoch, Seq};

/// Forked streams that the alarm names. *Chosen*: enough to see a pattern, few enough to read.
const NAMED_MAX: usize = 8;

/// Advice to the operator, at the end of every alarm about a fork.
const ADVICE: &str = "its records stay in the outbox, `gatepost outbox list --epoch` shows them; find and stop the \
    other writer with this gateway's id (a copy of the outbox directory, audit.gateway_id set twice) or the cause of \
    lost rows (a database restored to a time before audit.keep_delivered), then end the fork with `gatepost audit \
    resolve-fork`; this gateway looks again at \
    least every minute";

/// A forked stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fork {
    /// The finding.
    pub(super) what: String,
    /// The reason for which the stream is not shipped.
    pub(super) reason: ForkReason,
}

impl Fork {
    pub(super) fn foreign_writer(what: String) -> Self {
        Self { what, reason: ForkReason::ForeignWriter }
    }

    /// The fork at a cursor that is not in this gateway's stream.
    pub(super) fn foreign_cursor(cursor: Head) -> Self {
        let Head { seq, hash } = cursor;
        Self::foreign_writer(format!("Postgres has seq {seq} with hash {hash}, which this gateway did not write"))
    }
}

/// The finding that Postgres has less than was delivered.
pub(super) fn went_back(cursor: Head, delivered: Head) -> Fork {
    let what = format!("Postgres is at seq {} again, though {} was delivered", cursor.seq, delivered.seq);
    Fork { what, reason: ForkReason::WentBack }
}

/// Checks that the record that is delivered next follows the head.
pub(super) fn check_link(head: Head, first: &AuditRecord) -> Result<(), Fork> {
    let position = first.position;
    if position.seq != head.seq.next() {
        return Err(missing(head, position.seq));
    }
    if position.prev_hash != head.hash {
        let what = format!("the record before seq {} has another hash in Postgres", position.seq);
        return Err(Fork::foreign_writer(what));
    }
    Ok(())
}

/// The fork at a cursor that is at `head`, while the next record that this gateway has is at `next`.
pub(super) fn missing(head: Head, next: Seq) -> Fork {
    let (from, to) = (head.seq.next(), next.0.saturating_sub(1));
    let what = format!("records {from} to {to} are in neither outbox nor Postgres");
    Fork { what, reason: ForkReason::MissingRecords }
}

/// The reason why a stream is not shipped any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForkReason {
    /// Another process writes under this gateway's id. Nothing is shipped: later epochs may belong to the other writer
    /// too.
    ForeignWriter,
    /// Records before the next one are neither in the outbox nor in Postgres, for example after a database was
    /// restored. Other epochs are shipped.
    MissingRecords,
    /// Postgres has more of an older epoch than this gateway stored, at a level at which it delivers only what is
    /// stored. Other epochs are shipped.
    UnknownRecords,
    /// Postgres has less than was delivered. Not an alarm yet: the records may still be kept.
    WentBack,
    /// Lost records were found when the current epoch was already closed. Nothing is wrong with the stream: the next
    /// start records the damage and ships the rest.
    UnrecordedDamage,
}

/// The alarm if nothing is shipped any more.
pub(super) fn alarm(epoch: Epoch, what: &str) -> String {
    format!("epoch {epoch} is forked and nothing is shipped: {what}; {ADVICE}")
}

/// Forked streams of older epochs. Their alarm stays raised while other streams are delivered.
#[derive(Debug, Default)]
pub(super) struct ForkedStreams(BTreeMap<Epoch, String>);

impl ForkedStreams {
    pub(super) fn add(&mut self, epoch: Epoch, what: &str) {
        self.0.insert(epoch, what.to_owned());
    }

    /// Returns true if the stream was forked.
    pub(super) fn remove(&mut self, epoch: Epoch) -> bool {
        self.0.remove(&epoch).is_some()
    }

    pub(super) fn epochs(&self) -> Vec<Epoch> {
        self.0.keys().copied().collect()
    }

    /// The shipper's state if nothing else is wrong.
    pub(super) fn state_without_error(&self) -> ShipperState {
        self.summary()
            .map_or(ShipperState::Delivering, |summary| ShipperState::Forked { error: format!("{summary}; {ADVICE}") })
    }

    /// Appends the forked streams to the text of another error.
    pub(super) fn append_to(&self, error: &str) -> String {
        self.summary().map_or_else(|| error.to_owned(), |summary| format!("{error}; also {summary}"))
    }

    fn summary(&self) -> Option<String> {
        let named = self.0.iter().take(NAMED_MAX).map(|(epoch, what)| format!("epoch {epoch} ({what})"));
        let named: Vec<_> = named.collect();
        let unnamed = self.0.len() - named.len();
        let more = if unnamed > 0 { format!(" and {unnamed} more") } else { String::new() };
        (!named.is_empty())
            .then(|| format!("forked and not shipped, while other epochs are: {}{more}", named.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_names_forked_epochs_and_is_bounded() {
        let mut forked = ForkedStreams::default();
        assert_eq!(
            (forked.state_without_error(), forked.append_to("no reply")),
            (ShipperState::Delivering, "no reply".to_owned())
        );
        for epoch in 1..=1_000 {
            forked.add(Epoch(epoch), "another hash");
        }
        let ShipperState::Forked { error } = forked.state_without_error() else { panic!("the alarm is gone") };
        assert!(error.contains("epoch 1 (another hash)") && error.contains("and 992 more"), "{error}");
        assert!(error.contains(ADVICE) && error.len() < 1_000);
        assert!(forked.append_to("no reply").starts_with("no reply; also forked"));
        assert!(forked.epochs().into_iter().all(|epoch| forked.remove(epoch)));
        assert_eq!(forked.state_without_error(), ShipperState::Delivering);
    }
}
