//! One conversation with an HTTP backend: its state, its headers, and its messages that belong to no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{Era, MODERN_VERSION, SESSION_HEADER, VERSION_HEADER};
use crate::mcp::shared_text::SharedText;
use crate::upstream::error::CallError;
use crate::upstream::frame::Frame;
use crate::upstream::message::{self, Event, Request, ServerMessageHandler};
use crate::upstream::oauth::{AccessToken, CallerToken, CredentialError};
use crate::upstream::offer::Greeting;
use crate::upstream::sent_credentials::SentCredentials;
use crate::upstream::timeouts::{RequestTimer, Timeouts};

use super::convert::transport_error;
use super::endpoint::Endpoint;

/// Longest time in which a backend must accept a notification or a response. *Chosen*: a server only puts it into a
/// queue, and the sender may be a client's request.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The header of a legacy session's id.
pub(super) const SESSION: HeaderName = HeaderName::from_static(SESSION_HEADER);
const VERSION: HeaderName = HeaderName::from_static(VERSION_HEADER);

/// The content types of the response to a `POST`.
pub(super) const ACCEPT_ANY: &str = "application/json, text/event-stream";

/// One conversation with a backend: a legacy session, or stateless requests.
#[derive(Debug)]
pub(in crate::upstream) struct HttpConnection {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) era: Era,
    pub(super) next_id: AtomicU64,
    pub(super) session: Mutex<Session>,
    /// Locked while the session is initialized again.
    pub(super) initialize_lock: tokio::sync::Mutex<()>,
    pub(super) initialize_params: SharedText,
    /// Of the tokens of the caller's messages, the one that ends last. What belongs to no message is made with it while
    /// it has not ended. `None`: requests are not made on behalf of a caller, or it is the gateway's own connection.
    lasting: Option<watch::Sender<Arc<CallerToken>>>,
    /// Handles messages that belong to no request.
    pub(super) listener: Option<Arc<dyn ServerMessageHandler>>,
    /// A task reads the standalone stream.
    pub(super) is_listening: AtomicBool,
    /// The standalone stream was requested: it is opened again for a session that is initialized again.
    pub(super) listen_requested: AtomicBool,
    /// The backend's answer to the handshake.
    pub(super) greeting: Mutex<Arc<Greeting>>,
    /// The `list_changed` notifications that the backend declared in its answer to `initialize`.
    pub(super) declared_lists: Mutex<Vec<&'static str>>,
    /// The progress tokens of the open requests, as JSON text.
    progress_tokens: Mutex<Vec<String>>,
    /// Cancelled when the connection is closed, when the session of its client has ended, or when the backend does not
    /// continue it.
    pub(super) ended: CancellationToken,
    /// The token of the last request on behalf of the caller.
    last_token: Mutex<Option<Arc<AccessToken>>>,
    /// The credentials that were sent in it. `None`: each request is a conversation of its own.
    pub(super) sent: Option<Arc<SentCredentials>>,
}

/// The headers that identify a legacy session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
}

/// An open request. Cancels a legacy request at the backend when it is dropped before the response has come. A modern
/// request is cancelled by its TCP connection or HTTP/2 stream, which closes.
pub(super) struct RequestGuard<'a> {
    connection: &'a HttpConnection,
    id: u64,
    progress_token: Option<&'a str>,
    /// The request has its response, or must not be cancelled.
    pub(super) is_done: bool,
}

impl<'a> RequestGuard<'a> {
    pub(super) fn new(connection: &'a HttpConnection, id: u64, request: &'a Request<'_>) -> Self {
        let progress_token = request.progress_token.as_deref();
        if let Some(token) = progress_token {
            connection.progress_tokens.lock().push(token.to_owned());
        }
        Self { connection, id, progress_token, is_done: false }
    }
}

impl HttpConnection {
    pub(super) fn new(
        endpoint: &Arc<Endpoint>,
        era: Era,
        initialize_params: SharedText,
        caller: Option<&Arc<CallerToken>>,
        listener: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            era,
            next_id: AtomicU64::new(1),
            session: Mutex::default(),
            initialize_lock: tokio::sync::Mutex::default(),
            initialize_params,
            lasting: caller.map(|caller| watch::Sender::new(Arc::clone(caller))),
            listener,
            is_listening: AtomicBool::new(false),
            listen_requested: AtomicBool::new(false),
            greeting: Mutex::default(),
            declared_lists: Mutex::default(),
            progress_tokens: Mutex::default(),
            ended: CancellationToken::new(),
            last_token: Mutex::default(),
            sent: (era == Era::Legacy).then(Arc::default),
        }
    }

    /// The era of the connection.
    pub(in crate::upstream) fn era(&self) -> Era {
        self.era
    }

    /// The backend's answer to the handshake.
    pub(in crate::upstream) fn greeting(&self) -> Arc<Greeting> {
        Arc::clone(&self.greeting.lock())
    }

    /// Returns whether the connection is a client's session, rather than one of the gateway.
    pub(in crate::upstream) fn is_client_session(&self) -> bool {
        self.era == Era::Legacy && *self.initialize_params != *message::own_initialize_params()
    }

    /// Returns true if it is used on behalf of a caller.
    pub(in crate::upstream) fn is_on_behalf(&self) -> bool {
        self.lasting.is_some()
    }

    /// Returns whether the connection cannot be used any more.
    pub(in crate::upstream) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until the connection cannot be used any more.
    pub(in crate::upstream) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Sends a notification, or a response to a request of the backend. `caller` is the token of the client's message,
    /// if there is one.
    ///
    /// # Errors
    /// [`CallError`].
    pub(in crate::upstream) async fn send(
        &self,
        message: String,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<(), CallError> {
        self.take_up(caller);
        let timer = RequestTimer::new(Timeouts { idle: SEND_TIMEOUT, total: SEND_TIMEOUT });
        let mut headers = self.headers(&self.session(), ACCEPT_ANY);
        let is_last = caller.is_none() && self.ended.is_cancelled();
        let caller = self.lasting_caller().map(|lasting| caller.map_or(lasting, Arc::clone));
        if is_last && caller.is_some() {
            headers.insert(header::AUTHORIZATION, self.kept_token().ok_or(CredentialError::CallerTokenEnded)?);
        } else {
            timer.run(self.authorize(&mut headers, caller.as_ref())).await??;
        }
        self.note_sent(&headers, &SentCredentials::default());
        let response = timer.run(self.post(message.into(), headers)).await??;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.endpoint.status_error(response.status().as_u16(), caller.as_ref()))
    }

    /// The token of the caller on whose behalf `request` is made: its own, never that of another request.
    ///
    /// # Errors
    /// Requests on this connection are made on behalf of a caller, and this one has no token.
    pub(super) fn caller_of<'r>(&self, request: &'r Request<'_>) -> Result<Option<&'r Arc<CallerToken>>, CallError> {
        if self.lasting.is_some() && request.caller.is_none() {
            return Err(CredentialError::NoCallerToken.into());
        }
        Ok(request.caller.as_ref())
    }

    /// Takes up the token of a message of the caller, unless a known one ends later. Callers renew their tokens, and
    /// messages with an older one may arrive after those with a newer one.
    pub(in crate::upstream) fn take_up(&self, caller: Option<&Arc<CallerToken>>) {
        if let (Some(lasting), Some(caller)) = (&self.lasting, caller) {
            lasting.send_if_modified(|known| {
                let is_taken = !caller.validity().ends_before(known.validity());
                if is_taken {
                    known.clone_from(caller);
                }
                is_taken
            });
        }
    }

    /// A reload may not accept the known token of the caller any more: the one of the next message takes its place.
    pub(in crate::upstream) fn forget_caller(&self) {
        if let Some(lasting) = &self.lasting {
            lasting.send_modify(|known| *known = Arc::new(known.ended()));
        }
    }

    /// The token for what belongs to no message of the caller. `None`: it is not made on behalf of a caller.
    pub(super) fn lasting_caller(&self) -> Option<Arc<CallerToken>> {
        self.lasting.as_ref().map(|lasting| Arc::clone(&lasting.borrow()))
    }

    /// The same, once there is one that has not ended.
    pub(super) async fn valid_caller(&self) -> Option<Arc<CallerToken>> {
        let mut lasting = self.lasting.as_ref()?.subscribe();
        let valid = lasting.wait_for(|caller| !caller.has_ended()).await;
        // The sender is a part of the connection.
        valid.ok().map(|caller| Arc::clone(&caller))
    }

    /// Adds the token of a request to its `headers`, and returns it.
    ///
    /// # Errors
    /// As for [`Endpoint::authorize`].
    pub(super) async fn authorize(
        &self,
        headers: &mut HeaderMap,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Option<Arc<AccessToken>>, CallError> {
        let token = self.endpoint.authorize(headers, caller).await?;
        if caller.is_some() {
            self.last_token.lock().clone_from(&token);
        }
        Ok(token)
    }

    /// Adds the credentials in the `headers` of a request to those that were `sent` with it, and in the conversation.
    pub(super) fn note_sent(&self, headers: &HeaderMap, sent: &SentCredentials) {
        sent.add(&self.endpoint.alias, headers);
        if let Some(conversation) = &self.sent {
            conversation.add(&self.endpoint.alias, headers);
            sent.join(conversation);
        }
    }

    /// The credential of what ends a request or the session: the token that was used last on behalf of the caller. A
    /// caller's token is not exchanged for it, because the caller may not be accepted any more. `None`: there is none
    /// that is valid.
    pub(super) fn kept_token(&self) -> Option<HeaderValue> {
        self.last_token.lock().as_ref().filter(|token| !token.is_stale()).map(|token| token.authorization().clone())
    }

    /// The session of its client has ended. Requests that are open continue. Its stream is not read any more, and no
    /// token of a caller is exchanged for what is left to send.
    pub(in crate::upstream) fn release(&self) {
        self.ended.cancel();
    }

    pub(super) fn session(&self) -> Session {
        self.session.lock().clone()
    }

    /// The headers of every request of `session`.
    pub(super) fn headers(&self, session: &Session, accept: &'static str) -> HeaderMap {
        let mut headers = self.endpoint.headers.current();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if self.era == Era::Modern {
            headers.insert(VERSION, HeaderValue::from_static(MODERN_VERSION));
            return headers;
        }
        headers.extend(session.id.clone().map(|id| (SESSION, id)));
        headers.extend(session.version.clone().map(|version| (VERSION, version)));
        headers
    }

    pub(super) async fn post(&self, body: Frame, mut headers: HeaderMap) -> Result<reqwest::Response, CallError> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let client = self.endpoint.client.get();
        let request = client.post(&self.endpoint.url).headers(headers).body(body.into_body());
        let response = request.send().await.map_err(transport_error)?;
        self.endpoint.client.note(&response);
        Ok(response)
    }

    /// Passes an event in the response stream of `request`, or in the standalone stream, to the handler of the request
    /// or to the listener. Answers a ping, and any request that no handler takes. Drops progress of a request that is
    /// not open: clients close the whole connection for one unknown token. A question is passed on without the
    /// credentials `sent`, which the backend may repeat: it is shown to people and recorded.
    pub(super) fn handle_event(&self, event: Event, request: Option<&Request<'_>>, sent: &SentCredentials) {
        if event.method == "notifications/progress" && !self.is_expected(&event, request) {
            tracing::debug!(
                backend = self.endpoint.alias,
                "the backend reported progress of no open request; dropped it"
            );
            return;
        }
        let event = if event.id.is_some() { event.without(sent) } else { event };
        let events = request.and_then(|request| request.events.as_deref());
        let (id, method) = (event.id.clone(), event.method.clone());
        let taken = match (&*method, id.as_deref()) {
            ("ping", Some(_)) => false,
            _ => events.or(self.listener.as_deref()).is_some_and(|listener| listener.on_event(event)),
        };
        let Some(id) = id.filter(|_| !taken) else { return };
        let answer = if method == "ping" {
            json::object([("jsonrpc", "\"2.0\""), ("id", id.as_str()), ("result", "{}")])
        } else {
            message::nobody(&id)
        };
        self.send_in_background(answer);
    }

    /// Returns whether a progress notification has the token of `request`, or in the standalone stream of any open one.
    fn is_expected(&self, progress: &Event, request: Option<&Request<'_>>) -> bool {
        let notification = Object::parse_path(&progress.json, &["params"]);
        let params = notification.as_ref().and_then(|notification| notification.object("params"));
        let token = params.as_ref().and_then(|params| params.get("progressToken"));
        token.is_some_and(|token| match request {
            Some(request) => request.progress_token.as_deref() == Some(token),
            None => self.progress_tokens.lock().iter().any(|open| open == token),
        })
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.progress_token {
            let mut open = self.connection.progress_tokens.lock();
            if let Some(at) = open.iter().position(|open| open == token) {
                open.swap_remove(at);
            }
        }
        if !self.is_done && self.connection.era == Era::Legacy {
            self.connection.cancel(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Timestamp;
    use crate::auth::validity::Validity;
    use crate::config;

    #[tokio::test]
    async fn what_belongs_to_no_message_is_made_with_the_token_that_ends_last() {
        let config = config::Backend { url: Some("http://127.0.0.1:9/mcp".to_owned()), ..Default::default() };
        let endpoint = Arc::new(Endpoint::new("far", &config).unwrap().unwrap());
        let token = |text: &str, seconds: i64| {
            let end = Timestamp::from_micros(Timestamp::now().micros() + seconds * 1_000_000);
            Arc::new(CallerToken::new("i", "ann", text, Validity::until(end)))
        };
        let first = token("first", 300);
        let connection = HttpConnection::new(&endpoint, Era::Legacy, SharedText::default(), Some(&first), None);
        let lasting = || connection.lasting_caller().unwrap().text().to_owned();
        for (text, seconds, want) in [("newer", 600, "newer"), ("late", 300, "newer"), ("same", 900, "same")] {
            connection.take_up(Some(&token(text, seconds)));
            assert_eq!(lasting(), want, "{text}");
        }
        // After a reload the next one counts, whatever was known.
        connection.forget_caller();
        assert!(connection.lasting_caller().unwrap().has_ended());
        connection.take_up(Some(&token("next", 60)));
        assert_eq!(lasting(), "next");
        assert!(!connection.valid_caller().await.unwrap().has_ended());
    }
}
