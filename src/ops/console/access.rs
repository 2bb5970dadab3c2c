//! Access to the console: a bearer token with each request, or a token entered once into the form, for a cookie.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::page;
use super::state::Console;
use crate::audit::record::Caller;
use crate::auth::{AuthError, Principal};
use crate::escape::escape_hidden;
use crate::gateway::message::headers::single;

/// Longest form, in bytes. *Derived*: the longest token that the gateway accepts, 16 KiB, and its name.
const FORM_BYTES_MAX: usize = 17 * 1024;

/// A person or program with access to the console.
#[derive(Debug)]
pub(super) struct Viewer {
    principal: Principal,
    role: String,
}

/// A refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// The reason, for the caller; empty if the request had no credentials.
    message: String,
}

impl Viewer {
    pub(super) fn subject(&self) -> &str {
        &self.principal.subject
    }

    pub(super) fn caller(&self) -> Caller {
        self.principal.caller(Some(&self.role))
    }
}

impl Console {
    /// Authenticates a request by its bearer token or cookie.
    pub(super) async fn viewer(&self, headers: &HeaderMap) -> Result<Viewer, Refusal> {
        let refused = |message: &str| Refusal { status: StatusCode::UNAUTHORIZED, message: message.to_owned() };
        if headers.contains_key(header::AUTHORIZATION) {
            let value = single(headers, header::AUTHORIZATION.as_str());
            let value =
                value.ok_or_else(|| refused("the request must have one Authorization header, a bearer token"))?;
            return self.authenticate(value.as_bytes()).await;
        }
        let id = self.session_id(headers).ok_or_else(|| refused(""))?;
        // A static token may have been withdrawn, or the role from it, since the viewer signed in.
        let is_accepted = |principal: &Principal| self.sources.gateway.accepts(principal);
        let principal = self.sessions.find(&id).filter(is_accepted);
        let principal = principal.ok_or_else(|| refused("the session has ended: sign in again"))?;
        Ok(Viewer { principal, role: self.role.clone() })
    }

    /// Verifies a token as for a call, and its role.
    async fn authenticate(&self, authorization: &[u8]) -> Result<Viewer, Refusal> {
        let authenticated = self.sources.gateway.authenticate_header(authorization).await;
        let principal = authenticated.map_err(|error| {
            tracing::info!(error = &error as &dyn std::error::Error, "console request refused: authentication failed");
            let status = match error {
                AuthError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                AuthError::Scope { .. } => StatusCode::FORBIDDEN,
                _ => StatusCode::UNAUTHORIZED,
            };
            Refusal { status, message: error.to_string() }
        })?;
        let role = self.role.clone();
        // I10: an empty name is the role of no token.
        if role.is_empty() || !principal.roles.contains(&role) {
            tracing::info!(subject = principal.subject, role, "console request refused: role missing");
            let message = format!("the token does not have the role {role} that the console needs (ops.console_role)");
            return Err(Refusal { status: StatusCode::FORBIDDEN, message });
        }
        Ok(Viewer { principal, role })
    }

    /// The session id in the console's cookie.
    fn session_id(&self, headers: &HeaderMap) -> Option<String> {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, id)| id.to_owned())
    }

    /// A redirect to the console that sets the cookie.
    fn redirect(&self, id: &str, lifetime: &str) -> Response {
        let cookie = format!("{}={id}; Path=/console; HttpOnly; SameSite=Strict{lifetime}", self.cookie);
        let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/console")]).into_response();
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }
}

impl Refusal {
    /// The sign-in form, with the reason.
    pub(super) fn page(&self) -> Response {
        self.with_challenge((self.status, page::sign_in(&self.message)).into_response())
    }

    /// The reason as text, for programs.
    pub(super) fn plain(&self) -> Response {
        let message = if self.message.is_empty() { "no bearer token and no session" } else { &self.message };
        self.with_challenge((self.status, format!("{}\n", escape_hidden(message))).into_response())
    }

    fn with_challenge(&self, mut response: Response) -> Response {
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// True if a form was sent by a page of this host. The browser sets `Origin` to the origin of the page, and another
/// site cannot change it.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let host = single(headers, header::HOST.as_str());
    let origin = single(headers, header::ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host))
}

fn cross_origin() -> Response {
    (StatusCode::FORBIDDEN, "this form was not sent by a page of the console\n").into_response()
}

/// `POST /console/sign-in`, with `token` in the form.
pub(super) async fn sign_in(State(console): State<Console>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if !is_same_origin(&parts.headers) {
        return cross_origin();
    }
    let Ok(form) = axum::body::to_bytes(body, FORM_BYTES_MAX).await else {
        let message = format!("the form is longer than {FORM_BYTES_MAX} bytes or incomplete");
        return Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message }.page();
    };
    let token = url::form_urlencoded::parse(&form).find(|(name, _)| name == "token").map(|(_, token)| token);
    let token = token.unwrap_or_default();
    let token = token.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Refusal { status: StatusCode::UNAUTHORIZED, message: "this is not a token".to_owned() }.page();
    }
    let bearer = format!("Bearer {token}");
    match console.authenticate(bearer.as_bytes()).await {
        Ok(viewer) => {
            tracing::info!(subject = viewer.subject(), "signed in to the console");
            let id = console.sessions.open(viewer.principal);
            console.redirect(&id, "")
        }
        Err(refusal) => refusal.page(),
    }
}

/// `POST /console/sign-out`
pub(super) async fn sign_out(State(console): State<Console>, headers: HeaderMap) -> Response {
    if !is_same_origin(&headers) {
        return cross_origin();
    }
    if let Some(id) = console.session_id(&headers) {
        console.sessions.close(&id);
    }
    console.redirect("", "; Max-Age=0")
}
