//! The outcome of a call, for its record.

use crate::audit::record::{Outcome, RecordKey, Status};
use crate::audit::redact::{RedactedValues, Redaction};
use crate::config::RecordAnswers;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::UPSTREAM_FAILED;
use crate::upstream::{Answer, AnswerKind};

/// The longest question and the longest answer to one, in bytes. *Chosen*: a message for sampling with an image fits. A
/// longer one could not be recorded as a whole and is refused to the backend.
pub(crate) const QUESTION_BYTES_MAX: usize = 1024 * 1024;

/// The recorded outcome of a call with this `answer`. `key` is that of the call's record; without one, nothing is
/// recorded, and the outcome has only the status.
pub(crate) fn of(answer: &Answer, key: Option<&RecordKey>) -> Outcome {
    let status = match answer.kind() {
        AnswerKind::Result => Status::Ok,
        AnswerKind::ToolError => Status::ToolError,
        AnswerKind::InputRequired => Status::InputRequired,
        AnswerKind::Error => Status::Error,
        AnswerKind::TimedOut => Status::Timeout,
        AnswerKind::Cancelled => Status::Cancelled,
    };
    match key {
        Some(key) => Outcome::answered(status, answer.message().map(str::to_owned), answer.text().as_bytes(), key),
        None => Outcome::of(status),
    }
}

/// The questions in an `answer` that asks for input, as they are recorded: JSON text, without the backend's state.
pub(crate) fn questions(answer: &Answer, recorded: RecordAnswers, redaction: &Redaction) -> Option<String> {
    let is_recorded = answer.kind() == AnswerKind::InputRequired && recorded == RecordAnswers::Full;
    let result = Object::parse(answer.text()).filter(|_| is_recorded)?;
    let state = json::object([("bytes", result.get("requestState").map_or(0, str::len).to_string().as_str())]);
    let result = result.replaced("requestState", &state);
    Some(redaction.anywhere(&result, &mut RedactedValues::default()).into_owned())
}

/// `answer`, or an error in its place if it asks for more than can be recorded.
pub(crate) fn within_bounds(answer: Answer) -> Answer {
    let bytes = answer.text().len();
    if answer.kind() != AnswerKind::InputRequired || bytes <= QUESTION_BYTES_MAX {
        return answer;
    }
    let message = format!("the backend asks for input in {bytes} bytes; at most {QUESTION_BYTES_MAX} can be recorded");
    Answer::refusal(UPSTREAM_FAILED, &message, None)
}
