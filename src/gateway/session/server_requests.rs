//! What backends request the client of a session: whose each request is, under a number of the session's own.
//!
//! Backends choose ids and progress tokens without knowing of each other, and the client sees one server: the number
//! stands for both, and what either side says of a request later finds the other side by it. Of a backend it is known here
//! only which one it is and whether it is gone.
//!
//! A request waits until it is answered, cancelled or its backend is gone. Their number is bounded (I6): where there is no
//! room the oldest one goes, whose answer has nowhere to go then.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::mcp::json;
use crate::upstream::Event;

/// Most requests of backends that wait for the client's response, a session. *Chosen*: a client answers them one by one;
/// each takes a few bytes here.
const ASKED_MAX: usize = 256;

/// Requests of backends `P` that wait for the client.
#[derive(Debug)]
pub(crate) struct PendingServerRequests<P> {
    next: u64,
    waiting: BTreeMap<u64, Request<P>>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Request<P> {
    /// Who asks.
    pub(crate) connection: Weak<P>,
    /// The id that the backend gave it, as JSON text.
    pub(crate) id: String,
    /// Its method.
    pub(crate) method: String,
    /// The progress token that the backend gave it, as JSON text.
    token: Option<String>,
}

impl<P> Default for PendingServerRequests<P> {
    fn default() -> Self {
        Self { next: 0, waiting: BTreeMap::new() }
    }
}

impl<P> PendingServerRequests<P> {
    /// Takes in the request `event`, whose id is `id`, of `connection`'s; gives its number and the message for the client.
    pub(crate) fn ctx(&mut self, connection: &Weak<P>, id: String, event: &Event) -> (u64, String) {
        self.waiting.retain(|_, request| request.connection.strong_count() > 0);
        while self.waiting.len() >= ASKED_MAX {
            // I6: what waits for the client is bounded.
            if let Some((_, request)) = self.waiting.pop_first() {
                tracing::warn!(
                    method = request.method,
                    "the client never answered: forgotten, more than {ASKED_MAX} wait"
                );
            }
        }
        self.next += 1;
        let number = self.next.to_string();
        let params = member(&event.json, "params");
        let meta = params.as_deref().and_then(|params| member(params, "_meta"));
        let token = meta.as_deref().and_then(|meta| member(meta, "progressToken"));
        let json = match (params, meta, &token) {
            (Some(params), Some(meta), Some(_)) => {
                let meta = json::replaced(&meta, "progressToken", &number);
                json::replaced(&event.json, "params", &json::replaced(&params, "_meta", &meta))
            }
            _ => event.json.clone(),
        };
        let json = json::with_members(&json, &[("id", &number)]);
        let request = Request { connection: Weak::clone(connection), id, method: event.method.clone(), token };
        self.waiting.insert(self.next, request);
        (self.next, json)
    }

    /// Takes out a request that was answered, or that nobody took.
    pub(crate) fn take(&mut self, number: u64) -> Option<Request<P>> {
        self.waiting.remove(&number)
    }

    /// `connection` gives up a request of its own, by the notification `json`; gives that as the client has to get it. `None`:
    /// the client knows of no such request.
    pub(crate) fn cancel(&mut self, connection: &Weak<P>, json: &str) -> Option<String> {
        let params = member(json, "params")?;
        let id = member(&params, "requestId")?;
        let is_it = |request: &Request<P>| request.connection.ptr_eq(connection) && request.id == id;
        let number = self.waiting.iter().find(|(_, request)| is_it(request)).map(|(number, _)| *number)?;
        self.waiting.remove(&number);
        let params = json::replaced(&params, "requestId", &number.to_string());
        Some(json::replaced(json, "params", &params))
    }

    /// Whom the client's progress with `params` is for, and the parameters as that one has to get them.
    pub(crate) fn progress(&self, params: &str) -> Option<(Arc<P>, String)> {
        let number = member(params, "progressToken")?.parse().ok()?;
        let request = self.waiting.get(&number)?;
        let params = json::replaced(params, "progressToken", request.token.as_deref()?);
        Some((request.connection.upgrade()?, params))
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// The member `key` of the object `json`, as JSON text.
fn member(json: &str, key: &str) -> Option<String> {
    let members = json::members(json)?;
    members.iter().find(|member| member.key == key).map(|member| member.value.get().to_owned())
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

    fn ctx(asked: &mut PendingServerRequests<u8>, connection: &Arc<u8>, id: &str) -> u64 {
        asked.ctx(&Arc::downgrade(connection), id.to_owned(), &elicitation(id)).0
    }

    #[test]
    fn a_backend_cancels_its_own_request_and_not_another_ones_of_the_same_id() {
        let (mut asked, a, b) = (PendingServerRequests::default(), Arc::new(0), Arc::new(1));
        assert_eq!([ctx(&mut asked, &b, "7"), ctx(&mut asked, &a, "9"), ctx(&mut asked, &b, "2")], [1, 2, 3]);
        let cancel = |id: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"r"}}}}"#
            )
        };
        assert_eq!(asked.cancel(&Arc::downgrade(&b), &cancel("2")), Some(cancel("3")));
        // It is gone, and what the client says of it goes nowhere; the other backend's 2 is still there.
        assert_eq!(asked.cancel(&Arc::downgrade(&b), &cancel("2")), None);
        assert_eq!(asked.cancel(&Arc::downgrade(&a), &cancel("2")), None);
        assert!(asked.take(3).is_none());
        let other = asked.take(2).unwrap();
        assert_eq!((other.id.as_str(), other.connection.ptr_eq(&Arc::downgrade(&a))), ("9", true));
        assert_eq!(asked.cancel(&Arc::downgrade(&b), r#"{"method":"notifications/cancelled"}"#), None);
    }

    #[test]
    fn a_clients_progress_goes_to_the_backend_that_asked_under_its_own_token() {
        let (mut asked, a, b) = (PendingServerRequests::default(), Arc::new(0), Arc::new(1));
        ctx(&mut asked, &a, "\"t\"");
        let (number, json) = asked.ctx(&Arc::downgrade(&b), "\"t\"".to_owned(), &elicitation("\"t\""));
        assert_eq!(number, 2);
        assert!(json.contains(r#""id":2"#) && json.contains(r#""progressToken":2"#), "{json}");
        let (connection, params) = asked.progress(r#"{"progressToken":2,"progress":1.50}"#).unwrap();
        assert_eq!((*connection, params.as_str()), (1, r#"{"progressToken":"t","progress":1.50}"#));
        for unknown in [r#"{"progressToken":3}"#, r#"{"progressToken":"t"}"#, "{}", "[]"] {
            assert!(asked.progress(unknown).is_none(), "{unknown}");
        }
        let bare = Event { json: r#"{"id":5,"method":"roots/list"}"#.to_owned(), ..elicitation("5") };
        assert_eq!(asked.ctx(&Arc::downgrade(&a), "5".to_owned(), &bare).1, r#"{"id":3,"method":"roots/list"}"#);
        assert!(asked.progress(r#"{"progressToken":3}"#).is_none(), "it has asked for none");
    }

    #[test]
    fn i6_requests_that_are_never_answered_are_bounded_and_the_oldest_makes_room() {
        let (mut asked, kept, gone) = (PendingServerRequests::default(), Arc::new(0), Arc::new(1));
        ctx(&mut asked, &kept, "0");
        for _ in 1..ASKED_MAX {
            ctx(&mut asked, &gone, "0");
        }
        drop(gone);
        ctx(&mut asked, &kept, "1");
        assert_eq!(asked.waiting.len(), 2, "what a backend asked goes with it");
        for _ in 0..ASKED_MAX - 1 {
            ctx(&mut asked, &kept, "2");
        }
        assert_eq!(asked.waiting.len(), ASKED_MAX);
        assert!(asked.take(1).is_none(), "the oldest");
        assert_eq!(asked.take(257).unwrap().id, "1");
    }
}
