//! The backends: where an authorized and recorded call goes, and the [`Answer`] that comes back.
//!
//! [`Upstreams::forward`] takes a [`Permit`] and a [`Receipt`]: proof that the call was authorized and that its intent
//! reached the configured level. What it gives back cannot be read: only [`Released`], which `finish` and `refuse` make,
//! yields an answer's content (I1). Results are relayed as they came; the gateway adds its request id and, for a modern
//! client, what that protocol demands of every result.
//!
//! A backend's failure is an answer too, and touches no other backend. A call whose outcome is unknown is never made
//! again.

mod stdio;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::record::{Outcome, RequestId, Status};
use crate::audit::{Receipt, Released};
use crate::config;
use crate::gateway::protocol::{Era, INTERNAL_ERROR, META_REQUEST_ID, UPSTREAM_FAILED};
use crate::gateway::raw;
use crate::gateway::rbac::Permit;

use stdio::{Backend, Response};
pub use stdio::{CallError, LINE_BYTES_MAX, Tool};

/// All configured backends, each with its own supervisor.
#[derive(Debug)]
pub struct Upstreams {
    backends: BTreeMap<String, Arc<Backend>>,
    supervisors: TaskTracker,
    stop: CancellationToken,
}

/// What ends a call early, besides its timeout.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// The client cancelled the call.
    pub client: CancellationToken,
    /// The gateway stops and has waited long enough.
    pub drained: CancellationToken,
}

/// A backend's answer, or what stands for one. Its content is out of reach until its record is where it must be.
#[derive(Debug)]
#[must_use = "an answer is finished with its receipt"]
pub struct Answer {
    content: Content,
    outcome: Outcome,
}

/// What a client gets: the `result` or the `error` of its response, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// A result object.
    Result(String),
    /// An error object.
    Error(String),
}

impl Upstreams {
    /// Starts a supervisor for each backend. Returns at once; backends come up by themselves.
    #[must_use]
    pub fn start(backends: &BTreeMap<String, config::Backend>) -> Self {
        let (supervisors, stop) = (TaskTracker::new(), CancellationToken::new());
        let start = |(alias, config): (&String, &config::Backend)| {
            let backend = Arc::new(Backend::new(alias, config));
            supervisors.spawn(Arc::clone(&backend).supervise(stop.clone()));
            (alias.clone(), backend)
        };
        let backends = backends.iter().map(start).collect();
        supervisors.close();
        Self { backends, supervisors, stop }
    }

    /// Whether a backend of this alias is configured.
    #[must_use]
    pub fn contains(&self, alias: &str) -> bool {
        self.backends.contains_key(alias)
    }

    /// The aliases, in order.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.backends.keys().map(String::as_str)
    }

    /// How many backends answer now.
    #[must_use]
    pub fn up_count(&self) -> usize {
        self.backends.values().filter(|backend| backend.is_up()).count()
    }

    /// All tools of a backend, through all pages.
    ///
    /// # Errors
    /// [`CallError`]: the backend is down, or its list breaks a rule. Unknown aliases are down.
    pub async fn list_tools(&self, alias: &str) -> Result<Arc<[Tool]>, CallError> {
        self.get(alias)?.list_tools().await
    }

    /// Whether a backend has a tool: `Some(false)` only where its list was read just now and lacks it.
    pub async fn has_tool(&self, alias: &str, tool: &str) -> Option<bool> {
        let backend = self.get(alias).ok()?;
        if backend.known_tools().is_some_and(|tools| tools.iter().any(|known| known.name == tool)) {
            return Some(true);
        }
        let tools = backend.list_tools().await.ok()?;
        Some(tools.iter().any(|known| known.name == tool))
    }

    /// Forwards the permitted call and waits for its answer, the backend's timeout, or an interrupt.
    ///
    /// A failure is an answer as well; a call whose outcome is unknown is not made again.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call at the backend.
    pub async fn forward(&self, permit: Permit, receipt: &Receipt, era: Era, interrupt: &Interrupt) -> Answer {
        // I1: no permit, no receipt, no call. Both are demanded by this signature, and nothing else calls a tool.
        let call = async { self.get(permit.backend())?.call("tools/call", Some(permit.params())).await };
        let response = tokio::select! {
            biased;
            response = call => response,
            () = interrupt.client.cancelled() => Err(CallError::Cancelled),
            () = interrupt.drained.cancelled() => Err(CallError::Stopped),
        };
        match response {
            Ok(response) => Answer::from_response(response, receipt.request_id(), era),
            Err(err) => Answer::from_failure(permit.backend(), &err),
        }
    }

    /// Stops all children and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.supervisors.wait().await;
    }

    fn get(&self, alias: &str) -> Result<&Backend, CallError> {
        self.backends.get(alias).map(Arc::as_ref).ok_or_else(|| CallError::Down { reason: "not configured".to_owned() })
    }
}

impl Answer {
    /// What the record says of this answer.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }

    /// The answer that a refusal gives: an error of the gateway's own.
    pub fn refusal(code: i32, message: &str) -> Self {
        Self::refusal_with(code, message, None)
    }

    /// As [`Answer::refusal`], with the error's `data` as JSON text.
    pub fn refusal_with(code: i32, message: &str, data: Option<&str>) -> Self {
        let error = error_object(code, message, data);
        let outcome = Outcome::answered(Status::Error, Some(message.to_owned()), error.as_bytes());
        Self { content: Content::Error(error), outcome }
    }

    fn from_response(response: Response, request_id: RequestId, era: Era) -> Self {
        match response {
            Response::Result(result) => Self::from_result(&result, request_id, era),
            Response::Error(error) => {
                let message = error_message(&error);
                let outcome = Outcome::answered(Status::Error, Some(message), error.as_bytes());
                Self { content: Content::Error(error), outcome }
            }
        }
    }

    fn from_result(result: &str, request_id: RequestId, era: Era) -> Self {
        let Some(members) = raw::members(result) else {
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
        let result = dressed(result, request_id, era);
        let outcome = Outcome::answered(status, message, result.as_bytes());
        Self { content: Content::Result(result), outcome }
    }

    fn from_failure(backend: &str, err: &CallError) -> Self {
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
        Self { content: Content::Error(error), outcome }
    }
}

impl Released<Answer> {
    /// What the client gets.
    #[must_use]
    pub fn into_content(self) -> Content {
        // I1: the one way to an answer's content leads through its record.
        self.into_inner().content
    }
}

/// The text of a JSON-RPC error object.
#[must_use]
pub fn error_object(code: i32, message: &str, data: Option<&str>) -> String {
    let (code, message) = (code.to_string(), raw::quoted(message));
    let members = [("code", Some(code.as_str())), ("message", Some(message.as_str())), ("data", data)];
    raw::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}

/// `result` with the gateway's request id in its `_meta` and, for a modern client, a `resultType`. All else stays.
#[must_use]
pub fn dressed(result: &str, request_id: RequestId, era: Era) -> String {
    let members = raw::members(result).unwrap_or_default();
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value.get());
    let meta = find("_meta").filter(|meta| meta.starts_with('{')).unwrap_or("{}");
    let meta = raw::with_members(meta, &[(META_REQUEST_ID, &raw::quoted(&request_id.to_string()))]);
    let mut added = vec![("_meta", meta.as_str())];
    if era == Era::Modern && find("resultType").is_none() {
        added.push(("resultType", "\"complete\""));
    }
    raw::with_members(result, &added)
}

/// What a JSON-RPC error object says, with its code.
fn error_message(error: &str) -> String {
    let members = raw::members(error).unwrap_or_default();
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
    let code = find("code").map_or("without a code", RawValue::get);
    let message = find("message").and_then(raw::string).unwrap_or_default();
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
        Answer::from_response(Response::Result(result.to_owned()), RequestId(uuid::Uuid::nil()), era)
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
        let want = format!(r#"{{"_meta":{{{ID},"a": 1}},"content":[]}}"#);
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
        let error = Response::Error(r#"{"code":-32602,"message":"bad"}"#.to_owned());
        let error = Answer::from_response(error, RequestId::new(), Era::Legacy);
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
}
