//! The audit pipeline, as the gateway sees it: [`Audit::begin`], [`Receipt::finish`], [`Audit::refuse`].
//!
//! `begin` returns once the call's intent has reached the configured level. Its [`Receipt`] is what `forward` demands
//! besides the permit. `finish` consumes the receipt and the backend's answer, and gives the answer back as
//! [`Released`] once the record has reached the level; the HTTP layer can send nothing else. So an unaudited call does
//! not compile (I1). A receipt that is dropped unfinished still ends its call: its record says `error` (I2).

pub mod record;
pub mod redact;

use std::time::{Duration, Instant};

use record::{Call, Entry, Outcome, RequestId, Status};

/// The pipeline's handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {}

/// Proof that a call's intent reached the configured level. Dropping it unfinished ends the call as `error`.
#[derive(Debug)]
#[must_use = "a receipt is finished with the call's outcome"]
pub struct Receipt {
    call: Option<Call>,
    request_id: RequestId,
    begun: Instant,
}

/// Something that may leave the gateway: its record reached the configured level.
#[derive(Debug)]
pub struct Released<T>(T);

/// The pipeline could not take the call in time.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Neither ring nor outbox had room within `admission_timeout`. Nothing was recorded; the refusal is counted.
    #[error("the audit ring is full: no room within {waited:?}")]
    Full {
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
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Closed,
}

impl Audit {
    /// An audit that is switched off: calls are dispatched unchanged and leave no record.
    #[must_use]
    pub fn off() -> Self {
        Self {}
    }

    /// Begins `call`: returns once its intent reached the configured level.
    ///
    /// # Errors
    /// [`Unavailable`]; the call must not be forwarded, and has been recorded or counted as `audit_unavailable`.
    pub async fn begin(&self, call: Call) -> Result<Receipt, Unavailable> {
        Ok(Receipt { request_id: call.request_id, call: Some(call), begun: Instant::now() })
    }

    /// Records a call that is refused before dispatch (latency 0), then releases `answer`.
    ///
    /// # Errors
    /// [`Unavailable`]; the refusal was counted, or stays in the ring.
    pub async fn refuse<T>(&self, call: Call, outcome: Outcome, answer: T) -> Result<Released<T>, Unavailable> {
        drop(Entry::new(call, outcome, Duration::ZERO));
        Ok(Released(answer))
    }
}

impl Receipt {
    /// The call's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Ends the call with `outcome`, then releases `answer` once the record reached the configured level.
    ///
    /// # Errors
    /// [`Unavailable::NotStored`]: `answer` must not leave; the record stays in the ring and is stored when it can be.
    ///
    /// # Cancel safety
    /// The record is in the ring before the first await; dropping the future loses only the answer.
    pub async fn finish<T>(mut self, outcome: Outcome, answer: T) -> Result<Released<T>, Unavailable> {
        if let Some(call) = self.call.take() {
            drop(Entry::new(call, outcome, self.begun.elapsed()));
        }
        Ok(Released(answer))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            let outcome = Outcome::failed(Status::Error, "the call was abandoned by the gateway");
            drop(Entry::new(call, outcome, self.begun.elapsed()));
        }
    }
}

impl<T> Released<T> {
    /// What may leave.
    pub fn into_inner(self) -> T {
        self.0
    }
}
