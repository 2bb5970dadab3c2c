//! Fifth stage: the message's protocol era, session, backend and target are known.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::auth::Principal;
use crate::gateway::answer::lists;
use crate::gateway::answer::one_way::OneWay;
use crate::gateway::answer::resources::ResourceSearch;
use crate::gateway::answer::subscriptions;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::caller_token;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::core::Core;
use crate::gateway::call::request_state::{RequestState, StateError};
use crate::gateway::call::rules::Rules;
use crate::gateway::message::headers::{self, Mismatch};
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::scope::Scope;
use crate::gateway::message::subject::Subject;
use crate::gateway::session::Session;
use crate::gateway::session::question::AnswerSender;
use crate::mcp::envelope::{ClientResponse, Incoming, Malformed, Message, bounded};
use crate::mcp::methods::{self, List, MethodKind, MethodSpec};
use crate::mcp::names;
use crate::mcp::params::{ParamRules, Params};
use crate::mcp::protocol::{
    Era, INVALID_REQUEST, METHOD_NOT_FOUND, SESSION_HEADER, UNSUPPORTED_VERSION, VERSION_HEADER,
};
use crate::mcp::shared_text::SharedText;
use crate::rbac::{DEFAULT_RULE, Target, TargetKind};
use crate::upstream::{Backend, Interrupt};

use super::parsed::Parsed;
use super::stream_offer::StreamOffer;

/// The largest parameters of an `initialize`, in bytes. *Chosen*: clients send less than 2 KiB, and their icons fit. A
/// session keeps them.
const INITIALIZE_BYTES_MAX: usize = 64 * 1024;

/// The member of parameters that has a person's answers to questions of the backend.
pub(super) const ANSWERS: &str = "inputResponses";

/// A message whose destination is known.
#[derive(Debug)]
pub enum Routed<'a> {
    /// A request.
    Request(Box<RoutedRequest<'a>>),
    /// A notification or a response: it gets no reply of its own. Only a notification that the gateway does not know
    /// leaves a record.
    OneWay(OneWay<'a>),
}

/// A request whose destination is known. Authorization is the next stage.
#[derive(Debug)]
pub struct RoutedRequest<'a> {
    pub(super) ctx: RequestContext<'a>,
    pub(super) destination: Destination,
}

/// The destination of a request.
#[derive(Debug)]
pub(super) enum Destination {
    Local(LocalMethod),
    Target(Box<TargetRequest>),
    Subscription(subscriptions::SubscriptionRequest),
    /// A method that the gateway does not know, for the only backend of the endpoint.
    Extension(Arc<Backend>),
}

/// A method that the gateway answers itself, some from the responses of backends.
#[derive(Clone, Copy, Debug)]
pub(super) enum LocalMethod {
    Ping,
    Initialize,
    Discover,
    List(List),
    SetLevel,
}

impl LocalMethod {
    /// Returns true if the request may have a record, and is made at backends of the endpoint `scope`.
    pub(super) fn records_credentials(self, scope: &Scope) -> bool {
        match self {
            Self::Ping | Self::Discover => false,
            Self::Initialize => *scope != Scope::All,
            Self::List(_) | Self::SetLevel => true,
        }
    }
}

/// A request for one tool, resource or prompt of one backend.
#[derive(Debug)]
pub(super) struct TargetRequest {
    pub(super) subject: Subject,
    pub(super) backend: String,
    /// The name or URI as the backend has it.
    pub(super) tool: String,
    /// `false` if the operator gave the tool another name than the client's.
    pub(super) is_listed: bool,
    /// The parameters as they will be forwarded.
    pub(super) params: Params,
}

impl TargetRequest {
    pub(super) fn target(&self) -> Target<'_> {
        Target { kind: self.subject.kind, backend: &self.backend, name: &self.tool }
    }
}

impl<'a> Parsed<'a> {
    /// Finds the destination. `offer` opens the request's stream.
    ///
    /// # Errors
    /// A refusal with status `malformed`: headers and body disagree, or the session, the backend, the method or the
    /// target does not exist; `denied` if the caller may use nothing of the endpoint's backend.
    pub async fn route(self, entry: &mut AuditEntry<'_>, offer: &mut StreamOffer) -> Result<Routed<'a>, Refusal> {
        let Self { core, inbound, principal, body, incoming } = self;
        let message = match incoming {
            Incoming::Message(message) => message,
            Incoming::Response(response) => {
                return client_response(core, inbound, &principal, response).map(Routed::OneWay);
            }
        };
        let era = era(core, inbound, &principal, &message)?;
        let session = match era {
            Era::Modern => {
                entry.session = None; // This era has no sessions: a session header is ignored.
                Ok(None)
            }
            Era::Legacy if message.method == "initialize" => Ok(None),
            Era::Legacy => session(core, inbound, &principal),
        };
        if let Ok(Some(session)) = &session {
            entry.client_info.clone_from(&session.client_info);
        }
        let rules = Arc::clone(&entry.rules);
        if let Some(backend) = inbound.scope.backend() {
            // A backend of which the caller may use nothing is treated as one that does not exist.
            let is_visible = core.upstreams.contains(backend) && rules.policy.reaches(&principal.roles, backend);
            if !is_visible {
                entry.decided_by = Some(rules.policy.hidden_by(&principal.roles, backend));
                return Err(Refusal::invisible(&rules.policy, &principal, backend, &message.method));
            }
        }
        // After it: to initialize again does not help where the backend was removed.
        let session = session?;
        let Some(id) = message.id.clone() else {
            let sender = Sender { core, inbound, principal, session, rules };
            return sender.notification(&message, body, entry).await.map(Routed::OneWay);
        };
        let spec = methods::find(&message.method).filter(|method| method.is_served_in(era));
        if matches!(spec, Some(MethodSpec { kind: MethodKind::Initialize, .. })) {
            check_initialize(&message)?;
        }
        let param_rules = ParamRules::of_request(spec, era, &message.method, &core.pass_params);
        let params = Params::read(&message, body, &param_rules)?;
        // A modern client cancels by closing the connection.
        let client = if era == Era::Modern { &inbound.hung_up } else { &inbound.cancelled }.clone();
        // The session knows the request from here on: a cancellation finds it, however early it arrives.
        let in_flight = match &session {
            Some(session) => {
                let entered = core.in_flight.register(&session.id, &id, client.clone());
                Some(entered.ok_or(Malformed::IdInUse)?)
            }
            None => None,
        };
        let stream = offer.open(core, inbound, session.as_ref(), &principal, &id, &message.method);
        let interrupt = Interrupt { client, drained: core.drained.clone() };
        let ctx = RequestContext {
            core,
            rules,
            inbound,
            principal,
            message,
            params,
            id,
            era,
            session,
            stream,
            interrupt,
            no_credential: None,
            sent: None,
            _in_flight: in_flight,
        };
        let destination = destination(&ctx, spec, entry).await?;
        Ok(Routed::Request(Box::new(RoutedRequest { ctx, destination })))
    }
}

/// The era of `message`. Whatever was negotiated in a session is accepted in it: its backend may know versions of its
/// own.
fn era(core: &Core, inbound: &InboundRequest, principal: &Principal, message: &Message<'_>) -> Result<Era, Mismatch> {
    let found = headers::era(&inbound.headers, message);
    match found {
        Err(Mismatch { code: UNSUPPORTED_VERSION, .. }) => {
            let version = headers::single(&inbound.headers, VERSION_HEADER);
            let session = session(core, inbound, principal).ok().flatten();
            let is_negotiated = version.zip(session).is_some_and(|(version, session)| session.negotiated.is(version));
            if is_negotiated { Ok(Era::Legacy) } else { found }
        }
        found => found,
    }
}

/// The session that a request names; `None` if it names none.
pub(super) fn session(
    core: &Core,
    inbound: &InboundRequest,
    principal: &Principal,
) -> Result<Option<Arc<Session>>, Refusal> {
    if !inbound.headers.contains_key(SESSION_HEADER) {
        return Ok(None);
    }
    let id = headers::single(&inbound.headers, SESSION_HEADER).unwrap_or_default();
    Ok(Some(core.sessions.touch(id, principal, &inbound.scope)?))
}

fn client_response<'a>(
    core: &'a Core,
    inbound: &InboundRequest,
    principal: &Principal,
    response: ClientResponse<'a>,
) -> Result<OneWay<'a>, Refusal> {
    // Only in a session can a backend have sent a request.
    let session = session(core, inbound, principal)?.ok_or(Malformed::Response)?;
    if response.object.get("result").is_some() == response.object.get("error").is_some() {
        return Err(Malformed::Result.into());
    }
    let token = caller_token::in_session(&session, principal, inbound);
    let sender = AnswerSender { roles: principal.roles.clone(), token };
    Ok(OneWay::response(session, response, sender))
}

/// The sender of a notification.
struct Sender<'a> {
    core: &'a Core,
    inbound: &'a InboundRequest,
    principal: Principal,
    session: Option<Arc<Session>>,
    rules: Arc<Rules>,
}

impl<'a> Sender<'a> {
    /// Finds the backends for a notification.
    ///
    /// # Errors
    /// A refusal: its parameters break a rule, or the gateway does not know it and may not pass it.
    async fn notification(
        self,
        message: &Message<'_>,
        body: &SharedText,
        entry: &mut AuditEntry<'_>,
    ) -> Result<OneWay<'a>, Refusal> {
        let method = message.method.as_str();
        if !method.starts_with("notifications/") {
            return Err(Malformed::Id.into()); // A request without an id could not be answered.
        }
        // Without a session a notification is for no backend.
        let Some(session) = self.session else { return Ok(OneWay::dropped()) };
        let spec = methods::find_notification(method);
        let params = Params::read(message, body, &ParamRules::of_notification(spec, method))?;
        if spec.is_some() {
            let caller = caller_token::in_session(&session, &self.principal, self.inbound);
            return Ok(OneWay::notification(self.core, &self.inbound.scope, session, caller, method, params));
        }
        // As for a method that the gateway does not know: it may have any effect.
        let backend = self.inbound.scope.backend().filter(|_| self.core.is_pass_method(method));
        let Some(backend) = backend else {
            let message = format!("notification {:?} is not supported", bounded(method));
            return Err(Refusal::malformed(StatusCode::BAD_REQUEST, METHOD_NOT_FOUND, message));
        };
        let rule = self.rules.policy.all_of(&self.principal.roles, backend);
        let is_allowed = rule.is_some();
        entry.decided_by = Some(rule.unwrap_or_else(|| DEFAULT_RULE.to_owned()));
        entry.tool = None;
        entry.arguments = params.arguments(false);
        entry.forwards(self.core, &params);
        if !is_allowed {
            return Err(Refusal::denied(format!("{method} is for roles that may use all of {backend}")));
        }
        let known = self.core.upstreams.get(backend);
        let caller =
            known.as_ref().map(|known| caller_token::for_backend(known, &self.principal, self.inbound)).transpose();
        let caller = caller.map_err(|error| caller_token::refusal(entry, backend, &error))?.flatten();
        if let Some(known) = &known
            && let Some(name) = known.credential_name(caller.as_ref())
        {
            // Without one, the notification is not sent. Boxed: tokens are rare.
            let subject = Box::pin(known.credential_subject(caller.as_ref())).await;
            entry.credential = subject.ok().map(|subject| (name, subject));
        }
        let call = entry.intent(self.core)?;
        Ok(OneWay::passed(self.core, session, backend.to_owned(), caller, method, params, call))
    }
}

/// Checks the size of the parameters of an `initialize`, which its session keeps.
fn check_initialize(message: &Message<'_>) -> Result<(), Refusal> {
    let bytes = message.params_text().map_or(0, str::len);
    if bytes <= INITIALIZE_BYTES_MAX {
        return Ok(());
    }
    let message = format!("params of initialize are larger than {INITIALIZE_BYTES_MAX} bytes");
    Err(Refusal::malformed(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, message))
}

async fn destination(
    ctx: &RequestContext<'_>,
    spec: Option<&MethodSpec>,
    entry: &mut AuditEntry<'_>,
) -> Result<Destination, Refusal> {
    let kind = spec.map(|method| method.kind);
    if !matches!(kind, None | Some(MethodKind::Targeted(_))) {
        entry.arguments = ctx.params.arguments(false);
        entry.forwards(ctx.core, &ctx.params);
    }
    Ok(match kind {
        Some(MethodKind::Ping) => Destination::Local(LocalMethod::Ping),
        Some(MethodKind::Initialize) => Destination::Local(LocalMethod::Initialize),
        Some(MethodKind::Discover) => Destination::Local(LocalMethod::Discover),
        Some(MethodKind::List(list)) => Destination::Local(LocalMethod::List(list)),
        Some(MethodKind::SetLevel) => Destination::Local(LocalMethod::SetLevel),
        Some(MethodKind::Targeted(member)) => {
            let subject = Subject::read(&ctx.params, member)?;
            Destination::Target(Box::new(target(ctx, subject, entry).await?))
        }
        Some(MethodKind::Listen) => Destination::Subscription(subscriptions::SubscriptionRequest::read(ctx)?),
        None => Destination::Extension(extension(ctx, entry)?),
    })
}

/// Finds the backend and the tool, resource or prompt that `subject` names.
async fn target(
    ctx: &RequestContext<'_>,
    subject: Subject,
    entry: &mut AuditEntry<'_>,
) -> Result<TargetRequest, Refusal> {
    entry.arguments.clone_from(&subject.arguments);
    let name = subject.name.as_str();
    let owner;
    let found = match (&ctx.inbound.scope, subject.kind) {
        (Scope::All, TargetKind::Resource) => {
            owner = ResourceSearch::new(ctx).owner(name).await;
            owner.as_deref().map(|backend| Target { kind: TargetKind::Resource, backend, name })
        }
        (scope, kind) => {
            let named = scope.target(name).map(|target| Target { kind, ..target });
            match named.filter(|_| *scope == Scope::All && names::is_replaced(name)) {
                Some(target) => {
                    owner = lists::original_name(ctx, target, name).await;
                    Some(Target { name: owner.as_deref().unwrap_or(target.name), ..target })
                }
                None => named,
            }
        }
    };
    let mut target = found.ok_or_else(|| Refusal::unknown(subject.kind_name(), name, ctx.era))?;
    let own = match target.kind {
        TargetKind::Tool => ctx.rules.policy.own_tool(target.backend, target.name),
        TargetKind::Resource | TargetKind::Prompt => Some(target.name),
    };
    let is_listed = own.is_some();
    target.name = own.unwrap_or(target.name);
    entry.called(name, target);
    entry.backend = Some(target.backend.to_owned());
    if target.kind == TargetKind::Resource {
        (entry.tool, entry.resource) = (None, Some(target.name.to_owned()));
    } else {
        entry.tool = Some(target.name.to_owned());
    }
    let state = match &subject.state {
        Some(bound) => {
            let RequestState { origin, schemas, of_backend } =
                ctx.core.request_states.open(bound, &ctx.state_owner(target))?;
            (entry.parent, entry.answer_schemas) = (Some(origin), schemas);
            of_backend
        }
        // A person's answers without the question that they answer are nobody's answers.
        None if ctx.params.get(ANSWERS).is_some() => return Err(StateError::Missing.into()),
        None => None,
    };
    let mut params = ctx.params.clone();
    subject.set_in(&mut params, target, state);
    entry.forwards(ctx.core, &params);
    let (backend, tool) = (target.backend.to_owned(), target.name.to_owned());
    Ok(TargetRequest { subject, backend, tool, is_listed, params })
}

/// The backend for a method that the gateway does not know. Such a method is relayed only at the endpoint of one
/// backend, and only if `server.pass_methods` names it.
fn extension(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Result<Arc<Backend>, Refusal> {
    let method = ctx.message.method.as_str();
    let backend = ctx.only_backend().filter(|_| ctx.core.is_pass_method(method));
    let backend = backend.ok_or_else(|| Refusal::unknown_method(method, ctx.era))?;
    entry.tool = None;
    entry.arguments = ctx.params.arguments(false);
    entry.forwards(ctx.core, &ctx.params);
    Ok(backend)
}
