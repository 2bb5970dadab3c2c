//! The requests that are open at one child: each has an id of the gateway's and somebody who waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::mcp::json;
use crate::mcp::protocol::{Era, META_SUBSCRIPTION};

use super::super::message::{self, Event, LISTEN, Message, Request, Response, ServerMessageHandler};
use super::super::wait::Wait;
use super::super::{CallError, Limits};
use super::lines::{Ended, Lines, ToWrite};
use crate::mcp::lines::LINE_BYTES_MAX;

/// One running child, as its callers see it.
#[derive(Debug)]
pub(in crate::upstream) struct Link {
    lines: Lines,
    open: Mutex<Open>,
    /// Takes what belongs to no request.
    listener: Option<Arc<dyn ServerMessageHandler>>,
    /// The child speaks the stateless era.
    is_modern: AtomicBool,
    /// The child has ended.
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Open {
    /// The child ended: nobody waits here any more.
    ended: bool,
    next_id: u64,
    waiting: HashMap<u64, Waiter>,
}

/// Who waits for a response.
#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Result<Response, CallError>>,
    events: Option<Arc<dyn ServerMessageHandler>>,
    /// The token under which the backend reports progress, and the client's own, as JSON text.
    token: Option<(String, String)>,
    /// Notified when something of this request came.
    heard: Arc<Notify>,
}

/// An open request. Dropped before its response came, it is forgotten here and cancelled at the child.
struct Waiting<'a> {
    link: &'a Link,
    id: u64,
    /// The child gets it, so it has to hear that it is given up.
    is_sent: bool,
}

impl Link {
    /// A link, and the lines to write to the child.
    pub(super) fn new(listener: Option<Arc<dyn ServerMessageHandler>>) -> (Self, ToWrite) {
        let (lines, to_write) = Lines::new();
        let (is_modern, gone) = (AtomicBool::new(false), CancellationToken::new());
        (Self { lines, open: Mutex::default(), listener, is_modern, gone }, to_write)
    }

    /// Makes one request. `shared` says that others use this child too, whose progress tokens may be the same.
    pub(in crate::upstream) async fn request(
        &self,
        request: &Request<'_>,
        limits: Limits,
        shared: bool,
    ) -> Result<Response, CallError> {
        let (answer, mut response) = oneshot::channel();
        let heard = Arc::new(Notify::new());
        let params = request.params.map(json::one_line);
        let token = params.as_deref().and_then(progress_token);
        let mut waiting = self.enter(answer, request.events.clone(), Arc::clone(&heard))?;
        let params = match (token, shared) {
            (Some(token), true) => {
                self.set_token(waiting.id, waiting.id.to_string(), token);
                params.map(|params| with_progress_token(&params, &waiting.id.to_string()))
            }
            (Some(token), false) => {
                self.set_token(waiting.id, token.clone(), token);
                params
            }
            (None, _) => params,
        };
        let line = message::write(Some(waiting.id), request.method, params.as_deref());
        let mut wait = match request.method {
            LISTEN => Wait::unlimited(),
            _ => Wait::new(limits.idle, limits.total).since(request.begun),
        };
        wait.limit(self.lines.send(line)).await?.map_err(|Ended| CallError::Died)?;
        waiting.is_sent = true;
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    response = &mut response => Some(response),
                    () = heard.notified() => None,
                }
            };
            match wait.limit(next).await? {
                Some(response) => {
                    drop(waiting);
                    return response.map_err(|_| CallError::Died)?;
                }
                None => wait.heard(),
            }
        }
    }

    /// Sends a message; waits for room.
    pub(in crate::upstream) async fn send(&self, message: String) -> Result<(), CallError> {
        self.lines.send(json::one_line(&message)).await.map_err(|Ended| CallError::Died)
    }

    /// The era that is spoken here.
    pub(in crate::upstream) fn era(&self) -> Era {
        if self.is_modern.load(Ordering::Acquire) { Era::Modern } else { Era::Legacy }
    }

    /// The child speaks the stateless era.
    pub(super) fn set_modern(&self) {
        self.is_modern.store(true, Ordering::Release);
    }

    /// Whether the child has ended.
    pub(in crate::upstream) fn has_ended(&self) -> bool {
        self.open().ended
    }

    /// Waits until the child has ended.
    pub(in crate::upstream) async fn ended(&self) {
        self.gone.cancelled().await;
    }

    /// Takes one line of the child's.
    pub(super) fn take(&self, alias: &str, line: &[u8]) {
        match std::str::from_utf8(line).map_or(Message::Garbled, message::read) {
            Message::Event(event) => self.take_event(alias, event),
            Message::Response { id, response } => {
                if let Ok(id) = id.parse() {
                    self.complete(id, response.ok_or(CallError::Garbled));
                } else {
                    tracing::warn!(backend = alias, "the backend answered an id that is none of the gateway's");
                }
            }
            Message::Garbled => {
                if let Some(id) = json::id_in_head(line) {
                    self.complete(id, Err(CallError::Garbled));
                } else {
                    tracing::warn!(backend = alias, bytes = line.len(), "a line of the backend is no message");
                }
            }
        }
    }

    /// Takes the beginning of a line that is too long: fails the call that it answers.
    pub(super) fn take_too_long(&self, alias: &str, head: &[u8]) {
        if let Some(id) = json::id_in_head(head) {
            self.complete(id, Err(CallError::TooLong { limit: LINE_BYTES_MAX }));
        } else {
            tracing::warn!(backend = alias, limit = LINE_BYTES_MAX, "dropped a line that is too long");
        }
    }

    /// The child ended: whoever waits is told, and nobody waits here again.
    pub(super) fn end(&self) {
        let waiting = {
            let mut open = self.open();
            open.ended = true;
            std::mem::take(&mut open.waiting)
        };
        self.lines.end();
        self.gone.cancel();
        for waiter in waiting.into_values() {
            // A waiter that is gone needs no answer.
            waiter.answer.send(Err(CallError::Died)).ok();
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        &self,
        answer: oneshot::Sender<Result<Response, CallError>>,
        events: Option<Arc<dyn ServerMessageHandler>>,
        heard: Arc<Notify>,
    ) -> Result<Waiting<'_>, CallError> {
        let mut open = self.open();
        if open.ended {
            return Err(CallError::Down { reason: "it has just ended".to_owned() });
        }
        open.next_id += 1;
        let id = open.next_id;
        open.waiting.insert(id, Waiter { answer, events, token: None, heard });
        Ok(Waiting { link: self, id, is_sent: false })
    }

    fn set_token(&self, id: u64, backends: String, clients: String) {
        if let Some(waiter) = self.open().waiting.get_mut(&id) {
            waiter.token = Some((backends, clients));
        }
    }

    fn complete(&self, id: u64, response: Result<Response, CallError>) {
        let waiter = self.open().waiting.remove(&id);
        if let Some(waiter) = waiter {
            // A waiter that is gone needs no answer.
            waiter.answer.send(response).ok();
        }
    }

    /// Progress and what was subscribed to go to the request that they are of, everything else to the listener. A ping is
    /// answered here.
    fn take_event(&self, alias: &str, event: Event) {
        if event.method == "notifications/progress" && event.id.is_none() {
            self.take_progress(event);
            return;
        }
        let id = (event.id.is_none() && self.era() == Era::Modern).then(|| subscription(&event.json)).flatten();
        if let Some(id) = id {
            let open = self.open();
            let events = open.waiting.get(&id).and_then(|waiter| waiter.events.clone());
            drop(open);
            if let Some(events) = events {
                events.on_event(event);
            }
            return;
        }
        let (id, method) = (event.id.clone(), event.method.clone());
        let is_ping = method == "ping" && id.is_some();
        let taken = !is_ping && self.listener.as_ref().is_some_and(|listener| listener.on_event(event));
        let Some(id) = id.filter(|_| !taken) else { return };
        let answer = if is_ping {
            json::object([("jsonrpc", "\"2.0\""), ("id", id.as_str()), ("result", "{}")])
        } else {
            message::nobody(&id)
        };
        if !self.lines.answer(answer) {
            tracing::warn!(backend = alias, method, "the backend asks and does not read the answers: it gets no more");
        }
    }

    fn take_progress(&self, mut event: Event) {
        let Some(found) = member(&event.json, "params").and_then(|params| member(&params, "progressToken")) else {
            return;
        };
        let (events, token) = {
            let open = self.open();
            let of_token = |waiter: &&Waiter| waiter.token.as_ref().is_some_and(|(backends, _)| *backends == found);
            let Some(waiter) = open.waiting.values().find(of_token) else { return };
            waiter.heard.notify_one();
            (waiter.events.clone(), waiter.token.clone())
        };
        if let Some((backends, clients)) = token.filter(|(backends, clients)| backends != clients) {
            debug_assert_eq!(backends, found);
            let params = member(&event.json, "params").unwrap_or_default();
            let params = json::with_members(&params, &[("progressToken", &clients)]);
            event.json = json::with_members(&event.json, &[("params", &params)]);
        }
        if let Some(events) = events {
            events.on_event(event);
        }
    }
}

/// A member of the object `json`, as text.
fn member(json: &str, key: &str) -> Option<String> {
    let members = json::members(json)?;
    members.iter().find(|member| member.key == key).map(|member| member.value.get().to_owned())
}

/// The request whose subscription a notification is of.
fn subscription(json: &str) -> Option<u64> {
    member(&member(&member(json, "params")?, "_meta")?, META_SUBSCRIPTION)?.parse().ok()
}

fn progress_token(params: &str) -> Option<String> {
    member(&member(params, "_meta")?, "progressToken")
}

fn with_progress_token(params: &str, token: &str) -> String {
    let meta = member(params, "_meta").unwrap_or_default();
    json::with_members(params, &[("_meta", &json::with_members(&meta, &[("progressToken", token)]))])
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let forgotten = self.link.open().waiting.remove(&self.id);
        if forgotten.is_some() && self.is_sent {
            self.link.lines.cancel(message::cancelled(self.id));
        }
    }
}
