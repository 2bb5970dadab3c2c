//! The audit entry of a message: the facts for its record, collected while it is handled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header;

use crate::audit::record::{Call, Caller, Correlation, Outcome, Status};
use crate::audit::{Released, UnavailableError};
use crate::gateway::call::core::Core;
use crate::gateway::call::outcome;
use crate::gateway::call::refusal_windows::{RefusalDecision, RefusalKey};
use crate::gateway::call::rules::Rules;
use crate::gateway::call::trace;
use crate::gateway::message::headers;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::InboundRequest;
use crate::mcp::envelope::{self, Hint, Id, Message, NAME_BYTES_MAX};
use crate::mcp::protocol::SESSION_HEADER;
use crate::upstream::Answer;

/// The recorded method of a message that has none.
const METHOD_UNKNOWN: &str = "unknown";

/// Prefixes of the methods of the gateway's own records. A client's record never has such a method. Otherwise it could
/// be taken for an event of the gateway, for example for the `gateway/closed` that shows that an epoch ended cleanly.
const OWN_METHODS: [&str; 3] = ["gateway/", "session/", "console/"];

/// The facts about a message that the stages of [`crate::gateway::dispatch`] established, for its record.
#[derive(Debug)]
pub struct AuditEntry<'a> {
    /// The rules in force when the message arrived. They decide about the message and redact its record.
    pub(crate) rules: Arc<Rules>,
    inbound: &'a InboundRequest,
    pub(crate) caller: Caller,
    pub(crate) id: Option<Id>,
    pub(crate) method: String,
    /// The tool as the client called it; once the target is known, as the backend has it.
    pub(crate) tool: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) arguments: Option<String>,
    /// The session, or the id of the call that a request without a session continues.
    pub(crate) session: Option<String>,
    /// The position in a trace, if calls are traced.
    pub(crate) trace: Option<trace::SpanContext>,
    /// `true` if id, method and tool are known.
    is_described: bool,
}

impl<'a> AuditEntry<'a> {
    /// The entry of a message of which only the head is known.
    pub(crate) fn new(rules: Arc<Rules>, inbound: &'a InboundRequest) -> Self {
        Self {
            rules,
            inbound,
            caller: Caller::anonymous(),
            id: None,
            method: METHOD_UNKNOWN.to_owned(),
            tool: None,
            backend: inbound.scope.backend().map(str::to_owned),
            arguments: None,
            session: headers::single(&inbound.headers, SESSION_HEADER).map(str::to_owned),
            trace: None,
            is_described: false,
        }
    }

    /// The entry of a request without a message, which is recorded as `method`.
    pub(crate) fn of_method(rules: Arc<Rules>, inbound: &'a InboundRequest, method: &str) -> Self {
        Self { method: method.to_owned(), is_described: true, ..Self::new(rules, inbound) }
    }

    /// Takes id, method and tool from a valid message.
    pub(crate) fn describe(&mut self, message: &Message<'_>) {
        let name = message.params().and_then(|params| params.string("name"));
        self.describe_as(Hint { id: message.id.clone(), method: Some(message.method.clone()), name });
    }

    fn describe_as(&mut self, hint: Hint) {
        if let Some(mut name) = hint.name {
            name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
            (self.backend, self.tool) = match self.inbound.scope.target(&name) {
                Some(target) => (Some(target.backend.to_owned()), Some(target.name.to_owned())),
                None => (self.backend.take(), Some(name)),
            };
        }
        let is_own = |method: &String| OWN_METHODS.iter().any(|own| method.starts_with(own));
        self.id = hint.id;
        self.method = hint.method.filter(|method| !is_own(method)).unwrap_or_else(|| METHOD_UNKNOWN.to_owned());
        self.is_described = true;
    }

    /// The part of the record that is known before the answer.
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

    /// Turns the result of the stages into the reply. This is the only place at which a refusal gets its record and its
    /// reply.
    pub(crate) async fn conclude(&mut self, core: &Core, result: Result<Reply, Refusal>) -> Reply {
        match result {
            Ok(reply) => reply,
            Err(refusal) => self.refuse(core, refusal).await,
        }
    }

    /// Records a refusal and returns its reply. After the first few equal refusals of a window, further ones are only
    /// counted and share one record.
    async fn refuse(&mut self, core: &Core, refusal: Refusal) -> Reply {
        if !self.is_described {
            // The message was not read, or it breaks a rule: the record gets the parts that can be read.
            let body = self.inbound.body.as_ref().map_or(&[][..], |body| body);
            self.describe_as(envelope::hint(body, core.body_bytes_max));
        }
        core.counters.refused(refusal.status);
        self.export_span(core, refusal.status, Duration::ZERO);
        let id = self.id.as_ref();
        if refusal.status == Status::AuditUnavailable {
            return Reply::unavailable(id, &refusal.message);
        }
        let answer = Answer::refusal(refusal.code, &refusal.message, refusal.data.as_deref());
        let outcome = Outcome { status: refusal.status, ..outcome::of(&answer) };
        let (status, method) = (refusal.status, self.method.as_str());
        let reply = if self.refusal_decision(core, &outcome) == RefusalDecision::Counted {
            tracing::debug!(%status, method, reason = refusal.message, "request refused; counted with equal refusals");
            Reply::counted_refusal(refusal.http, id, refusal.code, &refusal.message, refusal.data.as_deref())
        } else {
            // I2: a refused call ends in exactly one record. I1: its reply waits for the record.
            let recorded = core.audit.record_once(self.call(core), outcome, answer).await;
            let subject = &self.caller.subject;
            let (backend, tool) = (self.backend.as_deref(), self.tool.as_deref());
            tracing::info!(%status, method, subject, backend, tool, reason = refusal.message, "request refused");
            match recorded {
                Ok(released) => Reply::released(refusal.http, id, released),
                Err(unavailable) => return Reply::unavailable(id, &unavailable),
            }
        };
        let reply = match refusal.challenge {
            Some(challenge) => reply.with_header(header::WWW_AUTHENTICATE, &challenge),
            None => reply,
        };
        match refusal.retry_after {
            // In whole seconds, rounded up, at least 1, so that a retry after this time is not too early.
            Some(wait) => reply.with_header(header::RETRY_AFTER, &wait.as_millis().div_ceil(1000).max(1).to_string()),
            None => reply,
        }
    }

    /// Exports the call's trace span, if calls are traced.
    pub(crate) fn export_span(&self, core: &Core, status: Status, took: Duration) {
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

    /// Decides if this refusal gets a record of its own.
    fn refusal_decision(&self, core: &Core, outcome: &Outcome) -> RefusalDecision {
        if !core.audit.is_enabled() {
            return RefusalDecision::Recorded;
        }
        let addr = self.inbound.addr.map(|addr| addr.ip().to_string());
        // Callers with a token are distinguished by the token only, other callers by their address.
        let addr = addr.as_deref().filter(|_| self.caller.issuer.is_none());
        let (subject, issuer) = (Some(self.caller.subject.as_str()), self.caller.issuer.as_deref());
        let (method, status) = (Some(self.method.as_str()), Some(outcome.status.as_str()));
        let key =
            RefusalKey::of(&[addr, subject, issuer, status, method, self.backend.as_deref(), self.tool.as_deref()]);
        let record = || (self.call_without_arguments(), outcome.clone());
        let mut windows = core.refusal_windows.lock();
        windows.observe(key, Instant::now(), record)
    }

    /// Stores an event of the gateway in one piece, and releases its answer.
    ///
    /// # Errors
    /// [`UnavailableError`]: the record cannot be stored.
    pub(crate) async fn record(&self, core: &Core, answer: Answer) -> Result<Released<Answer>, UnavailableError> {
        core.audit.record_once(self.call(core), outcome::of(&answer), answer).await
    }
}
