//! The audit pipeline, as the gateway sees it: [`Audit::begin`], [`Receipt::finish`], [`Audit::record_once`].
//!
//! `begin` returns once the call's intent has reached the configured level. Its [`Receipt`] is what `forward` demands
//! besides the permit. `finish` consumes the receipt and the backend's answer, and gives the answer back as
//! [`Released`] once the record has reached the level; the HTTP layer can send nothing else. So an unaudited call does
//! not compile (I1). A receipt that is dropped unfinished still ends its call: its record says `error` (I2).
//!
//! [`pipeline::Pipeline`] builds and stops the parts behind it. Nothing here knows MCP.

pub mod chain;
pub mod codec;
pub mod meter;
pub mod outbox;
pub mod pipeline;
pub mod query;
pub mod record;
pub mod redact;
pub mod ring;
pub mod scribe;
pub mod shipper;
pub mod sink;
mod sync;
pub mod verify;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use meter::Meter;
use record::{Call, Entry, Outcome, RequestId, Status};
use ring::{NoRoom, Phase, Reservation, Ring};

/// The pipeline's handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Handle>>);

/// What a call waits for, and how long.
#[derive(Debug)]
struct Handle {
    ring: Arc<Ring>,
    meter: Arc<Meter>,
    /// Whether calls wait for the outbox (level `stored`) or for the ring alone (`queued`).
    wait_for_store: bool,
    timeouts: Timeouts,
}

/// How long a call waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For room in the ring.
    pub admission: Duration,
    /// For the outbox to store an intent or a record.
    pub store: Duration,
}

/// Proof that a call's intent reached the configured level. Dropping it unfinished ends the call as `error`.
#[derive(Debug)]
#[must_use = "a receipt is finished with the call's outcome"]
pub struct Receipt {
    /// `None` once finished, and where the call leaves no record of its own.
    open: Option<Open>,
    request_id: RequestId,
    begun: Instant,
    /// What the call waited for its intent.
    waited: Duration,
}

/// A call that has begun and not ended.
#[derive(Debug)]
struct Open {
    handle: Arc<Handle>,
    call: Call,
    /// The room of its record.
    reservation: Reservation,
    /// Whether its answer waits for its record to be stored.
    waits: bool,
}

/// Something that may leave the gateway: its record reached the configured level.
#[derive(Debug)]
pub struct Released<T>(T);

/// The pipeline could not take the call in time.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableError {
    /// Neither ring nor outbox had room within `admission_timeout`. Nothing was recorded; the refusal is counted, and
    /// recorded with others in one `gateway/gap` record.
    #[error("the audit ring is full: no room within {waited:?}")]
    Full {
        /// How long the call waited.
        waited: Duration,
    },
    /// The outbox has used up its quota or its disk, and made no room within `admission_timeout`. Counted as above.
    #[error("the audit outbox is full: no room within {waited:?}")]
    OutboxFull {
        /// How long the call waited.
        waited: Duration,
    },
    /// The outbox did not store the record within `store_timeout`. The record stays in the ring and is stored when the
    /// outbox heals.
    #[error("the audit outbox did not store the record within {waited:?}")]
    NotStored {
        /// How long the call waited.
        waited: Duration,
    },
    /// The pipeline has failed, by a fault of Gatepost.
    #[error("the audit pipeline has failed; restart the gateway")]
    Failed,
    /// The gateway is stopping. A call that it had not begun is not recorded: the closing record stands already.
    #[error("the gateway is stopping")]
    Closed,
}

impl Audit {
    /// An audit that is switched off: calls are dispatched unchanged and leave no record.
    #[must_use]
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Whether anything is recorded.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    fn on(ring: Arc<Ring>, meter: Arc<Meter>, wait_for_store: bool, timeouts: Timeouts) -> Self {
        Self(Some(Arc::new(Handle { ring, meter, wait_for_store, timeouts })))
    }

    /// Begins `call`: returns once its intent reached the configured level.
    ///
    /// # Errors
    /// [`UnavailableError`]; the call must not be forwarded, and has been recorded or counted as `audit_unavailable`.
    pub async fn begin(&self, call: Call) -> Result<Receipt, UnavailableError> {
        let Some(handle) = &self.0 else { return Ok(Receipt::without_record(call.request_id)) };
        let begun = Instant::now();
        let admission = handle.timeouts.admission;
        let reserved = handle.ring.reserve_call(&call, admission).await;
        let reservation = reserved.map_err(|no_room| no_room.after(admission))?;
        let (mut receipt, reached) = handle.begin(call, reservation, begun).await;
        // I1: the receipt, without which nothing is forwarded, is given only after the intent reached its level.
        if let Err(unavailable) = reached {
            // Refused before dispatch: its latency is 0.
            let refused = Outcome::failed(Status::AuditUnavailable, unavailable.to_string());
            receipt.end(refused, Duration::ZERO, None).ok();
            return Err(unavailable);
        }
        Ok(receipt)
    }

    /// Begins a call of a tool that the operator lets go on where it cannot be audited (`audit.on_failure = "continue"`).
    /// Without room it leaves no record of its own; it is counted, logged, and told of in a `gateway/gap` record. Where
    /// the outbox does not store in time its records wait in the ring, and it waits for nothing.
    ///
    /// # Errors
    /// [`UnavailableError::Closed`] only.
    pub async fn begin_or_continue(&self, call: Call) -> Result<Receipt, UnavailableError> {
        let (request_id, begun) = (call.request_id, Instant::now());
        let Some(handle) = &self.0 else { return Ok(Receipt::without_record(request_id)) };
        let admission = handle.timeouts.admission;
        let reservation = match handle.ring.reserve_continued(&call, admission).await {
            Ok(reservation) => reservation,
            Err(NoRoom::Closed) => return Err(UnavailableError::Closed),
            // A call that goes on where audit fails goes on here too.
            Err(no_room) => {
                let cause = no_room.after(admission);
                tracing::error!(%request_id, %cause, "the call goes on unaudited, as audit.on_failure allows");
                return Ok(Receipt::without_record(request_id));
            }
        };
        let (mut receipt, reached) = handle.begin(call, reservation, begun).await;
        match reached {
            Err(UnavailableError::Closed) => return Err(UnavailableError::Closed),
            Err(cause) => {
                tracing::error!(%request_id, %cause, "the call goes on queued only, as audit.on_failure allows");
                if let Some(open) = &mut receipt.open {
                    open.waits = false;
                }
            }
            Ok(()) => {}
        }
        Ok(receipt)
    }

    /// Records an event of the gateway itself, and waits for it as a call does.
    ///
    /// # Errors
    /// [`UnavailableError`]; as for [`Audit::record_once`].
    pub async fn record_event(&self, event: Call) -> Result<(), UnavailableError> {
        let outcome = Outcome { status: Status::Ok, error_message: None, response_digest: None, response_bytes: None };
        self.record_once(event, outcome, ()).await.map(Released::into_inner)
    }

    /// Records a call that is refused before dispatch (latency 0), then releases `answer`.
    ///
    /// # Errors
    /// [`UnavailableError`]; the refusal was counted, or stays in the ring.
    pub async fn record_once<T>(
        &self,
        call: Call,
        outcome: Outcome,
        answer: T,
    ) -> Result<Released<T>, UnavailableError> {
        if let Some(handle) = &self.0 {
            let entry = Entry::new(call, outcome, Duration::ZERO);
            let admission = handle.timeouts.admission;
            let reserved = handle.ring.reserve_refusal(&entry, admission).await;
            let reservation = reserved.map_err(|no_room| no_room.after(admission))?;
            let (sender, stored) = handle.receipt();
            let appended = handle.ring.end(reservation, entry, false, sender);
            handle.reached(appended, stored).await?;
        }
        Ok(Released(answer))
    }
}

impl Handle {
    /// Appends the intent of `call` and waits for it; the receipt and whether the intent reached its level.
    async fn begin(
        self: &Arc<Self>,
        call: Call,
        mut reservation: Reservation,
        begun: Instant,
    ) -> (Receipt, Result<(), UnavailableError>) {
        let (sender, stored) = self.receipt();
        let request_id = call.request_id;
        let appended = self.ring.begin(&mut reservation, &call, sender);
        let open = Open { handle: Arc::clone(self), call, reservation, waits: self.wait_for_store };
        // Made before the wait: where the future is dropped in it, the receipt ends the call.
        let mut receipt = Receipt { open: Some(open), request_id, begun, waited: Duration::ZERO };
        let reached = self.reached(appended, stored).await;
        receipt.waited = begun.elapsed();
        (receipt, reached)
    }

    /// Both ends of a receipt's channel, at the level that has one.
    fn receipt(&self) -> (Option<oneshot::Sender<()>>, Option<oneshot::Receiver<()>>) {
        self.wait_for_store.then(oneshot::channel).unzip()
    }

    /// Waits for what was appended to be stored, where the level asks for it.
    async fn reached(
        &self,
        appended: Result<(), ring::Closed>,
        stored: Option<oneshot::Receiver<()>>,
    ) -> Result<(), UnavailableError> {
        // I1: what the ring did not take has reached no level.
        appended.map_err(|ring::Closed| UnavailableError::Closed)?;
        let Some(stored) = stored else { return Ok(()) };
        let waited = self.timeouts.store;
        match tokio::time::timeout(waited, stored).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) if self.ring.phase() > Phase::Open => Err(UnavailableError::Closed),
            _ => Err(UnavailableError::NotStored { waited }),
        }
    }
}

impl NoRoom {
    fn after(self, waited: Duration) -> UnavailableError {
        match self {
            Self::Full => UnavailableError::Full { waited },
            Self::OutboxFull => UnavailableError::OutboxFull { waited },
            Self::Closed => UnavailableError::Closed,
            Self::Failed => UnavailableError::Failed,
        }
    }
}

impl Receipt {
    /// For a call that leaves no record of its own.
    fn without_record(request_id: RequestId) -> Self {
        Self { open: None, request_id, begun: Instant::now(), waited: Duration::ZERO }
    }

    /// The call's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Ends the call with `outcome`, then releases `answer` once the record reached the configured level.
    ///
    /// # Errors
    /// [`UnavailableError`]: `answer` must not leave; the record stays in the ring and is stored when it can be.
    ///
    /// # Cancel safety
    /// The record is in the ring before the first await; dropping the future loses only the answer.
    pub async fn finish<T>(mut self, outcome: Outcome, answer: T) -> Result<Released<T>, UnavailableError> {
        let open = self.open.as_ref().map(|open| (Arc::clone(&open.handle), open.waits));
        if let Some((handle, waits)) = open {
            let (sender, stored) = waits.then(oneshot::channel).unzip();
            let latency = self.begun.elapsed();
            let appended = self.end(outcome, latency, sender);
            let ended = Instant::now();
            // I1: the answer is released only after its record reached the level.
            let reached = handle.reached(appended, stored).await;
            handle.meter.added_latency.observe_duration(self.waited + ended.elapsed());
            reached?;
        }
        Ok(Released(answer))
    }

    fn end(
        &mut self,
        outcome: Outcome,
        latency: Duration,
        stored: Option<oneshot::Sender<()>>,
    ) -> Result<(), ring::Closed> {
        // I2: whichever way a call ends, its record is appended here, once.
        let Some(Open { handle, call, reservation, .. }) = self.open.take() else { return Ok(()) };
        handle.ring.end(reservation, Entry::new(call, outcome, latency), true, stored)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let given_up = Outcome::failed(Status::Error, "the gateway gave the call up before it had an answer");
        // Where the ring is closed the call is still open in the outbox, and ends as `interrupted`.
        self.end(given_up, self.begun.elapsed(), None).ok();
    }
}

impl<T> Released<T> {
    /// What may leave.
    pub fn into_inner(self) -> T {
        self.0
    }
}
