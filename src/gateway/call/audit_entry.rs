//! What a message leaves behind: its record, whatever becomes of it, and the refusal that it may end in.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};

use crate::audit::UnavailableError;
use crate::audit::record::{Call, Caller, Correlation, Outcome, Status};
use crate::gateway::call::core::Core;
use crate::gateway::call::refusal_windows::{RefusalDecision, RefusalKey};
use crate::gateway::call::rules::Rules;
use crate::gateway::call::trace;
use crate::gateway::message::headers::{self, Mismatch};
use crate::gateway::message::reply::{Reply, http_status};
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::mcp::envelope::{self, Hint, Id, Malformed};
use crate::mcp::protocol::{Era, INVALID_PARAMS, INVALID_REQUEST, RATE_LIMITED, SESSION_HEADER};
use crate::upstream::Answer;

/// What a record calls the method of a message that names none.
const METHOD_UNKNOWN: &str = "unknown";

/// What the methods of the gateway's own records begin with: no client's record may be taken for one of them, least of all
/// for the `gateway/closed` by which an epoch is known to have ended well.
const OWN_METHODS: [&str; 2] = ["gateway/", "session/"];

/// A refusal: what is recorded, and what the client is told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) http: StatusCode,
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) data: Option<String>,
    pub(crate) challenge: Option<String>,
    /// After how long it makes sense to request again.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn malformed(http: StatusCode, code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: Status::Malformed, http, code, message, data: None, challenge: None, retry_after: None }
    }

    /// Too much at once, or too often.
    pub(crate) fn rate_limited(message: impl Into<String>, retry_after: Duration) -> Self {
        let refusal = Self::malformed(StatusCode::TOO_MANY_REQUESTS, RATE_LIMITED, message);
        Self { status: Status::RateLimited, retry_after: Some(retry_after), ..refusal }
    }

    /// What is asked for is not there, or can be nothing.
    pub(crate) fn unknown(what: &str, name: &str, era: Era) -> Self {
        let http = if era == Era::Modern { http_status(INVALID_PARAMS) } else { StatusCode::OK };
        let name = &name[..name.floor_char_boundary(envelope::NAME_BYTES_MAX)];
        Self::malformed(http, INVALID_PARAMS, format!("unknown {what} {name:?}"))
    }
}

impl From<HeadError> for Refusal {
    fn from(fault: HeadError) -> Self {
        let http = match fault {
            HeadError::Host | HeadError::Origin => StatusCode::FORBIDDEN,
            HeadError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            HeadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            HeadError::Incomplete => StatusCode::REQUEST_TIMEOUT,
            HeadError::Headers { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
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
pub(crate) struct AuditEntry<'a> {
    /// What it is decided and redacted by.
    pub(crate) rules: Arc<Rules>,
    pub(crate) inbound: &'a InboundRequest,
    pub(crate) caller: Caller,
    pub(crate) id: Option<Id>,
    pub(crate) method: String,
    /// The tool as called; a target that is known replaces it.
    pub(crate) tool: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) arguments: Option<String>,
    /// The session, or what a request without one continues.
    pub(crate) session: Option<String>,
    /// Its place in a trace, where that is wanted.
    pub(crate) trace: Option<trace::SpanContext>,
}

impl<'a> AuditEntry<'a> {
    /// What is known of a message before anything is checked.
    pub(crate) fn new(rules: Arc<Rules>, inbound: &'a InboundRequest, hint: Hint) -> Self {
        let target = hint.name.as_deref().and_then(|name| inbound.scope.target(name));
        let (backend, tool) = match target {
            Some(target) => (Some(target.backend.to_owned()), Some(target.name.to_owned())),
            None => (inbound.scope.backend().map(str::to_owned), hint.name.clone()),
        };
        let is_own = |method: &String| OWN_METHODS.iter().any(|own| method.starts_with(own));
        let method = hint.method.filter(|method| !is_own(method));
        Self {
            rules,
            inbound,
            caller: Caller::anonymous(),
            id: hint.id,
            method: method.unwrap_or_else(|| METHOD_UNKNOWN.to_owned()),
            tool,
            backend,
            arguments: None,
            session: headers::single(&inbound.headers, SESSION_HEADER).map(str::to_owned),
            trace: None,
        }
    }

    /// The first half of its record.
    pub(crate) fn call(&self, core: &Core) -> Call {
        let call = self.call_without_arguments();
        match &self.arguments {
            Some(json) => call.with_arguments(json, &self.rules.redaction, core.args_bytes_max),
            None => call,
        }
    }

    fn call_without_arguments(&self) -> Call {
        let correlation = Correlation {
            addr: self.inbound.addr,
            session_id: self.session.clone(),
            rpc_id: self.id.as_ref().map(Id::to_text),
        };
        Call::new(self.inbound.request_id, &self.method)
            .with_caller(&self.caller)
            .with_correlation(&correlation)
            .with_target(self.backend.as_deref(), self.tool.as_deref())
    }

    /// Records the refusal, then lets it go; one of a window is counted, and the window's record stands for it.
    pub(crate) async fn refuse(&self, core: &Core, refusal: Refusal) -> Reply {
        core.counters.refused(refusal.status);
        self.traced(core, refusal.status, Duration::ZERO);
        let answer = Answer::refusal_with(refusal.code, &refusal.message, refusal.data.as_deref());
        let outcome = Outcome { status: refusal.status, ..answer.outcome() };
        let id = self.id.as_ref();
        let reply = if self.fate(core, &outcome) == RefusalDecision::Counted {
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
    pub(crate) fn traced(&self, core: &Core, status: Status, took: Duration) {
        let Some(context) = &self.trace else { return };
        core.tracer.ended(&trace::Span {
            context,
            request_id: self.inbound.request_id,
            method: &self.method,
            tool: self.tool.as_deref(),
            backend: self.backend.as_deref(),
            role: self.caller.role.as_deref(),
            status,
            took,
        });
    }

    /// The answer to a call that cannot be audited, and so is not made.
    pub(crate) fn unaudited(&self, core: &Core, cause: &UnavailableError) -> Reply {
        core.counters.refused(Status::AuditUnavailable);
        self.traced(core, Status::AuditUnavailable, Duration::ZERO);
        Reply::unavailable(self.id.as_ref(), cause)
    }

    /// Whether this refusal is recorded by itself.
    fn fate(&self, core: &Core, outcome: &Outcome) -> RefusalDecision {
        if !core.audit.is_enabled() {
            return RefusalDecision::Recorded;
        }
        let addr = self.inbound.addr.map(|addr| addr.ip().to_string());
        // Whoever has a token is known by it, wherever from; whoever has none, by the address.
        let addr = addr.as_deref().filter(|_| self.caller.issuer.is_none());
        let (who, issuer) = (Some(self.caller.subject.as_str()), self.caller.issuer.as_deref());
        let (method, status) = (Some(self.method.as_str()), Some(outcome.status.as_str()));
        let kind = RefusalKey::of(&[addr, who, issuer, status, method, self.backend.as_deref(), self.tool.as_deref()]);
        let record = || (self.call_without_arguments(), outcome.clone());
        let mut refusal_windows = core.refusal_windows.lock().unwrap_or_else(PoisonError::into_inner);
        refusal_windows.observe(kind, Instant::now(), record)
    }

    /// Records what the gateway has done itself, and answers it.
    pub(crate) async fn record(&self, core: &Core, answer: Answer) -> Reply {
        let outcome = answer.outcome();
        match core.audit.record_once(self.call(core), outcome, answer).await {
            Ok(released) => Reply::released(StatusCode::OK, self.id.as_ref(), released),
            Err(unavailable) => Reply::unavailable(self.id.as_ref(), &unavailable),
        }
    }
}
