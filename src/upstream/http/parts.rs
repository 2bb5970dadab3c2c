//! The parts of HTTP that conversations with a backend are made of.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};

use crate::mcp::protocol::{Era, METHOD_NOT_FOUND};

use super::super::CallError;
use super::super::message::{self, Response};
use super::super::timeouts::RequestTimer;
use super::sse;
use crate::mcp::lines::LINE_BYTES_MAX;

/// The pause before a stream is asked for again, where the backend named none. *Chosen*: as the SDKs.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that a backend may name. *Chosen*: longer ones look like a dead backend to a client.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How far a stream was read.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) last_id: Option<String>,
    retry: Option<Duration>,
}

impl Place {
    pub(super) fn pass(&mut self, event: &sse::SseEvent) {
        if let Some(id) = &event.id {
            self.last_id = Some(id.clone()).filter(|id| !id.is_empty());
        }
        self.retry = event.retry.or(self.retry);
    }

    pub(super) fn pause(&self) -> Duration {
        self.retry.unwrap_or(RETRY_PAUSE).min(RETRY_PAUSE_MAX)
    }

    /// The pause before the next attempt behind so many that failed: it doubles with each from the second on.
    pub(super) fn pause_after(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.pause().saturating_mul(factor).min(RETRY_PAUSE_MAX)
    }
}

/// An error with the status that it came with, where that is one of the stateless era's own: 400, and 404 for an unknown
/// method. Any other is between the gateway and the backend: a client that heard 401 would look for another token of its
/// own, and one of the older era that heard 404 would begin a new session.
pub(super) fn with_status(answer: Response, status: StatusCode, era: Era) -> Response {
    let Response::Error { error, .. } = answer else { return answer };
    let is_own = match status {
        StatusCode::BAD_REQUEST => true,
        StatusCode::NOT_FOUND => message::error_code(&error) == Some(METHOD_NOT_FOUND),
        _ => false,
    };
    Response::Error { error, http: (is_own && era == Era::Modern).then_some(status.as_u16()) }
}

pub(super) fn is_event_stream(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

pub(super) async fn read_body(mut response: reqwest::Response, wait: &mut RequestTimer) -> Result<String, CallError> {
    let mut body = Vec::new();
    while let Some(piece) = wait.run(response.chunk()).await?.map_err(|_| CallError::Died)? {
        wait.reset_idle();
        // I6: an answer is bounded as a line of a stdio backend is.
        if body.len() + piece.len() > LINE_BYTES_MAX {
            return Err(CallError::TooLong { limit: LINE_BYTES_MAX });
        }
        body.extend_from_slice(&piece);
    }
    String::from_utf8(body).map_err(|_| CallError::Garbled)
}

/// A text as a header's value: as it is, or in MCP's Base64 form where it is not plain ASCII.
pub(super) fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&crate::mcp::protocol::header_text(text)).ok()
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(super) fn failed(error: reqwest::Error) -> CallError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_cannot_be_had_is_asked_for_less_and_less_often() {
        let place = Place::default();
        let pauses = [0, 1, 2, 3, 6, 31, 32, u32::MAX].map(|failures| place.pause_after(failures).as_secs());
        assert_eq!(pauses, [1, 1, 2, 4, 30, 30, 30, 30]);
        let told = Place { retry: Some(Duration::from_millis(1)), ..Place::default() };
        assert_eq!(told.pause_after(0), Duration::from_millis(1));
    }
}
