//! The stream on which a request's messages before the response are sent.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::session::Session;
use crate::gateway::session::stream::Stream;

/// The stream of a request.
#[derive(Debug)]
pub(crate) struct OpenedStream {
    pub(crate) stream: Arc<Stream>,
    /// Whether the client can reconnect and ask for its messages again.
    pub(crate) is_kept: bool,
}

/// Opens the stream of a request and tells the listener about it.
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

    /// Opens the stream. `None`: the client does not accept one, or its session has too many.
    pub(super) fn open(&mut self, inbound: &InboundRequest, session: Option<&Arc<Session>>) -> Option<Arc<Stream>> {
        if !headers::takes_stream(&inbound.headers) {
            return None;
        }
        let stream = match session {
            Some(session) => session.begin_stream()?,
            None => Stream::new(0),
        };
        let opened = OpenedStream { stream: Arc::clone(&stream), is_kept: session.is_some() };
        // If the client is gone, a session keeps the messages until it reconnects.
        self.listener.take()?.send(opened).ok();
        (self.stream, self.session) = (Some(Arc::clone(&stream)), session.cloned());
        Some(stream)
    }

    /// Ends the stream. Once messages were sent on it, `reply` cannot be the HTTP response any more: it becomes the last
    /// message of the stream.
    pub(super) fn end(&self, reply: &Reply) {
        let Some(stream) = &self.stream else { return };
        let was_used = !stream.is_unused();
        if was_used {
            stream.finish(reply.body());
        }
        if let Some(session) = &self.session {
            session.end_stream(stream, was_used);
        }
    }
}
