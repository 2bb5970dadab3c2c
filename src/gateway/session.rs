//! Legacy sessions: an id that a client got at `initialize`, bound to who it was, and its conversations with backends.
//!
//! A session is correlation, never identity: another principal's id is as unknown as one that never was. Each session has
//! conversations of its own with the backends it uses, opened as it was opened itself, so that no state of one client's
//! leaks to another. What a backend asks gets an id of the session's own; the client's response finds its way back.
//!
//! Sessions are bounded in number, for each principal and in all: where there is no room, expired ones go first, then the
//! one that was idle longest, of the principal's own before another's. Its client begins anew, as the protocol says.
//! Sessions that end without their client's asking are given to the caller with the reason, to be ended and recorded.

pub mod inflight;
pub mod server_requests;
pub mod stream;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;

use crate::audit::record::Caller;
use crate::auth::Principal;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::server_requests::PendingServerRequests;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::Id;
use crate::mcp::json;
use crate::mcp::protocol::{CANCELLED, INVALID_REQUEST};
use crate::rbac::{LISTS_CHANGED, Policy};
use crate::upstream::{Backend, CallError, Event, Response, ServerMessageHandler, UpstreamConnection};

/// How long a session may be idle. *Chosen*: longer than a working day's pauses.
pub(crate) const IDLE_MAX: Duration = Duration::from_hours(8);

/// Streams of a session that are kept after their end, for a client that lost one. *Chosen*.
const ENDED_STREAMS_MAX: usize = 8;

/// Streams of a session that are open at once. *Chosen*: as many as a client has requests open.
const STREAMS_MAX: usize = 256;

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    max: usize,
}

/// Why a session ended that its client did not close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It was idle too long.
    Idle,
    /// Its principal opened more than one principal may have.
    OwnLimit,
    /// There was no room for another.
    NoRoom,
    /// The gateway stopped.
    Stopped,
}

/// Sessions that are no more, and why.
pub type EndedSessions = Vec<(Arc<Session>, EndReason)>;

/// No such session for this principal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown session: initialize again")]
pub struct UnknownSessionError;

impl From<UnknownSessionError> for Refusal {
    fn from(error: UnknownSessionError) -> Self {
        Self::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, error.to_string())
    }
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Its id: 122 random bits.
    pub id: String,
    issuer: String,
    subject: String,
    /// Where it was opened.
    pub(crate) scope: Scope,
    /// Who opened it, as records say it.
    pub(crate) caller: Caller,
    /// The roles of whoever used it last.
    roles: Mutex<Vec<String>>,
    /// The parameters of its `initialize`, as JSON text.
    initialize_params: String,
    last_used: Mutex<Instant>,
    connections: Mutex<BTreeMap<String, Arc<Slot>>>,
    asked: Mutex<PendingServerRequests<UpstreamConnection>>,
    streams: Mutex<Streams>,
}

/// The conversation with one backend; opened when it is first used, and again where it has ended.
#[derive(Debug, Default)]
struct Slot {
    /// Held by the one who opens it.
    opening: Arc<tokio::sync::Mutex<()>>,
    /// What is open; looking at it waits for nobody.
    open: Mutex<Option<Arc<UpstreamConnection>>>,
}

#[derive(Debug)]
struct Streams {
    next: u64,
    /// What belongs to no request.
    general: Arc<Stream>,
    /// Of requests that are open, the newest last, and of some that have ended.
    of_requests: VecDeque<(Arc<Stream>, bool)>,
}

impl Sessions {
    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Room for `max` sessions, at least one.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { open: Mutex::default(), max: max.max(1) }
    }

    /// Opens a session for `principal`, who may have `own_max`; `initialize_params` is the parameters of its `initialize`. Gives those
    /// that made room too.
    #[must_use]
    pub fn open(
        &self,
        principal: &Principal,
        scope: &Scope,
        initialize_params: &str,
        own_max: usize,
    ) -> (Arc<Session>, EndedSessions) {
        let roles = (!principal.roles.is_empty()).then(|| principal.roles.join(","));
        let session = Arc::new(Session {
            id: uuid::Uuid::new_v4().to_string(),
            issuer: principal.issuer.clone(),
            subject: principal.subject.clone(),
            scope: scope.clone(),
            caller: principal.caller(roles.as_deref()),
            roles: Mutex::new(principal.roles.clone()),
            initialize_params: initialize_params.to_owned(),
            last_used: Mutex::new(Instant::now()),
            connections: Mutex::default(),
            asked: Mutex::default(),
            streams: Mutex::new(Streams { next: 1, general: Stream::new(0), of_requests: VecDeque::new() }),
        });
        let mut open = self.lock();
        let mut gone = Vec::new();
        // I6: the number of sessions is bounded, for each principal and in all.
        let own = open.values().filter(|session| session.belongs_to(principal)).count();
        for _ in own_max.max(1)..=own {
            gone.extend(
                take_idlest(&mut open, |session| session.belongs_to(principal)).map(|it| (it, EndReason::OwnLimit)),
            );
        }
        if open.len() >= self.max {
            gone.extend(take_expired(&mut open));
        }
        if open.len() >= self.max {
            gone.extend(take_idlest(&mut open, |_| true).map(|it| (it, EndReason::NoRoom)));
        }
        open.insert(session.id.clone(), Arc::clone(&session));
        (session, gone)
    }

    /// Takes out those that were idle too long.
    #[must_use]
    pub fn expired(&self) -> EndedSessions {
        take_expired(&mut self.lock())
    }

    /// Uses a session.
    ///
    /// # Errors
    /// [`UnknownSessionError`]: expired, closed, another principal's, of another endpoint, or never there.
    pub fn touch(&self, id: &str, principal: &Principal, scope: &Scope) -> Result<Arc<Session>, UnknownSessionError> {
        let open = self.lock();
        let session = open.get(id).filter(|session| session.belongs_to(principal) && session.scope == *scope);
        // One that has expired is there until it is recorded.
        let session = session.filter(|session| !session.has_expired()).cloned().ok_or(UnknownSessionError)?;
        *lock(&session.last_used) = Instant::now();
        lock(&session.roles).clone_from(&principal.roles);
        Ok(session)
    }

    /// Takes a session out; its conversations end with its last use.
    ///
    /// # Errors
    /// [`UnknownSessionError`], as for [`Sessions::touch`].
    pub fn close(&self, id: &str, principal: &Principal, scope: &Scope) -> Result<Arc<Session>, UnknownSessionError> {
        let session = self.touch(id, principal, scope)?;
        self.lock().remove(id);
        session.end();
        Ok(session)
    }

    /// Tells every client that listens which of its lists may differ from what they were by the policy `before`.
    pub fn tell_of_views(&self, before: &Policy, now: &Policy) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        for session in all {
            let (general, roles) = (session.general(), lock(&session.roles).clone());
            let changed = LISTS_CHANGED.into_iter().filter(|(kind, _)| now.shows_other(before, &roles, *kind));
            for (_, method) in changed.filter(|_| general.is_read()) {
                // One that does not read loses it, and has more to read than this.
                general.push(&json::object([("jsonrpc", "\"2.0\""), ("method", &json::quoted(method))]));
            }
        }
    }

    /// Ends the streams that belong to no request.
    pub fn end_streams(&self) {
        for session in self.lock().values() {
            session.general().finish(None);
        }
    }

    /// Takes out all of them: the gateway stops.
    #[must_use]
    pub fn all(&self) -> EndedSessions {
        std::mem::take(&mut *self.lock()).into_values().map(|session| (session, EndReason::Stopped)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        lock(&self.open)
    }
}

fn take_expired(open: &mut HashMap<String, Arc<Session>>) -> EndedSessions {
    open.extract_if(|_, session| session.has_expired()).map(|(_, session)| (session, EndReason::Idle)).collect()
}

/// Takes out the one of these that was not used for the longest time.
fn take_idlest(open: &mut HashMap<String, Arc<Session>>, of: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
    let idlest = open.values().filter(|session| of(session)).min_by_key(|session| *lock(&session.last_used));
    let id = idlest?.id.clone();
    open.remove(&id)
}

impl Session {
    /// The conversation with `backend`, opened where there is none.
    ///
    /// # Errors
    /// [`CallError`]: the backend is down, or does not want to talk.
    ///
    /// # Cancel safety
    /// What was begun to be opened is there for the next one who asks: a backend may take longer to start than one list waits.
    pub async fn connection(self: &Arc<Self>, backend: &Arc<Backend>) -> Result<Arc<UpstreamConnection>, CallError> {
        let slot = self.slot(backend.alias());
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        let turn = Arc::clone(&slot.opening).lock_owned().await;
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        let (session, opened) = (Arc::clone(self), Arc::clone(backend));
        let opening = async move {
            let _turn = turn;
            let connection = session.open_connection(&opened).await?;
            *lock(&slot.open) = Some(Arc::clone(&connection));
            // PendingServerRequests after it is seen to be open: a client that begins to listen meanwhile finds it there.
            if session.general().is_read() {
                connection.listen();
            }
            Ok(connection)
        };
        backend.run(opening).await
    }

    async fn open_connection(self: &Arc<Self>, backend: &Backend) -> Result<Arc<UpstreamConnection>, CallError> {
        let (connection, answer) = self.greet(backend).await?;
        if let Response::Error { error, .. } = answer {
            return Err(CallError::Down { reason: format!("it refused to initialize: {error}") });
        }
        connection.notify("notifications/initialized", None).await?;
        Ok(connection)
    }

    /// Opens the conversation with `backend` for the client's own `initialize`, whose answer is the backend's.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn initialize(self: &Arc<Self>, backend: &Backend) -> Result<Response, CallError> {
        let (connection, answer) = self.greet(backend).await?;
        if matches!(answer, Response::Result(_)) {
            *lock(&self.slot(backend.alias()).open) = Some(connection);
        }
        Ok(answer)
    }

    async fn greet(self: &Arc<Self>, backend: &Backend) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let ear = Arc::new(SessionListener::new(self, None));
        let (connection, answer) =
            backend.open(&self.initialize_params, Arc::clone(&ear) as Arc<dyn ServerMessageHandler>).await?;
        ear.set_connection(&connection);
        Ok((connection, answer))
    }

    /// The conversations that are open; one that is being opened is none yet.
    #[must_use]
    pub fn connections(&self) -> Vec<Arc<UpstreamConnection>> {
        lock(&self.connections).values().filter_map(|slot| lock(&slot.open).clone()).collect()
    }

    fn slot(&self, alias: &str) -> Arc<Slot> {
        Arc::clone(lock(&self.connections).entry(alias.to_owned()).or_default())
    }

    /// The stream of what belongs to no request.
    pub(crate) fn general(&self) -> Arc<Stream> {
        Arc::clone(&lock(&self.streams).general)
    }

    /// A stream for one request. `None`: too many are open; the request has none.
    pub(crate) fn begin_stream(&self) -> Option<Arc<Stream>> {
        let mut streams = lock(&self.streams);
        let open = streams.of_requests.iter().filter(|(_, is_open)| *is_open).count();
        if open >= STREAMS_MAX {
            return None;
        }
        let stream = Stream::new(streams.next);
        streams.next += 1;
        streams.of_requests.push_back((Arc::clone(&stream), true));
        Some(stream)
    }

    /// The request of `stream` has its response. A stream that was used stays for a while.
    pub(crate) fn end_stream(&self, stream: &Arc<Stream>, was_used: bool) {
        let mut streams = lock(&self.streams);
        for (known, is_open) in &mut streams.of_requests {
            *is_open &= !Arc::ptr_eq(known, stream);
        }
        if !was_used {
            streams.of_requests.retain(|(known, _)| !Arc::ptr_eq(known, stream));
        }
        let ended = streams.of_requests.iter().filter(|(_, is_open)| !is_open).count();
        for _ in ENDED_STREAMS_MAX..ended {
            // I6: what is kept for clients that come back is bounded.
            if let Some(oldest) = streams.of_requests.iter().position(|(_, is_open)| !is_open) {
                streams.of_requests.remove(oldest);
            }
        }
    }

    /// The stream that a client read up to message `last` (as `stream-message`), and that message's number.
    pub(crate) fn stream_of(&self, last: &str) -> Option<(Arc<Stream>, u64)> {
        let (stream, message) = last.split_once('-')?;
        let (number, message): (u64, u64) = (stream.parse().ok()?, message.parse().ok()?);
        let streams = lock(&self.streams);
        let all = std::iter::once(&streams.general).chain(streams.of_requests.iter().map(|(stream, _)| stream));
        all.into_iter().find(|stream| stream.number == number).map(|stream| (Arc::clone(stream), message))
    }

    /// Puts a backend's message where the client reads: of a request on the stream of the newest one, else, or for
    /// what concerns no request, on the general one.
    fn deliver(&self, json: &str, is_general: bool) -> bool {
        let (general, newest) = {
            let streams = lock(&self.streams);
            let newest = streams.of_requests.iter().rev().find(|(_, is_open)| *is_open);
            (Arc::clone(&streams.general), newest.map(|(stream, _)| Arc::clone(stream)))
        };
        match newest {
            Some(newest) if !is_general || !general.is_read() => newest.push(json),
            _ => general.push(json),
        }
    }

    /// Takes a message of a backend's for the client, on `stream` or wherever the client reads.
    fn take(&self, connection: &Weak<UpstreamConnection>, event: &Event, stream: Option<&Stream>) -> bool {
        let put = |json: &str, is_general: bool| match stream {
            Some(stream) => stream.push(json),
            None => self.deliver(json, is_general),
        };
        let Some(id) = event.id.clone() else {
            let is_general = event.method.ends_with("list_changed") || event.method.ends_with("/updated");
            if event.method != CANCELLED {
                return put(&event.json, is_general);
            }
            // What the client was never asked it cannot give up.
            let cancelled = lock(&self.asked).cancel(connection, &event.json);
            return cancelled.is_none_or(|json| put(&json, false));
        };
        let (number, json) = lock(&self.asked).ctx(connection, id, event);
        let taken = put(&json, false);
        if !taken {
            lock(&self.asked).take(number);
        }
        taken
    }

    /// Finds whose request the client's response answers: the conversation, the backend's id, and the method.
    pub(crate) fn answered(&self, id: &Id) -> Option<(Arc<UpstreamConnection>, String, String)> {
        let request = lock(&self.asked).take(id.as_json().parse().ok()?)?;
        Some((request.connection.upgrade()?, request.id, request.method))
    }

    /// Whom the client's progress is for, and its parameters as that backend knows them.
    pub(crate) fn progress(&self, params: &str) -> Option<(Arc<UpstreamConnection>, String)> {
        lock(&self.asked).progress(params)
    }

    fn belongs_to(&self, principal: &Principal) -> bool {
        self.issuer == principal.issuer && self.subject == principal.subject
    }

    /// Whether its client has been away too long: one that listens, or waits for a response, is there.
    fn has_expired(&self) -> bool {
        let is_awaited = || {
            let streams = lock(&self.streams);
            streams.general.is_read() || streams.of_requests.iter().any(|(_, is_open)| *is_open)
        };
        lock(&self.last_used).elapsed() > IDLE_MAX && !is_awaited()
    }

    /// Ends its streams and lets its conversations go.
    pub fn end(&self) {
        self.general().finish(None);
        lock(&self.connections).clear();
        lock(&self.asked).clear();
    }
}

impl Slot {
    fn usable(&self) -> Option<Arc<UpstreamConnection>> {
        lock(&self.open).clone().filter(|connection| !connection.has_ended())
    }
}

/// Listens to a backend for a session, or for one request of it.
#[derive(Debug)]
pub(crate) struct SessionListener {
    session: Weak<Session>,
    connection: Mutex<Weak<UpstreamConnection>>,
    stream: Option<Arc<Stream>>,
}

impl SessionListener {
    pub(crate) fn new(session: &Arc<Session>, stream: Option<Arc<Stream>>) -> Self {
        Self { session: Arc::downgrade(session), connection: Mutex::new(Weak::new()), stream }
    }

    /// Whom it listens to: known once the conversation is open.
    pub(crate) fn set_connection(&self, connection: &Arc<UpstreamConnection>) {
        *lock(&self.connection) = Arc::downgrade(connection);
    }
}

impl ServerMessageHandler for SessionListener {
    fn on_event(&self, event: Event) -> bool {
        let Some(session) = self.session.upgrade() else { return false };
        let connection = Weak::clone(&lock(&self.connection));
        session.take(&connection, &event, self.stream.as_deref())
    }

    fn on_stream_start(&self) {
        if let Some(stream) = &self.stream {
            stream.open();
        }
    }
}

/// Listens to a backend for one request without a session: there is nobody whom a backend could request.
#[derive(Debug)]
pub(crate) struct NotificationForwarder(pub(crate) Arc<Stream>);

impl ServerMessageHandler for NotificationForwarder {
    fn on_event(&self, event: Event) -> bool {
        event.id.is_none() && self.0.push(&event.json)
    }

    fn on_stream_start(&self) {
        self.0.open();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(subject: &str, issuer: &str) -> Principal {
        Principal { subject: subject.to_owned(), issuer: issuer.to_owned(), token_id: None, roles: Vec::new() }
    }

    fn open(sessions: &Sessions, principal: &Principal) -> Arc<Session> {
        sessions.open(principal, &Scope::All, "{}", usize::MAX).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_its_principals_alone_and_of_one_endpoint() {
        let (sessions, ann) = (Sessions::new(4), principal("ann", "a"));
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
    async fn idle_sessions_expire_and_used_ones_do_not() {
        let (sessions, ann) = (Sessions::new(4), principal("ann", "a"));
        let (used, idle) = (open(&sessions, &ann).id.clone(), open(&sessions, &ann).id.clone());
        tokio::time::advance(IDLE_MAX / 2).await;
        sessions.touch(&used, &ann, &Scope::All).unwrap();
        tokio::time::advance(IDLE_MAX / 2 + Duration::from_secs(1)).await;
        assert!(sessions.touch(&used, &ann, &Scope::All).is_ok());
        assert_eq!(sessions.touch(&idle, &ann, &Scope::All).err(), Some(UnknownSessionError));
        let awaited = open(&sessions, &ann);
        let reading = awaited.general().read_from(0).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let gone = sessions.expired();
        assert_eq!(
            gone.iter().map(|(session, why)| (&session.id, *why)).collect::<Vec<_>>(),
            [(&idle, EndReason::Idle)]
        );
        assert_eq!((sessions.expired().len(), sessions.count()), (0, 2));
        tokio::time::advance(IDLE_MAX + Duration::from_secs(1)).await;
        let gone: Vec<_> = sessions.expired().into_iter().map(|(session, _)| session.id.clone()).collect();
        assert_eq!(gone, [used], "a client that listens is there");
        drop(reading);
        assert_eq!((sessions.expired().len(), sessions.count()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn i6_one_principals_sessions_are_bounded_and_cost_nobody_else_theirs() {
        let (sessions, ann, bob) = (Sessions::new(3), principal("ann", "a"), principal("bob", "a"));
        let bobs = open(&sessions, &bob);
        let mut anns = Vec::<String>::new();
        for round in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let (session, gone) = sessions.open(&ann, &Scope::All, "{}", 2);
            let gone: Vec<_> = gone.iter().map(|(session, why)| (session.id.clone(), *why)).collect();
            let want = anns.len().checked_sub(2).map(|oldest: usize| (anns[oldest].clone(), EndReason::OwnLimit));
            assert_eq!(gone, Vec::from_iter(want), "round {round}");
            anns.push(session.id.clone());
        }
        assert!(sessions.touch(&bobs.id, &bob, &Scope::All).is_ok());
        // A limit that was lowered takes effect with the next one.
        assert_eq!(sessions.open(&ann, &Scope::All, "{}", 1).1.len(), 2);
        assert_eq!(sessions.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sessions_are_bounded_and_the_longest_idle_one_makes_room() {
        let (sessions, ann) = (Sessions::new(2), principal("ann", "a"));
        let first = open(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = open(&sessions, &ann);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (third, gone) = sessions.open(&ann, &Scope::All, "{}", usize::MAX);
        assert_eq!(
            gone.iter().map(|(session, why)| (&session.id, *why)).collect::<Vec<_>>(),
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
    async fn messages_go_to_the_newest_request_or_where_the_client_listens() {
        use crate::gateway::session::stream::Next;
        let session = open(&Sessions::new(1), &principal("ann", "a"));
        let ear = SessionListener::new(&session, None);
        let (old, new) = (session.begin_stream().unwrap(), session.begin_stream().unwrap());
        assert!(ear.on_event(event("notifications/message", None)) && old.is_untouched() && !new.is_untouched());
        let mut general = session.general().read_from(0).unwrap();
        assert!(ear.on_event(event("notifications/tools/list_changed", None)));
        assert!(matches!(general.next().await, Next::Message(1, _)));
        session.end_stream(&new, true);
        // A request of the backend's has an id of the session's own.
        assert!(ear.on_event(event("roots/list", Some("\"x\""))));
        let Next::Message(_, json) = old.read_from(0).unwrap().next().await else { panic!() };
        assert!(json.contains(r#""id":1"#), "{json}");
        assert!(session.stream_of("2-1").is_some() && session.stream_of("9-1").is_none());
    }
}
