//! Fifth stage: the message's protocol era, session, backend and target are known.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::auth::Principal;
use crate::gateway::answer::one_way::OneWay;
use crate::gateway::answer::resources::ResourceSearch;
use crate::gateway::answer::subscriptions;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::core::Core;
use crate::gateway::call::request_state::{RequestState, StateError};
use crate::gateway::call::trace::SpanContext;
use crate::gateway::message::headers;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::scope::Scope;
use crate::gateway::message::subject::Subject;
use crate::gateway::session::Session;
use crate::mcp::envelope::{ClientResponse, Incoming, Malformed, Message};
use crate::mcp::methods::{self, List, MethodKind};
use crate::mcp::protocol::{Era, INVALID_REQUEST, SESSION_HEADER};
use crate::mcp::shared_text::SharedText;
use crate::rbac::{Target, TargetKind};
use crate::upstream::{Backend, Interrupt};

use super::parsed::Parsed;
use super::stream_offer::StreamOffer;

/// The largest parameters of an `initialize`, in bytes. *Chosen*: clients send less than 2 KiB, and their icons fit. A
/// session keeps them.
const INITIALIZE_BYTES_MAX: usize = 64 * 1024;

/// A message whose destination is known.
#[derive(Debug)]
pub enum Routed<'a> {
    /// A request.
    Request(Box<RoutedRequest<'a>>),
    /// A notification or a response: it gets no reply of its own and leaves no record.
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
    Target(TargetRequest),
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

/// A request for one tool, resource or prompt of one backend.
#[derive(Debug)]
pub(super) struct TargetRequest {
    pub(super) subject: Subject,
    pub(super) backend: String,
    /// The name or URI as the backend has it.
    pub(super) tool: String,
    /// The parameters as they will be forwarded, JSON text.
    pub(super) params: SharedText,
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
        let era = headers::era(&inbound.headers, &message)?;
        let session = match era {
            Era::Modern => {
                entry.session = None; // This era has no sessions: a session header is ignored.
                None
            }
            Era::Legacy if message.method == "initialize" => None,
            Era::Legacy => session(core, inbound, &principal)?,
        };
        if let Some(session) = &session {
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
        let Some(id) = message.id.clone() else {
            return notification(core, inbound, message, session).map(Routed::OneWay);
        };
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
            body,
            principal,
            message,
            id,
            era,
            session,
            stream,
            interrupt,
            _in_flight: in_flight,
        };
        let destination = destination(&ctx, entry).await?;
        Ok(Routed::Request(Box::new(RoutedRequest { ctx, destination })))
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
    Ok(OneWay::response(session, response, principal.roles.clone()))
}

fn notification<'a>(
    core: &'a Core,
    inbound: &'a InboundRequest,
    message: Message<'a>,
    session: Option<Arc<Session>>,
) -> Result<OneWay<'a>, Refusal> {
    if !message.method.starts_with("notifications/") {
        return Err(Malformed::Id.into()); // A request without an id could not be answered.
    }
    Ok(OneWay::notification(core, &inbound.scope, session, message))
}

async fn destination(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Result<Destination, Refusal> {
    let method = methods::find(&ctx.message.method).filter(|method| method.is_served_in(ctx.era));
    Ok(match method.map(|method| method.kind) {
        Some(MethodKind::Ping) => Destination::Local(LocalMethod::Ping),
        Some(MethodKind::Initialize) => {
            let bytes = ctx.message.params_text().map_or(0, str::len);
            if bytes > INITIALIZE_BYTES_MAX {
                let message = format!("params of initialize are larger than {INITIALIZE_BYTES_MAX} bytes");
                return Err(Refusal::malformed(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, message));
            }
            Destination::Local(LocalMethod::Initialize)
        }
        Some(MethodKind::Discover) => Destination::Local(LocalMethod::Discover),
        Some(MethodKind::List(list)) => Destination::Local(LocalMethod::List(list)),
        Some(MethodKind::SetLevel) => Destination::Local(LocalMethod::SetLevel),
        Some(MethodKind::Targeted(member)) => {
            let subject = Subject::read(&ctx.message, ctx.body, member)?;
            Destination::Target(target(ctx, subject, entry).await?)
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
        (scope, kind) => scope.target(name).map(|target| Target { kind, ..target }),
    };
    let target = found.ok_or_else(|| Refusal::unknown(subject.kind_name(), name, ctx.era))?;
    entry.backend = Some(target.backend.to_owned());
    entry.tool = Some(target.name.to_owned());
    let state = match &subject.state {
        Some(bound) => {
            let RequestState { origin, of_backend } = ctx.core.request_states.open(bound, &ctx.state_owner(target))?;
            entry.parent = Some(origin);
            of_backend
        }
        // A person's answers without the question that they answer are nobody's answers.
        None if answers(ctx).is_some() => return Err(StateError::Missing.into()),
        None => None,
    };
    let traceparent = entry.trace.as_ref().map(SpanContext::traceparent);
    let params = subject.params(&ctx.message, ctx.body, target, state, traceparent);
    let (backend, tool) = (target.backend.to_owned(), target.name.to_owned());
    Ok(TargetRequest { subject, backend, tool, params })
}

/// The answers to questions of the backend that a retry carries, JSON text.
pub(super) fn answers(ctx: &RequestContext<'_>) -> Option<String> {
    let params = ctx.message.params()?;
    params.get("inputResponses").filter(|answers| *answers != "null").map(str::to_owned)
}

/// The backend for a method that the gateway does not know. Such a method is relayed only at the endpoint of one
/// backend, and only if `server.pass_methods` names it.
fn extension(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Result<Arc<Backend>, Refusal> {
    let method = ctx.message.method.as_str();
    let backend = ctx.only_backend().filter(|_| ctx.core.is_pass_method(method));
    let backend = backend.ok_or_else(|| Refusal::unknown_method(method, ctx.era))?;
    entry.tool = None;
    entry.arguments = ctx.params();
    Ok(Arc::clone(backend))
}
