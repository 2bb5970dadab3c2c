//! The ends of sessions: why one ended, and the error for one that is not there.

use axum::http::StatusCode;

use crate::auth::verified_token::Withdrawal;
use crate::gateway::message::refusal::Refusal;
use crate::mcp::protocol::INVALID_REQUEST;

/// The reason why a session ended that its client did not close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The session was idle too long.
    Idle,
    /// Its principal opened more sessions than one principal may have.
    OwnLimit,
    /// The gateway had no room for another session.
    NoRoom,
    /// A reload took the right to use its backend from the roles of its principal.
    Unreachable,
    /// A reload does not accept the credential of its principal any more.
    Withdrawn(Withdrawal),
    /// A reload removed the backend of its endpoint.
    Removed,
    /// The gateway stopped.
    Stopped,
}

/// The principal has no session with this id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown session: initialize again")]
pub struct UnknownSessionError;

impl From<UnknownSessionError> for Refusal {
    fn from(error: UnknownSessionError) -> Self {
        Self::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, error.to_string())
    }
}
