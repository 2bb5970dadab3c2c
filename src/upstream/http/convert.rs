//! Conversions between HTTP and the types of this module: bodies, errors, header values.

use axum::http::{HeaderValue, StatusCode, header};

use crate::mcp::lines::LINE_BYTES_MAX;
use crate::mcp::protocol::{Era, METHOD_NOT_FOUND, header_text};
use crate::upstream::error::CallError;
use crate::upstream::message::{self, Response};
use crate::upstream::timeouts::RequestTimer;

/// An error with the HTTP status of its response, if the client gets that status too.
///
/// Only the statuses of the stateless era are forwarded: 400, and 404 for an unknown method. The others concern the
/// gateway and the backend: after a 401 a client would request a new token for itself, and after a 404 a client of the
/// older era would start a new session.
pub(super) fn with_status(answer: Response, status: StatusCode, era: Era) -> Response {
    let Response::Error { error, .. } = answer else { return answer };
    let is_forwarded = match status {
        StatusCode::BAD_REQUEST => true,
        StatusCode::NOT_FOUND => message::error_code(&error) == Some(METHOD_NOT_FOUND),
        _ => false,
    };
    Response::Error { error, http: (is_forwarded && era == Era::Modern).then_some(status.as_u16()) }
}

/// Returns whether the body of a response is an event stream.
pub(super) fn is_event_stream(response: &reqwest::Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("text/event-stream")
}

/// Reads the body of a response.
///
/// # Errors
/// [`CallError`].
pub(super) async fn read_body(mut response: reqwest::Response, timer: &mut RequestTimer) -> Result<String, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = timer.run(response.chunk()).await?.map_err(|_| CallError::Died)? {
        timer.reset_idle();
        // I6: an answer has the same bound as a line of a stdio backend.
        if body.len() + chunk.len() > LINE_BYTES_MAX {
            return Err(CallError::TooLong { limit: LINE_BYTES_MAX });
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).map_err(|_| CallError::Garbled)
}

/// The value of a header for `text`, in MCP's Base64 form if it is not plain ASCII.
pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&header_text(text)).ok()
}

/// The failure of a request without an HTTP response. A request that did not reach the backend is [`CallError::Down`].
#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes a value")]
pub(super) fn transport_error(error: reqwest::Error) -> CallError {
    if error.is_connect() {
        let mut reason = "cannot connect".to_owned();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            reason = format!("cannot connect: {cause}");
            source = cause.source();
        }
        return CallError::Down { reason };
    }
    CallError::Died
}
