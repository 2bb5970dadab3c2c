//! The reasons for which a request to a backend has no response.

use std::time::Duration;

use crate::mcp::json;

use super::oauth::CredentialError;

/// The failure of a request to a backend. Its text continues a sentence that begins with the backend's name.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The backend is not running, or cannot be reached. It did not get the request.
    #[error("is down: {reason}")]
    Down {
        /// The reason.
        reason: String,
    },
    /// There is no credential for the request. The backend did not get it.
    #[error("was not called: {0}")]
    Credential(#[from] CredentialError),
    /// The backend rejected the credential. It did nothing.
    #[error("rejected the gateway's credential {credential:?} with HTTP status {status}")]
    Rejected {
        /// The name of the credential in a record.
        credential: &'static str,
        /// The status.
        status: u16,
    },
    /// Every conversation with the backend has an open request, and the caller has none. The backend did not get the
    /// request.
    #[error("has conversations with {limit} other callers, and all have open requests: try again later")]
    Conversations {
        /// Most conversations, `backends.NAME.conversations_max`.
        limit: usize,
    },
    /// The backend or its connection ended before the response. It is unknown whether the call took effect.
    #[error("ended or disconnected before it answered")]
    Died,
    /// The backend did not answer in time. It is unknown whether the call took effect.
    #[error("did not answer within {after:?}")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The answer is too long to be relayed.
    #[error("sent an answer of more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The answer is not a JSON-RPC response.
    #[error("sent an answer that is not a JSON-RPC response")]
    Garbled,
    /// The answer is an HTTP status without a JSON-RPC response.
    #[error("answered with HTTP status {status}")]
    Http {
        /// The status.
        status: u16,
    },
    /// A list of the backend cannot be used.
    #[error("sent a list that cannot be used: {fault}")]
    List {
        /// The fault of the list.
        fault: &'static str,
    },
    /// The request is not possible in the protocol of its backend or client.
    #[error("cannot do this in the protocol that the client speaks: {what}")]
    Era {
        /// The part of the request that is not possible.
        what: &'static str,
    },
    /// The client cancelled the call.
    #[error("did not answer before the client cancelled")]
    Cancelled,
    /// The gateway stopped.
    #[error("did not answer before the gateway stopped")]
    Stopped,
    /// A reload removed or replaced the backend.
    #[error("was removed or replaced by a reload, and did not answer in the time that is left to it")]
    Replaced,
}

/// A JSON-RPC error object, as JSON text; `data` is JSON text.
#[must_use]
pub fn error_object(code: i32, message: &str, data: Option<&str>) -> String {
    let (code, message) = (code.to_string(), json::quoted(message));
    let members = [("code", Some(code.as_str())), ("message", Some(message.as_str())), ("data", data)];
    json::object(members.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))))
}
