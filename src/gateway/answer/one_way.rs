//! Messages of clients that get no reply of their own: notifications, and responses to requests of backends.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::oneshot;

use crate::audit::record::{Call, Outcome, Status};
use crate::gateway::answer::relay;
use crate::gateway::call::core::Core;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::Session;
use crate::gateway::session::question::{AnswerSender, ClientAnswer};
use crate::mcp::envelope::{ClientResponse, Id};
use crate::mcp::json;
use crate::mcp::params::Params;
use crate::mcp::protocol::{CANCELLED, INITIALIZED, META_REQUEST_ID, PROGRESS};
use crate::upstream::CallerToken;

/// A notification or a response of a client.
#[derive(Debug)]
pub struct OneWay<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    /// A notification in a session.
    Notification(Box<Notification<'a>>),
    /// A notification that the gateway does not know, for one backend, and the beginning of its record.
    Passed(Box<Notification<'a>>, String, Box<Call>),
    /// A notification without a session, which is for no backend.
    Dropped,
    /// A response to a request that a backend sent in the session.
    Response { session: Arc<Session>, response: ClientResponse<'a>, sender: AnswerSender },
}

#[derive(Debug)]
struct Notification<'a> {
    core: &'a Core,
    session: Arc<Session>,
    /// The token of the caller, if a backend of the session is called on its behalf.
    caller: Option<Arc<CallerToken>>,
    is_for_all: bool,
    method: String,
    params: Params,
}

impl<'a> OneWay<'a> {
    /// A notification in `session`. `caller` is the caller's token, if a backend of the session is called on its
    /// behalf.
    pub(crate) fn notification(
        core: &'a Core,
        scope: &Scope,
        session: Arc<Session>,
        caller: Option<Arc<CallerToken>>,
        method: &str,
        params: Params,
    ) -> Self {
        let is_for_all = *scope == Scope::All;
        let notification = Notification { core, session, caller, is_for_all, method: method.to_owned(), params };
        Self(Kind::Notification(Box::new(notification)))
    }

    /// A notification that the gateway does not know, which the caller may send to `backend`. It is recorded as `call`.
    /// `caller` is the caller's token, if the backend is called on its behalf.
    pub(crate) fn passed(
        core: &'a Core,
        session: Arc<Session>,
        backend: String,
        caller: Option<Arc<CallerToken>>,
        method: &str,
        params: Params,
        call: Call,
    ) -> Self {
        let notification = Notification { core, session, caller, is_for_all: false, method: method.to_owned(), params };
        Self(Kind::Passed(Box::new(notification), backend, Box::new(call)))
    }

    pub(crate) fn dropped() -> Self {
        Self(Kind::Dropped)
    }

    /// A response in `session`.
    pub(crate) fn response(session: Arc<Session>, response: ClientResponse<'a>, sender: AnswerSender) -> Self {
        Self(Kind::Response { session, response, sender })
    }

    /// Delivers the message to the backends that it is for. It is accepted (HTTP 202) even if delivery fails.
    ///
    /// # Errors
    /// A refusal with status `audit_unavailable`: the notification has a record, and it cannot be stored.
    pub async fn deliver(self) -> Result<Reply, Refusal> {
        match self.0 {
            Kind::Notification(notification) => notification.deliver().await,
            Kind::Passed(notification, backend, call) => notification.pass(&backend, *call).await?,
            Kind::Dropped => {}
            Kind::Response { session, response, sender } => respond(&session, &response, sender).await,
        }
        Ok(Reply::local_unaudited_empty(StatusCode::ACCEPTED))
    }
}

impl Notification<'_> {
    /// Delivers the notification. A cancellation cancels its call, progress is sent to the backend whose request it is
    /// about, and every other notification is sent to all backends of the session.
    async fn deliver(self) {
        let Self { core, session, caller, is_for_all, method, params } = self;
        if method == CANCELLED {
            if let Some(id) = params.get("requestId").and_then(|id| Id::new(id).ok()) {
                core.in_flight.cancel(&session.id, &id);
            }
            return;
        }
        if method == INITIALIZED && is_for_all {
            return; // Each backend was notified when its connection was opened.
        }
        let text = params.text(&[]);
        let (connections, params) = if method == PROGRESS {
            // Progress is about one request of one backend.
            let Some((connection, params)) = text.and_then(|text| session.progress(&text)) else { return };
            (vec![connection], Some(params.into()))
        } else {
            (session.connections.all(), text)
        };
        for connection in connections {
            if let Err(error) = connection.notify(&method, params.as_deref(), caller.as_ref()).await {
                let backend = connection.alias();
                tracing::debug!(backend, method, %error, "notification not sent to a backend; dropping it");
            }
        }
    }

    /// Sends the notification to `backend`, and records it as `call`.
    ///
    /// # Errors
    /// A refusal with status `audit_unavailable`: the record cannot be stored.
    async fn pass(self, backend: &str, call: Call) -> Result<(), Refusal> {
        let Self { core, session, caller, method, params, .. } = self;
        // I1: the intent reaches its level before the notification is forwarded, or nothing is forwarded.
        let receipt = core.audit.begin(call).await.map_err(|cause| Refusal::unaudited(&cause))?;
        let added = [(META_REQUEST_ID, json::quoted(&receipt.request_id().to_string()))];
        let added: Vec<(&str, &str)> = added.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let sent = async {
            let backend = core.upstreams.get(backend).ok_or_else(relay::not_configured)?;
            let connection = session.connection(&backend, caller.as_ref()).await?;
            connection.notify(&method, params.text(&added).as_deref(), caller.as_ref()).await
        };
        let outcome = match sent.await {
            Ok(()) => Outcome { error_message: None, ..Outcome::failed(Status::Ok, "") },
            Err(error) => Outcome::failed(Status::Error, format!("backend {backend} {error}")),
        };
        // I2: the receipt ends in exactly one record. A notification has no reply that could wait for it.
        receipt.finish(outcome, ()).await.map(drop).map_err(|cause| Refusal::unaudited(&cause))
    }
}

/// Hands a response over to the request that it answers, and waits until the backend was told.
async fn respond(session: &Session, response: &ClientResponse<'_>, sender: AnswerSender) {
    let Some(id) = &response.id else { return };
    let (handled, is_handled) = oneshot::channel();
    let content = match (response.object.get("result"), response.object.get("error")) {
        (Some(result), None) => Ok(result.to_owned()),
        (_, error) => Err(error.unwrap_or("{}").to_owned()),
    };
    // A response without a request is dropped: the backend may have cancelled the request.
    if session.answer(id, ClientAnswer { content, sender, handled }) {
        is_handled.await.ok();
    }
}
