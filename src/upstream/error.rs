//! Why a backend gave no response.

use std::time::Duration;

/// Why a backend gave no response.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It is not running, or cannot be reached. The call did not reach it.
    #[error("is down: {reason}")]
    Down {
        /// Why.
        reason: String,
    },
    /// It ended, or the connection did, while the call was open. Whether the call took effect is unknown.
    #[error("ended before it answered")]
    Died,
    /// It did not answer in time. Whether the call took effect is unknown.
    #[error("did not answer within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// Its answer is too long to be relayed.
    #[error("answered with more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// Its answer is no JSON-RPC response.
    #[error("answered with what is no JSON-RPC response")]
    Garbled,
    /// It answered with an HTTP status and no JSON-RPC response.
    #[error("answered with HTTP status {status}")]
    Http {
        /// The status.
        status: u16,
    },
    /// Its tool list breaks a rule.
    #[error("has a list that {fault}")]
    List {
        /// The rule.
        fault: &'static str,
    },
    /// It speaks a protocol in which this cannot be asked.
    #[error("cannot do this in the protocol that the client speaks: {what}")]
    Era {
        /// What.
        what: &'static str,
    },
    /// The client cancelled the call.
    #[error("did not answer before the client cancelled")]
    Cancelled,
    /// The gateway stopped.
    #[error("did not answer before the gateway stopped")]
    Stopped,
}
