//! Replies to clients. A reply is made from a released answer, or by a constructor whose name says that it is not
//! audited.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::audit::Released;
use crate::audit::record::RequestId;
use crate::mcp::envelope::Id;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{
    AUDIT_UNAVAILABLE, Era, HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND,
    PARSE_ERROR, REQUEST_ID_HEADER, UNSUPPORTED_VERSION,
};
use crate::upstream::{self, Answer, Content};

/// A reply to one request. Its fields are private to this file, so the constructors cannot be bypassed.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    body: Option<String>,
    is_error: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// The answer to a call or a refusal, once its record has reached its level.
    #[must_use]
    pub fn released(status: StatusCode, id: Option<&Id>, answer: Released<Answer>) -> Self {
        // I1: the content comes out of a released answer only.
        let (content, http) = answer.into_content();
        // The backend's status is kept if the gateway itself does not report an error.
        let http = http.filter(|_| status == StatusCode::OK).and_then(|http| StatusCode::from_u16(http).ok());
        Self::message(http.unwrap_or(status), id, &content)
    }

    /// A backend's response to a request that is not audited.
    #[must_use]
    pub fn relayed_unaudited(id: &Id, response: upstream::Response) -> Self {
        match response {
            upstream::Response::Result(result) => {
                Self::message(StatusCode::OK, Some(id), &Content::Result(result.text().to_owned()))
            }
            upstream::Response::Error { error, http } => {
                let status = http.and_then(|http| StatusCode::from_u16(http).ok()).unwrap_or(StatusCode::OK);
                Self::message(status, Some(id), &Content::Error(error))
            }
        }
    }

    /// The JSON-RPC message or document, if the reply has one.
    #[must_use]
    pub fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// The value of a header of the reply.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.headers.iter().find(|(known, _)| known.as_str() == name).map(|(_, value)| value)
    }

    /// Returns `true` if the reply is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// The result of a method that is not audited: `initialize`, `ping`, `tools/list`, `server/discover`.
    #[must_use]
    pub fn local_unaudited(id: &Id, result: &Object<'_>, request_id: RequestId, era: Era) -> Self {
        let result = upstream::dressed(result, request_id, era);
        Self::message(StatusCode::OK, Some(id), &Content::Result(result))
    }

    /// The error of a method that is not audited.
    #[must_use]
    pub fn local_unaudited_error(status: StatusCode, id: Option<&Id>, code: i32, message: &str) -> Self {
        Self::message(status, id, &Content::Error(upstream::error_object(code, message, None)))
    }

    /// A refusal that was counted. The record of its window is made when the window ends.
    #[must_use]
    pub fn counted_refusal(status: StatusCode, id: Option<&Id>, code: i32, message: &str, data: Option<&str>) -> Self {
        Self::message(status, id, &Content::Error(upstream::error_object(code, message, data)))
    }

    /// An unaudited reply without a body: to an accepted notification or a closed session.
    #[must_use]
    pub fn local_unaudited_empty(status: StatusCode) -> Self {
        Self { status, body: None, is_error: !status.is_success(), headers: Vec::new() }
    }

    /// A document that is not audited: public metadata.
    #[must_use]
    pub fn local_unaudited_document(json: String) -> Self {
        Self { status: StatusCode::OK, body: Some(json), is_error: false, headers: Vec::new() }
    }

    /// The reply to a call that could not be audited. The audit pipeline has counted it.
    #[must_use]
    pub fn unavailable(id: Option<&Id>, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "call cannot be audited; refusing it");
        Self::local_unaudited_error(StatusCode::SERVICE_UNAVAILABLE, id, AUDIT_UNAVAILABLE, "audit unavailable")
    }

    /// The reply to a call whose task panicked. Its receipt has recorded the call.
    #[must_use]
    pub fn internal_error() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::local_unaudited_error(status, None, INTERNAL_ERROR, "internal error; see the log of the gateway")
    }

    /// Adds a header, unless `value` is not a valid header value.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// Adds the header with the gateway's id of the request.
    #[must_use]
    pub fn with_request_id(self, request_id: RequestId) -> Self {
        self.with_header(HeaderName::from_static(REQUEST_ID_HEADER), &request_id.to_string())
    }

    fn message(status: StatusCode, id: Option<&Id>, content: &Content) -> Self {
        let (key, value) = match content {
            Content::Result(result) => ("result", result),
            Content::Error(error) => ("error", error),
        };
        let id = id.map_or("null", Id::as_json);
        let body = json::object([("jsonrpc", "\"2.0\""), ("id", id), (key, value)]);
        let is_error = matches!(content, Content::Error(_));
        Self { status, body: Some(body), is_error, headers: Vec::new() }
    }
}

/// The HTTP status of an error that the gateway itself reports. *Spec*: MCP 2026-07-28, and the SDK's table for older
/// clients.
#[must_use]
pub fn http_status(code: i32) -> StatusCode {
    match code {
        METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        PARSE_ERROR | INVALID_REQUEST | INVALID_PARAMS | HEADER_MISMATCH | UNSUPPORTED_VERSION => {
            StatusCode::BAD_REQUEST
        }
        _ => StatusCode::OK,
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Some(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            None => ().into_response(),
        };
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
