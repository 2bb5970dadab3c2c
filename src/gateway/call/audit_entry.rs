//! The audit entry of a message: the facts for its record, collected while it is handled.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::header;

use crate::audit::record::{
    BackendCredential, Call, Caller, Context, Correlation, Digest, Outcome, RecordKey, RequestId, Status, client_info,
    is_own_method,
};
use crate::audit::redact::RedactedValues;
use crate::audit::{Released, UnavailableError};
use crate::config::RecordAnswers;
use crate::gateway::call::core::Core;
use crate::gateway::call::named::{self, Exists, Named, UNKNOWN};
use crate::gateway::call::recorded_content::{self, AnswerRedaction, RecordedContent, RequestContent};
use crate::gateway::call::recorded_params::RecordedParams;
use crate::gateway::call::refusal_windows::RefusedRequest;
use crate::gateway::call::refusals::RecordedRefusal;
use crate::gateway::call::rules::Rules;
use crate::gateway::call::trace::{self, SpanContext};
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::headers;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::trace_headers;
use crate::mcp::envelope::{Hint, Id, Message, NAME_BYTES_MAX};
use crate::mcp::methods::{self, List};
use crate::mcp::params::Params;
use crate::mcp::protocol::{META_CLIENT, SESSION_HEADER, VERSION_HEADER};
use crate::mcp::shared_text::SharedText;
use crate::rbac::{Target, TargetKind};
use crate::upstream::{Answer, AnswerKind, SentCredentials};

/// Longest tool and request id that are recorded of a caller without a valid token, in bytes. *Chosen*: usual names and
/// ids fit, and a record of a stranger stays below 1 KiB.
const STRANGER_TEXT_BYTES_MAX: usize = 64;

/// Longest recorded parameters of a request that is refused, or whose caller may use nothing, in bytes; of longer ones,
/// the record has the length and the digest. *Chosen*: they show what was attempted, and do not fill the trail.
const LITTLE_PARAMS_BYTES_MAX: usize = 4096;

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
    /// The name that the client used, if the backend's own does not show it.
    called_as: Option<String>,
    pub(crate) arguments: Option<SharedText>,
    /// The request that this one belongs to.
    pub(crate) parent: Option<RequestId>,
    /// The schemas of the questions that a retry answers, if they ask for secrets: an object by name, JSON text.
    pub(crate) answer_schemas: Option<String>,
    /// The session.
    pub(crate) session: Option<String>,
    /// The rule that allowed or denied the request.
    pub(crate) decided_by: Option<String>,
    /// The digest of the tool's definition as its backend last listed it.
    pub(crate) tool_digest: Option<Digest>,
    /// The name of the credential with which the backend is called, and its subject if it is a token that names one.
    pub(crate) credential: Option<(&'static str, Option<String>)>,
    /// The same for a request to several backends.
    pub(crate) credentials: Vec<BackendCredential>,
    /// The credentials that were sent to the backend, which may repeat them.
    pub(crate) sent: Option<Arc<SentCredentials>>,
    /// The name and version by which the client calls itself.
    pub(crate) client_info: Option<Arc<(String, String)>>,
    /// The protocol revision that the client asks for in `initialize`.
    requested_protocol: Option<String>,
    /// The position in a trace, if calls are traced.
    pub(crate) trace: Option<trace::SpanContext>,
    /// The list that has `tool`: of tools or of prompts.
    list: List,
    /// The names of a request that is refused, as far as they exist.
    exists: Exists,
    /// The resource, if the request is about one.
    pub(crate) resource: Option<String>,
    /// The parameters besides the arguments, once it is known how they are forwarded.
    params: Option<RecordedParams>,
    /// `true` if only short parameters are recorded.
    records_little: bool,
    /// The values that were redacted in the parameters. They are kept until the message has been handled.
    redacted: OnceLock<RedactedValues>,
    record_key: OnceLock<RecordKey>,
}

impl<'a> AuditEntry<'a> {
    /// The entry of a message of which only the head is known.
    pub(crate) fn new(rules: Arc<Rules>, inbound: &'a InboundRequest) -> Self {
        Self {
            rules,
            inbound,
            caller: Caller::anonymous(),
            id: None,
            method: UNKNOWN.to_owned(),
            tool: None,
            backend: inbound.scope.backend().map(str::to_owned),
            called_as: None,
            arguments: None,
            session: headers::single(&inbound.headers, SESSION_HEADER).map(str::to_owned),
            parent: None,
            answer_schemas: None,
            decided_by: None,
            tool_digest: None,
            credential: None,
            credentials: Vec::new(),
            sent: None,
            client_info: None,
            requested_protocol: None,
            trace: None,
            list: List::Tools,
            exists: Exists::default(),
            resource: None,
            params: None,
            records_little: false,
            redacted: OnceLock::new(),
            record_key: OnceLock::new(),
        }
    }

    /// The entry of a request without a message, which is recorded as `method`.
    pub(crate) fn of_method(rules: Arc<Rules>, inbound: &'a InboundRequest, method: &str) -> Self {
        Self { method: method.to_owned(), ..Self::new(rules, inbound) }
    }

    /// Takes the recorded parts of the parameters besides the arguments. `params` are as they are forwarded.
    pub(crate) fn forwards(&mut self, core: &Core, params: &Params) {
        if core.is_recorded(&self.method) {
            self.params = self.record_key(core).map(|key| RecordedParams::new(params, key, core.record_answers));
        }
    }

    /// Records only short parameters, as for a refused request.
    pub(crate) fn record_little(&mut self) {
        self.records_little = true;
    }

    /// Takes id, method, tool and what the client says about itself from a valid message.
    pub(crate) fn describe(&mut self, message: &Message<'_>) {
        let params = message.params().unwrap_or_default();
        let name = params.string("name");
        let info = if message.method == "initialize" {
            self.requested_protocol = params.string("protocolVersion");
            params.get("clientInfo").and_then(client_info)
        } else {
            params.object("_meta").and_then(|meta| meta.get(META_CLIENT).and_then(client_info))
        };
        self.client_info = info.map(Arc::new);
        self.describe_as(Hint { id: message.id.clone(), method: Some(message.method.clone()), name });
    }

    /// Takes them from the beginning of the body of a request that is refused before its body is read.
    pub(crate) async fn describe_unread(&mut self, core: &Core, body: UnreadBody) {
        if let Some(hint) = body.hint(&core.bodies).await {
            self.describe_as(hint);
        }
    }

    /// Notes the name by which the client called `target`, unless it is the backend's own name of it.
    pub(crate) fn called(&mut self, name: &str, target: Target<'_>) {
        let is_own = |named: Target<'_>| target.kind == TargetKind::Resource || named.name == target.name;
        self.called_as = (!self.inbound.scope.target(name).is_some_and(is_own)).then(|| name.to_owned());
    }

    /// Takes id, method and tool from a message that breaks a rule.
    pub(crate) fn describe_as(&mut self, hint: Hint) {
        if let Some(mut name) = hint.name {
            name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
            (self.backend, self.tool) = match self.inbound.scope.target(&name) {
                Some(target) => (Some(target.backend.to_owned()), Some(target.name.to_owned())),
                None => (self.backend.take(), Some(name)),
            };
        }
        let is_of_prompts = |method: &String| method.starts_with("prompts/") || method.starts_with("completion/");
        self.list = if hint.method.as_ref().is_some_and(is_of_prompts) { List::Prompts } else { List::Tools };
        self.called_as = named::take_own(&self.rules.policy, self.list, self.backend.as_deref(), &mut self.tool);
        self.id = hint.id;
        self.method = hint.method.filter(|method| !is_own_method(method)).unwrap_or_else(|| UNKNOWN.to_owned());
    }

    /// The part of the record that is known before the answer. If calls are not recorded, it has only id and method.
    fn call(&self, core: &Core) -> Call {
        match self.record_key(core) {
            Some(key) => self.recorded_call(key, self.records_little, &self.named()),
            None => Call::new(self.inbound.request_id, &self.method),
        }
    }

    /// The part of the record of a request that may be forwarded.
    ///
    /// # Errors
    /// The refusal of a request whose parameters do not fit into its record.
    pub(crate) fn intent(&self, core: &Core) -> Result<Call, Refusal> {
        let Some(key) = self.record_key(core) else { return Ok(Call::new(self.inbound.request_id, &self.method)) };
        let named = self.named();
        let mut content = self.content(key, &named);
        if self.records_little {
            content.omit_beyond(LITTLE_PARAMS_BYTES_MAX);
        }
        let (arguments, extra) = content.lengths();
        // I2: what is forwarded is recorded whole, or the request is refused.
        if arguments.saturating_add(extra) > core.params_bytes_max {
            return Err(Refusal::oversize(arguments, extra, core.params_bytes_max));
        }
        let room = if self.records_response() { core.response_bytes_max } else { 0 };
        Ok(self.call_with(key, content, &named).with_response_room(room))
    }

    /// The part of the record that is known before the answer. `is_short` omits long parameters.
    pub(crate) fn recorded_call(&self, key: &RecordKey, is_short: bool, named: &Named<'_>) -> Call {
        let mut content = self.content(key, named);
        if is_short {
            content.omit_beyond(LITTLE_PARAMS_BYTES_MAX);
        }
        self.call_with(key, content, named)
    }

    fn call_with(&self, key: &RecordKey, recorded: RecordedContent, named: &Named<'_>) -> Call {
        let correlation = Correlation {
            addr: self.inbound.addr,
            session_id: self.session.clone(),
            rpc_id: self.id.as_ref().map(Id::to_text),
        };
        let context = Context {
            meta: recorded.meta.as_deref(),
            shortened_values: &recorded.shortened,
            omitted: recorded.omitted,
            ..self.context()
        };
        let digest = self.arguments.as_ref().map(|json| key.digest(json.as_bytes()));
        Call::new(self.inbound.request_id, named.method)
            .with_caller(&self.caller)
            .with_correlation(&correlation)
            .with_context(&context)
            .with_parent(self.parent)
            .with_target(named.backend, named.tool)
            .with_resource(self.resource.as_deref())
            .with_decision(self.decided_by.as_deref())
            .with_definitions(Some(self.rules.policy_text.digest()), self.tool_digest)
            .with_arguments(recorded.arguments, digest)
            .with_extra(recorded.extra, named.params)
    }

    /// The names and parameters of a request that is forwarded.
    pub(crate) fn named(&self) -> Named<'_> {
        let params = self.params.as_ref();
        Named {
            method: &self.method,
            backend: self.backend.as_deref(),
            tool: self.tool.as_deref(),
            extra: params.and_then(|params| params.extra.as_deref()).map(Cow::Borrowed),
            params: params.and_then(|params| params.digest),
        }
    }

    /// The names of a request that is refused; texts of the caller are cut to `bytes_max`.
    fn refused(&self, core: &Core, bytes_max: usize) -> Named<'_> {
        self.named().refused(self.exists, |backend| core.upstreams.contains(backend), bytes_max)
    }

    fn request_content<'e>(&'e self, named: &'e Named<'_>) -> RequestContent<'e> {
        RequestContent {
            method: named.method,
            backend: named.backend,
            name: named.tool,
            arguments: self.arguments.as_deref(),
            extra: named.extra.as_deref(),
            answer_schemas: self.answer_schemas.as_deref(),
            meta: self.params.as_ref().and_then(|params| params.meta.as_deref()),
        }
    }

    fn records_response(&self) -> bool {
        self.request_content(&self.named()).records_response(&self.rules)
    }

    /// The content of the request for its record. Remembers what was redacted.
    fn content(&self, key: &RecordKey, named: &Named<'_>) -> RecordedContent {
        let mut content = self.request_content(named).recorded(&self.rules, key);
        self.redacted.set(std::mem::take(&mut content.redacted)).ok();
        content
    }

    /// The values that were redacted in the parameters, for the texts of the answer.
    fn redacted(&self, key: &RecordKey) -> &RedactedValues {
        self.redacted.get_or_init(|| {
            if self.rules.redaction.is_empty() {
                return RedactedValues::default();
            }
            self.request_content(&self.named()).recorded(&self.rules, key).redacted
        })
    }

    /// The outcome of the request with this `answer`, for its record.
    pub(crate) fn outcome(&self, core: &Core, answer: &Answer) -> Outcome {
        let Some(key) = self.record_key(core) else { return Outcome::of(recorded_content::status(answer)) };
        let values = AnswerRedaction {
            redaction: &self.rules.redaction,
            redacted: self.redacted(key),
            sent: self.sent.as_deref(),
        };
        if answer.kind() != AnswerKind::InputRequired {
            return recorded_content::outcome(answer, values, self.records_response(), key);
        }
        let is_recorded = core.record_answers == RecordAnswers::Full;
        let questions = is_recorded.then(|| recorded_content::questions(answer, values)).flatten();
        recorded_content::outcome(answer, values, false, key).with_response(questions)
    }

    /// The key of the digests in the message's record; `None` if calls are not recorded.
    pub(crate) fn record_key(&self, core: &Core) -> Option<&RecordKey> {
        if self.record_key.get().is_none() {
            self.record_key.set(core.audit.record_key(self.inbound.request_id)?).ok();
        }
        self.record_key.get()
    }

    /// The circumstances, for the record.
    fn context(&self) -> Context<'_> {
        let headers = &self.inbound.headers;
        let protocol = headers::single(headers, VERSION_HEADER).or(self.requested_protocol.as_deref());
        Context {
            identity: Some(&self.caller.identity),
            client_info: self.client_info.as_deref().map(|(name, version)| (name.as_str(), version.as_str())),
            protocol,
            trace_id: self.trace.as_ref().map(SpanContext::trace_id).or_else(|| trace_headers::trace_id(headers)),
            user_agent: headers::single(headers, header::USER_AGENT.as_str()),
            meta_in_extra: self.params.as_ref().map_or(&[], |params| &params.meta_in_extra),
            removed: self.params.as_ref().map_or(&[], |params| &params.removed),
            called_as: self.called_as.as_deref(),
            credential: self.credential.as_ref().map(|(name, subject)| (*name, subject.as_deref())),
            credentials: &self.credentials,
            ..Context::default()
        }
    }

    /// The part of the record of a refused request that is known before the answer. What a caller without a valid token
    /// wrote is cut.
    fn refused_call(&self, core: &Core) -> Call {
        let Some(key) = self.record_key(core) else { return Call::new(self.inbound.request_id, &self.method) };
        if self.caller.issuer.is_some() {
            return self.recorded_call(key, true, &self.refused(core, NAME_BYTES_MAX));
        }
        let cut = |text: &str, bytes_max| text[..text.floor_char_boundary(bytes_max)].to_owned();
        let correlation = Correlation {
            addr: self.inbound.addr,
            session_id: None,
            rpc_id: self.id.as_ref().map(|id| cut(&id.to_text(), STRANGER_TEXT_BYTES_MAX)),
        };
        let agent = headers::single(&self.inbound.headers, header::USER_AGENT.as_str());
        let agent = agent.map(|agent| cut(agent, STRANGER_TEXT_BYTES_MAX));
        let named = self.refused(core, STRANGER_TEXT_BYTES_MAX);
        let mut redacted = RedactedValues::default();
        let extra = named.extra.as_deref().map(|extra| self.rules.redaction.anywhere(extra, &mut redacted));
        Call::new(self.inbound.request_id, named.method)
            .with_correlation(&correlation)
            .with_context(&Context { user_agent: agent.as_deref(), ..Context::default() })
            .with_target(named.backend, named.tool)
            .with_definitions(Some(self.rules.policy_text.digest()), None)
            .with_extra(extra.map(Cow::into_owned), None)
    }

    /// The tool or prompt, or the resource.
    pub(crate) fn target_name(&self) -> Option<&str> {
        self.tool.as_deref().or(self.resource.as_deref())
    }

    /// Finds out which of the names of a request that is refused exist. A list is read only for a caller with a valid
    /// token.
    async fn find_names(&mut self, core: &Core) {
        let method = self.method.as_str();
        let is_method = methods::find(method).is_some() || methods::find_notification(method).is_some();
        self.exists.method = is_method || core.is_pass_method(method) || method == UNKNOWN || is_own_method(method);
        let Some(tool) = &self.tool else { return };
        let backend = self.backend.as_deref().and_then(|backend| core.upstreams.get(backend));
        self.exists.tool = match backend {
            Some(backend) => Box::pin(backend.lists(self.list, tool, self.caller.issuer.is_some())).await,
            None => false,
        };
    }

    /// Turns the result of the stages into the reply. This is the only place at which a refusal gets its record and its
    /// reply.
    pub(crate) async fn conclude(&mut self, core: &Core, result: Result<Reply, Refusal>) -> Reply {
        match result {
            Ok(reply) => reply,
            Err(refusal) => self.refuse(core, refusal).await,
        }
    }

    /// Records a refusal and returns its reply. After the first few refusals of a kind, further ones are only counted
    /// and share one record.
    async fn refuse(&mut self, core: &Core, refusal: Refusal) -> Reply {
        // A request that is refused is not made.
        (self.credential, self.credentials) = (None, Vec::new());
        core.counters.refused(refusal.status);
        self.export_span(core, refusal.status, Duration::ZERO);
        let id = self.id.as_ref();
        if !refusal.needs_record {
            return Reply::unavailable(id, &refusal.message);
        }
        self.find_names(core).await;
        let id = self.id.as_ref();
        let Refusal { status, http, code, message, data, .. } = &refusal;
        let record = || {
            let answer = Answer::refusal(*code, message, data.as_deref());
            let outcome = Outcome { status: *status, ..self.outcome(core, &answer) };
            (self.refused_call(core), outcome, answer)
        };
        // I8: the message may repeat an argument.
        let reason = match self.record_key(core) {
            Some(key) => self.redacted(key).replaced_in_text(message),
            None => Cow::Borrowed(message.as_str()),
        };
        let reason = reason.as_ref();
        let refused = self.refused_request(core, *status, reason);
        let recorded = core.refusals.record(&core.audit, &refused, record).await;
        let (subject, method) = (&self.caller.subject, &self.method);
        let (backend, tool) = (self.backend.as_deref(), self.target_name());
        let reply = match recorded {
            Ok(RecordedRefusal::Single(released)) => {
                tracing::info!(%status, method, subject, backend, tool, reason, "request refused");
                Reply::released(*http, id, released)
            }
            Ok(RecordedRefusal::Counted) => {
                tracing::debug!(%status, method, reason, "request refused; counted with others");
                Reply::counted_refusal(*http, id, *code, message, data.as_deref())
            }
            Err(unavailable) => return Reply::unavailable(id, &unavailable),
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

    fn refused_request<'r>(&'r self, core: &Core, status: Status, reason: &'r str) -> RefusedRequest<'r> {
        RefusedRequest {
            caller: &self.caller,
            addr: self.inbound.addr.map(|addr| addr.ip()),
            status,
            backend: self.backend.as_deref().filter(|backend| core.upstreams.contains(backend)),
            method: &self.method,
            tool: self.target_name(),
            reason,
        }
    }

    /// Exports the call's trace span, if calls are traced.
    pub(crate) fn export_span(&self, core: &Core, status: Status, took: Duration) {
        let Some(context) = &self.trace else { return };
        core.tracer.ended(&trace::Span {
            context,
            request_id: self.inbound.request_id,
            method: &self.method,
            tool: self.target_name(),
            backend: self.backend.as_deref(),
            role: self.caller.role.as_deref(),
            status,
            took,
        });
    }

    /// Stores an event of the gateway in one piece, and releases its answer.
    ///
    /// # Errors
    /// [`UnavailableError`]: the record cannot be stored.
    pub(crate) async fn record(&self, core: &Core, answer: Answer) -> Result<Released<Answer>, UnavailableError> {
        let outcome = self.outcome(core, &answer);
        core.audit.record_once(self.call(core), outcome, answer).await
    }
}
