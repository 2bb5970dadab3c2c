//! The stream on which a request's messages before the response are sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::auth::Principal;
use crate::gateway::call::core::Core;
use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::session::Session;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::Id;
use crate::mcp::methods::{self, MethodKind};

/// The kind of a request that has a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// `initialize`: the head of the response has the id of the session that it opens.
    Handshake,
    /// A subscription, which lasts as long as its stream.
    Subscription,
    /// Any other request.
    Call,
}

/// The stream of a request.
#[derive(Debug)]
pub(crate) struct OpenedStream {
    pub(crate) stream: Arc<Stream>,
    /// `true` if the session keeps the messages, so that the client can reconnect and resume the stream.
    pub(crate) is_kept: bool,
    /// `true` if the client knows events without data, of which the first has an id: with it the client can resume
    /// before it has received a message.
    pub(crate) is_primed: bool,
    /// The caller, whose rights may end while the stream is open.
    pub(crate) principal: Principal,
    /// The id of the request.
    pub(crate) id: Id,
    pub(crate) kind: StreamKind,
}

impl OpenedStream {
    /// Waits until the stream is used, or makes the reply a stream because it has not come after `silence`: proxies and
    /// clients give up a request of which they see no byte. Returns true in the latter case.
    pub(crate) async fn used_or_overdue(&self, silence: Duration) -> bool {
        while tokio::time::timeout(silence, self.stream.used()).await.is_err() {
            if self.kind != StreamKind::Handshake || self.stream.new_session().is_some() {
                self.stream.open();
                return true;
            }
        }
        false
    }
}

/// Opens the stream of a request and sends it to the listener.
#[derive(Debug)]
pub struct StreamOffer {
    listener: Option<oneshot::Sender<OpenedStream>>,
    stream: Option<Arc<Stream>>,
    session: Option<Arc<Session>>,
}

impl StreamOffer {
    pub(super) fn new(listener: oneshot::Sender<OpenedStream>) -> Self {
        Self { listener: Some(listener), stream: None, session: None }
    }

    /// Opens the stream of the request `id` of `principal`. Returns `None` if the client does not accept one, or if its
    /// session has too many.
    pub(super) fn open(
        &mut self,
        core: &Core,
        inbound: &InboundRequest,
        session: Option<&Arc<Session>>,
        principal: &Principal,
        id: &Id,
        method: &str,
    ) -> Option<Arc<Stream>> {
        if !headers::accepts_stream(&inbound.headers) {
            return None;
        }
        let stream = match session {
            Some(session) => session.streams.begin(&principal.roles)?,
            None => Stream::unkept(&principal.roles, &core.sessions.replay),
        };
        let opened = OpenedStream {
            stream: Arc::clone(&stream),
            is_kept: session.is_some(),
            is_primed: session.is_some_and(|session| session.negotiated.has_empty_events()),
            principal: principal.clone(),
            id: id.clone(),
            kind: match methods::find(method).map(|method| method.kind) {
                Some(MethodKind::Initialize) => StreamKind::Handshake,
                Some(MethodKind::Listen) => StreamKind::Subscription,
                _ => StreamKind::Call,
            },
        };
        // If the client is gone, a session keeps the messages until the client reconnects.
        self.listener.take()?.send(opened).ok();
        (self.stream, self.session) = (Some(Arc::clone(&stream)), session.cloned());
        Some(stream)
    }

    /// Ends the stream. If messages were sent on it, `reply` is its last message instead of the HTTP response.
    pub(super) fn end(&self, reply: &Reply) {
        let Some(stream) = &self.stream else { return };
        let was_used = !stream.is_unused();
        if was_used {
            stream.finish(reply.body());
        }
        if let Some(session) = &self.session {
            session.streams.end(stream, was_used);
        }
    }
}
