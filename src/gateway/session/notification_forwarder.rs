//! The messages of a backend for a request without a session.

use std::sync::Arc;

use crate::gateway::session::audience::Audience;
use crate::gateway::session::stream::Stream;
use crate::upstream::{Event, ServerMessageHandler};

/// Forwards a backend's notifications to the stream of one request without a session. Requests are refused, because
/// such a client has no way to answer them.
#[derive(Debug)]
pub(crate) struct NotificationForwarder {
    pub(crate) stream: Arc<Stream>,
    pub(crate) audience: Audience,
}

impl ServerMessageHandler for NotificationForwarder {
    fn on_event(&self, event: Event) -> bool {
        event.id.is_none() && self.audience.may_hear(&self.stream) && self.stream.push(&event.json)
    }

    fn on_stream_start(&self) {
        self.stream.open();
    }
}
