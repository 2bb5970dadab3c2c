//! What a backend says: responses, and the notifications and requests that it sends besides.
//!
//! Messages are cut out of text; no tree is built, and what is relayed keeps its bytes.

use std::sync::Arc;

use axum::http::HeaderMap;

use crate::gateway::protocol::{META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN_VERSION};
use crate::gateway::raw;

/// A backend's response, as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The result.
    Result(String),
    /// The error object, and the HTTP status that it came with where that is not 200.
    Error {
        /// The error object.
        error: String,
        /// The HTTP status.
        http: Option<u16>,
    },
}

/// A notification or request of a backend's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its method.
    pub method: String,
    /// The backend's id of a request, as JSON text; `None` for a notification.
    pub id: Option<String>,
    /// The whole message, as it came.
    pub json: String,
}

/// Takes what a backend sends besides responses.
pub trait Listen: Send + Sync + std::fmt::Debug {
    /// Takes `event`, at once. `false`: nobody is there to take it; a request is then answered with an error.
    fn event(&self, event: Event) -> bool;

    /// The response comes as a stream, whether or not anything comes before it.
    fn streams(&self) {}
}

/// One request to a backend.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The parameters, as JSON text.
    pub params: Option<&'a str>,
    /// What the request is about, as the `Mcp-Name` header tells it. Modern HTTP backends only.
    pub name: Option<String>,
    /// The client's `Mcp-Param-*` headers. Modern HTTP backends only.
    pub headers: HeaderMap,
    /// Takes what the backend sends before the response.
    pub events: Option<Arc<dyn Listen>>,
}

impl<'a> Request<'a> {
    /// A request whose events nobody takes.
    #[must_use]
    pub fn new(method: &'a str, params: Option<&'a str>) -> Self {
        Self { method, params, name: None, headers: HeaderMap::new(), events: None }
    }
}

/// One message of a backend's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The response to the request with this id (JSON text). `None`: it is no valid response.
    Response { id: String, response: Option<Response> },
    /// A notification or request.
    Event(Event),
    /// Neither.
    Garbled,
}

/// Longest id of a backend's own request that is passed on, in bytes. *Chosen*.
const FOREIGN_ID_BYTES_MAX: usize = 256;

/// Reads one message.
pub(super) fn read(text: &str) -> Message {
    let Some(members) = raw::members(text) else { return Message::Garbled };
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
    match (find("method").and_then(raw::string), find("id")) {
        (Some(_), Some(id)) if id.get().len() > FOREIGN_ID_BYTES_MAX => Message::Garbled,
        (Some(method), id) => {
            Message::Event(Event { method, id: id.map(|id| id.get().to_owned()), json: text.to_owned() })
        }
        (None, id) => {
            let response = match (find("result"), find("error")) {
                (Some(result), None) => Some(Response::Result(result.get().to_owned())),
                (None, Some(error)) if error.get().starts_with('{') => {
                    Some(Response::Error { error: error.get().to_owned(), http: None })
                }
                _ => None,
            };
            match id {
                Some(id) => Message::Response { id: id.get().to_owned(), response },
                None => Message::Garbled,
            }
        }
    }
}

/// The text of a request, or of a notification where there is no `id`.
pub(super) fn write(id: Option<u64>, method: &str, params: Option<&str>) -> String {
    let (id, method) = (id.map(|id| id.to_string()), raw::quoted(method));
    let members =
        [("jsonrpc", Some("\"2.0\"")), ("id", id.as_deref()), ("method", Some(method.as_str())), ("params", params)];
    raw::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}

/// The error that a backend's request gets where nobody can answer it.
pub(super) fn nobody(id: &str) -> String {
    let error = r#"{"code":-32601,"message":"no client takes this request"}"#;
    raw::object([("jsonrpc", "\"2.0\""), ("id", id), ("error", error)])
}

/// The code of an error object.
pub(crate) fn error_code(error: &str) -> Option<i32> {
    let members = raw::members(error)?;
    members.iter().find(|member| member.key == "code")?.value.get().parse().ok()
}

/// The method whose response comes when a subscription ends.
pub(super) const LISTEN: &str = "subscriptions/listen";

/// The method that asks a backend who it is, in the stateless era.
pub(super) const DISCOVER: &str = "server/discover";

/// The gateway's own question with it.
pub(super) fn discover_params() -> String {
    raw::object([("_meta", modern_meta("{}").as_str())])
}

/// Whether the answer to it says that the stateless era is spoken in the revision that is spoken here.
pub(super) fn discovers_modern(answer: &Response) -> bool {
    let Response::Result(result) = answer else { return false };
    let members = raw::members(result).unwrap_or_default();
    let versions = members.iter().find(|member| member.key == "supportedVersions");
    versions.is_some_and(|versions| {
        serde_json::from_str::<Vec<String>>(versions.value.get())
            .is_ok_and(|versions| versions.iter().any(|version| version == MODERN_VERSION))
    })
}

/// `meta` with what a stateless request bears.
pub(super) fn modern_meta(meta: &str) -> String {
    let version = raw::quoted(MODERN_VERSION);
    raw::with_members(
        meta,
        &[(META_VERSION, version.as_str()), (META_CAPABILITIES, "{}"), (META_CLIENT, &super::own_info())],
    )
}

/// The notification that gives a request up.
pub(super) fn cancelled(id: u64) -> String {
    let params = format!(r#"{{"requestId":{id},"reason":"the gateway no longer waits"}}"#);
    write(None, "notifications/cancelled", Some(&params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_events_and_noise_are_told_apart() {
        let result = Message::Response { id: "7".to_owned(), response: Some(Response::Result("{ }".to_owned())) };
        assert_eq!(read(r#"{"id":7,"result":{ }}"#), result);
        assert_eq!(read(r#"{"id":7}"#), Message::Response { id: "7".to_owned(), response: None });
        let Message::Event(event) = read(r#"{"method":"ping","id":"a"}"#) else { panic!() };
        assert_eq!((event.method.as_str(), event.id.as_deref()), ("ping", Some("\"a\"")));
        for noise in ["[]", "7", "{", r#"{"result":{}}"#, r#"{"error":{}}"#] {
            assert_eq!(read(noise), Message::Garbled, "{noise}");
        }
    }

    #[test]
    fn written_messages_are_read_as_they_were_meant() {
        let text = write(None, "a\"b", Some("{}"));
        assert_eq!(text, r#"{"jsonrpc":"2.0","method":"a\"b","params":{}}"#);
        assert!(matches!(read(&write(Some(1), "m", None)), Message::Event(Event { id: Some(id), .. }) if id == "1"));
    }
}
