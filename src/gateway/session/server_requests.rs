//! Requests from backends to a session's client, each under a number of the session.
//!
//! Backends choose ids and progress tokens independently, and the client sees a single server. The number replaces both
//! the id and the progress token, and maps a later response, progress or cancellation back to the backend's request.
//!
//! A request is pending until it is answered, is cancelled or its backend is gone. The number of pending requests is
//! bounded (I6): the oldest one is dropped to make room, and a response to it is then discarded.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::question::Fate;
use crate::mcp::json::Object;
use crate::upstream::Event;

/// Most pending requests of one session. *Chosen*: a client answers them one by one, and each takes few bytes here.
const PENDING_MAX: usize = 256;

/// The pending requests of a session. `P` is the connection to a backend.
#[derive(Debug)]
pub(crate) struct PendingServerRequests<P> {
    next: u64,
    pending: BTreeMap<u64, ServerRequest<P>>,
}

/// A backend's request to the client.
#[derive(Debug)]
pub(crate) struct ServerRequest<P> {
    /// The connection that the request came on.
    connection: Weak<P>,
    /// The backend's id of the request, as JSON text.
    id: String,
    /// The request's method.
    method: String,
    /// Takes what becomes of the request.
    pub(crate) fate: oneshot::Sender<Fate>,
    /// True once the client was sent the request.
    is_delivered: bool,
    /// The backend's progress token, as JSON text.
    token: Option<String>,
}

impl<P> Default for PendingServerRequests<P> {
    fn default() -> Self {
        Self { next: 0, pending: BTreeMap::new() }
    }
}

impl<P> PendingServerRequests<P> {
    /// Adds the request `event`, which came on `connection` with the id `id`; `fate` takes what becomes of it. Returns
    /// its number and the message for the client.
    pub(crate) fn insert(
        &mut self,
        connection: &Weak<P>,
        id: String,
        event: &Event,
        fate: oneshot::Sender<Fate>,
    ) -> (u64, String) {
        self.pending.retain(|_, request| request.connection.strong_count() > 0 && !request.fate.is_closed());
        while self.pending.len() >= PENDING_MAX {
            // I6: the number of pending requests is bounded.
            if let Some((_, request)) = self.pending.pop_first() {
                tracing::warn!(
                    method = request.method,
                    limit = PENDING_MAX,
                    "too many unanswered server requests; dropping the oldest"
                );
            }
        }
        self.next += 1;
        let (json, token) = renumbered(&event.json, &self.next.to_string());
        let request = ServerRequest {
            connection: Weak::clone(connection),
            id,
            method: event.method.clone(),
            token,
            fate,
            is_delivered: false,
        };
        self.pending.insert(self.next, request);
        (self.next, json)
    }

    /// Sends the client the request by `push`, unless it was cancelled. Returns false if the client was not sent it;
    /// the request is then removed.
    pub(crate) fn deliver(&mut self, number: u64, push: impl FnOnce() -> bool) -> bool {
        let Some(request) = self.pending.get_mut(&number) else { return false };
        request.is_delivered = push();
        let is_delivered = request.is_delivered;
        if !is_delivered {
            self.pending.remove(&number);
        }
        is_delivered
    }

    /// Removes a request that was answered.
    pub(crate) fn remove(&mut self, number: u64) -> Option<ServerRequest<P>> {
        self.pending.remove(&number)
    }

    /// Removes the request that `connection` cancels by the notification `json`, and returns the notification for the
    /// client. `None`: the client was sent no such request.
    pub(crate) fn cancel(&mut self, connection: &Weak<P>, json: &str) -> Option<String> {
        let message = Object::parse_path(json, &["params"])?;
        let params = message.object("params")?;
        let id = params.get("requestId")?;
        let matches = |request: &ServerRequest<P>| request.connection.ptr_eq(connection) && request.id == id;
        let number = self.pending.iter().find(|(_, request)| matches(request)).map(|(number, _)| *number)?;
        let request = self.pending.remove(&number)?;
        // Without a receiver, the request has ended in another way.
        request.fate.send(Fate::Cancelled).ok();
        request.is_delivered.then(|| message.replaced("params", &params.replaced("requestId", &number.to_string())))
    }

    /// The connection that the client's progress with `params` is for, and the parameters with the backend's token.
    pub(crate) fn progress(&self, params: &str) -> Option<(Arc<P>, String)> {
        let params = Object::parse(params)?;
        let request = self.pending.get(&params.get("progressToken")?.parse().ok()?)?;
        Some((request.connection.upgrade()?, params.replaced("progressToken", request.token.as_deref()?)))
    }

    /// Removes all requests.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
    }
}

/// The request `json` with `number` as its id and, if it has a progress token, as its token; and that token.
fn renumbered(json: &str, number: &str) -> (String, Option<String>) {
    let Some(message) = Object::parse_path(json, &["params", "_meta"]) else { return (json.to_owned(), None) };
    let params = message.object("params");
    let meta = params.as_ref().and_then(|params| params.object("_meta"));
    let token = meta.as_ref().and_then(|meta| meta.get("progressToken")).map(str::to_owned);
    let json = match (&params, &meta, &token) {
        (Some(params), Some(meta), Some(_)) => {
            let params = params.replaced("_meta", &meta.replaced("progressToken", number));
            message.with(&[("id", number), ("params", &params)])
        }
        _ => message.with(&[("id", number)]),
    };
    (json, token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elicitation(id: &str) -> Event {
        let json = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{"_meta":{{"progressToken":{id}}}}}}}"#
        );
        Event { method: "elicitation/create".to_owned(), id: Some(id.to_owned()), json }
    }

    /// A sender whose receiver is never dropped.
    fn fate() -> oneshot::Sender<Fate> {
        let (sender, receiver) = oneshot::channel();
        std::mem::forget(receiver);
        sender
    }

    fn insert(pending: &mut PendingServerRequests<u8>, connection: &Arc<u8>, id: &str) -> u64 {
        pending.insert(&Arc::downgrade(connection), id.to_owned(), &elicitation(id), fate()).0
    }

    #[test]
    fn a_backend_cancels_its_own_request_and_not_another_backends_with_the_same_id() {
        let (mut pending, a, b) = (PendingServerRequests::default(), Arc::new(0), Arc::new(1));
        assert_eq!(
            [insert(&mut pending, &b, "7"), insert(&mut pending, &a, "9"), insert(&mut pending, &b, "2")],
            [1, 2, 3]
        );
        assert!(pending.deliver(1, || true) && pending.deliver(2, || true) && pending.deliver(3, || true));
        let cancel = |id: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"r"}}}}"#
            )
        };
        assert_eq!(pending.cancel(&Arc::downgrade(&b), &cancel("2")), Some(cancel("3")));
        // The request is removed, and the other backend's request with id 2 is still pending.
        assert_eq!(pending.cancel(&Arc::downgrade(&b), &cancel("2")), None);
        assert_eq!(pending.cancel(&Arc::downgrade(&a), &cancel("2")), None);
        assert!(pending.remove(3).is_none());
        let other = pending.remove(2).unwrap();
        assert_eq!((other.id.as_str(), other.connection.ptr_eq(&Arc::downgrade(&a))), ("9", true));
        assert_eq!(pending.cancel(&Arc::downgrade(&b), r#"{"method":"notifications/cancelled"}"#), None);
    }

    #[test]
    fn the_client_hears_nothing_of_a_request_that_was_cancelled_before_it_was_sent() {
        let (mut pending, a) = (PendingServerRequests::default(), Arc::new(0));
        insert(&mut pending, &a, "7");
        let cancel = r#"{"method":"notifications/cancelled","params":{"requestId":7}}"#;
        assert_eq!(pending.cancel(&Arc::downgrade(&a), cancel), None);
        assert!(!pending.deliver(1, || panic!("it is not sent")));
        insert(&mut pending, &a, "8");
        assert!(!pending.deliver(2, || false) && pending.remove(2).is_none(), "nobody takes it");
    }

    #[test]
    fn a_clients_progress_goes_to_the_requesting_backend_with_its_own_token() {
        let (mut pending, a, b) = (PendingServerRequests::default(), Arc::new(0), Arc::new(1));
        insert(&mut pending, &a, "\"t\"");
        let (number, json) = pending.insert(&Arc::downgrade(&b), "\"t\"".to_owned(), &elicitation("\"t\""), fate());
        assert_eq!(number, 2);
        assert!(json.contains(r#""id":2"#) && json.contains(r#""progressToken":2"#), "{json}");
        let (connection, params) = pending.progress(r#"{"progressToken":2,"progress":1.50}"#).unwrap();
        assert_eq!((*connection, params.as_str()), (1, r#"{"progressToken":"t","progress":1.50}"#));
        for unknown in [r#"{"progressToken":3}"#, r#"{"progressToken":"t"}"#, "{}", "[]"] {
            assert!(pending.progress(unknown).is_none(), "{unknown}");
        }
        let bare = Event { json: r#"{"id":5,"method":"roots/list"}"#.to_owned(), ..elicitation("5") };
        assert_eq!(
            pending.insert(&Arc::downgrade(&a), "5".to_owned(), &bare, fate()).1,
            r#"{"id":3,"method":"roots/list"}"#
        );
        assert!(pending.progress(r#"{"progressToken":3}"#).is_none(), "the request has no progress token");
    }

    #[test]
    fn i6_unanswered_requests_are_bounded_and_the_oldest_is_dropped() {
        let (mut pending, kept, gone) = (PendingServerRequests::default(), Arc::new(0), Arc::new(1));
        insert(&mut pending, &kept, "0");
        for _ in 1..PENDING_MAX {
            insert(&mut pending, &gone, "0");
        }
        drop(gone);
        insert(&mut pending, &kept, "1");
        assert_eq!(pending.pending.len(), 2, "requests of a closed connection are dropped");
        for _ in 0..PENDING_MAX - 1 {
            insert(&mut pending, &kept, "2");
        }
        assert_eq!(pending.pending.len(), PENDING_MAX);
        assert!(pending.remove(1).is_none(), "the oldest");
        assert_eq!(pending.remove(257).unwrap().id, "1");
    }
}
