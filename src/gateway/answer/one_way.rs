//! Messages of clients that get no reply of their own: notifications, and responses to requests of backends.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::oneshot;

use crate::gateway::call::core::Core;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::Session;
use crate::gateway::session::question::ClientAnswer;
use crate::mcp::envelope::{ClientResponse, Id, Message};
use crate::mcp::protocol::{CANCELLED, PROGRESS};

/// A notification or a response of a client.
#[derive(Debug)]
pub struct OneWay<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    /// A notification in a session.
    Notification { core: &'a Core, scope: &'a Scope, session: Arc<Session>, message: Message<'a> },
    /// A notification without a session, which is for no backend.
    Dropped,
    /// A response to a request that a backend sent in the session.
    Response { session: Arc<Session>, response: ClientResponse<'a>, roles: Vec<String> },
}

impl<'a> OneWay<'a> {
    pub(crate) fn notification(
        core: &'a Core,
        scope: &'a Scope,
        session: Option<Arc<Session>>,
        message: Message<'a>,
    ) -> Self {
        Self(session.map_or(Kind::Dropped, |session| Kind::Notification { core, scope, session, message }))
    }

    pub(crate) fn response(session: Arc<Session>, response: ClientResponse<'a>, roles: Vec<String>) -> Self {
        Self(Kind::Response { session, response, roles })
    }

    /// Delivers the message to the backends that it is for. It is accepted (HTTP 202) even if delivery fails.
    pub async fn deliver(self) -> Reply {
        match self.0 {
            Kind::Notification { core, scope, session, message } => notify(core, scope, &session, &message).await,
            Kind::Dropped => {}
            Kind::Response { session, response, roles } => respond(&session, &response, roles).await,
        }
        Reply::local_unaudited_empty(StatusCode::ACCEPTED)
    }
}

/// Delivers a notification. A cancellation cancels its call, progress is sent to the backend whose request it is about,
/// and every other notification is sent to all backends of the session.
async fn notify(core: &Core, scope: &Scope, session: &Session, message: &Message<'_>) {
    let params = message.params();
    if message.method == CANCELLED {
        if let Some(id) = params.and_then(|params| Id::new(params.get("requestId")?).ok()) {
            core.in_flight.cancel(&session.id, &id);
        }
        return;
    }
    if message.method == "notifications/initialized" && *scope == Scope::All {
        return; // Each backend was notified when its connection was opened.
    }
    let params = message.params_text();
    let (connections, params) = if message.method == PROGRESS {
        // Progress is about one request of one backend.
        let Some((connection, params)) = params.and_then(|params| session.progress(params)) else { return };
        (vec![connection], Some(Cow::Owned(params)))
    } else {
        (session.connections(), params.map(Cow::Borrowed))
    };
    for connection in connections {
        if let Err(error) = connection.notify(&message.method, params.as_deref()).await {
            let method = &message.method;
            let backend = connection.alias();
            tracing::debug!(backend, method, %error, "notification not sent to a backend; dropping it");
        }
    }
}

/// Hands a response over to the request that it answers, and waits until the backend was told.
async fn respond(session: &Session, response: &ClientResponse<'_>, roles: Vec<String>) {
    let Some(id) = &response.id else { return };
    let (handled, is_handled) = oneshot::channel();
    let content = match (response.object.get("result"), response.object.get("error")) {
        (Some(result), None) => Ok(result.to_owned()),
        (_, error) => Err(error.unwrap_or("{}").to_owned()),
    };
    // A response without a request is dropped: the backend may have cancelled the request.
    if session.answer(id, ClientAnswer { content, roles, handled }) {
        is_handled.await.ok();
    }
}
