//! The answer to a call: a backend's response, or the error that takes its place.

use std::borrow::Cow;

use crate::audit::Released;
use crate::audit::record::RequestId;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{Era, META_REQUEST_ID, UPSTREAM_FAILED};

use super::error::{CallError, error_object};
use super::message::Response;
use super::receipt;

/// The answer to a call: a backend's response, or the gateway's own.
///
/// Its content cannot be read before its record is stored:
///
/// ```compile_fail,E0599
/// # use gatepost::upstream::{Answer, Content};
/// fn send(answer: Answer) -> Content {
///     answer.into_content() // A method of Released<Answer> only.
/// }
/// ```
#[derive(Debug)]
#[must_use = "an answer is finished with its receipt"]
pub struct Answer {
    content: Content,
    kind: AnswerKind,
    message: Option<String>,
    /// The HTTP status of a backend's error, unless it was 200.
    http: Option<u16>,
}

/// The kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// A result.
    Result,
    /// A result of a tool with `isError`.
    ToolError,
    /// A result that asks the client for input.
    InputRequired,
    /// A JSON-RPC error, or a failure of the backend.
    Error,
    /// No response within the backend's time limits.
    TimedOut,
    /// Cancelled by the client.
    Cancelled,
}

/// The `result` or the `error` of the response to a client, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// A result object.
    Result(String),
    /// An error object.
    Error(String),
}

impl Content {
    fn text(&self) -> &str {
        match self {
            Self::Result(text) | Self::Error(text) => text,
        }
    }
}

impl Answer {
    /// The kind of the answer.
    #[must_use]
    pub fn kind(&self) -> AnswerKind {
        self.kind
    }

    /// The error's text; `None` for a result without an error.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// The result or error, JSON text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.content.text()
    }

    /// Gives a result that asks for input the `requestState` that `bind` makes of it.
    pub fn with_state(self, bind: impl FnOnce(&Object<'_>) -> String) -> Self {
        match &self.content {
            Content::Result(result) if self.kind == AnswerKind::InputRequired => {
                let content = Object::parse(result).map(|result| with_state(&result, bind));
                Self { content: Content::Result(content.unwrap_or_else(|| result.clone())), ..self }
            }
            _ => self,
        }
    }

    /// The JSON-RPC error that refuses a request; `data` is JSON text.
    pub fn refusal(code: i32, message: &str, data: Option<&str>) -> Self {
        let content = Content::Error(error_object(code, message, data));
        Self { content, kind: AnswerKind::Error, message: Some(message.to_owned()), http: None }
    }

    /// A result of the gateway's own, as JSON text.
    pub fn of_result(result: &str) -> Self {
        Self { content: Content::Result(result.to_owned()), kind: AnswerKind::Result, message: None, http: None }
    }

    /// The answer for a call that failed at `backend`.
    pub fn failure(backend: &str, err: &CallError) -> Self {
        let kind = match err {
            CallError::TimedOut { .. } => AnswerKind::TimedOut,
            CallError::Cancelled => AnswerKind::Cancelled,
            _ => AnswerKind::Error,
        };
        let content = Content::Error(error_object(UPSTREAM_FAILED, &public_message(backend, err), None));
        Self { content, kind, message: Some(format!("backend {backend} {err}")), http: None }
    }

    /// The answer for the response of a backend that speaks `backend_era`, to a client that speaks `era`.
    pub fn from_response(response: Response, request_id: RequestId, era: Era, backend_era: Era) -> Self {
        match response {
            Response::Result(result) => Self::from_result(&result, request_id, era),
            Response::Error { error, http } => {
                let error = receipt::error_without_own(error);
                let message = Some(error_message(&error));
                // The HTTP status of one era has no meaning in the other.
                let http = http.filter(|_| era == backend_era);
                Self { content: Content::Error(error), kind: AnswerKind::Error, message, http }
            }
        }
    }

    fn from_result(result: &Object<'_>, request_id: RequestId, era: Era) -> Self {
        if is_task(result) {
            return Self::refusal(UPSTREAM_FAILED, STARTED_TASK, None);
        }
        // A result that claims two kinds counts as the worse one.
        let (kind, message) = if result.has("isError", "true") {
            (AnswerKind::ToolError, Some(tool_message(result)))
        } else if asks_for_input(result) {
            (AnswerKind::InputRequired, None)
        } else {
            (AnswerKind::Result, None)
        };
        if kind == AnswerKind::InputRequired && era == Era::Legacy {
            return Self::refusal(UPSTREAM_FAILED, NO_INPUT, None);
        }
        Self { content: Content::Result(dressed(result, request_id, era)), kind, message, http: None }
    }
}

impl Released<Answer> {
    /// The content, with a receipt if its record is stored, and the HTTP status of a backend's error unless it was 200.
    #[must_use]
    pub fn into_content(self) -> (Content, Option<u16>) {
        // I1: an answer's content can be read only after its record is stored.
        let position = self.position();
        let Answer { content, http, .. } = self.into_inner();
        let content = match (content, position) {
            (Content::Result(result), Some(position)) => Content::Result(receipt::in_result(result, &position)),
            (Content::Error(error), Some(position)) => Content::Error(receipt::in_error(error, &position)),
            (content, None) => content,
        };
        (content, http)
    }
}

/// The error for a client of the older era if a backend asks it for input.
const NO_INPUT: &str = "the backend needs input, which this client's protocol version cannot provide";

/// The error if a backend answers with a task, in which the gateway does not take part.
const STARTED_TASK: &str =
    "the backend answered with a task, which the gateway does not relay; the backend may still be working on it";

/// Returns `true` if the result is that of a task's creation. *Spec*: MCP 2025-11-25, tasks, and the extension
/// `io.modelcontextprotocol/tasks` of 2026-07-28.
fn is_task(result: &Object<'_>) -> bool {
    result.has("resultType", "\"task\"") || result.object("task").is_some() && result.get("content").is_none()
}

fn asks_for_input(result: &Object<'_>) -> bool {
    result.has("resultType", "\"input_required\"")
}

/// The text about a failure at `backend` for clients. The reason that a backend is down names its command and has its
/// last output: these are for the operator, and only the record has them.
#[must_use]
pub fn public_message(backend: &str, err: &CallError) -> String {
    match err {
        CallError::Down { .. } => format!("backend {backend} is down"),
        CallError::Credential(error) => format!("backend {backend} was not called: {}", error.public()),
        err => format!("backend {backend} {err}"),
    }
}

/// Adapts a response that is not recorded to a client of `era`, as [`Answer`] does: in a result that asks for input,
/// `requestState` is what `bind` makes of it.
#[must_use]
pub fn unrecorded(response: Response, era: Era, bind: impl FnOnce(&Object<'_>) -> String) -> Response {
    match response {
        Response::Result(result) if is_task(&result) => Response::error(UPSTREAM_FAILED, STARTED_TASK, None),
        Response::Result(result) if asks_for_input(&result) => match era {
            Era::Modern => Response::result(&with_state(&result, bind)),
            Era::Legacy => Response::error(UPSTREAM_FAILED, NO_INPUT, None),
        },
        response => response,
    }
}

fn with_state(result: &Object<'_>, bind: impl FnOnce(&Object<'_>) -> String) -> String {
    result.with(&[("requestState", &json::quoted(&bind(result)))])
}

/// The text of `result` with the gateway's request id in its `_meta` and, for a modern client, a `resultType`. All
/// other bytes stay.
#[must_use]
pub fn dressed(result: &Object<'_>, request_id: RequestId, era: Era) -> String {
    let meta = result.object("_meta").unwrap_or_default();
    let meta = match receipt::without_own(&meta) {
        Cow::Borrowed(_) => meta,
        Cow::Owned(kept) => Object::parse(&kept).map(Object::into_owned).unwrap_or_default(),
    };
    let meta = meta.with(&[(META_REQUEST_ID, &json::quoted(&request_id.to_string()))]);
    let complete = (era == Era::Modern && result.get("resultType").is_none()).then_some(("resultType", "\"complete\""));
    let added: Vec<_> = std::iter::once(("_meta", meta.as_str())).chain(complete).collect();
    result.with(&added)
}

/// The code and the message of a JSON-RPC error object.
fn error_message(error: &str) -> String {
    let error = Object::parse(error).unwrap_or_default();
    let code = error.get("code").unwrap_or("without a code");
    format!("{code}: {}", error.string("message").unwrap_or_default())
}

/// The first text of a tool's error result.
fn tool_message(result: &Object<'_>) -> String {
    #[derive(serde::Deserialize)]
    struct Block {
        #[serde(default)]
        text: Option<String>,
    }
    let content = result.get("content").and_then(|content| serde_json::from_str::<Vec<Block>>(content).ok());
    let text = content.unwrap_or_default().into_iter().find_map(|block| block.text);
    text.unwrap_or_else(|| "the tool answered with isError".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(result: &str, era: Era) -> Answer {
        Answer::from_response(Response::result(result), RequestId(uuid::Uuid::nil()), era, era)
    }

    fn read(json: &str) -> Object<'_> {
        Object::parse_path(json, &["_meta"]).unwrap()
    }

    const ID: &str = r#""io.gatepost/request_id":"00000000-0000-0000-0000-000000000000""#;

    #[test]
    fn a_result_is_relayed_byte_for_byte_besides_the_request_id() {
        let result = "{ \"content\" : [ ],  \"x\\u0041\":1.0e0 }";
        let want = format!("{{\"_meta\":{{{ID}}}, \"content\" : [ ],  \"x\\u0041\":1.0e0 }}");
        assert_eq!(answer(result, Era::Legacy).content, Content::Result(want));
    }

    #[test]
    fn a_results_own_meta_is_kept_and_a_forged_request_id_is_not() {
        let want = format!(r#"{{"content":[],"_meta":{{{ID},"a": 1}}}}"#);
        let got = dressed(&read(r#"{"content":[],"_meta":{"a": 1}}"#), RequestId(uuid::Uuid::nil()), Era::Legacy);
        assert_eq!(got, want);
        let forged = r#"{"_meta":{"io.gatepost/request_id":"forged"}}"#;
        assert!(!dressed(&read(forged), RequestId(uuid::Uuid::nil()), Era::Legacy).contains("forged"));
    }

    #[test]
    fn a_modern_client_gets_a_result_type_and_a_backends_own_one_stays() {
        let Content::Result(result) = answer(r#"{"content":[]}"#, Era::Modern).content else { panic!() };
        assert!(result.contains(r#""resultType":"complete""#));
        let asked = answer(r#"{"resultType":"input_required"}"#, Era::Modern);
        assert_eq!(asked.kind, AnswerKind::InputRequired);
        let Content::Result(result) = asked.content else { panic!() };
        assert!(!result.contains("complete"));
    }

    #[test]
    fn the_status_comes_from_the_answer_and_not_from_its_arrival() {
        assert_eq!(answer(r#"{"content":[]}"#, Era::Legacy).kind, AnswerKind::Result);
        let failed =
            answer(r#"{"content":[{"type":"image"},{"type":"text","text":"no"}],"isError":true}"#, Era::Legacy);
        assert_eq!((failed.kind, failed.message()), (AnswerKind::ToolError, Some("no")));
        let twice = answer(r#"{"isError":true,"isError":false}"#, Era::Legacy);
        assert_eq!(twice.kind, AnswerKind::ToolError);
        let error = Response::Error { error: r#"{"code":-32602,"message":"bad"}"#.to_owned(), http: Some(400) };
        let modern = Answer::from_response(error.clone(), RequestId::new(), Era::Modern, Era::Modern);
        assert_eq!(modern.http, Some(400));
        let error = Answer::from_response(error, RequestId::new(), Era::Legacy, Era::Modern);
        assert_eq!(error.http, None);
        assert_eq!(error.kind, AnswerKind::Error);
        assert_eq!(error.message(), Some("-32602: bad"));
        let late = Answer::failure("b", &CallError::TimedOut { after: std::time::Duration::from_secs(1) });
        assert_eq!(late.kind, AnswerKind::TimedOut);
    }

    #[test]
    fn a_task_is_an_error_that_says_that_the_work_may_go_on() {
        for result in [
            r#"{"task":{"taskId":"1","status":"working"}}"#,
            r#"{"resultType":"task","taskId":"1","status":"working"}"#,
            r#"{"resultType":"task","content":[]}"#,
        ] {
            for era in [Era::Legacy, Era::Modern] {
                let answer = answer(result, era);
                assert_eq!((answer.kind, answer.message()), (AnswerKind::Error, Some(STARTED_TASK)), "{result}");
                let bare = unrecorded(Response::result(result), era, |_| panic!());
                assert!(matches!(bare, Response::Error { error, .. } if error.contains("still be working")));
            }
        }
        assert_eq!(answer(r#"{"content":[],"task":{}}"#, Era::Legacy).kind, AnswerKind::Result);
    }

    #[test]
    fn why_a_backend_is_down_is_recorded_and_not_told() {
        let down = Answer::failure("b", &CallError::Down { reason: "cannot start /opt/secret".to_owned() });
        assert!(down.message().unwrap().contains("/opt/secret"));
        let Content::Error(error) = down.content else { panic!() };
        assert_eq!(error, r#"{"code":-32012,"message":"backend b is down"}"#);
    }

    #[test]
    fn i1_the_digest_is_of_what_the_client_gets() {
        let answer = answer(r#"{"content":[]}"#, Era::Modern);
        let Content::Result(result) = &answer.content else { panic!() };
        assert_eq!(answer.text(), result);
    }

    #[test]
    fn a_state_is_bound_with_or_without_a_record() {
        let asks = r#"{"resultType":"input_required", "requestState":"s"}"#;
        let response = |era| {
            unrecorded(Response::result(asks), era, |asks| {
                format!("bound {}", asks.string("requestState").unwrap_or_default())
            })
        };
        let want = r#"{"resultType":"input_required", "requestState":"bound s"}"#;
        assert_eq!(response(Era::Modern), Response::result(want));
        assert!(matches!(response(Era::Legacy), Response::Error { error, .. } if error.contains(NO_INPUT)));
        let complete = Response::result(r#"{"requestState":"s"}"#);
        assert_eq!(unrecorded(complete.clone(), Era::Modern, |_| panic!()), complete);
    }
}
