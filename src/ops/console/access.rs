//! Access to the console: a bearer token with each request, or a token entered once into the form, for a cookie.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::page;
use super::state::Console;
use super::viewer::Viewer;
use crate::audit::record::{Caller, ClientAddr, Status};
use crate::auth::{AuthError, Principal};
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::gateway::message::headers::single;

/// Longest form, in bytes. *Derived*: the longest token that the gateway accepts, 16 KiB, and its name.
const FORM_BYTES_MAX: usize = 17 * 1024;

/// The recorded method of a sign-in.
pub(super) const SIGN_IN: &str = "console/sign-in";

/// The recorded method of a request that was refused because of its bearer token.
const REQUEST: &str = "console/request";

/// A refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// The reason, for the caller; empty if the request had no credentials.
    message: String,
    /// The host of the issuer at which people can sign in.
    provider: Option<String>,
}

impl Console {
    /// A refusal with a reason for the caller.
    pub(super) fn refusal(&self, status: StatusCode, message: impl Into<String>) -> Refusal {
        let provider = self.openid.as_ref().map(|client| client.host().to_owned());
        Refusal { status, message: message.into(), provider }
    }

    fn viewer_of(&self, principal: Principal, role: String) -> Viewer {
        Viewer { principal, role, gateway: self.sources.probe.as_ref().map(|probe| probe.stream().0) }
    }

    /// Authenticates a request of `peer` by its bearer token or cookie. A refused token is recorded.
    pub(super) async fn viewer(&self, headers: &HeaderMap, peer: Peer) -> Result<Viewer, Refusal> {
        let refused = |message: &str| self.refusal(StatusCode::UNAUTHORIZED, message);
        if headers.contains_key(header::AUTHORIZATION) {
            let client = self.client(headers, peer);
            let Some(value) = single(headers, header::AUTHORIZATION.as_str()) else {
                let message = "the request must have one Authorization header, a bearer token";
                self.record_refusal(REQUEST, client, &Caller::anonymous(), Status::Unauthenticated, message).await;
                return Err(refused(message));
            };
            return self.authenticate(value.as_bytes(), REQUEST, client).await;
        }
        let id = self.session_id(headers).ok_or_else(|| refused(""))?;
        // The token or the role may have been withdrawn since the viewer signed in.
        let role = self.sources.gateway.console_role();
        let is_accepted = |principal: &Principal| self.sources.gateway.accepts(principal) && may_view(principal, &role);
        let principal = self.sessions.find(&id).filter(is_accepted);
        let principal = principal.ok_or_else(|| refused("the session has ended: sign in again"))?;
        Ok(self.viewer_of(principal, role))
    }

    /// Verifies a token as for a call, and its role. A refusal is recorded with `method`.
    async fn authenticate(
        &self,
        authorization: &[u8],
        method: &'static str,
        client: ClientAddr,
    ) -> Result<Viewer, Refusal> {
        self.with_role(self.sources.gateway.authenticate_header(authorization).await, method, client).await
    }

    /// The viewer of an authenticated principal that has the role. A refusal is recorded with `method`.
    pub(super) async fn with_role(
        &self,
        authenticated: Result<Principal, AuthError>,
        method: &'static str,
        client: ClientAddr,
    ) -> Result<Viewer, Refusal> {
        let (caller, refusal) = match authenticated {
            Ok(principal) => {
                let role = self.sources.gateway.console_role();
                if may_view(&principal, &role) {
                    return Ok(self.viewer_of(principal, role));
                }
                let message =
                    format!("the token does not have the role {role} that the console needs (ops.console_role)");
                (principal.caller_with_all_roles(), self.refusal(StatusCode::FORBIDDEN, message))
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "token for the console rejected");
                let status = match error {
                    AuthError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
                    AuthError::Scope { .. } => StatusCode::FORBIDDEN,
                    _ => StatusCode::UNAUTHORIZED,
                };
                let caller = match &error {
                    AuthError::Scope { principal, .. } => principal.caller_with_all_roles(),
                    _ => Caller::anonymous(),
                };
                (caller, self.refusal(status, error.to_string()))
            }
        };
        let status = match refusal.status {
            StatusCode::FORBIDDEN => Status::Denied,
            _ => Status::Unauthenticated,
        };
        self.record_refusal(method, client, &caller, status, &refusal.message).await;
        Err(refusal)
    }

    /// Records a refused request, and logs it. A refusal that cannot be recorded stays a refusal.
    pub(super) async fn record_refusal(
        &self,
        method: &'static str,
        client: ClientAddr,
        caller: &Caller,
        status: Status,
        reason: &str,
    ) {
        let subject = &caller.subject;
        tracing::info!(%client, subject, %status, reason, "console request refused");
        let recorded = self.sources.gateway.record_refusal(method, client, caller, status, reason).await;
        if let Err(error) = recorded {
            tracing::error!(%error, "refused request to the console not recorded; refusing it all the same");
        }
    }

    /// The client's address, which a trusted proxy may have named.
    pub(super) fn client(&self, headers: &HeaderMap, Peer(peer): Peer) -> ClientAddr {
        self.sources.gateway.client_addr(peer, headers)
    }

    /// The session id in the console's cookie.
    fn session_id(&self, headers: &HeaderMap) -> Option<String> {
        cookie(headers, &self.cookie)
    }

    /// A redirect to the console that sets the cookie.
    fn redirect(&self, id: &str, lifetime: &str) -> Response {
        let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/console")]).into_response();
        self.set_session_cookie(&mut response, id, lifetime);
        response
    }

    /// Adds the cookie of a session to a response.
    pub(super) fn set_session_cookie(&self, response: &mut Response, id: &str, lifetime: &str) {
        add_cookie(response, &format!("{}={id}; {}{lifetime}", self.cookie, self.cookie_attributes));
    }
}

/// The value of the cookie with this name.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

/// Adds a cookie to a response.
pub(super) fn add_cookie(response: &mut Response, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

impl Refusal {
    /// The sign-in form, with the reason.
    pub(super) fn page(&self) -> Response {
        self.with_challenge((self.status, page::sign_in(&self.message, self.provider.as_deref())).into_response())
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

/// Returns `true` if the principal has the role that the console needs. I10: an empty name is the role of no token.
fn may_view(principal: &Principal, role: &String) -> bool {
    !role.is_empty() && principal.roles.contains(role)
}

/// True if a form was sent by a page of this host. The browser sets `Origin` to the origin of the page, and another
/// site cannot change it.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let host = single(headers, header::HOST.as_str());
    let origin = single(headers, header::ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host))
}

/// The reason why a form of another site is refused.
const CROSS_ORIGIN: &str = "this form was not sent by a page of the console";

fn cross_origin() -> Response {
    (StatusCode::FORBIDDEN, format!("{CROSS_ORIGIN}\n")).into_response()
}

/// `POST /console/sign-in`, with `token` in the form.
pub(super) async fn sign_in(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let client = console.client(&parts.headers, peer);
    if !is_same_origin(&parts.headers) {
        console.record_refusal(SIGN_IN, client, &Caller::anonymous(), Status::Denied, CROSS_ORIGIN).await;
        return cross_origin();
    }
    if let Err(limited) = console.count_sign_in(client).await {
        return limited;
    }
    match console.signed_in(body, client).await {
        Ok(id) => console.redirect(&id, ""),
        Err(refusal) => refusal.page(),
    }
}

impl Console {
    /// Counts a sign-in. If there are too many, it is recorded, and the response is returned.
    pub(super) async fn count_sign_in(&self, client: ClientAddr) -> Result<(), Response> {
        let Err(wait) = self.sign_in_limits.count(client.ip()) else { return Ok(()) };
        let message = "too many sign-ins: try again later";
        self.record_refusal(SIGN_IN, client, &Caller::anonymous(), Status::RateLimited, message).await;
        let wait = wait.as_secs().max(1).to_string();
        let page = self.refusal(StatusCode::TOO_MANY_REQUESTS, message).page();
        Err(([(header::RETRY_AFTER, wait)], page).into_response())
    }

    /// Opens a session for the token in the form. Returns its id.
    async fn signed_in(&self, body: Body, client: ClientAddr) -> Result<String, Refusal> {
        let malformed = async |status, message: String| {
            self.record_refusal(SIGN_IN, client, &Caller::anonymous(), Status::Malformed, &message).await;
            Err(self.refusal(status, message))
        };
        let Ok(form) = axum::body::to_bytes(body, FORM_BYTES_MAX).await else {
            let message = format!("the form is longer than {FORM_BYTES_MAX} bytes or incomplete");
            return malformed(StatusCode::PAYLOAD_TOO_LARGE, message).await;
        };
        let token = url::form_urlencoded::parse(&form).find(|(name, _)| name == "token").map(|(_, token)| token);
        let token = token.unwrap_or_default();
        let token = token.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return malformed(StatusCode::UNAUTHORIZED, "this is not a token".to_owned()).await;
        }
        let viewer = self.authenticate(format!("Bearer {token}").as_bytes(), SIGN_IN, client).await?;
        self.open_session(viewer, client).await
    }

    /// Opens a session, once the sign-in is recorded. Returns its id.
    pub(super) async fn open_session(&self, viewer: Viewer, client: ClientAddr) -> Result<String, Refusal> {
        if let Err(error) = self.sources.gateway.record_event(SIGN_IN, client, &viewer.caller()).await {
            tracing::error!(%error, "sign-in to the console not recorded; refusing it");
            let message = "the sign-in cannot be recorded: try again later";
            return Err(self.refusal(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        tracing::info!(%client, subject = viewer.subject(), "signed in to the console");
        Ok(self.sessions.open(viewer.principal))
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
