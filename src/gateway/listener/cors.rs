//! CORS: what browsers need to let a page of an allowed origin call the gateway. *Spec*: WHATWG Fetch, "CORS protocol".
//!
//! A preflight is answered before authentication, because browsers send it without credentials, and it calls nothing.
//! To any other origin nothing is granted: its preflight is a refused request like others, with a record.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::gateway::call::core::Core;
use crate::gateway::message::headers;

/// The response's headers that a page may read besides the usual ones.
const EXPOSED: HeaderValue = HeaderValue::from_static("mcp-session-id, www-authenticate, retry-after, x-request-id");

/// The methods of the endpoints.
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, DELETE");

/// The seconds for which a browser may keep the answer to a preflight. *Chosen*: browsers keep it for two hours at
/// most, and a change of the allowed origins takes a restart.
const MAX_AGE: HeaderValue = HeaderValue::from_static("3600");

const ANY: HeaderValue = HeaderValue::from_static("*");

/// Grants the endpoints to pages of the origins that may call.
pub(super) async fn of_endpoints(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let origin = allowed_origin(&core, request.headers());
    if origin.is_some() && is_preflight(&request) {
        return granted(preflight(request.headers()), origin);
    }
    granted(next.run(request).await, origin)
}

/// Grants public documents to every page.
pub(super) async fn of_documents(request: Request, next: Next) -> Response {
    let response = if is_preflight(&request) { preflight(request.headers()) } else { next.run(request).await };
    granted(response, Some(ANY))
}

/// The origin of a page that may call.
fn allowed_origin(core: &Core, headers: &HeaderMap) -> Option<HeaderValue> {
    let host = headers::single(headers, header::HOST.as_str())?;
    let origin = headers::single_value(headers, header::ORIGIN.as_str())?;
    let is_allowed = headers::is_host_allowed(host, &core.names.allowed_hosts)
        && headers::is_origin_allowed(origin.to_str().ok(), host, &core.allowed_origins);
    is_allowed.then(|| origin.clone())
}

fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight. The names of the headers are repeated: those of `Mcp-Param-*` are the tools' own.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = (StatusCode::NO_CONTENT, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let names = headers::single_value(asked, header::ACCESS_CONTROL_REQUEST_HEADERS.as_str());
    headers.extend(names.map(|names| (header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone())));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

fn granted(mut response: Response, origin: Option<HeaderValue>) -> Response {
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    response
}

/// Copies the headers of CORS from one response into another that takes its place.
pub(super) fn copied(from: &HeaderMap, to: &mut HeaderMap) {
    let is_of_cors = |name: &HeaderName| name.as_str().starts_with("access-control-") || *name == header::VARY;
    to.extend(from.iter().filter(|(name, _)| is_of_cors(name)).map(|(name, value)| (name.clone(), value.clone())));
}
