//! One request of a known caller, and its route to a backend.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::auth::Principal;
use crate::gateway::call::caller_token;
use crate::gateway::call::core::Core;
use crate::gateway::call::request_state::StateOwner;
use crate::gateway::call::rules::Rules;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::trace_headers;
use crate::gateway::session::audience::Audience;
use crate::gateway::session::notification_forwarder::NotificationForwarder;
use crate::gateway::session::question::OpenCall;
use crate::gateway::session::stream::Stream;
use crate::gateway::session::{Session, SessionListener, inflight};
use crate::mcp::envelope::{Id, Message};
use crate::mcp::params::Params;
use crate::mcp::protocol::{Era, REQUEST_ID_HEADER, TOOLS_CALL};
use crate::rbac::Target;
use crate::upstream::{
    Backend, CallError, CallerToken, Interrupt, Owner, Route, SentCredentials, ServerMessageHandler, UpstreamConnection,
};

/// One request of a known caller.
#[derive(Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) core: &'a Core,
    /// The rules that decide about the request.
    pub(crate) rules: Arc<Rules>,
    pub(crate) inbound: &'a InboundRequest,
    pub(crate) principal: Principal,
    pub(crate) message: Message<'a>,
    /// The message's parameters as they are forwarded.
    pub(crate) params: Params,
    pub(crate) id: Id,
    pub(crate) era: Era,
    /// The session of a legacy client.
    pub(crate) session: Option<Arc<Session>>,
    /// The stream for messages before the response, if the client accepts one.
    pub(crate) stream: Option<Arc<Stream>>,
    pub(crate) interrupt: Interrupt,
    /// The reason why there is no credential for the backend of the request. It is answered with this once its intent
    /// is stored.
    pub(crate) no_credential: Option<Box<CallError>>,
    /// Takes the credentials that are sent to the backend, if it has any.
    pub(crate) sent: Option<Arc<SentCredentials>>,
    /// The entry by which the session finds the request to cancel it; dropping it removes the entry.
    pub(crate) _in_flight: Option<inflight::InFlightGuard<'a>>,
}

impl RequestContext<'_> {
    /// The connection to `backend` and the headers for a request to it. `name` is the tool, resource or prompt that the
    /// request names, if any.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not in time.
    pub(crate) async fn route(&self, backend: &Arc<Backend>, name: Option<String>) -> Result<Route, CallError> {
        let begun = Instant::now();
        let caller = self.caller_token(backend)?;
        let connection = match &self.session {
            Some(session) => session_connection(session, backend, caller.as_ref(), begun).await?,
            None => backend.conversation(|| self.owner(), caller.as_ref()).await?,
        };
        Ok(self.route_on(backend, connection, caller, begun, name))
    }

    /// The same for a request that only reads what the backend lists: without a session, it opens no conversation for
    /// the caller.
    ///
    /// # Errors
    /// As for [`RequestContext::route`].
    pub(crate) async fn list_route(&self, backend: &Arc<Backend>) -> Result<Route, CallError> {
        let begun = Instant::now();
        let caller = self.caller_token(backend)?;
        let connection = match &self.session {
            Some(session) => session_connection(session, backend, caller.as_ref(), begun).await?,
            None => backend.conversation_to_read(|| self.owner(), caller.as_ref()).await?,
        };
        Ok(self.route_on(backend, connection, caller, begun, None))
    }

    /// The token of the caller, if `backend` is called on its behalf.
    ///
    /// # Errors
    /// [`CallError::Credential`]: the caller has no token that can be exchanged, or there was none for the backend when
    /// the request was prepared.
    pub(crate) fn caller_token(&self, backend: &Backend) -> Result<Option<Arc<CallerToken>>, CallError> {
        match &self.no_credential {
            Some(error) => Err(CallError::clone(error)),
            None => caller_token::for_backend(backend, &self.principal, self.inbound),
        }
    }

    /// The owner of the caller's conversations with backends.
    pub(crate) fn owner(&self) -> Owner {
        let Principal { issuer, subject, roles, .. } = &self.principal;
        let mut roles = roles.clone();
        // Their order says nothing.
        roles.sort();
        Owner { issuer: issuer.clone(), subject: subject.clone(), roles }
    }

    /// This request, as a call that is open at `backend`.
    fn open_call(&self, backend: &str, name: Option<&str>) -> OpenCall {
        let tool = name.filter(|_| self.message.method == TOOLS_CALL).map(str::to_owned);
        OpenCall { request_id: self.inbound.request_id, backend: backend.to_owned(), tool }
    }

    fn route_on(
        &self,
        backend: &Backend,
        connection: Arc<UpstreamConnection>,
        caller: Option<Arc<CallerToken>>,
        begun: Instant,
        name: Option<String>,
    ) -> Route {
        let events: Option<Arc<dyn ServerMessageHandler>> = match (&self.session, &self.stream) {
            (Some(session), stream) => {
                let mut listener = SessionListener::new(session, backend.alias(), stream.clone());
                if self.core.is_audited(&self.message.method) {
                    listener =
                        listener.during(session.open_calls.note(self.open_call(backend.alias(), name.as_deref())));
                }
                listener.set_connection(&connection);
                Some(Arc::new(listener))
            }
            (None, Some(stream)) => {
                let audience = Audience::new(backend.alias(), self.core.policy.subscribe());
                Some(Arc::new(NotificationForwarder { stream: Arc::clone(stream), audience }))
            }
            (None, None) => None,
        };
        let mut headers = trace_headers::forwarded(&self.inbound.headers);
        let request_id = self.core.is_recorded(&self.message.method).then_some(self.inbound.request_id);
        // The backend's own log can then be matched with the record.
        let header = request_id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok());
        headers.extend(header.map(|id| (HeaderName::from_static(REQUEST_ID_HEADER), id)));
        let (era, sent) = (self.era, self.sent.clone());
        Route { connection, era, name, headers, traceparent: None, request_id, events, caller, sent, begun }
    }

    /// The owner of a `requestState` of this request.
    pub(crate) fn state_owner<'s>(&'s self, target: Target<'s>) -> StateOwner<'s> {
        StateOwner { principal: &self.principal, target, params: &self.params }
    }

    /// The backends of the endpoint.
    pub(crate) fn backends(&self) -> impl Iterator<Item = Arc<Backend>> {
        let only = self.inbound.scope.backend();
        self.core.upstreams.all().into_iter().filter(move |backend| only.is_none_or(|only| only == backend.alias()))
    }

    /// The backends of the endpoint of which the caller may use anything.
    pub(crate) fn visible_backends(&self) -> impl Iterator<Item = Arc<Backend>> {
        self.backends().filter(|backend| self.rules.policy.reaches(&self.principal.roles, backend.alias()))
    }

    /// The backend of an endpoint that has only one; `None` at the endpoint of all backends.
    pub(crate) fn only_backend(&self) -> Option<Arc<Backend>> {
        self.core.upstreams.get(self.inbound.scope.backend()?)
    }
}

/// The session's connection to `backend`. Opening it counts towards the backend's call timeout.
async fn session_connection(
    session: &Arc<Session>,
    backend: &Arc<Backend>,
    caller: Option<&Arc<CallerToken>>,
    begun: Instant,
) -> Result<Arc<UpstreamConnection>, CallError> {
    backend.in_time(begun, session.connection(backend, caller)).await
}
