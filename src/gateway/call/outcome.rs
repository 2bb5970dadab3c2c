//! The outcome of a call, for its record.

use crate::audit::record::{Outcome, Status};
use crate::upstream::{Answer, AnswerKind};

/// The recorded outcome of a call with this `answer`.
pub(crate) fn of(answer: &Answer) -> Outcome {
    let status = match answer.kind() {
        AnswerKind::Result => Status::Ok,
        AnswerKind::ToolError => Status::ToolError,
        AnswerKind::InputRequired => Status::InputRequired,
        AnswerKind::Error => Status::Error,
        AnswerKind::TimedOut => Status::Timeout,
        AnswerKind::Cancelled => Status::Cancelled,
    };
    let (digest, bytes) = answer.digest();
    Outcome {
        status,
        error_message: answer.message().map(str::to_owned),
        response_digest: Some(digest),
        response_bytes: Some(bytes as u64),
    }
}
