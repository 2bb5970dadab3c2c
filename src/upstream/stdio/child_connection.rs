//! The requests in progress at one child process: their ids, which the gateway assigns, and the callers that wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::mcp::json;
use crate::mcp::lines::LINE_BYTES_MAX;
use crate::mcp::protocol::{Era, META_SUBSCRIPTION, PROGRESS};
use crate::mcp::shared_text::SharedText;
use crate::upstream::error::CallError;
use crate::upstream::frame::Frame;
use crate::upstream::message::{self, Event, LISTEN, Message, Request, Response, ServerMessageHandler};
use crate::upstream::offer::Greeting;
use crate::upstream::timeouts::{RequestTimer, Timeouts};

use super::write_queue::{QueueClosedError, QueuedLines, WriteQueue};

/// The connection to one running child process.
#[derive(Debug)]
pub(in crate::upstream) struct ChildConnection {
    queue: WriteQueue,
    pending: Mutex<PendingRequests>,
    /// Handles notifications and requests that belong to no request of the gateway.
    listener: Option<Arc<dyn ServerMessageHandler>>,
    /// The child speaks the stateless era.
    is_modern: AtomicBool,
    /// The child's answer to the handshake.
    greeting: OnceLock<Arc<Greeting>>,
    /// Cancelled when the child has ended.
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct PendingRequests {
    /// The child has ended: no request can be added.
    is_closed: bool,
    last_id: u64,
    by_id: HashMap<u64, PendingRequest>,
}

/// A request without a response yet.
#[derive(Debug)]
struct PendingRequest {
    response: oneshot::Sender<Result<Response, CallError>>,
    events: Option<Arc<dyn ServerMessageHandler>>,
    progress_token: Option<ProgressToken>,
    /// Notified by each progress notification of the request.
    progress: Arc<Notify>,
}

/// The progress token of a request on both sides of the gateway, as JSON text.
///
/// They differ at a shared child, because two clients may use the same token.
#[derive(Clone, Debug)]
struct ProgressToken {
    upstream: String,
    client: String,
}

/// Removes a request when it is dropped, and cancels it at the child if it has no response yet.
struct RequestGuard<'a> {
    connection: &'a ChildConnection,
    id: u64,
    /// The request is in the write queue, so the child needs the cancellation.
    is_sent: bool,
}

impl ChildConnection {
    /// A connection, and the lines to write to the child.
    pub(super) fn new(listener: Option<Arc<dyn ServerMessageHandler>>) -> (Self, QueuedLines) {
        let (queue, lines) = WriteQueue::new();
        let (is_modern, greeting, ended) = (AtomicBool::new(false), OnceLock::new(), CancellationToken::new());
        (Self { queue, pending: Mutex::default(), listener, is_modern, greeting, ended }, lines)
    }

    /// Makes one request. `is_shared`: the child serves several clients, whose progress tokens may be equal.
    pub(in crate::upstream) async fn request(
        &self,
        request: &Request<'_>,
        timeouts: Timeouts,
        is_shared: bool,
    ) -> Result<Response, CallError> {
        let (sender, mut response) = oneshot::channel();
        let progress = Arc::new(Notify::new());
        let mut guard = self.add(sender, request.events.clone(), Arc::clone(&progress))?;
        let params = match &request.progress_token {
            Some(token) => self.register_progress_token(guard.id, request.params.as_ref(), token.clone(), is_shared),
            None => request.params.clone(),
        };
        let line = Frame::new(Some(guard.id), request.method, params.as_ref()).into_one_line();
        drop(params);
        let mut timer = match request.method {
            LISTEN => RequestTimer::unlimited(),
            _ => RequestTimer::new(timeouts).started_at(request.begun),
        };
        timer.run(self.queue.send(line)).await?.map_err(|QueueClosedError| CallError::Died)?;
        guard.is_sent = true;
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    response = &mut response => Some(response),
                    () = progress.notified() => None,
                }
            };
            match timer.run(next).await? {
                Some(response) => {
                    drop(guard);
                    return response.map_err(|_| CallError::Died)?;
                }
                None => timer.reset_idle(),
            }
        }
    }

    /// Sends a message, after waiting for a place in the write queue.
    pub(in crate::upstream) async fn send(&self, message: String) -> Result<(), CallError> {
        self.queue.send(Frame::from(message).into_one_line()).await.map_err(|QueueClosedError| CallError::Died)
    }

    /// The era that the child speaks.
    pub(in crate::upstream) fn era(&self) -> Era {
        if self.is_modern.load(Ordering::Acquire) { Era::Modern } else { Era::Legacy }
    }

    /// The child's answer to the handshake.
    pub(in crate::upstream) fn greeting(&self) -> Arc<Greeting> {
        self.greeting.get().map(Arc::clone).unwrap_or_default()
    }

    /// Records the child's `answer` to the handshake.
    pub(super) fn set_greeting(&self, answer: &Response) {
        if let Response::Result(result) = answer {
            self.greeting.set(Arc::new(Greeting::of(result))).ok();
        }
    }

    /// Records that the child speaks the stateless era.
    pub(super) fn set_modern(&self) {
        self.is_modern.store(true, Ordering::Release);
    }

    /// Returns whether the child has ended.
    pub(in crate::upstream) fn has_ended(&self) -> bool {
        self.pending.lock().is_closed
    }

    /// Waits until the child has ended.
    pub(in crate::upstream) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Handles one line that the child has written.
    pub(super) fn handle_line(&self, alias: &str, line: &[u8]) {
        match std::str::from_utf8(line).map_or(Message::Garbled, message::read) {
            Message::Event(event) => self.handle_event(alias, event),
            Message::Response { id, response } => {
                if let Some(id) = message::own_id(&id) {
                    self.complete(id, response.ok_or(CallError::Garbled));
                } else {
                    tracing::warn!(backend = alias, "dropped a response of the backend: unknown request id");
                }
            }
            Message::Garbled => {
                if let Some(id) = json::id_in_head(line) {
                    self.complete(id, Err(CallError::Garbled));
                } else {
                    tracing::warn!(
                        backend = alias,
                        bytes = line.len(),
                        "dropped a line of the backend: not a JSON-RPC message"
                    );
                }
            }
        }
    }

    /// Handles the beginning of a line that is too long: the request that it answers fails.
    pub(super) fn handle_oversized_line(&self, alias: &str, head: &[u8]) {
        if let Some(id) = json::id_in_head(head) {
            self.complete(id, Err(CallError::TooLong { limit: LINE_BYTES_MAX }));
        } else {
            tracing::warn!(backend = alias, limit = LINE_BYTES_MAX, "dropped a line of the backend: too long");
        }
    }

    /// Closes the connection after the child has ended: all pending requests fail, and no request can be added.
    pub(super) fn close(&self) {
        let pending = {
            let mut pending = self.pending.lock();
            pending.is_closed = true;
            std::mem::take(&mut pending.by_id)
        };
        self.queue.close();
        self.ended.cancel();
        for request in pending.into_values() {
            // A caller that is gone needs no response.
            request.response.send(Err(CallError::Died)).ok();
        }
    }

    fn add(
        &self,
        response: oneshot::Sender<Result<Response, CallError>>,
        events: Option<Arc<dyn ServerMessageHandler>>,
        progress: Arc<Notify>,
    ) -> Result<RequestGuard<'_>, CallError> {
        let mut pending = self.pending.lock();
        if pending.is_closed {
            return Err(CallError::Down { reason: "it has just ended".to_owned() });
        }
        pending.last_id += 1;
        let id = pending.last_id;
        pending.by_id.insert(id, PendingRequest { response, events, progress_token: None, progress });
        Ok(RequestGuard { connection: self, id, is_sent: false })
    }

    /// Stores the progress token of request `id`. Returns the parameters for the child: at a shared one, with `id` as
    /// the token.
    fn register_progress_token(
        &self,
        id: u64,
        params: Option<&SharedText>,
        client: String,
        is_shared: bool,
    ) -> Option<SharedText> {
        let upstream = if is_shared { id.to_string() } else { client.clone() };
        let rewritten = params.filter(|_| is_shared).and_then(|params| {
            let object = json::Object::parse_path(params, &["_meta"])?;
            let meta = object.object("_meta")?.replaced("progressToken", &upstream);
            Some(params.derived(object.replaced("_meta", &meta)))
        });
        if let Some(request) = self.pending.lock().by_id.get_mut(&id) {
            request.progress_token = Some(ProgressToken { upstream, client });
        }
        rewritten.or_else(|| params.cloned())
    }

    fn complete(&self, id: u64, response: Result<Response, CallError>) {
        let request = self.pending.lock().by_id.remove(&id);
        if let Some(request) = request {
            // A caller that is gone needs no response.
            request.response.send(response).ok();
        }
    }

    /// Passes progress and notifications of a subscription to their request, and everything else to the listener.
    /// Answers a ping, and any request that the listener does not take.
    fn handle_event(&self, alias: &str, event: Event) {
        if event.method == PROGRESS && event.id.is_none() {
            self.handle_progress(event);
            return;
        }
        let id = (event.id.is_none() && self.era() == Era::Modern).then(|| subscription_id(&event.json)).flatten();
        if let Some(id) = id {
            let events = self.pending.lock().by_id.get(&id).and_then(|request| request.events.clone());
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
        if !self.queue.answer(answer.into()) {
            tracing::warn!(backend = alias, method, "the backend does not read our answers; dropped this one");
        }
    }

    /// Passes a progress notification to its request, with the client's own token.
    fn handle_progress(&self, mut event: Event) {
        let notification = json::Object::parse_path(&event.json, &["params"]);
        let Some(params) = notification.as_ref().and_then(|notification| notification.object("params")) else { return };
        let Some(upstream) = params.get("progressToken") else { return };
        let (events, token) = {
            let pending = self.pending.lock();
            let found = pending.by_id.values().find_map(|request| {
                request.progress_token.as_ref().filter(|token| token.upstream == upstream).map(|token| (request, token))
            });
            let Some((request, token)) = found else { return };
            request.progress.notify_one();
            (request.events.clone(), token.clone())
        };
        if token.client != token.upstream {
            let params = params.with(&[("progressToken", &token.client)]);
            let rewritten = notification.as_ref().map(|notification| notification.with(&[("params", &params)]));
            event.json = rewritten.unwrap_or_default();
        }
        if let Some(events) = events {
            events.on_event(event);
        }
    }
}

/// The id of the subscription that a notification belongs to: the id of the request that opened it.
fn subscription_id(notification: &str) -> Option<u64> {
    let notification = json::Object::parse_path(notification, &["params", "_meta"])?;
    notification.object("params")?.object("_meta")?.get(META_SUBSCRIPTION).and_then(message::own_id)
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        let removed = self.connection.pending.lock().by_id.remove(&self.id);
        if removed.is_some() && self.is_sent {
            self.connection.queue.cancel(message::cancelled(self.id).into());
        }
    }
}
