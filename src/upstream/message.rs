//! The messages of a backend: responses, notifications and requests.
//!
//! Messages are cut out of text; no tree is built, and what is relayed keeps its bytes.

use std::sync::Arc;

use axum::http::HeaderMap;
use tokio::time::Instant;

use super::error::error_object;
use super::oauth::CallerToken;
use super::sent_credentials::SentCredentials;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{
    HEADER_MISMATCH, LEGACY_LATEST, META_CAPABILITIES, META_CLIENT, META_VERSION, MISSING_CAPABILITY, MODERN_VERSION,
    UNSUPPORTED_VERSION,
};
use crate::mcp::shared_text::SharedText;

/// A backend's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The result; its members and those of its `_meta` are read.
    Result(Object<'static>),
    /// An error.
    Error {
        /// The error object, as JSON text.
        error: String,
        /// The HTTP status of the response, unless it was 200.
        http: Option<u16>,
    },
}

impl Response {
    /// A successful response with the result `json`. Text that is not a JSON object stands for `{}`.
    #[must_use]
    pub fn result(json: &str) -> Self {
        Self::Result(Object::owned(json))
    }

    /// The response to a request of `method` as it is relayed: an error, a question or a handshake without the
    /// credentials `sent`, another result as it is.
    pub(super) fn without(self, sent: &SentCredentials, method: &str) -> Self {
        if sent.is_empty() {
            return self;
        }
        match self {
            Self::Result(result)
                if matches!(method, "initialize" | DISCOVER) || result.has("resultType", "\"input_required\"") =>
            {
                Self::result(&sent.redacted_json(result.text()))
            }
            Self::Result(_) => self,
            Self::Error { error, http } => Self::Error { error: sent.redacted_json(&error).into_owned(), http },
        }
    }

    /// The error response with `code` and `message`, and the HTTP status `http`.
    #[must_use]
    pub fn error(code: i32, message: &str, http: Option<u16>) -> Self {
        Self::Error { error: error_object(code, message, None), http }
    }
}

/// A notification or request of a backend's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its method.
    pub method: String,
    /// The backend's id of a request, as JSON text; `None` for a notification.
    pub id: Option<String>,
    /// The whole message: as it came, or without members that no request has.
    pub json: String,
}

impl Event {
    /// The event without the credentials `sent`.
    pub(super) fn without(self, sent: &SentCredentials) -> Self {
        let Self { method, id, json } = self;
        Self { method: sent.redacted(&method).into_owned(), id, json: sent.redacted_json(&json).into_owned() }
    }
}

/// Takes what a backend sends besides responses.
pub trait ServerMessageHandler: Send + Sync + std::fmt::Debug {
    /// Takes `event`, at once. Returns false if no client takes it; a request is then answered with an error.
    fn on_event(&self, event: Event) -> bool;

    /// The response comes as a stream, whether or not anything comes before it.
    fn on_stream_start(&self) {}
}

/// One request to a backend.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The parameters, as JSON text.
    pub params: Option<SharedText>,
    /// The name or URI of the target, for the header `Mcp-Name` of modern HTTP backends.
    pub name: Option<String>,
    /// The headers for an HTTP backend besides those of its transport: the request id, `traceparent` and `tracestate`.
    pub headers: HeaderMap,
    /// The progress token in `params`, as JSON text.
    pub progress_token: Option<String>,
    /// Takes what the backend sends before the response.
    pub events: Option<Arc<dyn ServerMessageHandler>>,
    /// The token of the caller, if the backend is called on its behalf.
    pub caller: Option<Arc<CallerToken>>,
    /// Takes the credentials that are sent with it.
    pub sent: Option<Arc<SentCredentials>>,
    /// From when on it may take as long as a request may, whatever else had to be done first or is done again.
    pub begun: Instant,
}

impl<'a> Request<'a> {
    /// A request that begins now, without a handler for its events.
    #[must_use]
    pub fn new(method: &'a str, params: Option<SharedText>) -> Self {
        Self {
            method,
            params,
            name: None,
            headers: HeaderMap::new(),
            progress_token: None,
            events: None,
            caller: None,
            sent: None,
            begun: Instant::now(),
        }
    }

    /// The same request on behalf of `caller`.
    pub(super) fn on_behalf_of(self, caller: Option<&Arc<CallerToken>>) -> Self {
        Self { caller: caller.cloned(), ..self }
    }

    /// The same request with these headers too.
    pub(super) fn with_headers(&self, added: &HeaderMap) -> Self {
        let mut headers = self.headers.clone();
        headers.extend(added.iter().map(|(name, value)| (name.clone(), value.clone())));
        let (name, progress_token) = (self.name.clone(), self.progress_token.clone());
        let (params, events) = (self.params.clone(), self.events.clone());
        let (caller, sent) = (self.caller.clone(), self.sent.clone());
        let Self { method, begun, .. } = *self;
        Self { method, params, name, headers, progress_token, events, caller, sent, begun }
    }
}

/// One message of a backend's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The response to the request with this id (JSON text). `None`: the response is not valid.
    Response { id: String, response: Option<Response> },
    /// A notification or request.
    Event(Event),
    /// Neither.
    Garbled,
}

/// Longest id of a backend's own request that is passed on, in bytes. *Chosen*.
const FOREIGN_ID_BYTES_MAX: usize = 256;

/// The gateway's own request id in the id `found` of a response, JSON text. *Measured*: some servers answer to the id 1
/// with `"1"` or `1.0`, which the official SDKs take for it too.
pub(super) fn own_id(found: &str) -> Option<u64> {
    let digits = found.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(found);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = whole.bytes().all(|byte| byte.is_ascii_digit()) && fraction.bytes().all(|byte| byte == b'0');
    whole.parse().ok().filter(|_| is_number && !fraction.is_empty())
}

/// Reads one message, in one pass. A byte order mark before it is ignored, as some servers on Windows write one.
pub(super) fn read(text: &str) -> Message {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some(message) = Object::parse_path(text, &["result", "_meta"]) else { return Message::Garbled };
    match (message.string("method"), message.get("id")) {
        (Some(_), Some(id)) if id.len() > FOREIGN_ID_BYTES_MAX => Message::Garbled,
        (Some(method), id) => {
            let json = event_json(&message, &method);
            Message::Event(Event { method, id: id.map(str::to_owned), json })
        }
        (None, Some(id)) => {
            let response = match (message.get("result"), message.get("error")) {
                (Some(_), None) => message.object("result").map(|result| Response::Result(result.into_owned())),
                (None, Some(error)) if json::is_object(error) => {
                    Some(Response::Error { error: error.to_owned(), http: None })
                }
                _ => None,
            };
            Message::Response { id: id.to_owned(), response }
        }
        (None, None) => Message::Garbled,
    }
}

/// The text of the request or notification `message` for a client: as it came, if it has the members of one and each
/// of them once. Otherwise it is rebuilt from these: a client might take a further `result`, or `Result`, for an answer
/// that was recorded.
fn event_json(message: &Object<'_>, method: &str) -> String {
    const MEMBERS: [&str; 4] = ["jsonrpc", "id", "method", "params"];
    let is_once = |key: &str| message.members().filter(|member| member.key == key).count() == 1;
    if message.members().all(|member| MEMBERS.contains(&member.key.as_ref()) && is_once(&member.key)) {
        return message.text().to_owned();
    }
    let method = json::quoted(method);
    let members = [
        ("jsonrpc", Some("\"2.0\"")),
        ("id", message.get("id")),
        ("method", Some(method.as_str())),
        ("params", message.get("params")),
    ];
    json::object(members.into_iter().filter_map(|(key, value)| Some((key, value?))))
}

/// The text of a request, or of a notification where there is no `id`.
pub(super) fn write(id: Option<u64>, method: &str, params: Option<&str>) -> String {
    let (id, method) = (id.map(|id| id.to_string()), json::quoted(method));
    let members =
        [("jsonrpc", Some("\"2.0\"")), ("id", id.as_deref()), ("method", Some(method.as_str())), ("params", params)];
    json::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}

/// The error response to a backend's request that no client can answer.
pub(super) fn nobody(id: &str) -> String {
    let error = r#"{"code":-32601,"message":"no client takes this request"}"#;
    json::object([("jsonrpc", "\"2.0\""), ("id", id), ("error", error)])
}

/// The code of an error object.
pub(crate) fn error_code(error: &str) -> Option<i32> {
    Object::parse(error)?.get("code")?.parse().ok()
}

/// The method whose response comes when a subscription ends.
pub(super) const LISTEN: &str = "subscriptions/listen";

/// The method that asks a backend who it is, in the stateless era.
pub(super) const DISCOVER: &str = "server/discover";

/// The gateway's own question with it.
pub(super) fn discover_params() -> String {
    json::object([("_meta", modern_meta(&Object::default()).as_str())])
}

/// Returns true if the answer to it shows that the backend speaks the gateway's revision of the stateless era. *Spec*:
/// so do the errors of that era, except the one that names the supported revisions.
pub(super) fn discovers_modern(answer: &Response) -> bool {
    let read = |versions: &str| serde_json::from_str::<Vec<String>>(versions).ok();
    let versions = match answer {
        Response::Result(result) => result.get("supportedVersions").and_then(read),
        Response::Error { error, .. } => match error_code(error) {
            Some(HEADER_MISMATCH | MISSING_CAPABILITY) => return true,
            Some(UNSUPPORTED_VERSION) => Object::parse_path(error, &["data"])
                .and_then(|error| error.object("data")?.get("supported").and_then(read)),
            _ => None,
        },
    };
    versions.is_some_and(|versions| versions.iter().any(|version| version == MODERN_VERSION))
}

/// The list-change notifications that a backend announced in the result of `initialize`.
pub(super) fn announced_list_changes(result: &Object<'_>) -> Vec<&'static str> {
    let capabilities = result.object("capabilities");
    let announces = |kind: &str| {
        let capability = capabilities.as_ref().and_then(|capabilities| capabilities.object(kind));
        capability.is_some_and(|capability| capability.has("listChanged", "true"))
    };
    let lists = [
        ("tools", "notifications/tools/list_changed"),
        ("prompts", "notifications/prompts/list_changed"),
        ("resources", "notifications/resources/list_changed"),
    ];
    lists.into_iter().filter(|(kind, _)| announces(kind)).map(|(_, method)| method).collect()
}

/// `meta` with the members that every stateless request has.
pub(super) fn modern_meta(meta: &Object<'_>) -> String {
    let version = json::quoted(MODERN_VERSION);
    meta.with(&[(META_VERSION, version.as_str()), (META_CAPABILITIES, "{}"), (META_CLIENT, &own_info())])
}

/// The notification that gives a request up.
pub(super) fn cancelled(id: u64) -> String {
    let params = format!(r#"{{"requestId":{id},"reason":"the gateway no longer waits"}}"#);
    write(None, "notifications/cancelled", Some(&params))
}

/// The gateway as it names itself to backends.
pub(super) fn own_info() -> String {
    json::object([("name", "\"gatepost\""), ("version", json::quoted(env!("CARGO_PKG_VERSION")).as_str())])
}

/// The parameters of the gateway's own `initialize`: without capabilities, so that the backend sends it no requests.
pub(super) fn own_initialize_params() -> String {
    let version = json::quoted(LEGACY_LATEST);
    json::object([("protocolVersion", version.as_str()), ("capabilities", "{}"), ("clientInfo", &own_info())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_events_and_noise_are_told_apart() {
        let result = Message::Response { id: "7".to_owned(), response: Some(Response::result("{ }")) };
        assert_eq!(read(r#"{"id":7,"result":{ }}"#), result);
        assert_eq!(read(r#"{"id":7}"#), Message::Response { id: "7".to_owned(), response: None });
        let Message::Event(event) = read(r#"{"method":"ping","id":"a"}"#) else { panic!() };
        assert_eq!((event.method.as_str(), event.id.as_deref()), ("ping", Some("\"a\"")));
        for noise in ["[]", "7", "{", r#"{"result":{}}"#, r#"{"error":{}}"#] {
            assert_eq!(read(noise), Message::Garbled, "{noise}");
        }
    }

    #[test]
    fn an_id_that_came_back_in_another_form_is_known() {
        for (found, want) in [
            ("7", Some(7)),
            ("\"7\"", Some(7)),
            ("7.0", Some(7)),
            ("\"7.0\"", Some(7)),
            ("7.5", None),
            ("7.", None),
            ("+7", None),
            ("-7", None),
            ("\"x\"", None),
            ("\"\"", None),
            ("null", None),
            ("7e0", None),
        ] {
            assert_eq!(own_id(found), want, "{found}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        let result = Message::Response { id: "7".to_owned(), response: Some(Response::result("{}")) };
        assert_eq!(read("\u{feff}{\"id\":7,\"result\":{}}"), result);
    }

    #[test]
    fn a_request_carries_no_answer_to_the_client() {
        let plain = r#"{ "jsonrpc":"2.0", "method":"m","params":{ "a":1 } }"#;
        for (text, want) in [
            (plain, plain),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{"content":[]},"params":{ "a":1 }}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{ "a":1 }}"#,
            ),
            (r#"{"method":"x","Method":"","ID":1,"Result":{}}"#, r#"{"jsonrpc":"2.0","method":"x"}"#),
            (r#"{"method":"x","method":"y","error":{}}"#, r#"{"jsonrpc":"2.0","method":"x"}"#),
        ] {
            let Message::Event(event) = read(text) else { panic!("{text}") };
            assert_eq!(event.json, want);
        }
    }

    #[test]
    fn the_stateless_era_is_known_by_its_revision_and_by_its_own_errors() {
        let error = |error: &str| Response::Error { error: error.to_owned(), http: Some(400) };
        for (answer, is_modern) in [
            (Response::result(r#"{"supportedVersions":["2025-11-25","2026-07-28"]}"#), true),
            (Response::result(r#"{"supportedVersions":["2025-11-25"]}"#), false),
            (Response::result("{}"), false),
            (error(r#"{"code":-32020,"message":"m"}"#), true),
            (error(r#"{"code":-32021,"message":"m"}"#), true),
            (error(r#"{"code":-32022,"data":{"supported":["2026-07-28"]}}"#), true),
            (error(r#"{"code":-32022,"data":{"supported":["2025-11-25"]}}"#), false),
            (error(r#"{"code":-32601,"message":"m"}"#), false),
        ] {
            assert_eq!(discovers_modern(&answer), is_modern, "{answer:?}");
        }
    }

    #[test]
    fn a_backend_tells_of_the_lists_that_it_said_it_tells_of() {
        let initialize_params =
            r#"{"capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{"listChanged":false}}}"#;
        assert_eq!(
            announced_list_changes(&Object::parse(initialize_params).unwrap()),
            ["notifications/tools/list_changed"]
        );
        assert!(announced_list_changes(&Object::default()).is_empty());
    }

    #[test]
    fn written_messages_are_read_as_they_were_meant() {
        let text = write(None, "a\"b", Some("{}"));
        assert_eq!(text, r#"{"jsonrpc":"2.0","method":"a\"b","params":{}}"#);
        assert!(matches!(read(&write(Some(1), "m", None)), Message::Event(Event { id: Some(id), .. }) if id == "1"));
    }

    #[test]
    fn i8_an_error_and_a_question_lose_the_credentials_that_were_sent_and_a_result_does_not() {
        let mut key = axum::http::HeaderValue::from_static("hunter2");
        key.set_sensitive(true);
        let sent = SentCredentials::default();
        sent.add("far", &HeaderMap::from_iter([(axum::http::HeaderName::from_static("x-key"), key)]));
        let by = "[credential of backend far]";
        let result = Response::result(r#"{"x":"hunter2"}"#);
        assert_eq!(result.clone().without(&sent, "tools/call"), result);
        for method in ["initialize", DISCOVER] {
            assert_eq!(result.clone().without(&sent, method), Response::result(&format!(r#"{{"x":"{by}"}}"#)));
        }
        let error = |text: &str| Response::error(-1, text, Some(401));
        assert_eq!(error("hunter2").without(&sent, "tools/call"), error(by));
        let event = |text: &str| Event {
            method: text.to_owned(),
            id: Some("7".to_owned()),
            json: format!(r#"{{"method":"{text}","params":{{"message":"{text}"}}}}"#),
        };
        assert_eq!(event("hunter2").without(&sent), event(by));
    }
}
