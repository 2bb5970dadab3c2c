//! The gateway's handle to the pipeline: a call's receipt, and an answer's release.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::gate::Gate;
use super::meter::Meter;
use super::record::{Call, Digest, DigestKey, Entry, Outcome, RecordKey, RequestId, Status, StreamPosition, Timestamp};
use super::ring::{self, AdmissionError, Phase, Reservation, Ring, StoredReceiver, StoredSender};

/// The pipeline's handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Handle>>);

/// The state shared by all clones of an [`Audit`].
#[derive(Debug)]
struct Handle {
    ring: Arc<Ring>,
    meter: Arc<Meter>,
    /// True if calls wait for the outbox (level `stored`), false if only for the ring (`queued`).
    wait_for_store: bool,
    timeouts: Timeouts,
    digest_key: DigestKey,
    gate: Gate,
}

/// Limits on the time that a call waits for the pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Longest wait for room in the ring.
    pub admission: Duration,
    /// Longest wait for the outbox to store an intent or a record.
    pub store: Duration,
}

/// Proof that a call's intent reached the configured level. Dropping it unfinished ends the call with status `error`.
#[derive(Debug)]
#[must_use = "finish the receipt with the call's outcome"]
pub struct Receipt {
    /// `None` once finished, and for a call that has no record of its own.
    open: Option<Open>,
    request_id: RequestId,
    begun: Instant,
    /// The time that the call waited for its intent.
    waited: Duration,
}

/// A call that has begun and has not ended.
#[derive(Debug)]
struct Open {
    handle: Arc<Handle>,
    call: Call,
    /// Room in the ring for the call's record.
    reservation: Reservation,
    /// True if the answer waits until the record is stored.
    waits_for_store: bool,
}

/// A value that may leave the gateway, because its record reached the configured level.
#[derive(Debug)]
pub struct Released<T> {
    value: T,
    /// The position of the record, if it is stored.
    position: Option<StreamPosition>,
}

/// The pipeline did not accept the call in time.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableError {
    /// The ring had no room within `audit.admission_timeout`: records arrive faster than they are stored
    /// or delivered. Nothing was recorded; the refusal is counted, and one `gateway/gap` record reports all of them.
    #[error("the audit ring is full: no room within {waited:?}")]
    Full {
        /// The time that the call waited.
        waited: Duration,
    },
    /// The outbox reached its quota or its disk is full, and no room was freed within `audit.admission_timeout`. The
    /// refusal is counted and reported in the same way.
    #[error("the audit outbox is full: no room within {waited:?}")]
    OutboxFull {
        /// The time that the call waited.
        waited: Duration,
    },
    /// The outbox did not store the record within `audit.store_timeout`: its disk is slow or fails. The record stays in
    /// the ring and is stored once the outbox works again.
    #[error("the audit outbox did not store the record within {waited:?}")]
    NotStored {
        /// The time that the call waited.
        waited: Duration,
    },
    /// The scribe panicked, which is a bug in Gatepost. Every call is refused until a restart.
    #[error("the audit pipeline has failed; restart the gateway")]
    Failed,
    /// A checkpoint cannot be signed, or is not confirmed for too long, and `evidence.on_failure` is `refuse`. Nothing
    /// was recorded.
    #[error("evidence of the trail is missing, and evidence.on_failure is \"refuse\"")]
    NoEvidence,
    /// The gateway is stopping. A call that it had not begun is not recorded: the epoch's closing record is already
    /// written.
    #[error("the gateway is stopping")]
    Closed,
}

impl Audit {
    /// A handle without a pipeline: calls are dispatched unchanged and are not recorded.
    #[must_use]
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Returns true if calls are recorded.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn enabled(
        ring: Arc<Ring>,
        meter: Arc<Meter>,
        wait_for_store: bool,
        timeouts: Timeouts,
        digest_key: DigestKey,
    ) -> Self {
        let gate = Gate::default();
        Self(Some(Arc::new(Handle { ring, meter, wait_for_store, timeouts, digest_key, gate })))
    }

    /// The gate that each call passes; `None` if calls are not recorded.
    #[must_use]
    pub fn gate(&self) -> Option<Gate> {
        self.0.as_ref().map(|handle| handle.gate.clone())
    }

    /// The key of the digests in the record of the request `id`; `None` if calls are not recorded.
    #[must_use]
    pub fn record_key(&self, id: RequestId) -> Option<RecordKey> {
        self.0.as_ref().map(|handle| handle.digest_key.record_key(id))
    }

    /// The digest of the configuration `text`, by the digest key; `None` if calls are not recorded.
    #[must_use]
    pub fn config_digest(&self, text: &[u8]) -> Option<Digest> {
        self.0.as_ref().map(|handle| handle.digest_key.config_digest(text))
    }

    /// Begins `call`. Returns once its intent has reached the configured level.
    ///
    /// # Errors
    /// [`UnavailableError`]. The call must not be forwarded; it was recorded or counted as `audit_unavailable`, but for
    /// [`UnavailableError::NoEvidence`]: the caller records the refusal.
    pub async fn begin(&self, call: Call) -> Result<Receipt, UnavailableError> {
        let Some(handle) = &self.0 else { return Ok(Receipt::without_record(call.request_id)) };
        if handle.gate.is_closed() {
            return Err(UnavailableError::NoEvidence);
        }
        let begun = Instant::now();
        let admission = handle.timeouts.admission;
        let reserved = handle.ring.reserve_call(&call, admission).await;
        let reservation = reserved.map_err(|no_room| no_room.after(admission))?;
        let (mut receipt, reached) = handle.begin(call, reservation, begun).await;
        // I1: forwarding needs the receipt, which is returned only after the intent reached its level.
        if let Err(unavailable) = reached {
            // Refused before dispatch, so the latency is 0.
            let refused = Outcome::failed(Status::AuditUnavailable, unavailable.to_string());
            receipt.end(refused, Duration::ZERO, None).ok();
            return Err(unavailable);
        }
        Ok(receipt)
    }

    /// Begins a call of a tool that the operator allows to continue unaudited (`audit.on_failure = "continue"`).
    ///
    /// Without room, the call has no record of its own: it is logged, counted, and reported in a `gateway/gap` record.
    /// If the outbox does not store the intent in time, the call continues and its records wait in the ring.
    ///
    /// # Errors
    /// [`UnavailableError::Closed`] only.
    pub async fn begin_or_continue(&self, call: Call) -> Result<Receipt, UnavailableError> {
        let (request_id, begun) = (call.request_id, Instant::now());
        let Some(handle) = &self.0 else { return Ok(Receipt::without_record(request_id)) };
        let admission = handle.timeouts.admission;
        let reservation = match handle.ring.reserve_continued(&call, admission).await {
            Ok(reservation) => reservation,
            Err(AdmissionError::Closed) => return Err(UnavailableError::Closed),
            Err(no_room) => {
                let cause = no_room.after(admission);
                tracing::error!(%request_id, %cause, "audit unavailable; continuing unaudited (audit.on_failure)");
                return Ok(Receipt::without_record(request_id));
            }
        };
        let (mut receipt, reached) = handle.begin(call, reservation, begun).await;
        match reached {
            Err(UnavailableError::Closed) => return Err(UnavailableError::Closed),
            Err(cause) => {
                tracing::error!(%request_id, %cause, "intent not stored; continuing queued only (audit.on_failure)");
                if let Some(open) = &mut receipt.open {
                    open.waits_for_store = false;
                }
            }
            Ok(()) => {}
        }
        Ok(receipt)
    }

    /// Records an event of the gateway itself, and waits until the record reaches the configured level.
    ///
    /// # Errors
    /// See [`Audit::record_once`].
    pub async fn record_event(&self, event: Call) -> Result<(), UnavailableError> {
        self.record_once(event, Outcome::of(Status::Ok), ()).await.map(Released::into_inner)
    }

    /// Writes one complete record without an intent, then releases `answer`.
    ///
    /// The latency is 0. For requests that the gateway answers itself, and for its own events.
    ///
    /// # Errors
    /// [`UnavailableError`]; the record was counted as missing, or stays in the ring.
    pub async fn record_once<T>(
        &self,
        call: Call,
        outcome: Outcome,
        answer: T,
    ) -> Result<Released<T>, UnavailableError> {
        let mut position = None;
        if let Some(handle) = &self.0 {
            let entry = Entry::new(call, outcome, Duration::ZERO);
            let admission = handle.timeouts.admission;
            let reserved = handle.ring.reserve_event(&entry, admission).await;
            let reservation = reserved.map_err(|no_room| no_room.after(admission))?;
            position = handle.append(reservation, entry).await?;
        }
        Ok(Released { value: answer, position })
    }

    /// Writes the record of a refused request, then releases `answer`. Returns `None` if there is no room that refusals
    /// may use: nothing was recorded or counted, and the caller counts the refusal together with others.
    ///
    /// # Errors
    /// [`UnavailableError`]: the record stays in the ring, or the pipeline records nothing any more.
    pub async fn record_refusal<T>(
        &self,
        call: Call,
        outcome: Outcome,
        answer: T,
    ) -> Result<Option<Released<T>>, UnavailableError> {
        let mut position = None;
        if let Some(handle) = &self.0 {
            let entry = Entry::new(call, outcome, Duration::ZERO);
            match handle.ring.try_reserve_refusal(&entry) {
                Ok(reservation) => position = handle.append(reservation, entry).await?,
                Err(AdmissionError::Full | AdmissionError::OutboxFull) => return Ok(None),
                Err(failed @ (AdmissionError::Closed | AdmissionError::Failed)) => {
                    return Err(failed.after(Duration::ZERO));
                }
            }
        }
        Ok(Some(Released { value: answer, position }))
    }

    /// Counts `count` refused requests, of which the first arrived at `first` and the last at `last`, in a
    /// `gateway/gap` record. Such a record always has room.
    ///
    /// # Errors
    /// [`UnavailableError::Closed`]: nothing was counted, because the epoch's closing record is already written.
    pub fn count_refusals(&self, count: u64, first: Timestamp, last: Timestamp) -> Result<(), UnavailableError> {
        let is_counted = self.0.as_ref().is_none_or(|handle| handle.ring.count_refused(count, first, last));
        is_counted.then_some(()).ok_or(UnavailableError::Closed)
    }
}

impl Handle {
    /// Appends the intent of `call` and waits for it. Returns the receipt, and whether the intent reached its level.
    async fn begin(
        self: &Arc<Self>,
        call: Call,
        mut reservation: Reservation,
        begun: Instant,
    ) -> (Receipt, Result<(), UnavailableError>) {
        let (sender, stored) = self.stored_channel();
        let request_id = call.request_id;
        let appended = self.ring.begin(&mut reservation, &call, sender);
        let open = Open { handle: Arc::clone(self), call, reservation, waits_for_store: self.wait_for_store };
        // Made before the wait: if the future is dropped during it, the receipt ends the call.
        let mut receipt = Receipt { open: Some(open), request_id, begun, waited: Duration::ZERO };
        let reached = self.wait_for_level(appended, stored).await;
        receipt.waited = begun.elapsed();
        (receipt, reached.map(drop))
    }

    /// Appends a record without an intent, and waits until it reaches the configured level. Returns its position if it
    /// is stored.
    async fn append(&self, reservation: Reservation, entry: Entry) -> Result<Option<StreamPosition>, UnavailableError> {
        let (sender, stored) = self.stored_channel();
        let appended = self.ring.end(reservation, entry, false, sender);
        self.wait_for_level(appended, stored).await
    }

    /// Both ends of the channel that reports the commit, at the level that waits for it.
    fn stored_channel(&self) -> (Option<StoredSender>, Option<StoredReceiver>) {
        self.wait_for_store.then(oneshot::channel).unzip()
    }

    /// Waits until an appended record is stored, if the level requires it. Returns its position then.
    async fn wait_for_level(
        &self,
        appended: Result<(), ring::RingClosedError>,
        stored: Option<StoredReceiver>,
    ) -> Result<Option<StreamPosition>, UnavailableError> {
        // I1: a record that the ring did not accept has reached no level.
        appended.map_err(|ring::RingClosedError| UnavailableError::Closed)?;
        let Some(stored) = stored else { return Ok(None) };
        let waited = self.timeouts.store;
        match tokio::time::timeout(waited, stored).await {
            Ok(Ok(position)) => Ok(position),
            Ok(Err(_)) if self.ring.phase() > Phase::Open => Err(UnavailableError::Closed),
            _ => Err(UnavailableError::NotStored { waited }),
        }
    }
}

impl AdmissionError {
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
    /// A receipt for a call that has no record of its own.
    fn without_record(request_id: RequestId) -> Self {
        Self { open: None, request_id, begun: Instant::now(), waited: Duration::ZERO }
    }

    /// The call's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Reserves room for a `response` of `bytes` more in the call's record. Returns false if there is no room now.
    pub fn make_room(&mut self, bytes: usize) -> bool {
        let Some(Open { handle, call, reservation, .. }) = &mut self.open else { return true };
        let has_room = handle.ring.extend(reservation, bytes).is_ok();
        if has_room {
            call.add_response_room(bytes);
        }
        has_room
    }

    /// Ends the call with `outcome`, and releases `answer` once the record has reached the configured level.
    ///
    /// # Errors
    /// [`UnavailableError`]. `answer` must not be sent; the record stays in the ring and is stored as soon as possible.
    ///
    /// # Cancel safety
    /// The record is in the ring before the first await; dropping the future loses only the answer.
    pub async fn finish<T>(mut self, outcome: Outcome, answer: T) -> Result<Released<T>, UnavailableError> {
        let open = self.open.as_ref().map(|open| (Arc::clone(&open.handle), open.waits_for_store));
        let mut position = None;
        if let Some((handle, waits_for_store)) = open {
            let (sender, stored) = waits_for_store.then(oneshot::channel).unzip();
            let latency = self.begun.elapsed();
            let appended = self.end(outcome, latency, sender);
            let ended = Instant::now();
            // I1: the answer is released only after its record has reached the level.
            let reached = handle.wait_for_level(appended, stored).await;
            handle.meter.added_latency.observe_duration(self.waited + ended.elapsed());
            position = reached?;
        }
        Ok(Released { value: answer, position })
    }

    fn end(
        &mut self,
        outcome: Outcome,
        latency: Duration,
        stored: Option<StoredSender>,
    ) -> Result<(), ring::RingClosedError> {
        // I2: however a call ends, its record is appended here, once.
        let Some(Open { handle, call, reservation, .. }) = self.open.take() else { return Ok(()) };
        handle.ring.end(reservation, Entry::of_call(call, outcome, latency), true, stored)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let abandoned = Outcome::failed(Status::Error, "the gateway abandoned the call before it had an answer");
        // If the ring is closed, the call is still open in the outbox and ends as `interrupted`.
        self.end(abandoned, self.begun.elapsed(), None).ok();
    }
}

impl<T> Released<T> {
    /// The released value.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The position of the record, if it is stored: at level `queued` it is not yet.
    #[must_use]
    pub fn position(&self) -> Option<StreamPosition> {
        self.position
    }
}
