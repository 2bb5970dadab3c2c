//! The shipper's statements: each is tried until it succeeds, or until the cursor shows that another process was there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fork::{Fork, check_link, went_back};
use super::repeated_failure::{RepeatedFailure, any_accepted};
use super::task::Shipper;
use crate::audit::chain::Head;
use crate::audit::record::{AuditRecord, Epoch};
use crate::audit::sink::{CursorUpdate, ErrorClass, Sink, SinkError};

/// Interval at which the lease is renewed. *Chosen*: a gateway that is gone is noticed within minutes, and a thousand
/// gateways cost their database some tens of small transactions a second.
const LEASE_EVERY: Duration = Duration::from_secs(30);

/// Length of a lease. *Derived*: the function in the schema takes a third of it as the interval.
const LEASE: Duration = LEASE_EVERY.saturating_mul(3);

/// SQLSTATEs of a schema, a function or a table that does not exist.
const SCHEMA_MISSING: [&str; 3] = ["3F000", "42883", "42P01"];

impl<S: Sink> Shipper<S> {
    /// Delivers consecutive records after `head`. Returns the stream's new head.
    pub(super) async fn deliver(&mut self, mut head: Head, batch: &[Arc<AuditRecord>]) -> Result<Head, Fork> {
        let (mut rest, mut size) = (batch, self.size.current());
        while let Some((first, later)) = rest.split_first() {
            self.meter.set_oldest(first);
            check_link(head, first)?;
            let (attempt, _) = rest.split_at(size.min(rest.len()));
            let begun = Instant::now();
            let result = self.sink.deliver(attempt).await;
            head = match result {
                Ok(CursorUpdate::Moved) => {
                    self.meter.observe_delivery(attempt.len(), begun.elapsed());
                    self.health.succeeded();
                    self.size.succeeded(attempt.len());
                    self.repeated_failure = RepeatedFailure::default();
                    attempt.last().map_or(head, |record| Head::after(&record.position))
                }
                Ok(CursorUpdate::Unchanged) => self.resolve_outcome(head, rest).await?,
                // I9: a record that Postgres refuses is found by halving, and quarantined at its position.
                Err(error) if error.class == ErrorClass::Row && attempt.len() > 1 => {
                    size = attempt.len().div_ceil(2);
                    continue;
                }
                Err(error) if error.class == ErrorClass::Row => {
                    if self.repeated_failure.add(&error) {
                        // I9: bad rows do not block good ones, however many there are.
                        match any_accepted(&mut self.sink, later).await {
                            Ok(true) => {}
                            Ok(false) => {
                                let error =
                                    format!("many records in a row fail alike, so the schema is at fault: {error}");
                                self.health.hold(&error).await;
                                // Retried together with newer records, which may show that the rows are at fault.
                                return Ok(head);
                            }
                            Err(error) => {
                                self.wait(&error).await;
                                continue;
                            }
                        }
                    }
                    self.quarantine(head, rest, &error).await?
                }
                Err(error) => {
                    if error.class == ErrorClass::TooMuch {
                        self.size.shrink(attempt.len());
                    }
                    self.wait(&error).await;
                    // The reply may have been lost after the commit.
                    self.resolve_outcome(head, rest).await?
                }
            };
            let delivered = rest.iter().take_while(|record| record.position.seq <= head.seq).count();
            rest = rest.split_at(delivered).1;
            self.source.advance(delivered);
            // After a quarantined record, the rest is tried as a whole again.
            size = self.size.current();
        }
        Ok(head)
    }

    /// Quarantines the first record of `rest`.
    async fn quarantine(&mut self, head: Head, rest: &[Arc<AuditRecord>], error: &SinkError) -> Result<Head, Fork> {
        let Some(record) = rest.first() else { return Ok(head) };
        let position = record.position;
        let request_id = record.entry.call.request_id;
        tracing::error!(seq = %position.seq, %request_id, %error, "Postgres refused a record; quarantining it");
        match self.sink.quarantine(record, error).await {
            Ok(CursorUpdate::Moved) => {
                self.meter.quarantined.add(1);
                Ok(Head::after(&position))
            }
            // I5: a batch that timed out may have been committed since, and then the cursor is after this record.
            Ok(CursorUpdate::Unchanged) => self.resolve_outcome(head, rest).await,
            Err(error) => {
                self.wait(&error).await;
                self.resolve_outcome(head, rest).await
            }
        }
    }

    /// Reads the cursor after a delivery whose outcome is unknown. Returns the stream's head.
    async fn resolve_outcome(&mut self, head: Head, sent: &[Arc<AuditRecord>]) -> Result<Head, Fork> {
        let Some(position) = sent.first().map(|record| record.position) else { return Ok(head) };
        let cursor = self.cursor(position.epoch).await;
        let ours = cursor == head || sent.iter().any(|record| Head::after(&record.position) == cursor);
        if !ours {
            let fork = if cursor.seq < head.seq { went_back(cursor, head) } else { Fork::foreign_cursor(cursor) };
            return Err(fork);
        }
        if cursor != head {
            self.health.succeeded();
        }
        Ok(cursor)
    }

    pub(super) async fn cursor(&mut self, epoch: Epoch) -> Head {
        loop {
            if self.prepared.is_none() {
                self.prepare().await;
            }
            match self.sink.cursor(self.gateway_id, epoch).await {
                Ok(head) => return head,
                Err(error) => self.wait(&error).await,
            }
        }
    }

    /// Reports `error` and waits until it is time to retry. A schema that is missing is made before that: the database
    /// may have been dropped and made anew.
    pub(super) async fn wait(&mut self, error: &SinkError) {
        if error.sqlstate.as_deref().is_some_and(|sqlstate| SCHEMA_MISSING.contains(&sqlstate)) {
            self.prepared = None;
        }
        self.health.wait(error).await;
    }

    /// Renews the lease. Delivery does not depend on it: what prevents it is reported when delivery fails.
    pub(super) async fn renew_lease(&mut self) {
        self.lease_due = Instant::now() + LEASE_EVERY;
        match self.sink.renew_lease(self.gateway_id, self.epoch, LEASE).await {
            Ok(silent) => self.meter.set_silent_gateways(silent),
            Err(error) => tracing::debug!(%error, "could not renew the lease; trying again in 30 s"),
        }
    }

    /// Prepares the sink. The first time, until it succeeds. Later failures do not block delivery: they concern
    /// partitions that are needed only in the future.
    pub(super) async fn prepare(&mut self) {
        while let Err(error) = self.sink.prepare(self.gateway_id).await {
            if self.prepared.is_some() {
                tracing::error!(%error, "could not create upcoming partitions; delivery continues, retrying in 24h");
                break;
            }
            self.health.wait(&error).await;
        }
        self.prepared = Some(Instant::now());
    }
}
