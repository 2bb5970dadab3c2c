//! The signs by which a backend shows that it no longer knows a legacy session.
//!
//! The specification has one: 404. Real servers answer with 400, 401, 410, 422 or 500, with a JSON-RPC error without
//! the request's id, or with one that has it; some say `session` in their text, and some say nothing.

use axum::http::StatusCode;

use crate::mcp::fold::folded;
use crate::upstream::message::{self, Message, Response};

use super::era::is_inconclusive;

/// The meaning of a response for the session of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionSign {
    /// The session is known, or the response does not say.
    Known,
    /// The session is gone, and the request was refused before anything was done.
    Refused,
    /// The session is gone. The request may have been dispatched, so it is not repeated.
    Answered,
    /// The request was refused for a reason that the response does not tell: the session may be gone.
    Unclear,
}

/// Reads the sign in the response to request `id` of a session: `message` is what its `body` was read as.
pub(super) fn sign(status: StatusCode, id: u64, body: &str, message: &Message) -> SessionSign {
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return SessionSign::Refused;
    }
    let (is_own, error) = match message {
        Message::Response { id: found, response: Some(Response::Error { error, .. }) } => {
            (message::own_id(found) == Some(id), Some(error.as_str()))
        }
        Message::Response { id: found, .. } => (message::own_id(found) == Some(id), None),
        Message::Event(_) | Message::Garbled => (false, None),
    };
    if status.is_success() && error.is_none() {
        return SessionSign::Known;
    }
    let names_session = || folded(error.unwrap_or(body)).contains("session");
    if is_own {
        let is_lost = error.is_some_and(|error| is_session_code(error) && names_session());
        return if is_lost { SessionSign::Answered } else { SessionSign::Known };
    }
    if names_session() {
        return if status.is_server_error() { SessionSign::Answered } else { SessionSign::Refused };
    }
    let says_nothing = status.is_success() || is_inconclusive(status);
    if says_nothing { SessionSign::Known } else { SessionSign::Unclear }
}

/// Returns true if `error` has a code with which servers refuse a session: those of the transports of the official
/// SDKs, and that of an invalid request.
fn is_session_code(error: &str) -> bool {
    message::error_code(error).is_some_and(|code| matches!(code, -32600 | -32001 | -32000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_real_servers_are_read() {
        use SessionSign::{Answered, Known, Refused, Unclear};
        let error = |id: &str, code: i32, text: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{text}"}}}}"#)
        };
        for (status, body, want) in [
            (200, r#"{"jsonrpc":"2.0","id":7,"result":{"content":"session not found"}}"#.to_owned(), Known),
            (404, String::new(), Refused),
            (410, "gone".to_owned(), Refused),
            // The TypeScript SDK's examples, supergateway.
            (400, error("null", -32000, "Bad Request: No valid session ID provided"), Refused),
            (400, r#"{"error":{"message":"No valid session"}}"#.to_owned(), Refused),
            (400, "Invalid session ID".to_owned(), Refused), // mcp-go
            (401, "Unauthorized: Session not found".to_owned(), Refused), // the Rust SDK
            (422, "Unexpected message, expect initialize request for a new SESSION".to_owned(), Refused),
            (200, error("null", -32001, "Session not found"), Refused),
            (200, error("\"server-error\"", -32600, "session expired"), Refused),
            (200, error("7", -32001, "Session not found"), Answered),
            (400, error("7", -32600, "unknown session"), Answered),
            (500, "KeyError: session".to_owned(), Answered),
            // A tool's own error.
            (200, error("7", -32603, "the shell session has ended"), Known),
            (200, error("7", -32000, "no such file"), Known),
            (400, error("7", -32602, "bad arguments"), Known),
            (400, String::new(), Unclear),
            (400, "Bad Request".to_owned(), Unclear),
            (422, error("null", -32600, "invalid"), Unclear),
            (500, "Internal Server Error".to_owned(), Unclear),
            // An access check, overload, a proxy.
            (401, "token expired".to_owned(), Known),
            (429, String::new(), Known),
            (502, "Bad Gateway".to_owned(), Known),
            (200, "noise".to_owned(), Known),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(sign(status, 7, &body, &message::read(&body)), want, "{status} {body}");
        }
    }
}
