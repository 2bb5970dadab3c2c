//! The outcome of a call, for its record.

use crate::audit::record::{Outcome, RecordKey, Status};
use crate::upstream::{Answer, AnswerKind};

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
