//! What the shipper does when a delivery does not succeed, and what it says of it.

use std::sync::atomic::Ordering;

use super::state::{self, ShipperState};
use super::{Forked, Shipper};
use crate::audit::record::Epoch;
use crate::audit::ring::Phase;
use crate::audit::sink::{ErrorClass, Sink, SinkError};

impl<S: Sink> Shipper<S> {
    pub(super) fn succeeded(&mut self) {
        self.transient.reset();
        self.operator.reset();
        self.meter.clear_retry();
        let best = self.forks.at_best();
        let turn = |state: &mut ShipperState| {
            let new = *state != best;
            *state = best;
            new
        };
        if self.state.send_if_modified(turn) {
            tracing::info!("delivering to Postgres");
        }
    }

    pub(super) async fn wait(&mut self, error: &SinkError) {
        if matches!(error.class, ErrorClass::Transient | ErrorClass::TooMuch) {
            let pause = self.transient.next_pause();
            let message = self.forks.beside(&error.to_string());
            self.meter.set_retry(&error.to_string(), pause);
            if self.state.send_if_modified(|state| {
                let new = !matches!(state, ShipperState::Retrying { .. });
                *state = ShipperState::Retrying { error: message.clone() };
                new
            }) {
                tracing::warn!(%error, "Postgres does not take records; they wait");
            }
            tokio::time::sleep(pause).await;
        } else {
            self.hold(&error.to_string()).await;
        }
    }

    /// Alarm, then a long pause.
    pub(super) async fn hold(&mut self, error: &str) {
        tracing::error!(error, "delivery is held until an operator mends this");
        self.state.send_replace(ShipperState::Held { error: self.forks.beside(error) });
        let pause = self.operator.next_pause();
        self.meter.set_retry(error, pause);
        tokio::time::sleep(pause).await;
    }

    /// Alarm, and no delivery of this stream: of an older one with a hole until the next start, otherwise of all until the
    /// gateway stops.
    pub(super) async fn fork(&mut self, epoch: Epoch, what: &str, why: Forked) -> Result<(), Forked> {
        tracing::error!(what, gateway_id = %self.gateway_id, %epoch, "the stream is forked; it is not shipped");
        self.meter.forked.store(true, Ordering::Relaxed);
        self.meter.set_last_error(what);
        if epoch < self.epoch && why == Forked::Missing {
            self.forks.note(epoch, what);
            self.state.send_replace(self.forks.at_best());
        } else {
            self.state.send_replace(ShipperState::Forked { error: self.forks.beside(&state::forked(epoch, what)) });
            self.ring.reached(Phase::Closed).await;
        }
        Err(why)
    }
}
