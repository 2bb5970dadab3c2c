//! What a message leaves behind: its record, whatever becomes of it, and the refusal that it may end in.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};

use crate::audit::UnavailableError;
use crate::audit::record::{Call, Caller, Correlation, Outcome, Status};
use crate::upstream::Answer;

use super::Core;
use super::arrival::{Arrival, Fault};
use super::envelope::{self, Hint, Id, Malformed};
use super::floods::{Fate, Kind};
use super::headers::{self, Mismatch};
use super::live::Live;
use super::protocol::{Era, INVALID_PARAMS, INVALID_REQUEST, RATE_LIMITED, SESSION_HEADER};
use super::reply::{Reply, http_status};
use super::trace;

/// What a record calls the method of a message that names none.
const METHOD_UNKNOWN: &str = "unknown";

/// What the methods of the gateway's own records begin with: no client's record may be taken for one of them, least of all
/// for the `gateway/closed` by which an epoch is known to have ended well.
const OWN_METHODS: [&str; 2] = ["gateway/", "session/"];

/// A refusal: what is recorded, and what the client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) http: StatusCode,
    pub(super) code: i32,
    pub(super) message: String,
    pub(super) data: Option<String>,
    pub(super) challenge: Option<String>,
    /// After how long it makes sense to ask again.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn malformed(http: StatusCode, code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: Status::Malformed, http, code, message, data: None, challenge: None, retry_after: None }
    }

    /// Too much at once, or too often.
    pub(super) fn rate_limited(message: impl Into<String>, retry_after: Duration) -> Self {
        let refusal = Self::malformed(StatusCode::TOO_MANY_REQUESTS, RATE_LIMITED, message);
        Self { status: Status::RateLimited, retry_after: Some(retry_after), ..refusal }
    }

    /// What is asked for is not there, or can be nothing.
    pub(super) fn unknown(what: &str, name: &str, era: Era) -> Self {
        let http = if era == Era::Modern { http_status(INVALID_PARAMS) } else { StatusCode::OK };
        let name = &name[..name.floor_char_boundary(envelope::NAME_BYTES_MAX)];
        Self::malformed(http, INVALID_PARAMS, format!("unknown {what} {name:?}"))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let http = match fault {
            Fault::Host | Fault::Origin => StatusCode::FORBIDDEN,
            Fault::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Fault::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Fault::Headers { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        Self::malformed(http, INVALID_REQUEST, fault.to_string())
    }
}

impl From<Malformed> for Refusal {
    fn from(rule: Malformed) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, rule.code(), rule.to_string())
    }
}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        let refusal = Self::malformed(StatusCode::BAD_REQUEST, mismatch.code, mismatch.message);
        Self { data: mismatch.data, ..refusal }
    }
}

/// What a record says of a message whatever becomes of it.
pub(super) struct Trail<'a> {
    /// What it is decided and redacted by.
    pub(super) live: Arc<Live>,
    pub(super) arrival: &'a Arrival,
    pub(super) caller: Caller,
    pub(super) id: Option<Id>,
    pub(super) method: String,
    /// The tool as called; a target that is known replaces it.
    pub(super) tool: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) arguments: Option<String>,
    /// The session, or what a request without one continues.
    pub(super) session: Option<String>,
    /// Its place in a trace, where that is wanted.
    pub(super) trace: Option<trace::Context>,
}

impl<'a> Trail<'a> {
    /// What is known of a message before anything is checked.
    pub(super) fn new(live: Arc<Live>, arrival: &'a Arrival, hint: Hint) -> Self {
        let target = hint.name.as_deref().and_then(|name| arrival.scope.target(name));
        let (backend, tool) = match target {
            Some(target) => (Some(target.backend.to_owned()), Some(target.tool.to_owned())),
            None => (arrival.scope.backend().map(str::to_owned), hint.name.clone()),
        };
        let is_own = |method: &String| OWN_METHODS.iter().any(|own| method.starts_with(own));
        let method = hint.method.filter(|method| !is_own(method));
        Self {
            live,
            arrival,
            caller: Caller::anonymous(),
            id: hint.id,
            method: method.unwrap_or_else(|| METHOD_UNKNOWN.to_owned()),
            tool,
            backend,
            arguments: None,
            session: headers::single(&arrival.headers, SESSION_HEADER).map(str::to_owned),
            trace: None,
        }
    }

    /// The first half of its record.
    pub(super) fn call(&self, core: &Core) -> Call {
        let call = self.call_without_arguments();
        match &self.arguments {
            Some(json) => call.with_arguments(json, &self.live.redaction, core.args_bytes_max),
            None => call,
        }
    }

    fn call_without_arguments(&self) -> Call {
        let correlation = Correlation {
            addr: self.arrival.addr,
            session_id: self.session.clone(),
            rpc_id: self.id.as_ref().map(Id::to_text),
        };
        Call::new(self.arrival.request_id, &self.method)
            .with_caller(&self.caller)
            .with_correlation(&correlation)
            .with_target(self.backend.as_deref(), self.tool.as_deref())
    }

    /// Records the refusal, then lets it go; one of a flood is counted, and the flood's record stands for it.
    pub(super) async fn refuse(&self, core: &Core, refusal: Refusal) -> Reply {
        core.tally.refused(refusal.status);
        self.traced(core, refusal.status, Duration::ZERO);
        let answer = Answer::refusal_with(refusal.code, &refusal.message, refusal.data.as_deref());
        let outcome = Outcome { status: refusal.status, ..answer.outcome() };
        let id = self.id.as_ref();
        let reply = if self.fate(core, &outcome) == Fate::Counted {
            tracing::debug!(status = %refusal.status, method = self.method, reason = refusal.message, "refused, as before");
            Reply::counted_refusal(refusal.http, id, refusal.code, &refusal.message, refusal.data.as_deref())
        } else {
            tracing::info!(
                status = %refusal.status, method = self.method, subject = self.caller.subject,
                backend = self.backend, tool = self.tool, reason = refusal.message, "refused"
            );
            // I2: a refused call ends in exactly one record, and I1: its reply waits for it.
            match core.audit.record_once(self.call(core), outcome, answer).await {
                Ok(released) => Reply::released(refusal.http, id, released),
                Err(unavailable) => return Reply::unavailable(id, &unavailable),
            }
        };
        let reply = match refusal.challenge {
            Some(challenge) => reply.with_header(header::WWW_AUTHENTICATE, &challenge),
            None => reply,
        };
        match refusal.retry_after {
            // Whole seconds, and never none: a client that waits waits long enough.
            Some(wait) => reply.with_header(header::RETRY_AFTER, &wait.as_millis().div_ceil(1000).max(1).to_string()),
            None => reply,
        }
    }

    /// Its span, where it is traced, now that it has ended so.
    pub(super) fn traced(&self, core: &Core, status: Status, took: Duration) {
        let Some(context) = &self.trace else { return };
        core.tracer.ended(&trace::Span {
            context,
            request_id: self.arrival.request_id,
            method: &self.method,
            tool: self.tool.as_deref(),
            backend: self.backend.as_deref(),
            role: self.caller.role.as_deref(),
            status,
            took,
        });
    }

    /// The answer to a call that cannot be audited, and so is not made.
    pub(super) fn unaudited(&self, core: &Core, cause: &UnavailableError) -> Reply {
        core.tally.refused(Status::AuditUnavailable);
        self.traced(core, Status::AuditUnavailable, Duration::ZERO);
        Reply::unavailable(self.id.as_ref(), cause)
    }

    /// Whether this refusal is recorded by itself.
    fn fate(&self, core: &Core, outcome: &Outcome) -> Fate {
        if !core.audit.is_enabled() {
            return Fate::Recorded;
        }
        let addr = self.arrival.addr.map(|addr| addr.ip().to_string());
        // Whoever has a token is known by it, wherever from; whoever has none, by the address.
        let addr = addr.as_deref().filter(|_| self.caller.issuer.is_none());
        let (who, issuer) = (Some(self.caller.subject.as_str()), self.caller.issuer.as_deref());
        let (method, status) = (Some(self.method.as_str()), Some(outcome.status.as_str()));
        let kind = Kind::of(&[addr, who, issuer, status, method, self.backend.as_deref(), self.tool.as_deref()]);
        let record = || (self.call_without_arguments(), outcome.clone());
        let mut floods = core.floods.lock().unwrap_or_else(PoisonError::into_inner);
        floods.meet(kind, Instant::now(), record)
    }

    /// Records what the gateway has done itself, and answers it.
    pub(super) async fn record(&self, core: &Core, answer: Answer) -> Reply {
        let outcome = answer.outcome();
        match core.audit.record_once(self.call(core), outcome, answer).await {
            Ok(released) => Reply::released(StatusCode::OK, self.id.as_ref(), released),
            Err(unavailable) => Reply::unavailable(self.id.as_ref(), &unavailable),
        }
    }
}
