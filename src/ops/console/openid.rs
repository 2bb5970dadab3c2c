//! Sign-in at an issuer: the browser is sent there and comes back with a code.
//!
//! ```text
//! browser              GET /console/sign-in/start   a link of the form page
//! gateway -> browser   303 to the issuer            state, nonce, PKCE challenge; a cookie for this browser
//! issuer -> browser    303 /console/callback        code, state
//! gateway -> issuer    POST token endpoint          code, PKCE verifier
//! gateway -> browser   200, the cookie of a session
//! ```
//!
//! The start is a link and not a form: `form-action 'self'` would apply to each redirect of the provider too. The end
//! is a page and not a redirect: the browser came from another site, and would not send the session's cookie (`Strict`)
//! with a redirect. There is nowhere else to lead the browser to, so no address of a request is ever used.

use std::borrow::Cow;

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::access::{Refusal, SIGN_IN, add_cookie, cookie};
use super::page;
use super::pending::PENDING_MAX;
use super::state::Console;
use crate::audit::record::{Caller, ClientAddr, Status};
use crate::auth::id_token::Expected;
use crate::auth::openid_client::{Attempt, OpenIdClient, OpenIdError};
use crate::connections::Peer;
use crate::gateway::message::headers::single;
use crate::outbound::is_error_code;

/// Longest description of the provider's error that is shown, in bytes. *Chosen*: a sentence or two.
const DESCRIPTION_BYTES_MAX: usize = 300;

/// The parameters of the callback that are read.
#[derive(Debug, Default)]
struct Answer {
    state: Option<String>,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
    description: Option<String>,
}

/// `GET /console/sign-in/start`
pub(super) async fn start(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let Some(openid) = &console.openid else { return not_configured() };
    let client = console.client(&headers, peer);
    if is_from_other_site(&headers) {
        let message = "this sign-in was not begun by a page of the console";
        return console.refuse(client, StatusCode::FORBIDDEN, Status::Denied, message).await.page();
    }
    if !is_at_redirect_uri(openid, &headers) {
        let message = format!(
            "this sign-in leads back to {}, and the request is for another Host: open the console there, or have the proxy \
             pass on Host",
            openid.redirect_uri()
        );
        return console.refuse(client, StatusCode::MISDIRECTED_REQUEST, Status::Denied, &message).await.page();
    }
    if let Err(limited) = console.count_sign_in(client).await {
        return limited;
    }
    let attempt = Attempt::new();
    let url = match openid.authorization_url(&attempt).await {
        Ok(url) => url,
        Err(error) => return console.unavailable(client, &error).await.page(),
    };
    let browser = console.pending.begin(attempt, client.ip());
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, url.as_str())]).into_response();
    console.set_pending_cookie(&mut response, &browser, PENDING_MAX.as_secs());
    response
}

/// `GET /console/callback`
pub(super) async fn callback(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(openid) = &console.openid else { return not_configured() };
    let client = console.client(&headers, peer);
    if let Err(limited) = console.count_sign_in(client).await {
        return limited;
    }
    let browser = cookie(&headers, &console.pending_cookie).unwrap_or_default();
    let mut response = match console.returned(openid, query.as_deref().unwrap_or_default(), &browser, client).await {
        Ok(session) => {
            let mut response = page::signed_in().into_response();
            console.set_session_cookie(&mut response, &session, "");
            response
        }
        Err(refusal) => refusal.page(),
    };
    console.set_pending_cookie(&mut response, "", 0);
    response
}

impl Console {
    /// Opens a session for the person who came back with `query`. Returns its id.
    async fn returned(
        &self,
        openid: &OpenIdClient,
        query: &str,
        browser: &str,
        client: ClientAddr,
    ) -> Result<String, Refusal> {
        let Some(answer) = Answer::parse(query) else {
            let message = "the response of the issuer has a parameter twice";
            return Err(self.refuse(client, StatusCode::BAD_REQUEST, Status::Malformed, message).await);
        };
        // First, so that no other parameter of a link that someone else made has an effect.
        let Some(returned) = answer.state.as_deref().and_then(|state| self.pending.take(state, browser)) else {
            let message = "this sign-in was begun in another browser, was used already, or took longer than 10 minutes: \
                           sign in again";
            return Err(self.refuse(client, StatusCode::FORBIDDEN, Status::Denied, message).await);
        };
        match openid.is_from_issuer(answer.iss.as_deref()).await {
            Ok(true) => {}
            Ok(false) => {
                let message = "the response is not from the issuer at which this sign-in was begun";
                return Err(self.refuse(client, StatusCode::FORBIDDEN, Status::Denied, message).await);
            }
            Err(error) => return Err(self.unavailable(client, &error).await),
        }
        let code = match (answer.code, answer.error) {
            (Some(code), None) => code,
            (_, error) => {
                let message = refused_by(openid.host(), error.as_deref(), answer.description.as_deref());
                return Err(self.refuse(client, StatusCode::UNAUTHORIZED, Status::Unauthenticated, &message).await);
            }
        };
        let token = match openid.id_token(&code, &returned.verifier).await {
            Ok(token) => token,
            Err(error) => return Err(self.unavailable(client, &error).await),
        };
        let expected = Expected { issuer: openid.issuer(), client_id: openid.id(), nonce: &returned.nonce };
        let principal = self.sources.gateway.authenticate_id_token(&token, expected).await;
        let viewer = self.with_role(principal, SIGN_IN, client).await?;
        self.open_session(viewer, client).await
    }

    /// Records the refusal of an unknown person.
    async fn refuse(&self, client: ClientAddr, status: StatusCode, recorded: Status, message: &str) -> Refusal {
        self.record_refusal(SIGN_IN, client, &Caller::anonymous(), recorded, message).await;
        self.refusal(status, message)
    }

    /// The refusal of a person whom the issuer cannot identify now.
    async fn unavailable(&self, client: ClientAddr, error: &OpenIdError) -> Refusal {
        let status = match error {
            OpenIdError::Refused { .. } => StatusCode::UNAUTHORIZED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        self.refuse(client, status, Status::Unauthenticated, &error.to_string()).await
    }

    fn set_pending_cookie(&self, response: &mut Response, browser: &str, seconds: u64) {
        let (name, attributes) = (&self.pending_cookie, self.pending_cookie_attributes);
        add_cookie(response, &format!("{name}={browser}; {attributes}; Max-Age={seconds}"));
    }
}

impl Answer {
    /// The parameters of a query. `None`: one of them is there twice. *Spec*: RFC 6749 3.1.
    fn parse(query: &str) -> Option<Self> {
        let mut answer = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut answer.state,
                "code" => &mut answer.code,
                "iss" => &mut answer.iss,
                "error" => &mut answer.error,
                "error_description" => &mut answer.description,
                _ => continue,
            };
            if place.replace(Cow::into_owned(value)).is_some() {
                return None;
            }
        }
        Some(answer)
    }
}

/// The message about an error that the issuer sent back with the browser.
fn refused_by(host: &str, error: Option<&str>, description: Option<&str>) -> String {
    let error = error.filter(|error| is_error_code(error)).unwrap_or("no code and no error code");
    let description = description.unwrap_or_default();
    let description = &description[..description.floor_char_boundary(DESCRIPTION_BYTES_MAX)];
    let separator = if description.is_empty() { "" } else { ": " };
    format!("{host} did not sign you in ({error}){separator}{description}")
}

/// Returns true if a page of another site caused the request. *Spec*: W3C Fetch Metadata. A browser sends the header
/// over https and to loopback addresses; elsewhere the rate of sign-ins limits what such a page can do.
fn is_from_other_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// Returns true if the browser will bring the cookie back: it is at the host of the redirect URI.
fn is_at_redirect_uri(openid: &OpenIdClient, headers: &HeaderMap) -> bool {
    let authority = openid.redirect_uri().split('/').nth(2).unwrap_or_default();
    single(headers, header::HOST.as_str()).is_some_and(|host| host.eq_ignore_ascii_case(authority))
}

fn not_configured() -> Response {
    (StatusCode::NOT_FOUND, "there is no sign-in at an issuer: set [ops.sign_in]\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_the_callback_is_there_once() {
        let answer = Answer::parse("code=a%20b&state=s&session_state=1&session_state=2").unwrap();
        assert_eq!((answer.code.as_deref(), answer.state.as_deref()), (Some("a b"), Some("s")));
        for twice in ["state=1&state=1", "code=1&code=2", "iss=a&state=1&iss=a", "error=a&error=b"] {
            assert!(Answer::parse(twice).is_none(), "{twice}");
        }
    }

    #[test]
    fn i6_the_description_of_an_error_is_bounded_and_its_code_is_one() {
        let message = refused_by("id.example", Some("access_denied"), Some(&"\u{e9}".repeat(10_000)));
        assert!(message.starts_with("id.example did not sign you in (access_denied): \u{e9}") && message.len() < 400);
        assert_eq!(refused_by("h", Some("<b>"), None), "h did not sign you in (no code and no error code)");
    }
}
