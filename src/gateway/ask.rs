//! One request of a known caller, and how it reaches a backend.

use std::sync::Arc;

use tokio::time::Instant;

use crate::upstream::{Backend, CallError, Interrupt, Listen, Route};

use super::Core;
use super::arrival::Arrival;
use super::auth::Principal;
use super::envelope::Message;
use super::live::Live;
use super::protocol::Era;
use super::session::{Ear, Notices, Session};
use super::stream::Stream;
use super::target;

/// One request of a known caller.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) core: &'a Core,
    /// What it is decided by.
    pub(super) live: Arc<Live>,
    pub(super) arrival: &'a Arrival,
    pub(super) principal: &'a Principal,
    pub(super) message: &'a Message<'a>,
    pub(super) era: Era,
    /// Of a legacy client that has one.
    pub(super) session: Option<Arc<Session>>,
    /// Where messages before the response go, for a client that takes a stream.
    pub(super) stream: Option<Arc<Stream>>,
    pub(super) interrupt: Interrupt,
}

impl Ask<'_> {
    /// The way to `backend`; `name` is what the request is about.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not in time.
    pub(super) async fn route(&self, backend: &Arc<Backend>, name: Option<String>) -> Result<Route, CallError> {
        let begun = Instant::now();
        let peer = match &self.session {
            // A conversation that does not open holds a call no longer than one that does not answer.
            Some(session) => Box::pin(backend.in_time(begun, session.peer(backend))).await?,
            None => backend.shared().await?,
        };
        let events: Option<Arc<dyn Listen>> = match (&self.session, &self.stream) {
            (Some(session), stream) => {
                let ear = Ear::new(session, stream.clone());
                ear.set_peer(&peer);
                Some(Arc::new(ear))
            }
            (None, Some(stream)) => Some(Arc::new(Notices(Arc::clone(stream)))),
            (None, None) => None,
        };
        let headers = target::passed_headers(&self.arrival.headers);
        let mirrors = self.era == Era::Legacy || self.arrival.addr.is_none();
        Ok(Route { peer, era: self.era, name, headers, mirrors, events, begun })
    }

    /// The backends at the place where the request came in.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let only = self.arrival.scope.backend();
        self.core.upstreams.all().filter(move |backend| only.is_none_or(|only| only == backend.alias()))
    }
}
