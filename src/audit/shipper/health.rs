//! The shipper's reaction to success and failure: its state, its metrics, its log lines and its pauses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::fork::{self, ForkReason, ForkedStreams};
use super::state::ShipperState;
use crate::audit::meter::Meter;
use crate::audit::record::Epoch;
use crate::audit::sink::{ErrorClass, SinkError};
use crate::retry::{Backoff, RetryPolicy};

/// Retries of a transient error. *Chosen*: a server that restarts is found within seconds, and one that is down gets a
/// dozen attempts a minute.
const TRANSIENT_RETRY: RetryPolicy = RetryPolicy::new(Duration::from_millis(50), Duration::from_secs(5));

/// Retries of an error that an operator has to fix. *Chosen*: the fix is noticed within half a minute.
const OPERATOR_RETRY: RetryPolicy = RetryPolicy::new(Duration::from_secs(1), Duration::from_secs(30));

/// The state of delivery, as the shipper reports it.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<ShipperState>,
    meter: Arc<Meter>,
    forked: ForkedStreams,
    transient: Backoff,
    operator: Backoff,
}

impl Health {
    pub(super) fn new(meter: Arc<Meter>, state: watch::Sender<ShipperState>) -> Self {
        let (transient, operator) = (Backoff::new(TRANSIENT_RETRY), Backoff::new(OPERATOR_RETRY));
        Self { state, meter, forked: ForkedStreams::default(), transient, operator }
    }

    /// The channel of the state.
    pub(super) fn state(&self) -> watch::Sender<ShipperState> {
        self.state.clone()
    }

    /// Notes a success: the next pauses are short again.
    pub(super) fn succeeded(&mut self) {
        self.transient.reset();
        self.operator.reset();
        self.meter.clear_retry();
        let new = self.forked.state_without_error();
        let change = |state: &mut ShipperState| {
            let changed = *state != new;
            *state = new;
            changed
        };
        if self.state.send_if_modified(change) {
            tracing::info!("delivering to Postgres");
        }
    }

    /// Reports `error` and waits until it is time to retry.
    pub(super) async fn wait(&mut self, error: &SinkError) {
        if matches!(error.class, ErrorClass::Transient | ErrorClass::TooMuch) {
            let pause = self.transient.next_pause();
            let message = self.forked.append_to(&error.to_string());
            self.meter.set_retry(&error.to_string(), pause);
            if self.state.send_if_modified(|state| {
                let changed = !matches!(state, ShipperState::Retrying { .. });
                *state = ShipperState::Retrying { error: message.clone() };
                changed
            }) {
                tracing::warn!(%error, "delivery to Postgres failed; records wait and delivery is retried");
            }
            tokio::time::sleep(pause).await;
        } else {
            self.hold(&error.to_string()).await;
        }
    }

    /// Raises the alarm for an operator, and waits until it is time to retry.
    pub(super) async fn hold(&mut self, error: &str) {
        tracing::error!(error, "delivery is held until an operator fixes the error; retrying slowly");
        self.state.send_replace(ShipperState::Held { error: self.forked.append_to(error) });
        let pause = self.operator.next_pause();
        self.meter.set_retry(error, pause);
        tokio::time::sleep(pause).await;
    }

    /// Raises the alarm about a forked stream. Returns whether other streams are still shipped, which is the case if the
    /// stream is an older epoch and no other process seems to write.
    pub(super) fn forked(&mut self, epoch: Epoch, current: Epoch, what: &str, reason: ForkReason) -> bool {
        self.meter.forked.store(true, Ordering::Relaxed);
        self.meter.set_last_error(what);
        let ships_others = epoch < current && reason != ForkReason::ForeignWriter;
        if ships_others {
            self.forked.add(epoch, what);
            self.state.send_replace(self.forked.state_without_error());
        } else {
            let error = self.forked.append_to(&fork::alarm(epoch, what));
            self.state.send_replace(ShipperState::Forked { error });
        }
        ships_others
    }
}
