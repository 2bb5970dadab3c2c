//! The backends: where an authorized and recorded call goes, and the [`Answer`] that comes back.
//!
//! [`Upstreams::forward`] takes a [`Permit`] and a [`Receipt`]: proof that the call was authorized and that its intent
//! reached the configured level. What it gives back cannot be read: only [`Released`], which `finish` and `refuse` make,
//! yields an answer's content (I1). Results are relayed as they came; the gateway adds its request id and, for a modern
//! client, what that protocol demands of every result. [`Upstreams::relay`] is for what is not audited, and calls no tool.
//!
//! A backend's failure is an answer too, and touches no other backend. A call whose outcome is unknown is never made
//! again.

mod backend;
mod error;
mod http;
mod message;
mod peer;
mod stdio;
mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::value::RawValue;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::record::{Outcome, RequestId, Status};
use crate::audit::{Receipt, Released};
use crate::config;
use crate::gateway::protocol::{Era, INTERNAL_ERROR, LEGACY_LATEST, META_REQUEST_ID, TOOLS_CALL, UPSTREAM_FAILED};
use crate::gateway::raw;
use crate::gateway::rbac::{Kind, Permit};

pub use backend::{Backend, Item, List, NOT_OFFERED, adapted, read_page};
pub use error::CallError;
pub use http::EndpointFault;
pub(crate) use message::error_code;
pub use message::{Event, Listen, Request, Response};
pub use peer::Peer;
pub use stdio::{LINE_BYTES_MAX, Line, next_line};

/// All configured backends.
#[derive(Debug)]
pub struct Upstreams {
    backends: BTreeMap<String, Arc<Backend>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    changes: broadcast::Sender<Change>,
}

/// A list of a backend that has changed, as its shared conversation tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The backend's alias.
    pub alias: String,
    /// The notification's method.
    pub method: String,
}

/// Changes that wait for a slow subscriber. *Chosen*: a subscriber that misses some hears of the next.
const CHANGES_MAX: usize = 64;

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without any message of it.
    pub idle: Duration,
    /// In all.
    pub total: Duration,
}

/// How a request reaches its backend, besides what it asks.
#[derive(Debug)]
pub struct Route {
    /// The conversation.
    pub peer: Arc<Peer>,
    /// What the client speaks.
    pub era: Era,
    /// What the request is about, for a backend's `Mcp-Name`.
    pub name: Option<String>,
    /// The client's `Mcp-Param-*` headers.
    pub headers: HeaderMap,
    /// Takes what the backend sends before the response.
    pub events: Option<Arc<dyn Listen>>,
}

/// What ends a call early, besides its timeout.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// The client cancelled the call.
    pub client: CancellationToken,
    /// The gateway stops and has waited long enough.
    pub drained: CancellationToken,
}

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

impl Upstreams {
    /// Starts the backends. Returns at once; they come up by themselves.
    ///
    /// # Errors
    /// Every [`EndpointFault`]; nothing was started.
    pub fn start(backends: &BTreeMap<String, config::Backend>) -> Result<Self, Vec<EndpointFault>> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut started, mut faults) = (BTreeMap::new(), Vec::new());
        let changes = broadcast::Sender::new(CHANGES_MAX);
        for (alias, config) in backends {
            match Backend::new(alias, config, tasks.clone(), stop.clone(), changes.clone()) {
                Ok(backend) => drop(started.insert(alias.clone(), Arc::new(backend))),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for backend in started.values() {
            tasks.spawn(Arc::clone(backend).supervise());
        }
        Ok(Self { backends: started, tasks, stop, changes })
    }

    /// What [`Upstreams::start`] would refuse, without starting anything. Key files are read.
    #[must_use]
    pub fn check(backends: &BTreeMap<String, config::Backend>) -> Vec<EndpointFault> {
        let fault = |(alias, config): (&String, &config::Backend)| http::Endpoint::new(alias, config).err();
        backends.iter().filter_map(fault).collect()
    }

    /// What changes from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The backend of this alias.
    #[must_use]
    pub fn get(&self, alias: &str) -> Option<&Arc<Backend>> {
        self.backends.get(alias)
    }

    /// Whether a backend of this alias is configured.
    #[must_use]
    pub fn contains(&self, alias: &str) -> bool {
        self.backends.contains_key(alias)
    }

    /// All backends, in the order of their aliases.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values()
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

    /// Forwards the permitted call and waits for its answer, the backend's timeout, or an interrupt.
    ///
    /// A failure is an answer as well; a call whose outcome is unknown is not made again.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call at the backend.
    pub async fn forward(
        &self,
        method: &str,
        permit: Permit,
        receipt: &Receipt,
        route: impl Future<Output = Result<Route, CallError>>,
        interrupt: &Interrupt,
    ) -> Answer {
        // I1: no permit, no receipt, no call. Both are demanded by this signature, and nothing else calls a tool.
        if (method == TOOLS_CALL) != (permit.kind() == Kind::Tool) {
            return Answer::refusal(INTERNAL_ERROR, "the permit is for something else");
        }
        let asked = async {
            let route = route.await?;
            if route.peer.alias() != permit.backend() {
                return Err(CallError::Down { reason: "the permit is for another backend".to_owned() });
            }
            Ok((ask(method, Some(permit.params()), &route).await?, route.era, route.peer.era()))
        };
        match interrupted(asked, interrupt).await {
            Ok((response, era, backends)) => Answer::from_response(response, receipt.request_id(), era, backends),
            Err(err) => Answer::from_failure(permit.backend(), &err),
        }
    }

    /// Relays what is not audited, and calls no tool.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// As for [`Upstreams::forward`].
    pub async fn relay(
        &self,
        method: &str,
        params: Option<&str>,
        route: &Route,
        interrupt: &Interrupt,
    ) -> Result<Response, CallError> {
        // I1: a tool is called with a permit and a receipt only.
        if method == TOOLS_CALL {
            return Err(CallError::Era { what: "a call is not relayed without a record" });
        }
        interrupted(ask(method, params, route), interrupt).await
    }

    /// Stops all children and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn ask(method: &str, params: Option<&str>, route: &Route) -> Result<Response, CallError> {
    let params = adapted(route.era, route.peer.era(), params);
    let request = Request {
        method,
        params: params.as_deref(),
        name: route.name.clone(),
        headers: route.headers.clone(),
        events: route.events.clone(),
    };
    route.peer.request(&request).await
}

async fn interrupted<T>(
    asked: impl Future<Output = Result<T, CallError>>,
    interrupt: &Interrupt,
) -> Result<T, CallError> {
    tokio::select! {
        biased;
        () = std::future::ready(()), if interrupt.client.is_cancelled() => Err(CallError::Cancelled),
        response = asked => response,
        () = interrupt.client.cancelled() => Err(CallError::Cancelled),
        () = interrupt.drained.cancelled() => Err(CallError::Stopped),
    }
}

/// The gateway as it names itself to backends.
fn own_info() -> String {
    raw::object([("name", "\"gatepost\""), ("version", raw::quoted(env!("CARGO_PKG_VERSION")).as_str())])
}

/// How the gateway greets a backend for itself: without capabilities, so that the backend has nothing to ask for.
fn own_hello() -> String {
    let version = raw::quoted(LEGACY_LATEST);
    raw::object([("protocolVersion", version.as_str()), ("capabilities", "{}"), ("clientInfo", &own_info())])
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
        if status == Status::InputRequired && era == Era::Legacy {
            return Self::refusal(UPSTREAM_FAILED, NO_INPUT);
        }
        let result = dressed(result, request_id, era);
        let outcome = Outcome::answered(status, message, result.as_bytes());
        Self { content: Content::Result(result), outcome, http: None }
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
    let members = raw::members(&result).unwrap_or_default();
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
    let members = raw::members(result).unwrap_or_default();
    let state = members.iter().find(|member| member.key == "requestState");
    match state.and_then(|state| raw::string(state.value)) {
        Some(state) => raw::with_members(result, &[("requestState", &raw::quoted(&bind(&state)))]),
        None => result.to_owned(),
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
