//! A Streamable HTTP backend, in both eras.
//!
//! An [`Endpoint`] is what is configured: address, credentials, pooled connections. A [`Remote`] is one conversation with
//! it: a legacy session, or the stateless protocol. Requests are built afresh: of a client's headers only
//! the `Mcp-Param-*` of a modern request and its place in a trace pass, never its token.
//!
//! A session that the backend forgot (404) is initialized again, once a request; a request that may have had an effect is
//! never sent again. A response stream that breaks is asked for again where the backend gave it an id. A backend that turns
//! out to speak the other era ends the conversation; the next one is held in that era.

mod endpoint;
mod era;
mod events;
mod mirror;
mod parts;
mod sse;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
pub(super) use endpoint::Endpoint;
pub use endpoint::EndpointFault;
use era::Doubt;
pub(super) use era::refuses;
use parts::{Place, failed, is_event_stream, read_body, value, with_status};
use tokio_util::sync::CancellationToken;

use crate::mcp::json;
use crate::mcp::protocol::{
    Era, LEGACY_LATEST, METHOD_HEADER, MODERN_VERSION, NAME_HEADER, SESSION_HEADER, VERSION_HEADER,
};

use super::CallError;
use super::message::{self, Message, Request, Response, ServerMessageHandler};
use super::timeouts::{RequestTimer, Timeouts};
use crate::mcp::lines::LINE_BYTES_MAX;

/// Longest time for a backend to take a notification or a response. *Chosen*.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Times that a broken response stream is asked for again without a new event. *Chosen*.
const RESUMES_MAX: u32 = 5;

const SESSION: HeaderName = HeaderName::from_static(SESSION_HEADER);
const VERSION: HeaderName = HeaderName::from_static(VERSION_HEADER);

/// One conversation with a backend.
#[derive(Debug)]
pub(super) struct Remote {
    endpoint: Arc<Endpoint>,
    era: Era,
    next_id: AtomicU64,
    session: Mutex<Session>,
    /// Held while a session is initialized again.
    renewing: tokio::sync::Mutex<()>,
    /// What `initialize` was asked with.
    initialize_params: String,
    listener: Option<Arc<dyn ServerMessageHandler>>,
    /// Its stream is read.
    listening: AtomicBool,
    /// Its stream is to be read, also after the session was initialized again.
    is_wanted: AtomicBool,
    /// The lists of whose changes the backend tells, as it said at `initialize`.
    lists: Mutex<Vec<&'static str>>,
    /// Nobody needs it any more, or the backend does not go on with it.
    closed: CancellationToken,
}

/// What every request of a legacy session bears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

enum Failure {
    /// The backend does not know the session: nothing was done.
    SessionGone,
    Call(CallError),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::SessionGone => Self::Http { status: StatusCode::NOT_FOUND.as_u16() },
            Failure::Call(error) => error,
        }
    }
}

impl Endpoint {
    /// A stateless conversation.
    pub(super) fn modern(self: &Arc<Self>) -> Remote {
        self.remote(Era::Modern, String::new(), None)
    }

    /// A legacy session, with the result of its `initialize`. It is not told `notifications/initialized` yet.
    ///
    /// # Errors
    /// [`CallError`], or the error that the backend answered with.
    pub(super) async fn open(
        self: &Arc<Self>,
        initialize_params: &str,
        listener: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Result<(Arc<Remote>, Response), CallError> {
        let remote = Arc::new(self.remote(Era::Legacy, initialize_params.to_owned(), listener));
        let response = remote.initialize().await?;
        Ok((remote, response))
    }

    fn remote(
        self: &Arc<Self>,
        era: Era,
        initialize_params: String,
        listener: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Remote {
        Remote {
            endpoint: Arc::clone(self),
            era,
            next_id: AtomicU64::new(1),
            session: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            initialize_params,
            listener,
            listening: AtomicBool::new(false),
            is_wanted: AtomicBool::new(false),
            lists: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }
}

impl Remote {
    /// The era that is spoken here.
    pub(super) fn era(&self) -> Era {
        self.era
    }

    /// Whether it is a client's session.
    pub(super) fn is_session(&self) -> bool {
        self.era == Era::Legacy && self.initialize_params != crate::upstream::message::own_initialize_params()
    }

    /// Makes one request and waits for its response.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request at the backend.
    pub(super) async fn request(self: &Arc<Self>, request: &Request<'_>) -> Result<Response, CallError> {
        match self.endpoint.mirrored(self.era, request) {
            None => self.request_once(request).await,
            // Boxed: it is rare, and every call's future has room for it.
            Some(headers) => Box::pin(self.request_mirrored(request, headers)).await,
        }
    }

    /// Makes one request, again only where the session that it was of is not known any more.
    async fn request_once(self: &Arc<Self>, request: &Request<'_>) -> Result<Response, CallError> {
        let (seen, mut doubt) = (self.session(), Doubt::None);
        let answer = match self.exchange(&seen, request, &mut doubt).await {
            Ok(response) => Ok(response),
            Err(Failure::Call(error)) => Err(error),
            Err(Failure::SessionGone) => {
                self.renew(&seen).await?;
                // Nothing was done with it: the backend refused it for its session.
                self.exchange(&self.session(), request, &mut doubt).await.map_err(CallError::from)
            }
        };
        if doubt != Doubt::None {
            Box::pin(self.settle(doubt)).await;
        }
        answer
    }

    /// Makes one request that says which era is spoken: what the answer says of that is the caller's to judge.
    ///
    /// # Errors
    /// As for [`Remote::request`].
    async fn ask_once(self: &Arc<Self>, request: &Request<'_>) -> Result<Response, CallError> {
        self.exchange(&Session::default(), request, &mut Doubt::None).await.map_err(CallError::from)
    }

    /// Sends a notification, or a response to the backend's request.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn send(&self, message: String) -> Result<(), CallError> {
        let wait = RequestTimer::new(Timeouts { idle: SEND_TIMEOUT, total: SEND_TIMEOUT });
        let headers = self.headers(&self.session(), "application/json, text/event-stream");
        let response = wait.run(self.post(message, headers)).await??;
        if response.status().is_success() {
            return Ok(());
        }
        Err(CallError::Http { status: response.status().as_u16() })
    }

    /// Ends the session at the backend, in the background.
    pub(super) fn close(&self) {
        self.closed.cancel();
        if self.era == Era::Modern || self.session().id.is_none() {
            return;
        }
        let request = self.endpoint.client.delete(&self.endpoint.url).headers(self.headers(&self.session(), "*/*"));
        tokio::spawn(async move {
            // Whether it hears of it or not, it is not used any more.
            tokio::time::timeout(SEND_TIMEOUT, request.send()).await.ok();
        });
    }

    async fn initialize(self: &Arc<Self>) -> Result<Response, CallError> {
        let request = Request::new("initialize", Some(&self.initialize_params));
        self.ask_once(&request).await
    }

    /// Initializes the session again, unless another request has done so since `seen`.
    async fn renew(self: &Arc<Self>, seen: &Session) -> Result<(), CallError> {
        let _one = self.renewing.lock().await;
        if self.session() != *seen {
            return Ok(());
        }
        tracing::info!(backend = self.endpoint.alias, "the backend forgot the session: initialized again");
        let refused = match self.initialize().await {
            Ok(Response::Result(_)) => {
                self.send(message::write(None, "notifications/initialized", None)).await?;
                if self.is_wanted.load(Ordering::Acquire) {
                    self.begin_to_listen(true); // The stream ended with the session that it was of.
                }
                return Ok(());
            }
            Ok(Response::Error { error, .. }) => error,
            Err(CallError::Http { status }) if refuses(status) => format!("HTTP status {status}"),
            Err(error) => return Err(error),
        };
        self.give_up();
        Err(CallError::Down { reason: format!("it refused to initialize the session again: {refused}") })
    }

    fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn headers(&self, session: &Session, accept: &'static str) -> HeaderMap {
        let mut headers = self.endpoint.headers.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if self.era == Era::Modern {
            headers.insert(VERSION, HeaderValue::from_static(MODERN_VERSION));
            return headers;
        }
        headers.extend(session.id.clone().map(|id| (SESSION, id)));
        headers.extend(session.version.clone().map(|version| (VERSION, version)));
        headers
    }

    async fn post(&self, body: String, mut headers: HeaderMap) -> Result<reqwest::Response, CallError> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.endpoint.client.post(&self.endpoint.url).headers(headers).body(body).send().await.map_err(failed)
    }

    async fn exchange(
        self: &Arc<Self>,
        session: &Session,
        request: &Request<'_>,
        doubt: &mut Doubt,
    ) -> Result<Response, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = message::write(Some(id), request.method, request.params);
        let mut headers = self.headers(session, "application/json, text/event-stream");
        let of_params = |name: &HeaderName| name.as_str().starts_with("mcp-param-");
        // What the operator set is his.
        let taken = |name: &HeaderName| self.endpoint.headers.contains_key(name);
        let passed = request.headers.iter().filter(|(name, _)| !taken(name));
        let passed = passed.filter(|(name, _)| self.era == Era::Modern || !of_params(name));
        headers.extend(passed.map(|(name, value)| (name.clone(), value.clone())));
        if self.era == Era::Modern {
            headers.extend(value(request.method).map(|method| (HeaderName::from_static(METHOD_HEADER), method)));
            let name = request.name.as_deref().and_then(value);
            headers.extend(name.map(|name| (HeaderName::from_static(NAME_HEADER), name)));
        }
        let mut wait = match request.method {
            message::LISTEN => RequestTimer::unlimited(),
            _ => RequestTimer::new(self.endpoint.timeouts).started_at(request.begun),
        };
        let mut open = Open { remote: self, id, done: false };
        let response = wait.run(self.post(body, headers)).await?;
        if matches!(response, Err(CallError::Down { .. })) {
            open.done = true;
            // It may be another one when it comes back. A client's session may outlive that.
            self.endpoint.forget_era();
            if !self.is_session() {
                self.closed.cancel();
            }
        }
        let response = response?;
        if response.status() == StatusCode::NOT_FOUND && session.id.is_some() {
            open.done = true;
            return Err(Failure::SessionGone);
        }
        if request.method == "initialize" && self.era == Era::Legacy && response.status().is_success() {
            open.done = true; // A handshake cannot be cancelled.
            let id = response.headers().get(SESSION).cloned();
            let answer = self.answer(open.id, response, request, &mut wait, doubt).await?;
            self.keep(id, &answer);
            return Ok(answer);
        }
        let answer = self.answer(id, response, request, &mut wait, doubt).await;
        open.done = !matches!(answer, Err(CallError::TimedOut { .. } | CallError::TooLong { .. }));
        Ok(answer?)
    }

    /// Keeps what `initialize` gave.
    fn keep(&self, id: Option<HeaderValue>, answer: &Response) {
        let Response::Result(result) = answer else { return };
        let members = json::members(result).unwrap_or_default();
        let version = members.iter().find(|member| member.key == "protocolVersion");
        let version = version.and_then(|version| json::raw_string(version.value));
        let version = HeaderValue::from_str(version.as_deref().unwrap_or(LEGACY_LATEST)).ok();
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Session { id, version };
        *self.lists.lock().unwrap_or_else(PoisonError::into_inner) = message::lists_told_of(result);
    }

    /// Reads the response to request `id` out of an HTTP response. `doubt` is what it says of the era.
    async fn answer(
        &self,
        id: u64,
        response: reqwest::Response,
        request: &Request<'_>,
        wait: &mut RequestTimer,
        doubt: &mut Doubt,
    ) -> Result<Response, CallError> {
        let status = response.status();
        if status.is_success() && is_event_stream(&response) {
            if let Some(events) = &request.events {
                events.on_stream_start();
            }
            return self.read_stream(id, response, request, wait).await;
        }
        let body = read_body(response, wait).await?;
        let message = message::read(body.trim());
        let code = match &message {
            Message::Response { response: Some(Response::Error { error, .. }), .. } => message::error_code(error),
            _ => None,
        };
        *doubt = era::doubt(self.era, self.is_session(), request.method, status, code);
        match message {
            // What a guard says of the question who is there says nothing of that.
            _ if request.method == message::DISCOVER && era::says_nothing(status) => {
                Err(CallError::Http { status: status.as_u16() })
            }
            // The id of an error may be null, where the backend could not read the request's.
            Message::Response { id: found, response: Some(answer) }
                if found == id.to_string() || matches!(answer, Response::Error { .. }) =>
            {
                Ok(with_status(answer, status, self.era))
            }
            _ if status.is_success() => Err(CallError::Garbled),
            _ => Err(CallError::Http { status: status.as_u16() }),
        }
    }

    /// Reads the response to request `id` out of an event stream, and hands on what else is in it.
    async fn read_stream(
        &self,
        id: u64,
        mut response: reqwest::Response,
        request: &Request<'_>,
        wait: &mut RequestTimer,
    ) -> Result<Response, CallError> {
        let mut place = Place::default();
        let mut resumes = 0;
        loop {
            let before = place.last_id.clone();
            let mut on_message = |message| match message {
                Message::Response { id: found, response } if found == id.to_string() => {
                    Some(response.ok_or(CallError::Garbled))
                }
                Message::Event(event) => {
                    self.take(event, request.events.as_deref());
                    None
                }
                Message::Response { .. } | Message::Garbled => None,
            };
            let end = self.read_until_end(&mut response, &mut place, wait, &mut on_message).await?;
            if let Some(answer) = end {
                return answer;
            }
            // The stream ended without the response. It is not asked for again by another POST, which could be a call.
            resumes = if place.last_id == before { resumes + 1 } else { 1 };
            if place.last_id.is_none() || self.era == Era::Modern || resumes > RESUMES_MAX {
                return Err(CallError::Died);
            }
            wait.run(tokio::time::sleep(place.pause())).await?;
            response = wait.run(self.get_stream(&self.session(), &place)).await??;
            if !response.status().is_success() || !is_event_stream(&response) {
                return Err(CallError::Died);
            }
        }
    }

    /// Reads messages until `on_message` gives something, or the stream ends.
    async fn read_until_end<T>(
        &self,
        response: &mut reqwest::Response,
        place: &mut Place,
        wait: &mut RequestTimer,
        on_message: &mut (dyn FnMut(Message) -> Option<T> + Send),
    ) -> Result<Option<T>, CallError> {
        let mut parser = sse::Parser::default();
        loop {
            // A stream that breaks is one that ended: what matters is whether it can be asked for again.
            let Ok(Some(piece)) = wait.run(response.chunk()).await? else { return Ok(None) };
            let events = parser.feed(&piece).map_err(|_| CallError::TooLong { limit: LINE_BYTES_MAX })?;
            for event in events {
                place.pass(&event);
                if event.data.is_empty() {
                    continue;
                }
                wait.reset_idle();
                if let Some(found) = on_message(message::read(&event.data)) {
                    return Ok(Some(found));
                }
            }
        }
    }

    fn take(&self, event: message::Event, events: Option<&dyn ServerMessageHandler>) {
        let (id, method) = (event.id.clone(), event.method.clone());
        let taken = match (&*method, id.as_deref()) {
            ("ping", Some(_)) => false,
            _ => match events.or(self.listener.as_deref()) {
                Some(listener) => listener.on_event(event),
                None => false,
            },
        };
        let Some(id) = id.filter(|_| !taken) else { return };
        let answer = if method == "ping" {
            json::object([("jsonrpc", "\"2.0\""), ("id", id.as_str()), ("result", "{}")])
        } else {
            message::nobody(&id)
        };
        self.send_later(answer);
    }

    /// Sends a message that nobody waits for.
    fn send_later(&self, message: String) {
        let mut headers = self.headers(&self.session(), "application/json, text/event-stream");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = self.endpoint.client.post(&self.endpoint.url).headers(headers).body(message);
        let alias = self.endpoint.alias.clone();
        tokio::spawn(async move {
            if !matches!(tokio::time::timeout(SEND_TIMEOUT, request.send()).await, Ok(Ok(_))) {
                tracing::debug!(backend = alias, "a message did not reach the backend");
            }
        });
    }
}

/// A request that is under way. Dropped before its response came, it is cancelled at the backend: a legacy one by a
/// notification, a modern one by the connection that closes.
struct Open<'a> {
    remote: &'a Remote,
    id: u64,
    done: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.done && self.remote.era == Era::Legacy {
            self.remote.send_later(message::cancelled(self.id));
        }
    }
}
