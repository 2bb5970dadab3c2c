//! A refusal: the status and error for its record, and the error and headers for its reply.
//!
//! Every stage of [`crate::gateway::dispatch`] refuses with this type; `dispatch` makes the record and the reply from
//! it.

use std::time::Duration;

use axum::http::StatusCode;

use crate::audit::UnavailableError;
use crate::audit::record::Status;
use crate::auth::{AuthError, Authenticator, Principal};
use crate::gateway::message::headers::Mismatch;
use crate::gateway::message::reply::http_status;
use crate::gateway::message::request::HeadError;
use crate::gateway::message::resource::Resource;
use crate::mcp::envelope::{self, Malformed};
use crate::mcp::protocol::{
    AUDIT_UNAVAILABLE, DENIED, Era, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RATE_LIMITED, TOOLS_CALL,
    UNAUTHENTICATED,
};
use crate::rbac::Policy;

/// The longest part of a method that an error repeats, in bytes. *Chosen*: the protocol's longest method has 40.
const METHOD_SHOWN_MAX: usize = 64;

/// The reason why a request is refused.
#[derive(Debug)]
pub struct Refusal {
    /// The status that is recorded.
    pub(crate) status: Status,
    /// The HTTP status of the reply.
    pub(crate) http: StatusCode,
    /// The JSON-RPC error code.
    pub(crate) code: i32,
    /// The error's text, for the record and the client.
    pub(crate) message: String,
    /// The error's data, as JSON text.
    pub(crate) data: Option<String>,
    /// The value of `WWW-Authenticate`.
    pub(crate) challenge: Option<String>,
    /// The time until a retry may succeed.
    pub(crate) retry_after: Option<Duration>,
    /// False if the audit pipeline has recorded or counted it.
    pub(crate) needs_record: bool,
}

impl Refusal {
    /// A request that breaks a rule, or names something that does not exist.
    pub(crate) fn malformed(http: StatusCode, code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        let (data, challenge, retry_after) = (None, None, None);
        Self { status: Status::Malformed, http, code, message, data, challenge, retry_after, needs_record: true }
    }

    /// A malformed request, with HTTP status 400.
    pub(crate) fn bad_request(message: &str) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, INVALID_REQUEST, message)
    }

    /// A request that the policy denies.
    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self { status: Status::Denied, ..Self::malformed(StatusCode::OK, DENIED, message) }
    }

    /// A request over a limit.
    pub(crate) fn rate_limited(message: impl Into<String>, retry_after: Duration) -> Self {
        let refusal = Self::malformed(StatusCode::TOO_MANY_REQUESTS, RATE_LIMITED, message);
        Self { status: Status::RateLimited, retry_after: Some(retry_after), ..refusal }
    }

    /// A request whose intent cannot be stored.
    pub(crate) fn unaudited(cause: &UnavailableError) -> Self {
        let refusal = Self::malformed(StatusCode::SERVICE_UNAVAILABLE, AUDIT_UNAVAILABLE, cause.to_string());
        let needs_record = matches!(cause, UnavailableError::NoEvidence);
        Self { status: Status::AuditUnavailable, needs_record, ..refusal }
    }

    /// A request that is too large to be recorded: of `arguments` and `extra` bytes, where `bytes_max` are allowed.
    pub(crate) fn oversize(arguments: usize, extra: usize, bytes_max: usize) -> Self {
        let sum = arguments.saturating_add(extra);
        let message = format!(
            "the request has {sum} bytes to record (arguments {arguments}, other parameters {extra}), more than \
             audit.params_bytes_max ({bytes_max}): send less in one request"
        );
        Self::malformed(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, message)
    }

    /// A tool, resource or prompt that does not exist; `what` is its kind.
    pub(crate) fn unknown(what: &str, name: &str, era: Era) -> Self {
        let http = if era == Era::Modern { http_status(INVALID_PARAMS) } else { StatusCode::OK };
        let name = &name[..name.floor_char_boundary(envelope::NAME_BYTES_MAX)];
        Self::malformed(http, INVALID_PARAMS, format!("unknown {what} {name:?}"))
    }

    /// A method that is not supported.
    pub(crate) fn unknown_method(method: &str, era: Era) -> Self {
        let http = if era == Era::Modern { http_status(METHOD_NOT_FOUND) } else { StatusCode::OK };
        let method = &method[..method.floor_char_boundary(METHOD_SHOWN_MAX)];
        Self::malformed(http, METHOD_NOT_FOUND, format!("method {method:?} is not supported"))
    }

    /// A backend that does not exist.
    pub(crate) fn unknown_backend(backend: &str) -> Self {
        let backend = &backend[..backend.floor_char_boundary(envelope::NAME_BYTES_MAX)];
        Self::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, format!("unknown backend {backend:?}"))
    }

    /// A backend that does not exist, or of which the caller may use nothing. A call is recorded as denied in the
    /// latter case; the caller cannot tell the two apart.
    pub(crate) fn invisible(policy: &Policy, principal: &Principal, backend: &str, method: &str) -> Self {
        if method == TOOLS_CALL && !policy.reaches(&principal.roles, backend) {
            return Self::denied(format!("{} may call nothing of {backend}", principal.roles_in_words()));
        }
        Self::unknown_backend(backend)
    }

    /// A caller without a valid token for the endpoint `resource`. `auth` has the scope that a token needs; if it has
    /// no authorization server, the client is not sent to find one.
    pub(crate) fn unidentified(error: &AuthError, resource: &Resource, auth: &Authenticator) -> Self {
        let message = match error {
            AuthError::Audience => resource.audience_message(),
            other => other.to_string(),
        };
        let (status, http, reason) = match error {
            AuthError::Missing => (Status::Unauthenticated, StatusCode::UNAUTHORIZED, None),
            // The token may be valid: a challenge would make the client fetch another one.
            AuthError::Unavailable { retry_in } => {
                let refusal = Self::malformed(StatusCode::SERVICE_UNAVAILABLE, UNAUTHENTICATED, message);
                return Self { status: Status::Unauthenticated, retry_after: Some(*retry_in), ..refusal };
            }
            AuthError::Scope { .. } => {
                (Status::Denied, StatusCode::FORBIDDEN, Some(r#"error="insufficient_scope""#.to_owned()))
            }
            AuthError::Certificate | AuthError::NotBearer | AuthError::Invalid { .. } | AuthError::Audience => {
                let reason = format!(r#"error="invalid_token", error_description="{message}""#);
                (Status::Unauthenticated, StatusCode::UNAUTHORIZED, Some(reason))
            }
        };
        let scope = auth.required_scope().map(|scope| format!(r#"scope="{scope}""#));
        let has_servers = !auth.authorization_servers().is_empty();
        let metadata = has_servers.then(|| format!(r#"resource_metadata="{}""#, resource.metadata_url()));
        let parameters: Vec<String> = reason.into_iter().chain(scope).chain(metadata).collect();
        // *Spec*: RFC 6750 3, a challenge has at least one parameter.
        let parameters = if parameters.is_empty() { r#"realm="gatepost""#.to_owned() } else { parameters.join(", ") };
        let challenge = Some(format!("Bearer {parameters}"));
        let code = if status == Status::Denied { DENIED } else { UNAUTHENTICATED };
        Self { status, challenge, ..Self::malformed(http, code, message) }
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        let http = match error {
            HeadError::Host | HeadError::Origin => StatusCode::FORBIDDEN,
            HeadError::ContentType | HeadError::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            HeadError::TransferEncoding | HeadError::TwoLengths => StatusCode::BAD_REQUEST,
            HeadError::Headers { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        Self::malformed(http, INVALID_REQUEST, error.to_string())
    }
}

impl From<Malformed> for Refusal {
    fn from(rule: Malformed) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, rule.code(), rule.to_string())
    }
}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        let refusal = Self::malformed(StatusCode::BAD_REQUEST, mismatch.code, mismatch.message);
        Self { data: mismatch.data, ..refusal }
    }
}
