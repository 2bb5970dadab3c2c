//! Requests of backends to clients: each has a record of its own, with the question and the answer.
//!
//! The intent reaches its level before the client sees the question, and the record before the backend sees the answer.
//! If either cannot be stored, the backend gets an error instead. An answer that a role's conditions do not allow is
//! recorded as `denied` and not handed on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::audit::record::{Call, Context, Correlation, Digest, Outcome, RecordKey, RequestId, Status};
use crate::audit::redact::RedactedValues;
use crate::audit::{Audit, Released, UnavailableError};
use crate::config::RecordAnswers;
use crate::gateway::call::recorded_content::QUESTION_BYTES_MAX;
use crate::gateway::call::rules::Rules;
use crate::gateway::session::question::{AnswerSender, ClientAnswer, Fate, OpenCall, Question, QuestionHandler};
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{AUDIT_UNAVAILABLE, DENIED, INTERNAL_ERROR, METHOD_NOT_FOUND};
use crate::rbac::{Asking, DeniedAnswer};
use crate::upstream::CallerToken;

/// The longest time that a question waits for its answer. *Chosen*: a person who was asked has gone by then; a call
/// that waits for a person ends sooner, by its backend's `call_timeout`. No intent stays open for an hour.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(30);

/// Most questions that wait at once. *Chosen*: far more than people answer, and each holds room in the ring.
const OPEN_MAX: usize = 1024;

/// Records the questions of all sessions.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    audit: Audit,
    rules: Arc<RwLock<Arc<Rules>>>,
    record_answers: RecordAnswers,
    /// One task for each question.
    tasks: TaskTracker,
    open: Arc<Semaphore>,
}

impl Questions {
    /// Records to `audit`.
    pub(crate) fn new(audit: Audit, rules: Arc<RwLock<Arc<Rules>>>, record_answers: RecordAnswers) -> Self {
        let tasks = TaskTracker::new();
        // A closed tracker is only one whose end can be waited for.
        tasks.close();
        Self { audit, rules, record_answers, tasks, open: Arc::new(Semaphore::new(OPEN_MAX)) }
    }

    /// Waits until every question is recorded. Those of a session end with it.
    pub(crate) async fn recorded(&self) {
        self.tasks.wait().await;
    }

    /// Takes a question from its arrival to the answer to its backend.
    async fn ask(self, question: Question) {
        let (connection, id, method) =
            (Weak::clone(&question.connection), question.id.clone(), question.method.clone());
        let (content, answered) = self.settle(question).await;
        let (Some(content), Some(connection)) = (content, connection.upgrade()) else { return };
        let (key, value) = match &content {
            Ok(result) => ("result", result),
            Err(error) => ("error", error),
        };
        let caller = answered.as_ref().and_then(|answered| answered.token.as_ref());
        let response = json::object([("jsonrpc", "\"2.0\""), ("id", id.as_str()), (key, value.as_str())]);
        if let Err(error) = connection.respond(response, caller).await {
            let backend = connection.alias();
            tracing::warn!(backend, method, %error, "response not sent to a backend; dropping it");
        }
    }

    /// Records the question and its answer. Returns what the backend gets, and the client's request with the answer.
    async fn settle(&self, question: Question) -> (Option<Content>, Option<Answered>) {
        // I6: the number of open questions is bounded.
        let Ok(_permit) = self.open.try_acquire() else {
            return (Some(error(INTERNAL_ERROR, "too many requests to clients are open")), None);
        };
        let rules = Arc::clone(&self.rules.read());
        let call = self.call(&question, &rules);
        if let Some(refused) = refused(&question) {
            let outcome = Outcome::failed(Status::Error, refused.clone());
            let recorded = self.audit.record_once(call, outcome, error(INTERNAL_ERROR, &refused)).await;
            return (Some(recorded.map_or_else(|cause| unaudited(&cause), Released::into_inner)), None);
        }
        // I1: the intent reaches its level before the client sees the question.
        let mut receipt = match self.audit.begin(call).await {
            Ok(receipt) => receipt,
            Err(cause) => return (Some(unaudited(&cause)), None),
        };
        let key = self.audit.record_key(receipt.request_id());
        let Question { fate, deliver, during, backend, connection, params, .. } = question;
        let mut answered = None;
        let (outcome, content) = match self.wait(fate, deliver).await {
            Wait::Answered(ClientAnswer { content, sender: AnswerSender { roles, token }, handled }) => {
                answered = Some(Answered { token, _handled: handled });
                let asking = match during.as_deref() {
                    Some(OpenCall { tool: Some(tool), .. }) => Asking::Tool(tool),
                    Some(_) => Asking::Other,
                    None => Asking::Unknown,
                };
                let current = Arc::clone(&self.rules.read());
                let judge = |result: &String| current.policy.judge_reply(&roles, &backend, asking, result);
                let denied = content.as_ref().ok().and_then(|result| judge(result).err());
                let denied = denied.map(|denied| (denied, current.policy_text.digest()));
                let outcome = self.outcome(&rules, params.as_deref(), &content, key.as_ref());
                let (outcome, content) = judged(outcome, content, denied, connection.strong_count() > 0);
                match &outcome.response {
                    // The decision is recorded even if the answer is not: it is not handed on in any case.
                    Some(response) if outcome.status == Status::Denied && !receipt.make_room(response.len()) => {
                        (Outcome { response: None, ..outcome }, content)
                    }
                    // I6: an answer is recorded whole, or not handed on.
                    Some(response) if !receipt.make_room(response.len()) => {
                        let message = "there is no room to record the answer at the moment";
                        (
                            Outcome {
                                status: Status::Error,
                                error_message: Some(message.to_owned()),
                                response: None,
                                ..outcome
                            },
                            Some(error(AUDIT_UNAVAILABLE, message)),
                        )
                    }
                    _ => (outcome, content),
                }
            }
            Wait::Unanswered(status, code, message) => {
                (Outcome::failed(status, message.clone()), Some(error(code, &message)))
            }
        };
        // I1: the record reaches its level before the backend sees the answer.
        let content = match receipt.finish(outcome, content).await {
            Ok(released) => released.into_inner(),
            Err(cause) => Some(unaudited(&cause)),
        };
        (content, answered)
    }

    /// Hands the question to the client and waits for what becomes of it.
    async fn wait(&self, mut fate: oneshot::Receiver<Fate>, deliver: Box<dyn FnOnce() -> bool + Send>) -> Wait {
        let cancelled = || Wait::Unanswered(Status::Cancelled, INTERNAL_ERROR, CANCELLED.to_owned());
        let ended = || Wait::Unanswered(Status::Cancelled, INTERNAL_ERROR, ENDED.to_owned());
        if !deliver() {
            // The client never saw it.
            return match fate.try_recv() {
                Ok(_) => cancelled(),
                Err(oneshot::error::TryRecvError::Closed) => ended(),
                Err(oneshot::error::TryRecvError::Empty) => {
                    Wait::Unanswered(Status::Error, METHOD_NOT_FOUND, "no client takes this request".to_owned())
                }
            };
        }
        tokio::select! {
            fate = fate => match fate {
                Ok(Fate::Answered(answer)) => Wait::Answered(answer),
                Ok(Fate::Cancelled) => cancelled(),
                Err(_) => ended(),
            },
            () = tokio::time::sleep(ANSWER_TIMEOUT) => {
                let after = humantime::format_duration(ANSWER_TIMEOUT);
                Wait::Unanswered(Status::Timeout, INTERNAL_ERROR, format!("the client did not answer within {after}"))
            }
        }
    }

    /// The part of the record that is known before the answer.
    fn call(&self, question: &Question, rules: &Rules) -> Call {
        let id = RequestId::new();
        let Some(key) = self.audit.record_key(id) else { return Call::new(id, &question.method) };
        let client_info = question.client_info.as_deref();
        let context = Context {
            identity: Some(&question.caller.identity),
            client_info: client_info.map(|(name, version)| (name.as_str(), version.as_str())),
            ..Context::default()
        };
        let correlation = Correlation {
            addr: None,
            session_id: Some(question.session.clone()),
            rpc_id: Some(question.number.to_string()),
        };
        let call = Call::new(id, &question.method)
            .with_caller(&question.caller)
            .with_correlation(&correlation)
            .with_context(&context)
            .with_parent(question.during.as_ref().map(|call| call.request_id))
            .with_target(Some(&question.backend), None)
            .with_definitions(Some(rules.policy_text.digest()), None);
        match &question.params {
            Some(params) if params.len() <= QUESTION_BYTES_MAX => {
                let recorded = rules.redaction.anywhere(params, &mut RedactedValues::default()).into_owned();
                call.with_arguments(Some(recorded), Some(key.digest(params.as_bytes())))
            }
            _ => call,
        }
    }

    /// The outcome of a question with this answer.
    fn outcome(&self, rules: &Rules, params: Option<&str>, content: &Content, key: Option<&RecordKey>) -> Outcome {
        let (status, text) = match content {
            Ok(result) => (Status::Ok, result),
            Err(error) => (Status::Error, error),
        };
        let Some(key) = key else { return Outcome::of(status) };
        let recorded = match self.record_answers {
            RecordAnswers::Full => Some(recorded_answer(rules, params, text)),
            RecordAnswers::Digest => None,
        };
        // I8: the message repeats what is recorded, and not the text as it came.
        let message = recorded.as_ref().filter(|_| content.is_err());
        let message = message.map(|error| format!("the client answered with an error: {error}"));
        Outcome::answered(status, message, text.as_bytes(), key).with_response(recorded)
    }
}

impl QuestionHandler for Questions {
    fn take(&self, question: Question) {
        self.tasks.spawn(self.clone().ask(question));
    }
}

/// The `result` or the `error` of a response, JSON text.
type Content = Result<String, String>;

/// The request with a client's answer.
struct Answered {
    /// The caller's token, if a backend of the session is called on its behalf.
    token: Option<Arc<CallerToken>>,
    /// The request waits until this is dropped.
    _handled: oneshot::Sender<()>,
}

/// The end of the wait for an answer.
enum Wait {
    Answered(ClientAnswer),
    /// The status of the record, and the code and message of the error for the backend.
    Unanswered(Status, i32, String),
}

const CANCELLED: &str = "the backend cancelled its request";

const ENDED: &str = "the session ended, or had too many unanswered requests";

fn error(code: i32, message: &str) -> Content {
    Err(json::object([("code", code.to_string().as_str()), ("message", &json::quoted(message))]))
}

fn unaudited(cause: &UnavailableError) -> Content {
    tracing::warn!(%cause, "cannot record a request of a backend to a client; refusing it");
    error(AUDIT_UNAVAILABLE, "audit unavailable")
}

/// The reason why a question cannot be recorded as a whole.
fn refused(question: &Question) -> Option<String> {
    let bytes = question.params.as_ref().map_or(0, String::len);
    (bytes > QUESTION_BYTES_MAX)
        .then(|| format!("the request has {bytes} bytes of params; at most {QUESTION_BYTES_MAX} can be recorded"))
}

/// The outcome of an answered question, and what the backend gets.
fn judged(
    outcome: Outcome,
    content: Content,
    denied: Option<(DeniedAnswer, Digest)>,
    is_open: bool,
) -> (Outcome, Option<Content>) {
    let bytes = content.as_ref().map_or_else(String::len, String::len);
    if let Some((DeniedAnswer { reason, decided_by }, policy)) = denied {
        let refusal = error(DENIED, &reason);
        let outcome = Outcome { status: Status::Denied, error_message: Some(reason), ..outcome };
        return (outcome.with_decision(decided_by, policy), Some(refusal));
    }
    if bytes > QUESTION_BYTES_MAX {
        let message = format!("the answer has {bytes} bytes; at most {QUESTION_BYTES_MAX} can be recorded");
        let refusal = error(INTERNAL_ERROR, &message);
        let outcome = Outcome { status: Status::Error, error_message: Some(message), response: None, ..outcome };
        return (outcome, Some(refusal));
    }
    if !is_open {
        let message = "the backend is gone; the answer was not handed on".to_owned();
        return (Outcome { status: Status::Error, error_message: Some(message), ..outcome }, None);
    }
    (outcome, Some(content))
}

/// An answer as it is recorded: without what its form or the operator declares secret.
fn recorded_answer(rules: &Rules, params: Option<&str>, answer: &str) -> String {
    let params = params.and_then(Object::parse);
    let schema = params.as_ref().and_then(|params| params.get("requestedSchema"));
    rules.redaction.answer(schema, answer, &mut RedactedValues::default()).into_owned()
}

#[cfg(test)]
mod tests {
    use crate::audit::record::Caller;
    use crate::config::Config;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_answers_ends_within_the_hour() {
        let rules = Arc::new(RwLock::new(Arc::new(Rules::new(&Config::default()).unwrap())));
        let questions = Questions::new(Audit::disabled(), rules, RecordAnswers::Full);
        let (_sender, fate) = oneshot::channel();
        questions.take(Question {
            caller: Caller::anonymous(),
            client_info: None,
            session: "s".to_owned(),
            number: 1,
            backend: "b".to_owned(),
            connection: Weak::new(),
            id: "7".to_owned(),
            method: "elicitation/create".to_owned(),
            params: None,
            during: None,
            fate,
            deliver: Box::new(|| true),
        });
        let begun = tokio::time::Instant::now();
        questions.recorded().await;
        assert!(begun.elapsed() >= ANSWER_TIMEOUT && begun.elapsed() < Duration::from_hours(1));
    }
}
