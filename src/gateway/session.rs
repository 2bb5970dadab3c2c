//! Legacy sessions: an id issued at `initialize`, bound to its principal, and its connections to backends.
//!
//! A session correlates messages and is not an identity: for any other principal its id is unknown. Each session opens
//! its own connections to the backends it uses, with its client's `initialize` parameters, so that no state leaks
//! between clients. A backend's request to the client gets an id of the session, by which the response is routed back.
//!
//! The number of sessions is bounded, per principal and in total. To make room, expired sessions are removed first,
//! then the one that was idle longest; a principal's own limit removes its own sessions only. The removed session's
//! client must initialize again, as the protocol says. Sessions that end without a request of their client are returned
//! to the caller with the reason, to be ended and recorded.

pub mod audience;
pub(crate) mod connections;
pub mod ending;
pub mod inflight;
pub(crate) mod negotiated;
pub(crate) mod notification_forwarder;
pub(crate) mod question;
pub(crate) mod replay;
pub mod server_requests;
pub mod stream;
pub(crate) mod streams;

use std::collections::HashMap;
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
use crate::gateway::session::ending::{EndReason, UnknownSessionError};
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
use crate::upstream::{Backend, CallError, Event, Response, ServerMessageHandler, UpstreamConnection};

/// Most bytes of the `initialize` parameters of all sessions. *Derived*: with 12 KiB of other state in each of 10,000
/// sessions, less than 256 MiB.
const INITIALIZE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The open sessions.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<OpenSessions>,
    max: usize,
    /// Time after which an unused session expires.
    pub(crate) idle_timeout: Duration,
    policy: watch::Receiver<Arc<Policy>>,
    questions: Arc<dyn QuestionHandler>,
    /// The room for the messages of all streams.
    pub(crate) replay: Arc<ReplayBudget>,
}

#[derive(Debug, Default)]
struct OpenSessions {
    by_id: HashMap<String, Arc<Session>>,
    /// Bytes of their `initialize` parameters.
    bytes: usize,
}

/// Sessions that were removed, each with the reason.
pub type EndedSessions = Vec<(Arc<Session>, EndReason)>;

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
    /// The roles of the token that was used last.
    roles: Mutex<Vec<String>>,
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

impl Sessions {
    /// The number of open sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.lock().by_id.len()
    }

    /// Makes room for `max` sessions, at least one, and for `replay_bytes_max` bytes of messages of all their streams.
    /// An unused session expires after `idle_timeout`. `policy` is the policy in force; `questions` takes the requests
    /// of backends to clients.
    #[must_use]
    pub(crate) fn new(
        max: usize,
        idle_timeout: Duration,
        replay_bytes_max: usize,
        policy: watch::Receiver<Arc<Policy>>,
        questions: Arc<dyn QuestionHandler>,
    ) -> Self {
        let replay = ReplayBudget::new(replay_bytes_max);
        Self { open: Mutex::default(), max: max.max(1), idle_timeout, replay, policy, questions }
    }

    /// Opens a session for `principal`, which may have `own_max`, and returns it with the sessions that were removed to
    /// make room. `initialize_params` are the parameters of the client's `initialize`.
    #[must_use]
    pub fn open(
        &self,
        principal: &Principal,
        scope: &Scope,
        initialize_params: &str,
        own_max: usize,
    ) -> (Arc<Session>, EndedSessions) {
        let roles = (!principal.roles.is_empty()).then(|| principal.roles.join(","));
        let client_info = json::Object::parse(initialize_params);
        let client_info = client_info.and_then(|params| params.get("clientInfo").and_then(client_info_of));
        let session = Arc::new(Session {
            id: uuid::Uuid::new_v4().to_string(),
            issuer: principal.issuer.clone(),
            subject: principal.subject.clone(),
            scope: scope.clone(),
            client_info: client_info.map(Arc::new),
            negotiated: Negotiated::default(),
            caller: principal.caller(roles.as_deref()),
            roles: Mutex::new(principal.roles.clone()),
            initialize_params: initialize_params.to_owned().into(),
            last_used: Mutex::new(Instant::now()),
            connections: SessionConnections::default(),
            server_requests: Mutex::default(),
            questions: Arc::clone(&self.questions),
            open_calls: OpenCalls::default(),
            streams: SessionStreams::new(&principal.roles, &self.replay),
            policy: self.policy.clone(),
        });
        let mut open = self.open.lock();
        let mut removed = Vec::new();
        // I6: the number of sessions is bounded, per principal and in total.
        let own = open.by_id.values().filter(|session| session.belongs_to(principal)).count();
        for _ in own_max.max(1)..=own {
            let oldest = open.remove_longest_idle(|session| session.belongs_to(principal));
            removed.extend(oldest.map(|session| (session, EndReason::OwnLimit)));
        }
        // I6: so is what they keep.
        let is_full = |open: &OpenSessions| {
            open.by_id.len() >= self.max || open.bytes + initialize_params.len() > INITIALIZE_BYTES_MAX
        };
        if is_full(&open) {
            removed.extend(open.remove_expired(self.idle_timeout));
        }
        while is_full(&open)
            && let Some(oldest) = open.remove_longest_idle(|_| true)
        {
            removed.push((oldest, EndReason::NoRoom));
        }
        open.insert(Arc::clone(&session));
        (session, removed)
    }

    /// Removes the expired sessions and returns them.
    #[must_use]
    pub fn remove_expired(&self) -> EndedSessions {
        self.open.lock().remove_expired(self.idle_timeout)
    }

    /// Finds a session and restarts its idle time.
    ///
    /// # Errors
    /// [`UnknownSessionError`]: the session expired, was closed, belongs to another principal or endpoint, or never
    /// existed.
    pub fn touch(&self, id: &str, principal: &Principal, scope: &Scope) -> Result<Arc<Session>, UnknownSessionError> {
        let open = self.open.lock();
        let session = open.by_id.get(id).filter(|session| session.belongs_to(principal) && session.scope == *scope);
        // An expired session stays in the map until its end is recorded.
        let session =
            session.filter(|session| !session.has_expired(self.idle_timeout)).cloned().ok_or(UnknownSessionError)?;
        *session.last_used.lock() = Instant::now();
        session.roles.lock().clone_from(&principal.roles);
        Ok(session)
    }

    /// Removes a session and ends it. Its connections close when their last use ends.
    ///
    /// # Errors
    /// [`UnknownSessionError`], as for [`Sessions::touch`].
    pub fn close(&self, id: &str, principal: &Principal, scope: &Scope) -> Result<Arc<Session>, UnknownSessionError> {
        let session = self.touch(id, principal, scope)?;
        self.open.lock().remove(id);
        session.end();
        Ok(session)
    }

    /// Drops the connections to backends that the roles of their sessions do not reach any more, and removes the
    /// sessions at the endpoints of such backends.
    #[must_use]
    pub fn remove_unreachable(&self, policy: &Policy) -> EndedSessions {
        let mut open = self.open.lock();
        let mut ended = Vec::new();
        for session in open.by_id.values().cloned().collect::<Vec<_>>() {
            let roles = session.roles.lock().clone();
            if session.scope.backend().is_some_and(|backend| !policy.reaches(&roles, backend)) {
                ended.extend(open.remove(&session.id).map(|session| (session, EndReason::Unreachable)));
            } else {
                session.connections.retain(|backend| policy.reaches(&roles, backend));
            }
        }
        ended
    }

    /// The open sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.open.lock().by_id.values().cloned().collect()
    }

    /// Removes all sessions, because the gateway stops, and returns them.
    #[must_use]
    pub fn remove_all(&self) -> EndedSessions {
        let open = std::mem::take(&mut *self.open.lock());
        open.by_id.into_values().map(|session| (session, EndReason::Stopped)).collect()
    }
}

impl OpenSessions {
    fn insert(&mut self, session: Arc<Session>) {
        self.bytes += session.initialize_params.len();
        self.by_id.insert(session.id.clone(), session);
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Session>> {
        let session = self.by_id.remove(id)?;
        self.bytes -= session.initialize_params.len();
        Some(session)
    }

    fn remove_expired(&mut self, idle_timeout: Duration) -> EndedSessions {
        let expired: Vec<_> = self.by_id.extract_if(|_, session| session.has_expired(idle_timeout)).collect();
        self.bytes -= expired.iter().map(|(_, session)| session.initialize_params.len()).sum::<usize>();
        expired.into_iter().map(|(_, session)| (session, EndReason::Idle)).collect()
    }

    /// Removes and returns the longest idle of the sessions that `is_candidate` selects.
    fn remove_longest_idle(&mut self, is_candidate: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let candidates = self.by_id.values().filter(|session| is_candidate(session));
        let id = candidates.min_by_key(|session| *session.last_used.lock())?.id.clone();
        self.remove(&id)
    }
}

impl Session {
    /// The session's connection to `backend`; opened if there is none that works.
    ///
    /// # Errors
    /// [`CallError`]: the backend is down, or refused to initialize.
    ///
    /// # Cancel safety
    /// Opening continues when the caller stops waiting, and the next caller finds the connection: a backend may take
    /// longer to start than one request waits.
    pub async fn connection(self: &Arc<Self>, backend: &Arc<Backend>) -> Result<Arc<UpstreamConnection>, CallError> {
        let (session, opened, listener) = (Arc::clone(self), Arc::clone(backend), Arc::clone(self));
        let open = async move { session.open_connection(&opened).await };
        // A client that begins to listen in the meantime finds the connection.
        let listen = move |connection: &UpstreamConnection| {
            listener.tell_changed(listener.connections.take_missed(connection.alias()));
            if listener.general().has_reader() {
                connection.listen();
            }
        };
        self.connections.place(backend.alias()).get(backend.tasks(), open, listen).await
    }

    async fn open_connection(self: &Arc<Self>, backend: &Backend) -> Result<Arc<UpstreamConnection>, CallError> {
        let (connection, answer) = self.send_initialize(backend).await?;
        if let Response::Error { error, .. } = answer {
            return Err(CallError::Down { reason: format!("it refused to initialize: {error}") });
        }
        connection.notify("notifications/initialized", None).await?;
        Ok(connection)
    }

    /// Opens the connection to `backend` for the client's own `initialize` and returns the backend's response to it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn initialize(self: &Arc<Self>, backend: &Backend) -> Result<Response, CallError> {
        let (connection, answer) = self.send_initialize(backend).await?;
        if matches!(answer, Response::Result(_)) {
            self.connections.place(backend.alias()).set(connection);
        }
        Ok(answer)
    }

    /// Opens a connection and sends the client's `initialize` parameters on it.
    async fn send_initialize(
        self: &Arc<Self>,
        backend: &Backend,
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let listener = Arc::new(SessionListener::new(self, backend.alias(), None));
        let handler = Arc::clone(&listener) as Arc<dyn ServerMessageHandler>;
        let (connection, answer) = backend.open(&self.initialize_params, handler).await?;
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
        self.roles.lock().clone()
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

    fn belongs_to(&self, principal: &Principal) -> bool {
        self.issuer == principal.issuer && self.subject == principal.subject
    }

    /// Returns true if the session was unused for longer than `idle_timeout`. A session whose client reads a stream or
    /// waits for a response has not expired.
    fn has_expired(&self, idle_timeout: Duration) -> bool {
        self.last_used.lock().elapsed() > idle_timeout && !self.streams.is_in_use()
    }

    /// Ends the general stream, and drops the connections and the pending requests of backends.
    pub fn end(&self) {
        self.general().finish(None);
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
    use crate::auth::credential::Credential;
    use crate::gateway::session::notification_forwarder::NotificationForwarder;

    use super::*;

    const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

    fn principal(subject: &str, issuer: &str) -> Principal {
        Principal {
            subject: subject.to_owned(),
            issuer: issuer.to_owned(),
            token_id: None,
            roles: Vec::new(),
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        }
    }

    /// A policy by which the role `all` reaches these backends.
    fn policy(backends: &[&str]) -> Arc<Policy> {
        let allow = backends.iter().map(|backend| format!("{backend}/*")).collect();
        let role = crate::config::Role { allow, ..Default::default() };
        Arc::new(Policy::new(&std::collections::BTreeMap::from([("all".to_owned(), role)])).unwrap())
    }

    /// Delivers questions unrecorded, and waits for no answer.
    #[derive(Debug)]
    struct AtOnce;

    impl QuestionHandler for AtOnce {
        fn take(&self, question: Question) {
            (question.deliver)();
            std::mem::forget(question.fate);
        }
    }

    fn sessions(max: usize) -> Sessions {
        Sessions::new(max, IDLE_TIMEOUT, 1 << 20, watch::channel(policy(&["b"])).1, Arc::new(AtOnce))
    }

    fn open(sessions: &Sessions, principal: &Principal) -> Arc<Session> {
        sessions.open(principal, &Scope::All, "{}", usize::MAX).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_valid_only_for_its_principal_and_endpoint() {
        let (sessions, ann) = (sessions(4), principal("ann", "a"));
        let id = open(&sessions, &ann).id.clone();
        assert!(sessions.touch(&id, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&id, &ann, &Scope::One("x".to_owned())).err(), Some(UnknownSessionError));
        for other in [principal("bob", "a"), principal("ann", "b")] {
            assert_eq!(sessions.touch(&id, &other, &Scope::All).err(), Some(UnknownSessionError));
            assert_eq!(sessions.close(&id, &other, &Scope::All).err(), Some(UnknownSessionError));
        }
        assert!(sessions.close(&id, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&id, &ann, &Scope::All).err(), Some(UnknownSessionError));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_expire_and_sessions_in_use_do_not() {
        let (sessions, ann) = (sessions(4), principal("ann", "a"));
        let (used, idle) = (open(&sessions, &ann).id.clone(), open(&sessions, &ann).id.clone());
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        sessions.touch(&used, &ann, &Scope::All).unwrap();
        tokio::time::advance(IDLE_TIMEOUT / 2 + Duration::from_secs(1)).await;
        assert!(sessions.touch(&used, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&idle, &ann, &Scope::All).err(), Some(UnknownSessionError));
        let read = open(&sessions, &ann);
        let reader = read.general().read_from(0).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let removed = sessions.remove_expired();
        assert_eq!(
            removed.iter().map(|(session, why)| (&session.id, *why)).collect::<Vec<_>>(),
            [(&idle, EndReason::Idle)]
        );
        assert_eq!((sessions.remove_expired().len(), sessions.count()), (0, 2));
        tokio::time::advance(IDLE_TIMEOUT + Duration::from_secs(1)).await;
        let removed: Vec<_> = sessions.remove_expired().into_iter().map(|(session, _)| session.id.clone()).collect();
        assert_eq!(removed, [used], "a session whose client reads is in use");
        drop(reader);
        assert_eq!((sessions.remove_expired().len(), sessions.count()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sessions_per_principal_are_bounded_and_other_principals_lose_none() {
        let (sessions, ann, bob) = (sessions(3), principal("ann", "a"), principal("bob", "a"));
        let bobs = open(&sessions, &bob);
        let mut anns = Vec::<String>::new();
        for round in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let (session, removed) = sessions.open(&ann, &Scope::All, "{}", 2);
            let removed: Vec<_> = removed.iter().map(|(session, why)| (session.id.clone(), *why)).collect();
            let want = anns.len().checked_sub(2).map(|oldest: usize| (anns[oldest].clone(), EndReason::OwnLimit));
            assert_eq!(removed, Vec::from_iter(want), "round {round}");
            anns.push(session.id.clone());
        }
        assert!(sessions.touch(&bobs.id, &bob, &Scope::All).is_ok());
        // A lowered limit takes effect when the next session is opened.
        assert_eq!(sessions.open(&ann, &Scope::All, "{}", 1).1.len(), 2);
        assert_eq!(sessions.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sessions_are_bounded_and_the_longest_idle_one_is_removed() {
        let (sessions, ann) = (sessions(2), principal("ann", "a"));
        let first = open(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = open(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (third, removed) = sessions.open(&ann, &Scope::All, "{}", usize::MAX);
        assert_eq!(
            removed.iter().map(|(session, why)| (&session.id, *why)).collect::<Vec<_>>(),
            [(&first.id, EndReason::NoRoom)]
        );
        assert_eq!(sessions.touch(&first.id, &ann, &Scope::All).err(), Some(UnknownSessionError));
        assert!(sessions.touch(&second.id, &ann, &Scope::All).is_ok());
        assert!(sessions.touch(&third.id, &ann, &Scope::All).is_ok());
    }

    fn event(method: &str, id: Option<&str>) -> Event {
        let id = id.map(str::to_owned);
        Event { method: method.to_owned(), json: format!(r#"{{"id":"x","method":"{method}"}}"#), id }
    }

    #[tokio::test]
    async fn messages_go_to_the_newest_request_or_to_the_general_stream() {
        use crate::gateway::session::stream::Next;
        let ann = Principal { roles: vec!["all".to_owned()], ..principal("ann", "a") };
        let session = open(&sessions(1), &ann);
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
        let sessions = Sessions::new(4, IDLE_TIMEOUT, 1 << 20, in_force.clone(), Arc::new(AtOnce));
        let session = open(&sessions, &ann);
        let (b, c) = (SessionListener::new(&session, "b", None), SessionListener::new(&session, "c", None));
        let stream = session.streams.begin(&ann.roles).unwrap();
        let of_call = SessionListener::new(&session, "b", Some(Arc::clone(&stream)));
        let note = || event("notifications/message", None);
        assert!(b.on_event(note()) && c.on_event(note()) && of_call.on_event(note()));
        assert!(of_call.on_event(event("roots/list", Some("1"))));
        let stateless = Stream::unkept(&ann.roles, &sessions.replay);
        let audience = Audience::new("b", in_force);
        let forwarder = NotificationForwarder { stream: stateless, audience };
        assert!(forwarder.on_event(note()));
        // I10: what a reload takes away ends for open sessions and calls too.
        changes.send_replace(policy(&["c"]));
        assert!(!b.on_event(note()) && c.on_event(note()) && !of_call.on_event(note()) && !forwarder.on_event(note()));
        assert!(!of_call.on_event(event("roots/list", Some("2"))), "nor may it ask for anything");
    }

    #[tokio::test]
    async fn sessions_of_a_backend_end_when_the_roles_do_not_reach_it_any_more() {
        let ann = Principal { roles: vec!["all".to_owned()], ..principal("ann", "a") };
        let sessions = sessions(8);
        let [all, b, c] = [Scope::All, Scope::One("b".to_owned()), Scope::One("c".to_owned())]
            .map(|scope| sessions.open(&ann, &scope, "{}", usize::MAX).0);
        let [of_b, of_c] = ["b", "c"].map(|backend| all.connections.place(backend));
        let ended = sessions.remove_unreachable(&policy(&["c"]));
        let ended: Vec<_> = ended.iter().map(|(session, reason)| (session.id.as_str(), *reason)).collect();
        assert_eq!(ended, [(b.id.as_str(), EndReason::Unreachable)]);
        assert!(sessions.touch(&c.id, &ann, &c.scope).is_ok() && sessions.touch(&b.id, &ann, &b.scope).is_err());
        let is_kept = |backend, before| Arc::ptr_eq(&all.connections.place(backend), before);
        assert!(is_kept("c", &of_c) && !is_kept("b", &of_b), "its connection to b is closed");
    }
}
