//! What the shipper is doing, and the alarm that outlasts it.

use crate::audit::record::Epoch;

/// Forked streams that an alarm names. *Chosen*: enough to see a pattern, few enough to read.
const NAMED_MAX: usize = 8;

/// What an operator can do about a fork.
const ADVICE: &str = "its records stay in the outbox, `gatepost outbox list --epoch` shows them; find who else writes under this \
    gateway's id (a copy of the outbox directory, audit.gateway_id set twice) or what undid rows (a database that was \
    restored), end that, and restart this gateway, which then looks at the stream again";

/// What the shipper is doing, for people and for readiness.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ShipperState {
    /// No database is configured: records stay in the outbox.
    StoreOnly,
    /// The first delivery has not succeeded yet.
    Starting,
    /// The last delivery succeeded.
    Delivering,
    /// A passing error; tried again.
    Retrying {
        /// The error.
        error: String,
    },
    /// An error that an operator has to mend; tried again slowly.
    Held {
        /// The error.
        error: String,
    },
    /// Another writer uses this gateway's id: nothing is shipped. Or records of an older epoch are missing: that one is
    /// not shipped, the others are.
    Forked {
        /// Which stream, what was found, and what to do.
        error: String,
    },
}

/// The alarm where nothing is shipped any more.
pub(super) fn forked(epoch: Epoch, what: &str) -> String {
    format!("epoch {epoch} is forked and nothing is shipped: {what}; {ADVICE}")
}

/// Older streams that are forked. The alarm stands until the gateway is started again, whatever else goes well.
#[derive(Debug, Default)]
pub(super) struct Forks {
    named: Vec<(Epoch, String)>,
    unnamed: usize,
}

impl Forks {
    pub(super) fn note(&mut self, epoch: Epoch, what: &str) {
        if self.named.len() < NAMED_MAX {
            self.named.push((epoch, what.to_owned()));
        } else {
            self.unnamed += 1;
        }
    }

    /// The state where nothing else is wrong.
    pub(super) fn at_best(&self) -> ShipperState {
        self.alarm()
            .map_or(ShipperState::Delivering, |alarm| ShipperState::Forked { error: format!("{alarm}; {ADVICE}") })
    }

    /// Another error, and this alarm with it.
    pub(super) fn beside(&self, error: &str) -> String {
        self.alarm().map_or_else(|| error.to_owned(), |alarm| format!("{error}; besides, {alarm}"))
    }

    fn alarm(&self) -> Option<String> {
        let named: Vec<_> = self.named.iter().map(|(epoch, what)| format!("epoch {epoch} ({what})")).collect();
        let more = if self.unnamed > 0 { format!(" and {} more", self.unnamed) } else { String::new() };
        (!named.is_empty())
            .then(|| format!("forked and not shipped, while other epochs are: {}{more}", named.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_names_forked_epochs_and_is_bounded() {
        let mut forks = Forks::default();
        assert_eq!((forks.at_best(), forks.beside("no reply")), (ShipperState::Delivering, "no reply".to_owned()));
        for epoch in 1..=1_000 {
            forks.note(Epoch(epoch), "another hash");
        }
        let ShipperState::Forked { error } = forks.at_best() else { panic!("the alarm is gone") };
        assert!(error.contains("epoch 1 (another hash)") && error.contains("and 992 more"), "{error}");
        assert!(error.contains(ADVICE) && error.len() < 1_000);
        assert!(forks.beside("no reply").starts_with("no reply; besides, forked"));
    }
}
