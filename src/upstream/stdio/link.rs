//! The requests that are open at one child: each has an id of the gateway's and somebody who waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::gateway::raw;

use super::{CallError, LINE_BYTES_MAX, Response, Tool};

/// Most lines that wait to be written to a child. *Chosen*: a child that does not read holds back its own callers; each
/// line is bounded by the request limit.
const LINES_MAX: usize = 16;

/// Longest id of a backend's own request that is echoed, in bytes. *Chosen*.
const FOREIGN_ID_BYTES_MAX: usize = 256;

/// One running child, as its callers see it.
#[derive(Debug)]
pub(super) struct Link {
    lines: mpsc::Sender<String>,
    open: Mutex<Open>,
    tools: Mutex<Option<Arc<[Tool]>>>,
}

#[derive(Debug, Default)]
struct Open {
    /// The child ended: nobody waits here any more.
    ended: bool,
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Response, CallError>>>,
}

/// An open request. Dropped before its response came, it is forgotten here and cancelled at the child.
struct Waiting<'a> {
    link: &'a Link,
    id: u64,
}

impl Link {
    /// A link, and the lines to write to the child.
    pub(super) fn new() -> (Self, mpsc::Receiver<String>) {
        let (lines, to_write) = mpsc::channel(LINES_MAX); // I6: bounded by count, and each line by the body's limit.
        (Self { lines, open: Mutex::default(), tools: Mutex::default() }, to_write)
    }

    /// Makes one request. `params` is JSON text without line ends.
    pub(super) async fn request(
        &self,
        method: &str,
        params: Option<&str>,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        let (answer, response) = oneshot::channel();
        let waiting = self.enter(answer)?;
        let (id, method) = (waiting.id.to_string(), raw::quoted(method));
        let members = [("jsonrpc", Some("\"2.0\"")), ("id", Some(&id)), ("method", Some(&method)), ("params", params)];
        let line = raw::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))));
        let exchange = async {
            self.lines.send(line).await.map_err(|_| CallError::Died)?;
            response.await.map_err(|_| CallError::Died)?
        };
        let outcome = tokio::time::timeout(timeout, exchange).await;
        drop(waiting);
        outcome.unwrap_or(Err(CallError::TimedOut { after: timeout }))
    }

    /// Sends a notification; waits for room.
    pub(super) async fn notify(&self, method: &str) -> Result<(), CallError> {
        let line = raw::object([("jsonrpc", "\"2.0\""), ("method", raw::quoted(method).as_str())]);
        self.lines.send(line).await.map_err(|_| CallError::Died)
    }

    /// Takes one line of the child's.
    pub(super) fn take(&self, alias: &str, line: &[u8]) {
        let text = std::str::from_utf8(line).ok();
        let Some(members) = text.and_then(raw::members) else {
            if let Some(id) = raw::id_in_head(line) {
                self.complete(id, Err(CallError::Garbled));
            } else {
                tracing::warn!(backend = alias, bytes = line.len(), "a line of the backend is no message");
            }
            return;
        };
        let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
        match (find("method").and_then(raw::string), find("id")) {
            (Some(method), Some(id)) => self.answer_request(alias, &method, id.get()),
            (Some(method), None) => {
                if method == "notifications/tools/list_changed" {
                    self.set_tools(None);
                }
            }
            (None, Some(id)) => {
                let Ok(id) = id.get().parse() else {
                    tracing::warn!(backend = alias, "the backend answered an id that is none of the gateway's");
                    return;
                };
                let response = match (find("result"), find("error")) {
                    (Some(result), None) => Ok(Response::Result(result.get().to_owned())),
                    (None, Some(error)) if error.get().starts_with('{') => Ok(Response::Error(error.get().to_owned())),
                    _ => Err(CallError::Garbled),
                };
                self.complete(id, response);
            }
            (None, None) => tracing::warn!(backend = alias, "a message of the backend has neither method nor id"),
        }
    }

    /// Takes the beginning of a line that is too long: fails the call that it answers.
    pub(super) fn take_too_long(&self, alias: &str, head: &[u8]) {
        if let Some(id) = raw::id_in_head(head) {
            self.complete(id, Err(CallError::TooLong { limit: LINE_BYTES_MAX }));
        } else {
            tracing::warn!(backend = alias, limit = LINE_BYTES_MAX, "dropped a line that is too long");
        }
    }

    /// The child ended: whoever waits is told, and nobody waits here again.
    pub(super) fn end(&self) {
        let waiting = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.ended = true;
            std::mem::take(&mut open.waiting)
        };
        for answer in waiting.into_values() {
            // A waiter that is gone needs no answer.
            answer.send(Err(CallError::Died)).ok();
        }
    }

    pub(super) fn known_tools(&self) -> Option<Arc<[Tool]>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember_tools(&self, tools: &Arc<[Tool]>) {
        self.set_tools(Some(Arc::clone(tools)));
    }

    fn set_tools(&self, tools: Option<Arc<[Tool]>>) {
        *self.tools.lock().unwrap_or_else(PoisonError::into_inner) = tools;
    }

    fn enter(&self, answer: oneshot::Sender<Result<Response, CallError>>) -> Result<Waiting<'_>, CallError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.ended {
            return Err(CallError::Down { reason: "it has just ended".to_owned() });
        }
        open.next_id += 1;
        let id = open.next_id;
        open.waiting.insert(id, answer);
        Ok(Waiting { link: self, id })
    }

    fn complete(&self, id: u64, response: Result<Response, CallError>) {
        let answer = self.open.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&id);
        if let Some(answer) = answer {
            // A waiter that is gone needs no answer.
            answer.send(response).ok();
        }
    }

    /// Answers what a backend asks: a ping, and nothing else, since the gateway announced no capability.
    fn answer_request(&self, alias: &str, method: &str, id: &str) {
        if id.len() > FOREIGN_ID_BYTES_MAX {
            return;
        }
        let answer = if method == "ping" {
            ("result", "{}")
        } else {
            ("error", r#"{"code":-32601,"message":"the gateway takes no requests"}"#)
        };
        let line = raw::object([("jsonrpc", "\"2.0\""), ("id", id), answer]);
        if self.lines.try_send(line).is_err() {
            tracing::warn!(backend = alias, method, "no room to answer a request of the backend");
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let forgotten = self.link.open.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&self.id);
        if forgotten.is_some() {
            let params = format!(r#"{{"requestId":{},"reason":"the gateway no longer waits"}}"#, self.id);
            let method = "\"notifications/cancelled\"";
            let line = raw::object([("jsonrpc", "\"2.0\""), ("method", method), ("params", params.as_str())]);
            // Without room the child is not reading, and would not read a cancellation either.
            self.link.lines.try_send(line).ok();
        }
    }
}
