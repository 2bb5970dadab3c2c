//! The shipper's reaction to success and failure: its state, its metrics, its log lines and its pauses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::fork::{self, Fork, ForkReason, ForkedStreams};
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
    /// The forked stream because of which nothing is shipped.
    blocking: Option<(Epoch, String)>,
    transient: Backoff,
    operator: Backoff,
    /// The pauses between looks at forked streams.
    look: Backoff,
    /// The next look at forked streams of older epochs; `None` if there are none.
    next_look: Option<Instant>,
}

impl Health {
    pub(super) fn new(meter: Arc<Meter>, state: watch::Sender<ShipperState>) -> Self {
        let (transient, operator) = (Backoff::new(TRANSIENT_RETRY), Backoff::new(OPERATOR_RETRY));
        let (forked, look) = (ForkedStreams::default(), Backoff::new(OPERATOR_RETRY));
        Self { state, meter, forked, blocking: None, transient, operator, look, next_look: None }
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

    /// Raises the alarm about a forked stream. Returns whether other streams are still shipped, which is the case if
    /// the stream is an older epoch and no other process seems to write.
    pub(super) fn forked(&mut self, epoch: Epoch, current: Epoch, fork: &Fork) -> bool {
        let what = &fork.what;
        self.meter.forked.store(true, Ordering::Relaxed);
        self.meter.set_last_error(what);
        let ships_others = epoch < current && fork.reason != ForkReason::ForeignWriter;
        if ships_others {
            if !self.forked.epochs().contains(&epoch) {
                tracing::error!(what, %epoch, "stream is forked; not shipping it");
                self.look.reset();
            }
            self.forked.add(epoch, what);
            self.next_look = Some(Instant::now() + self.look.next_pause());
            self.state.send_replace(self.forked.state_without_error());
        } else {
            self.forked.remove(epoch);
            let blocking = Some((epoch, what.clone()));
            if self.blocking != blocking {
                tracing::error!(what, %epoch, "stream is forked; shipping nothing");
                self.look.reset();
                self.blocking = blocking;
            }
            let error = self.forked.append_to(&fork::alarm(epoch, what));
            self.state.send_replace(ShipperState::Forked { error });
        }
        ships_others
    }

    /// Waits until it is time to look at the stream again because of which nothing is shipped.
    pub(super) async fn wait_to_look(&mut self) {
        tokio::time::sleep(self.look.next_pause()).await;
    }

    /// The time of the next look at forked streams of older epochs; `None` if there are none.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// The forked streams of older epochs, which are looked at now.
    pub(super) fn take_forked(&mut self) -> Vec<Epoch> {
        self.next_look = None;
        self.forked.epochs()
    }

    /// Lowers the alarm about a stream, if it was forked and no longer is.
    pub(super) fn not_forked(&mut self, epoch: Epoch) {
        let blocked = self.blocking.take_if(|(blocking, _)| *blocking == epoch).is_some();
        if self.forked.remove(epoch) || blocked {
            tracing::info!(%epoch, "stream is not forked any more; shipping it");
            self.meter.forked.store(!self.forked.epochs().is_empty(), Ordering::Relaxed);
            self.state.send_replace(self.forked.state_without_error());
        }
    }
}
