//! A legacy session: an id issued at `initialize`, bound to its principal, and its connections to backends.
//!
//! A session correlates messages and is not an identity: for any other principal its id is unknown. Each session opens
//! its own connections to the backends it uses, with its client's `initialize` parameters, so that no state leaks
//! between clients. A backend's request to the client gets an id of the session, by which the response is routed back.

pub mod audience;
pub(crate) mod connections;
pub mod ending;
pub mod inflight;
pub(crate) mod negotiated;
pub(crate) mod notification_forwarder;
pub(crate) mod question;
pub(crate) mod replay;
#[cfg(test)]
pub(crate) mod sample;
pub mod server_requests;
pub mod stream;
pub(crate) mod streams;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::audit::record::{Caller, client_info as client_info_of};
use crate::auth::Principal;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::audience::Audience;
use crate::gateway::session::connections::SessionConnections;
use crate::gateway::session::negotiated::Negotiated;
use crate::gateway::session::question::{ClientAnswer, Fate, OpenCall, OpenCalls, Question, QuestionHandler};
use crate::gateway::session::replay::ReplayBudget;
use crate::gateway::session::server_requests::PendingServerRequests;
use crate::gateway::session::stream::Stream;
use crate::gateway::session::streams::SessionStreams;
use crate::mcp::envelope::Id;
use crate::mcp::json;
use crate::mcp::protocol::CANCELLED;
use crate::mcp::shared_text::SharedText;
use crate::rbac::Policy;
use crate::upstream::{Backend, CallError, CallerToken, Event, Response, ServerMessageHandler, UpstreamConnection};

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The session's id: 122 random bits.
    pub id: String,
    issuer: String,
    subject: String,
    /// The endpoint at which the session was opened.
    pub(crate) scope: Scope,
    /// The name and version by which the client calls itself.
    pub(crate) client_info: Option<Arc<(String, String)>>,
    pub(crate) negotiated: Negotiated,
    /// The principal that opened the session, as it is recorded.
    pub(crate) caller: Caller,
    /// The principal by the credential that was used last.
    principal: Mutex<Principal>,
    /// The parameters of the client's `initialize`, as JSON text.
    initialize_params: SharedText,
    last_used: Mutex<Instant>,
    pub(crate) connections: SessionConnections,
    server_requests: Mutex<PendingServerRequests<UpstreamConnection>>,
    questions: Arc<dyn QuestionHandler>,
    /// The calls that are open at backends.
    pub(crate) open_calls: OpenCalls,
    pub(crate) streams: SessionStreams,
    /// The policy in force. It decides which streams get the messages of a backend.
    policy: watch::Receiver<Arc<Policy>>,
}

impl Session {
    /// A session of `principal` at the endpoint `scope`, with room for its messages in `replay`. `initialize_params`
    /// are the parameters of the client's `initialize`. `policy` is the policy in force; `questions` takes the requests
    /// of backends to the client.
    #[must_use]
    pub(crate) fn new(
        principal: &Principal,
        scope: &Scope,
        initialize_params: &str,
        replay: &Arc<ReplayBudget>,
        policy: watch::Receiver<Arc<Policy>>,
        questions: Arc<dyn QuestionHandler>,
    ) -> Arc<Self> {
        let roles = (!principal.roles.is_empty()).then(|| principal.roles.join(","));
        let client_info = json::Object::parse(initialize_params);
        let client_info = client_info.and_then(|params| params.get("clientInfo").and_then(client_info_of));
        Arc::new(Self {
            id: uuid::Uuid::new_v4().to_string(),
            issuer: principal.issuer.clone(),
            subject: principal.subject.clone(),
            scope: scope.clone(),
            client_info: client_info.map(Arc::new),
            negotiated: Negotiated::default(),
            caller: principal.caller(roles.as_deref()),
            principal: Mutex::new(principal.clone()),
            initialize_params: initialize_params.to_owned().into(),
            last_used: Mutex::new(Instant::now()),
            connections: SessionConnections::default(),
            server_requests: Mutex::default(),
            questions,
            open_calls: OpenCalls::default(),
            streams: SessionStreams::new(&principal.roles, replay),
            policy,
        })
    }

    /// The session's connection to `backend`; opened if there is none that works. `caller` is the token of the client,
    /// if the backend is called on its behalf.
    ///
    /// # Errors
    /// [`CallError`]: the backend is down, or refused to initialize.
    ///
    /// # Cancel safety
    /// Opening continues when the caller stops waiting, and the next caller finds the connection: a backend may take
    /// longer to start than one request waits.
    pub async fn connection(
        self: &Arc<Self>,
        backend: &Arc<Backend>,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        let open = || {
            let (session, backend, caller) = (Arc::clone(self), Arc::clone(backend), caller.map(Arc::clone));
            async move { session.open_connection(&backend, caller.as_ref()).await }
        };
        let listener = Arc::clone(self);
        // A client that begins to listen in the meantime finds the connection.
        let listen = move |connection: &UpstreamConnection| {
            listener.tell_changed(listener.connections.take_missed(connection.alias()));
            if listener.general().has_reader() {
                connection.listen(None);
            }
        };
        self.connections.place(backend.alias()).get(backend.tasks(), open, listen).await
    }

    async fn open_connection(
        self: &Arc<Self>,
        backend: &Backend,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        let (connection, answer) = self.send_initialize(backend, caller).await?;
        if let Response::Error { error, .. } = answer {
            return Err(CallError::Down { reason: format!("it refused to initialize: {error}") });
        }
        connection.notify("notifications/initialized", None, caller).await?;
        Ok(connection)
    }

    /// Opens the connection to `backend` for the client's own `initialize` and returns the backend's response to it.
    /// `caller` is as for [`Session::connection`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn initialize(
        self: &Arc<Self>,
        backend: &Backend,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Response, CallError> {
        let (connection, answer) = self.send_initialize(backend, caller).await?;
        if matches!(answer, Response::Result(_)) {
            self.connections.place(backend.alias()).set(connection);
        }
        Ok(answer)
    }

    /// Opens a connection and sends the client's `initialize` parameters on it.
    async fn send_initialize(
        self: &Arc<Self>,
        backend: &Backend,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let listener = Arc::new(SessionListener::new(self, backend.alias(), None));
        let handler = Arc::clone(&listener) as Arc<dyn ServerMessageHandler>;
        let (connection, answer) = backend.open(&self.initialize_params, caller, handler).await?;
        listener.set_connection(&connection);
        Ok((connection, answer))
    }

    /// Remembers that the client got a list without the items of `backend`, and tells it once the backend is there:
    /// `method` is the notification.
    pub(crate) fn miss(&self, backend: &str, method: &'static str) {
        if self.connections.miss(backend, method) {
            self.tell_changed(self.connections.take_missed(backend));
        }
    }

    /// The roles of the token that was used last.
    pub(crate) fn roles(&self) -> Vec<String> {
        self.principal.lock().roles.clone()
    }

    /// Sends `list_changed` notifications, on the stream that the client reads.
    pub(crate) fn tell_changed<'m>(&self, methods: impl IntoIterator<Item = &'m str>) {
        for method in methods {
            // A client that does not read its full stream misses this; other messages are waiting for it anyway.
            self.general().push(&json::object([("jsonrpc", "\"2.0\""), ("method", &json::quoted(method))]));
        }
    }

    /// The stream of messages that belong to no request.
    pub(crate) fn general(&self) -> Arc<Stream> {
        self.streams.general()
    }

    /// The streams of this session that may get the messages of `backend`.
    fn audience(&self, backend: &str) -> Audience {
        Audience::new(backend, self.policy.clone())
    }

    /// Delivers a backend's message to the client, on `stream` or, without one, on the one that [`SessionStreams`]
    /// chooses. `false`: the message was not accepted.
    fn on_event(self: &Arc<Self>, listener: &SessionListener, event: &Event) -> bool {
        let connection = &Weak::clone(&listener.connection.lock());
        let push =
            |json: &str, is_general: bool| self.stream_of(listener, is_general).is_some_and(|stream| stream.push(json));
        let Some(id) = event.id.clone() else {
            let is_general = event.method.ends_with("list_changed") || event.method.ends_with("/updated");
            if event.method != CANCELLED {
                return push(&event.json, is_general);
            }
            // A cancellation of a request that the client does not know is dropped.
            let cancelled = self.server_requests.lock().cancel(connection, &event.json);
            return cancelled.is_none_or(|json| push(&json, false));
        };
        // A request that no stream takes never reaches a person, and gets no record.
        let Some(stream) = self.stream_of(listener, false) else { return false };
        self.ask(listener, connection, id, event, stream);
        true
    }

    /// The stream for a message that `listener` received.
    fn stream_of(&self, listener: &SessionListener, is_general: bool) -> Option<Arc<Stream>> {
        let may_hear = |stream: &Stream| listener.audience.may_hear(stream);
        match &listener.stream {
            Some(stream) => Some(Arc::clone(stream)).filter(|stream| may_hear(stream)),
            None => self.streams.for_message(is_general, may_hear),
        }
    }

    /// Hands a backend's request to the client, on `stream`, once it is recorded.
    fn ask(
        self: &Arc<Self>,
        listener: &SessionListener,
        connection: &Weak<UpstreamConnection>,
        id: String,
        event: &Event,
        stream: Arc<Stream>,
    ) {
        let (sender, fate) = oneshot::channel();
        let (number, json) = self.server_requests.lock().insert(connection, id.clone(), event, sender);
        let (session, delivering) = (Arc::downgrade(self), self.open_calls.delivering());
        let deliver = move || {
            let _delivering = delivering;
            let is_asked = |session: Arc<Self>| session.server_requests.lock().deliver(number, || stream.push(&json));
            session.upgrade().is_some_and(is_asked)
        };
        let params = json::Object::parse(&event.json).and_then(|message| message.get("params").map(str::to_owned));
        self.questions.take(Question {
            caller: self.caller.clone(),
            client_info: self.client_info.clone(),
            session: self.id.clone(),
            number,
            backend: listener.backend.clone(),
            connection: Weak::clone(connection),
            id,
            method: event.method.clone(),
            params,
            during: listener.call.clone().or_else(|| self.open_calls.only_at(&listener.backend)),
            fate,
            deliver: Box::new(deliver),
        });
    }

    /// Hands over the client's answer to the backend's request `id`. `false`: no request with this id is open.
    pub(crate) fn answer(&self, id: &Id, answer: ClientAnswer) -> bool {
        let request = id.as_json().parse().ok().and_then(|number| self.server_requests.lock().remove(number));
        request.is_some_and(|request| request.fate.send(Fate::Answered(answer)).is_ok())
    }

    /// The connection that the client's progress is for, and its parameters with the backend's own token.
    pub(crate) fn progress(&self, params: &str) -> Option<(Arc<UpstreamConnection>, String)> {
        self.server_requests.lock().progress(params)
    }

    /// Restarts the idle time. `principal` is that of the token that is used now.
    pub(crate) fn touch(&self, principal: &Principal) {
        *self.last_used.lock() = Instant::now();
        let mut known = self.principal.lock();
        principal.roles.clone_into(&mut known.roles);
        known.token_id.clone_from(&principal.token_id);
        known.credential.clone_from(&principal.credential);
    }

    /// The principal, by the credential that was used last.
    pub(crate) fn principal(&self) -> Principal {
        self.principal.lock().clone()
    }

    /// The time of its last use.
    pub(crate) fn last_used(&self) -> Instant {
        *self.last_used.lock()
    }

    /// The bytes of its client's `initialize` parameters.
    pub(crate) fn initialize_bytes(&self) -> usize {
        self.initialize_params.len()
    }

    /// Returns whether `principal` opened it.
    pub(crate) fn belongs_to(&self, principal: &Principal) -> bool {
        self.issuer == principal.issuer && self.subject == principal.subject
    }

    /// Returns true if the session was unused for longer than `idle_timeout`. A session whose client reads a stream or
    /// waits for a response has not expired.
    pub(crate) fn has_expired(&self, idle_timeout: Duration) -> bool {
        self.last_used.lock().elapsed() > idle_timeout && !self.streams.is_in_use()
    }

    /// Ends the general stream, and drops the connections and the pending requests of backends.
    pub fn end(&self) {
        self.general().finish(None);
        self.connections.all().iter().for_each(|connection| connection.release());
        self.connections.retain(|_| false);
        self.server_requests.lock().clear();
    }
}

/// Receives a backend's messages for a session, or for one request of it.
#[derive(Debug)]
pub(crate) struct SessionListener {
    session: Weak<Session>,
    connection: Mutex<Weak<UpstreamConnection>>,
    backend: String,
    /// The call whose messages arrive, if it is one call.
    call: Option<Arc<OpenCall>>,
    stream: Option<Arc<Stream>>,
    audience: Audience,
}

impl SessionListener {
    /// A listener to the messages of `backend`.
    pub(crate) fn new(session: &Arc<Session>, backend: &str, stream: Option<Arc<Stream>>) -> Self {
        let audience = session.audience(backend);
        let connection = Mutex::new(Weak::new());
        let backend = backend.to_owned();
        Self { session: Arc::downgrade(session), connection, backend, call: None, stream, audience }
    }

    /// The same for the messages of one call.
    pub(crate) fn during(mut self, call: Arc<OpenCall>) -> Self {
        self.call = Some(call);
        self
    }

    /// Sets the connection whose messages arrive, which exists only after the listener.
    pub(crate) fn set_connection(&self, connection: &Arc<UpstreamConnection>) {
        *self.connection.lock() = Arc::downgrade(connection);
    }
}

impl ServerMessageHandler for SessionListener {
    fn on_event(&self, event: Event) -> bool {
        let Some(session) = self.session.upgrade() else { return false };
        session.on_event(self, &event)
    }

    fn on_stream_start(&self) {
        if let Some(stream) = &self.stream {
            stream.open();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::gateway::session::notification_forwarder::NotificationForwarder;
    use crate::gateway::session::sample::{AtOnce, policy, principal};

    use super::*;

    fn open(ann: &Principal, in_force: watch::Receiver<Arc<Policy>>) -> (Arc<Session>, Arc<ReplayBudget>) {
        let replay = ReplayBudget::new(1 << 20);
        (Session::new(ann, &Scope::All, "{}", &replay, in_force, Arc::new(AtOnce)), replay)
    }

    fn event(method: &str, id: Option<&str>) -> Event {
        let id = id.map(str::to_owned);
        Event { method: method.to_owned(), json: format!(r#"{{"id":"x","method":"{method}"}}"#), id }
    }

    #[tokio::test]
    async fn messages_go_to_the_newest_request_or_to_the_general_stream() {
        use crate::gateway::session::stream::Next;
        let ann = Principal { roles: vec!["all".to_owned()], ..principal("ann", "a") };
        let (session, _replay) = open(&ann, watch::channel(policy(&["b"])).1);
        let listener = SessionListener::new(&session, "b", None);
        let begin = || session.streams.begin(&ann.roles).unwrap();
        let (old, new) = (begin(), begin());
        assert!(listener.on_event(event("notifications/message", None)) && old.is_unused() && !new.is_unused());
        let mut general = session.general().read_from(0).unwrap();
        assert!(listener.on_event(event("notifications/tools/list_changed", None)));
        assert!(matches!(general.next().await, Next::Message(1, _)));
        session.streams.end(&new, true);
        // A backend's request gets an id of the session.
        assert!(listener.on_event(event("roots/list", Some("\"x\""))));
        let Next::Message(_, json) = old.read_from(0).unwrap().next().await else { panic!() };
        assert!(json.contains(r#""id":1"#), "{json}");
    }

    #[tokio::test]
    async fn a_backend_that_the_roles_do_not_reach_any_more_is_not_heard() {
        let ann = Principal { roles: vec!["all".to_owned()], ..principal("ann", "a") };
        let (changes, in_force) = watch::channel(policy(&["b", "c"]));
        let (session, replay) = open(&ann, in_force.clone());
        let (b, c) = (SessionListener::new(&session, "b", None), SessionListener::new(&session, "c", None));
        let stream = session.streams.begin(&ann.roles).unwrap();
        let of_call = SessionListener::new(&session, "b", Some(Arc::clone(&stream)));
        let note = || event("notifications/message", None);
        assert!(b.on_event(note()) && c.on_event(note()) && of_call.on_event(note()));
        assert!(of_call.on_event(event("roots/list", Some("1"))));
        let stateless = Stream::unkept(&ann.roles, &replay);
        let audience = Audience::new("b", in_force);
        let forwarder = NotificationForwarder { stream: stateless, audience };
        assert!(forwarder.on_event(note()));
        // I10: what a reload takes away ends for open sessions and calls too.
        changes.send_replace(policy(&["c"]));
        assert!(!b.on_event(note()) && c.on_event(note()) && !of_call.on_event(note()) && !forwarder.on_event(note()));
        assert!(!of_call.on_event(event("roots/list", Some("2"))), "nor may it ask for anything");
    }
}
