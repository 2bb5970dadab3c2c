//! The answer to a call: the backend's response, or what stands for one.

use serde_json::value::RawValue;

use crate::audit::Released;
use crate::audit::record::{Outcome, RequestId, Status};
use crate::mcp::json;
use crate::mcp::protocol::{Era, INTERNAL_ERROR, META_REQUEST_ID, UPSTREAM_FAILED};

use super::{CallError, Response};

/// A backend's answer, or what stands for one. Its content is out of reach until its record is where it must be:
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
    outcome: Outcome,
    /// The HTTP status of a backend's error, where it had one of its own.
    http: Option<u16>,
}

/// What a client gets: the `result` or the `error` of its response, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// A result object.
    Result(String),
    /// An error object.
    Error(String),
}

impl Answer {
    /// What the record says of this answer.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }

    /// With the backend's `requestState` as `bind` gives it, where the backend asks for input.
    pub fn with_state(self, bind: impl FnOnce(&str) -> String) -> Self {
        let Content::Result(result) = &self.content else { return self };
        if self.outcome.status != Status::InputRequired {
            return self;
        }
        let result = with_state(result, bind);
        let outcome = Outcome::answered(Status::InputRequired, None, result.as_bytes());
        Self { content: Content::Result(result), outcome, ..self }
    }

    /// The answer that a refusal gives: an error of the gateway's own.
    pub fn refusal(code: i32, message: &str) -> Self {
        Self::refusal_with(code, message, None)
    }

    /// As [`Answer::refusal`], with the error's `data` as JSON text.
    pub fn refusal_with(code: i32, message: &str, data: Option<&str>) -> Self {
        let error = error_object(code, message, data);
        let outcome = Outcome::answered(Status::Error, Some(message.to_owned()), error.as_bytes());
        Self { content: Content::Error(error), outcome, http: None }
    }

    /// The answer of an event that the gateway itself answers, and records: `result` is what the client gets.
    pub fn of_result(result: &str) -> Self {
        let outcome = Outcome::answered(Status::Ok, None, result.as_bytes());
        Self { content: Content::Result(result.to_owned()), outcome, http: None }
    }

    /// The answer that a backend's failure gives.
    pub fn failure(backend: &str, err: &CallError) -> Self {
        Self::from_failure(backend, err)
    }

    /// The answer that a backend's response gives; `era` is the client's.
    pub fn from_response(response: Response, request_id: RequestId, era: Era, backends: Era) -> Self {
        match response {
            Response::Result(result) => Self::from_result(&result, request_id, era),
            Response::Error { error, http } => {
                let message = error_message(&error);
                let outcome = Outcome::answered(Status::Error, Some(message), error.as_bytes());
                // A status of the other era's means nothing in this one.
                Self { content: Content::Error(error), outcome, http: http.filter(|_| era == backends) }
            }
        }
    }

    fn from_result(result: &str, request_id: RequestId, era: Era) -> Self {
        let Some(members) = json::members(result) else {
            return Self::refusal(INTERNAL_ERROR, "the backend's result is no object");
        };
        let is = |key: &str, want: &str| members.iter().any(|member| member.key == key && member.value.get() == want);
        // A result that says two things of itself counts as the worse one.
        let (status, message) = if is("isError", "true") {
            (Status::ToolError, Some(tool_message(result)))
        } else if is("resultType", "\"input_required\"") {
            (Status::InputRequired, None)
        } else {
            (Status::Ok, None)
        };
        if status == Status::InputRequired && era == Era::Legacy {
            return Self::refusal(UPSTREAM_FAILED, NO_INPUT);
        }
        let result = dressed(result, request_id, era);
        let outcome = Outcome::answered(status, message, result.as_bytes());
        Self { content: Content::Result(result), outcome, http: None }
    }

    pub(super) fn from_failure(backend: &str, err: &CallError) -> Self {
        let status = match err {
            CallError::TimedOut { .. } => Status::Timeout,
            CallError::Cancelled => Status::Cancelled,
            _ => Status::Error,
        };
        // A backend's command and its last words are the operator's: they go into the record, not to the client.
        let public = match err {
            CallError::Down { .. } => format!("backend {backend} is down"),
            err => format!("backend {backend} {err}"),
        };
        let error = error_object(UPSTREAM_FAILED, &public, None);
        let outcome = Outcome::answered(status, Some(format!("backend {backend} {err}")), error.as_bytes());
        Self { content: Content::Error(error), outcome, http: None }
    }
}

impl Released<Answer> {
    /// What the client gets, and the HTTP status of a backend's error where it had one.
    #[must_use]
    pub fn into_content(self) -> (Content, Option<u16>) {
        // I1: the one way to an answer's content leads through its record.
        let answer = self.into_inner();
        (answer.content, answer.http)
    }
}

/// What a client of the older era hears of a result that asks it for input.
const NO_INPUT: &str = "the backend needs input that this client's protocol cannot give";

/// A response that is not recorded, as a recorded one is given to a client of `era`: one that asks for input has its state
/// as `bind` gives it.
#[must_use]
pub fn unrecorded(response: Response, era: Era, bind: impl FnOnce(&str) -> String) -> Response {
    let Response::Result(result) = response else { return response };
    let members = json::members(&result).unwrap_or_default();
    if !members.iter().any(|member| member.key == "resultType" && member.value.get() == "\"input_required\"") {
        return Response::Result(result);
    }
    match era {
        Era::Modern => Response::Result(with_state(&result, bind)),
        Era::Legacy => Response::Error { error: error_object(UPSTREAM_FAILED, NO_INPUT, None), http: None },
    }
}

/// `result` with its `requestState` as `bind` gives it.
fn with_state(result: &str, bind: impl FnOnce(&str) -> String) -> String {
    let members = json::members(result).unwrap_or_default();
    let state = members.iter().find(|member| member.key == "requestState");
    match state.and_then(|state| json::raw_string(state.value)) {
        Some(state) => json::with_members(result, &[("requestState", &json::quoted(&bind(&state)))]),
        None => result.to_owned(),
    }
}

/// The text of a JSON-RPC error object.
#[must_use]
pub fn error_object(code: i32, message: &str, data: Option<&str>) -> String {
    let (code, message) = (code.to_string(), json::quoted(message));
    let members = [("code", Some(code.as_str())), ("message", Some(message.as_str())), ("data", data)];
    json::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}

/// `result` with the gateway's request id in its `_meta` and, for a modern client, a `resultType`. All else stays.
#[must_use]
pub fn dressed(result: &str, request_id: RequestId, era: Era) -> String {
    let members = json::members(result).unwrap_or_default();
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value.get());
    let meta = find("_meta").filter(|meta| meta.starts_with('{')).unwrap_or("{}");
    let meta = json::with_members(meta, &[(META_REQUEST_ID, &json::quoted(&request_id.to_string()))]);
    let mut added = vec![("_meta", meta.as_str())];
    if era == Era::Modern && find("resultType").is_none() {
        added.push(("resultType", "\"complete\""));
    }
    json::with_members(result, &added)
}

/// What a JSON-RPC error object says, with its code.
fn error_message(error: &str) -> String {
    let members = json::members(error).unwrap_or_default();
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
    let code = find("code").map_or("without a code", RawValue::get);
    let message = find("message").and_then(json::raw_string).unwrap_or_default();
    format!("{code}: {message}")
}

/// The first text of a tool's error result.
fn tool_message(result: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Content {
        #[serde(default)]
        content: Vec<Block>,
    }
    #[derive(serde::Deserialize)]
    struct Block {
        #[serde(default)]
        text: Option<String>,
    }
    let content = serde_json::from_str::<Content>(result).map(|content| content.content).unwrap_or_default();
    content.into_iter().find_map(|block| block.text).unwrap_or_else(|| "the tool answered with isError".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(result: &str, era: Era) -> Answer {
        Answer::from_response(Response::Result(result.to_owned()), RequestId(uuid::Uuid::nil()), era, era)
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
        let got = dressed(r#"{"content":[],"_meta":{"a": 1}}"#, RequestId(uuid::Uuid::nil()), Era::Legacy);
        assert_eq!(got, want);
        let forged = r#"{"_meta":{"io.gatepost/request_id":"forged"}}"#;
        assert!(!dressed(forged, RequestId(uuid::Uuid::nil()), Era::Legacy).contains("forged"));
    }

    #[test]
    fn a_modern_client_gets_a_result_type_and_a_backends_own_one_stays() {
        let Content::Result(result) = answer(r#"{"content":[]}"#, Era::Modern).content else { panic!() };
        assert!(result.contains(r#""resultType":"complete""#));
        let asked = answer(r#"{"resultType":"input_required"}"#, Era::Modern);
        assert_eq!(asked.outcome.status, Status::InputRequired);
        let Content::Result(result) = asked.content else { panic!() };
        assert!(!result.contains("complete"));
    }

    #[test]
    fn the_status_comes_from_the_answer_and_not_from_its_arrival() {
        assert_eq!(answer(r#"{"content":[]}"#, Era::Legacy).outcome.status, Status::Ok);
        let failed =
            answer(r#"{"content":[{"type":"image"},{"type":"text","text":"no"}],"isError":true}"#, Era::Legacy);
        assert_eq!((failed.outcome.status, failed.outcome.error_message.as_deref()), (Status::ToolError, Some("no")));
        let twice = answer(r#"{"isError":true,"isError":false}"#, Era::Legacy);
        assert_eq!(twice.outcome.status, Status::ToolError);
        let error = Response::Error { error: r#"{"code":-32602,"message":"bad"}"#.to_owned(), http: Some(400) };
        let modern = Answer::from_response(error.clone(), RequestId::new(), Era::Modern, Era::Modern);
        assert_eq!(modern.http, Some(400));
        let error = Answer::from_response(error, RequestId::new(), Era::Legacy, Era::Modern);
        assert_eq!(error.http, None);
        assert_eq!(error.outcome.status, Status::Error);
        assert_eq!(error.outcome.error_message.as_deref(), Some("-32602: bad"));
        let late = Answer::from_failure("b", &CallError::TimedOut { after: std::time::Duration::from_secs(1) });
        assert_eq!(late.outcome.status, Status::Timeout);
        assert_eq!(answer("[1]", Era::Legacy).outcome.status, Status::Error);
    }

    #[test]
    fn why_a_backend_is_down_is_recorded_and_not_told() {
        let down = Answer::from_failure("b", &CallError::Down { reason: "cannot start /opt/secret".to_owned() });
        assert!(down.outcome.error_message.unwrap().contains("/opt/secret"));
        let Content::Error(error) = down.content else { panic!() };
        assert_eq!(error, r#"{"code":-32012,"message":"backend b is down"}"#);
    }

    #[test]
    fn i1_the_digest_is_of_what_the_client_gets() {
        let answer = answer(r#"{"content":[]}"#, Era::Modern);
        let Content::Result(result) = &answer.content else { panic!() };
        assert_eq!(answer.outcome.response_digest, Some(crate::audit::record::Digest::of(result.as_bytes())));
        assert_eq!(answer.outcome.response_bytes, Some(result.len() as u64));
    }

    #[test]
    fn a_state_is_bound_with_or_without_a_record() {
        let asks = r#"{"resultType":"input_required", "requestState":"s"}"#;
        let response = |era| unrecorded(Response::Result(asks.to_owned()), era, |state| format!("bound {state}"));
        let want = r#"{"resultType":"input_required", "requestState":"bound s"}"#;
        assert_eq!(response(Era::Modern), Response::Result(want.to_owned()));
        assert!(matches!(response(Era::Legacy), Response::Error { error, .. } if error.contains(NO_INPUT)));
        let complete = Response::Result(r#"{"requestState":"s"}"#.to_owned());
        assert_eq!(unrecorded(complete.clone(), Era::Modern, |_| panic!()), complete);
    }
}
