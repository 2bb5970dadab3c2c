//! The way in: a bearer token with each request, or a token handed in once by the form, in exchange for a cookie.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::audit::record::Caller;
use crate::auth::{AuthError, Principal};

use super::{Console, page, single};

/// Longest form, in bytes. *Derived*: the longest token that is looked at, 16 KiB, and its name.
const FORM_BYTES_MAX: usize = 17 * 1024;

/// Who may look.
#[derive(Debug)]
pub(super) struct Reader {
    principal: Principal,
    role: String,
}

/// Why somebody may not.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    /// For the caller; empty where nothing was tried.
    words: String,
}

impl Reader {
    pub(super) fn subject(&self) -> &str {
        &self.principal.subject
    }

    pub(super) fn caller(&self) -> Caller {
        self.principal.caller(Some(&self.role))
    }
}

impl Console {
    /// Who asks, by bearer token or cookie.
    pub(super) async fn reader(&self, headers: &HeaderMap) -> Result<Reader, Refused> {
        let refused = |words: &str| Refused { status: StatusCode::UNAUTHORIZED, words: words.to_owned() };
        if headers.contains_key(header::AUTHORIZATION) {
            let value = single(headers, &header::AUTHORIZATION);
            let value = value.ok_or_else(|| refused("Authorization must stand once, and hold a bearer token"))?;
            return self.believed(value.as_bytes()).await.map(|(reader, _)| reader);
        }
        let id = self.cookie(headers).ok_or_else(|| refused(""))?;
        let principal = self.0.sessions.find(&id);
        let principal = principal.ok_or_else(|| refused("the session has ended: sign in again"))?;
        Ok(Reader { principal, role: self.0.role.clone() })
    }

    /// Verified as for a call, and of the role that may look.
    async fn believed(&self, authorization: &[u8]) -> Result<(Reader, Option<u64>), Refused> {
        let believed = self.0.sources.gateway.authenticate_header(authorization).await;
        let (principal, exp) = believed.map_err(|error| {
            tracing::info!(error = &error as &dyn std::error::Error, "refused at the console");
            let status = match error {
                AuthError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                AuthError::Scope { .. } => StatusCode::FORBIDDEN,
                _ => StatusCode::UNAUTHORIZED,
            };
            Refused { status, words: error.to_string() }
        })?;
        let role = self.0.role.clone();
        // I10: an empty name is nobody's role.
        if role.is_empty() || !principal.roles.contains(&role) {
            tracing::info!(subject = principal.subject, "refused at the console: not of ops.console_role");
            let words = format!("the token does not bear the role {role}, which the console needs (ops.console_role)");
            return Err(Refused { status: StatusCode::FORBIDDEN, words });
        }
        Ok((Reader { principal, role }, exp))
    }

    fn cookie(&self, headers: &HeaderMap) -> Option<String> {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.0.cookie).map(|(_, id)| id.to_owned())
    }

    /// An answer that sends the browser to the console, with the cookie as it is to be.
    fn redirect(&self, id: &str, lifetime: &str) -> Response {
        let cookie = format!("{}={id}; Path=/console; HttpOnly; SameSite=Strict{lifetime}", self.0.cookie);
        let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/console")]).into_response();
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }
}

impl Refused {
    /// The form, with what was wrong.
    pub(super) fn page(&self) -> Response {
        self.challenged((self.status, page::sign_in(&self.words)).into_response())
    }

    /// For programs.
    pub(super) fn plain(&self) -> Response {
        let words = if self.words.is_empty() { "no bearer token and no session" } else { &self.words };
        self.challenged((self.status, format!("{words}\n")).into_response())
    }

    fn challenged(&self, mut response: Response) -> Response {
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whether a form was sent by a page of this host: a browser names where it is from, another site cannot change that.
fn is_own(headers: &HeaderMap) -> bool {
    let host = single(headers, &header::HOST);
    let origin = single(headers, &header::ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host))
}

fn foreign() -> Response {
    (StatusCode::FORBIDDEN, "this form was not sent by the console's own page\n").into_response()
}

/// `POST /console/sign-in`, with `token` in the form.
pub(super) async fn sign_in(State(console): State<Console>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if !is_own(&parts.headers) {
        return foreign();
    }
    let Ok(form) = axum::body::to_bytes(body, FORM_BYTES_MAX).await else {
        let words = format!("the form is longer than {FORM_BYTES_MAX} bytes, or did not arrive whole");
        return Refused { status: StatusCode::PAYLOAD_TOO_LARGE, words }.page();
    };
    let token = url::form_urlencoded::parse(&form).find(|(name, _)| name == "token").map(|(_, token)| token);
    let token = token.unwrap_or_default();
    let token = token.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Refused { status: StatusCode::UNAUTHORIZED, words: "this is no token".to_owned() }.page();
    }
    let bearer = format!("Bearer {token}");
    match console.believed(bearer.as_bytes()).await {
        Ok((reader, exp)) => {
            tracing::info!(subject = reader.subject(), "signed in to the console");
            let id = console.0.sessions.open(reader.principal, exp);
            console.redirect(&id, "")
        }
        Err(refused) => refused.page(),
    }
}

/// `POST /console/sign-out`
pub(super) async fn sign_out(State(console): State<Console>, headers: HeaderMap) -> Response {
    if !is_own(&headers) {
        return foreign();
    }
    if let Some(id) = console.cookie(&headers) {
        console.0.sessions.close(&id);
    }
    console.redirect("", "; Max-Age=0")
}
