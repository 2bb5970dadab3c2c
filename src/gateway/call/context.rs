//! One request of a known caller, and how it reaches a backend.

use std::sync::Arc;

use tokio::time::Instant;

use crate::auth::Principal;
use crate::gateway::call::core::Core;
use crate::gateway::call::rules::Rules;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::route;
use crate::gateway::session::stream::Stream;
use crate::gateway::session::{NotificationForwarder, Session, SessionListener};
use crate::mcp::envelope::Message;
use crate::mcp::protocol::Era;
use crate::upstream::{Backend, CallError, Interrupt, Route, ServerMessageHandler};

/// One request of a known caller.
#[derive(Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) core: &'a Core,
    /// What it is decided by.
    pub(crate) rules: Arc<Rules>,
    pub(crate) inbound: &'a InboundRequest,
    pub(crate) principal: &'a Principal,
    pub(crate) message: &'a Message<'a>,
    pub(crate) era: Era,
    /// Of a legacy client that has one.
    pub(crate) session: Option<Arc<Session>>,
    /// Where messages before the response go, for a client that takes a stream.
    pub(crate) stream: Option<Arc<Stream>>,
    pub(crate) interrupt: Interrupt,
}

impl RequestContext<'_> {
    /// The way to `backend`; `name` is what the request is about.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not in time.
    pub(crate) async fn route(&self, backend: &Arc<Backend>, name: Option<String>) -> Result<Route, CallError> {
        let begun = Instant::now();
        let connection = match &self.session {
            // A conversation that does not open holds a call no longer than one that does not answer.
            Some(session) => Box::pin(backend.in_time(begun, session.connection(backend))).await?,
            None => backend.shared().await?,
        };
        let events: Option<Arc<dyn ServerMessageHandler>> = match (&self.session, &self.stream) {
            (Some(session), stream) => {
                let ear = SessionListener::new(session, stream.clone());
                ear.set_connection(&connection);
                Some(Arc::new(ear))
            }
            (None, Some(stream)) => Some(Arc::new(NotificationForwarder(Arc::clone(stream)))),
            (None, None) => None,
        };
        let headers = route::passed_headers(&self.inbound.headers);
        let mirrors = self.era == Era::Legacy || self.inbound.addr.is_none();
        Ok(Route { connection, era: self.era, name, headers, mirrors, events, begun })
    }

    /// The backends at the place where the request came in.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let only = self.inbound.scope.backend();
        self.core.upstreams.all().filter(move |backend| only.is_none_or(|only| only == backend.alias()))
    }
}
