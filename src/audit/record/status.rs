//! The words of `response_status`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of a call, as the word in `response_status`. A CHECK constraint allows only these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The backend answered with a result that is not an error.
    Ok,
    /// The tool answered with `isError: true`.
    ToolError,
    /// The backend answered with a JSON-RPC error, or could not be reached.
    Error,
    /// The backend did not answer in time.
    Timeout,
    /// The client cancelled the call.
    Cancelled,
    /// The backend asks the client for input. The client is expected to call again.
    InputRequired,
    /// The gateway died while the call was open. Written at the next start.
    Interrupted,
    /// The caller's role does not allow this tool.
    Denied,
    /// The request had no valid token.
    Unauthenticated,
    /// The message broke a rule of the protocol or exceeded a limit.
    Malformed,
    /// The caller exceeded a rate or concurrency limit.
    RateLimited,
    /// The call could not be audited and was refused for that reason.
    AuditUnavailable,
}

impl Status {
    /// All statuses, in the order of their codes in a frame.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::ToolError,
        Self::Error,
        Self::Timeout,
        Self::Cancelled,
        Self::InputRequired,
        Self::Interrupted,
        Self::Denied,
        Self::Unauthenticated,
        Self::Malformed,
        Self::RateLimited,
        Self::AuditUnavailable,
    ];

    /// The word in `response_status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::InputRequired => "input_required",
            Self::Interrupted => "interrupted",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Malformed => "malformed",
            Self::RateLimited => "rate_limited",
            Self::AuditUnavailable => "audit_unavailable",
        }
    }

    /// The status with this word, if there is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_own_word() {
        for status in Status::ALL {
            assert_eq!(Status::from_word(status.as_str()), Some(status));
        }
    }
}
