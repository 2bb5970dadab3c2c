//! Requests to a token server.
//!
//! *Spec*: RFC 6749 4.4 and 5, RFC 8693 2, RFC 8707 2. A redirect is an answer that cannot be used: it would lead the
//! secret and the caller's token elsewhere.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::auth::client_secret::{ClientSecret, SecretFileError};
use crate::auth::watched::WatchedFile;
use crate::config::{self, ClientAuth};
use crate::file_access::FileAccess;
use crate::outbound::{self, is_error_code};

use super::access_token::{AccessToken, Subject};
use super::caller_token::CallerToken;
use super::error::{CredentialError, Grant};

/// Longest time to open a TCP and TLS connection. *Chosen*: as for a backend.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time of a request. *Chosen*: a call waits for it, and clients wait a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer, in bytes. *Chosen*: four times the longest token.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Longest subject that is shown, in bytes. *Chosen*: as a name in a record's context.
const SUBJECT_BYTES_MAX: usize = 256;

const GRANT_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TYPE_ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const TYPE_JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The token server of one backend, and the gateway's client there.
#[derive(Debug)]
pub(super) struct TokenServer {
    http: reqwest::Client,
    url: Url,
    id: String,
    secret: WatchedFile<ClientSecret>,
    auth: ClientAuth,
    /// The parameters that say what the token is for.
    target: Vec<(&'static str, String)>,
}

/// An answer with a token.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    token_type: String,
    expires_in: Option<Value>,
    issued_token_type: Option<String>,
}

/// An answer with an error.
#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
}

impl TokenServer {
    /// # Errors
    /// The setting below `oauth` that cannot be used, and the reason.
    pub(super) fn new(oauth: &config::BackendOAuth, files: FileAccess) -> Result<Self, (&'static str, String)> {
        // I8: the URL is not shown, because its query may be a secret.
        let url = Url::parse(&oauth.token_url).map_err(|error| ("token_url", format!("is not a URL ({error})")))?;
        let http =
            outbound::client_builder(url.as_str()).connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT).build();
        let http = http.map_err(|error| ("token_url", format!("cannot create an HTTP client ({error})")))?;
        let secret = ClientSecret::open(&oauth.client_secret_file, files);
        let secret = secret.map_err(|error: SecretFileError| ("client_secret_file", error.to_string()))?;
        let target = [("audience", &oauth.audience), ("resource", &oauth.resource), ("scope", &oauth.scope)];
        let target = target.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        Ok(Self { http, url, id: oauth.client_id.clone(), secret, auth: oauth.client_auth, target })
    }

    /// Requests a token for the gateway itself.
    pub(super) async fn client_credentials(&self) -> Result<AccessToken, CredentialError> {
        self.request(Grant::ClientCredentials, &[("grant_type", "client_credentials")]).await
    }

    /// Requests a token on behalf of `caller`. `same_subject`: a JWT must name the subject of the
    /// caller's token.
    pub(super) async fn exchange(
        &self,
        caller: &CallerToken,
        same_subject: bool,
    ) -> Result<AccessToken, CredentialError> {
        let parameters = [
            ("grant_type", GRANT_EXCHANGE),
            ("subject_token", caller.text()),
            ("subject_token_type", TYPE_ACCESS_TOKEN),
            ("requested_token_type", TYPE_ACCESS_TOKEN),
        ];
        let token = self.request(Grant::Exchange, &parameters).await?;
        // The caller's token is for this gateway only, whatever the token server says.
        if token.authorization().as_bytes().ends_with(caller.text().as_bytes()) {
            return Err(self.garbled("its token is the caller's own"));
        }
        match token.named_subject() {
            Subject::Named(found) if same_subject && found != caller.subject() => {
                let found = found[..found.floor_char_boundary(SUBJECT_BYTES_MAX)].to_owned();
                Err(CredentialError::OtherSubject { server: self.name(), found })
            }
            Subject::Unreadable if same_subject => {
                Err(self.garbled("its access_token is a JWT without exactly one string \"sub\""))
            }
            _ => Ok(token.within(caller.validity())),
        }
    }

    /// Scheme, host and port of the token server.
    fn name(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    fn garbled(&self, fault: &'static str) -> CredentialError {
        CredentialError::ServerGarbled { server: self.name(), fault }
    }

    async fn request(&self, grant: Grant, parameters: &[(&str, &str)]) -> Result<AccessToken, CredentialError> {
        let secret = self.secret.get();
        let request = self.post(parameters, &secret)?;
        let response = request.send().await.map_err(|error| self.transport(error))?;
        let status = response.status();
        // I6: the answer is bounded.
        let answer = outbound::body(response, ANSWER_BYTES_MAX).await.map_err(|error| self.transport(error))?;
        let answer = answer.ok_or_else(|| self.garbled("it is larger than 64 KiB"))?;
        if status != StatusCode::OK {
            let code = serde_json::from_slice::<ErrorAnswer>(&answer).ok().map(|answer| answer.error);
            let code = code.filter(|code| is_error_code(code) && !secret.is_in(code));
            return Err(CredentialError::ServerRefused { server: self.name(), grant, status: status.as_u16(), code });
        }
        self.read(&answer)
    }

    fn post(
        &self,
        parameters: &[(&str, &str)],
        secret: &ClientSecret,
    ) -> Result<reqwest::RequestBuilder, CredentialError> {
        let mut body = Serializer::new(String::new());
        body.extend_pairs(parameters).extend_pairs(&self.target);
        let mut request = self.http.post(self.url.clone());
        match self.auth {
            ClientAuth::Basic => request = request.header(header::AUTHORIZATION, self.basic(secret)?),
            ClientAuth::Post => {
                body.append_pair("client_id", &self.id).append_pair("client_secret", secret.text());
            }
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        Ok(request.header(header::ACCEPT, "application/json").body(body.finish()))
    }

    fn read(&self, answer: &[u8]) -> Result<AccessToken, CredentialError> {
        let Ok(answer) = serde_json::from_slice::<TokenAnswer>(answer) else {
            return Err(self.garbled("it is not JSON with access_token and token_type"));
        };
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(self.garbled("its token_type is not Bearer"));
        }
        if answer.issued_token_type.is_some_and(|issued| issued != TYPE_ACCESS_TOKEN && issued != TYPE_JWT) {
            return Err(self.garbled("its issued_token_type is not an access token"));
        }
        let lifetime = match answer.expires_in.as_ref().map(seconds) {
            Some(None) => return Err(self.garbled("its expires_in is not a number of seconds")),
            lifetime => lifetime.flatten().map(Duration::from_secs),
        };
        AccessToken::new(&answer.access_token, lifetime)
            .ok_or_else(|| self.garbled("its access_token is too long, or has characters that a token has not"))
    }

    /// The header with the client's id and secret.
    fn basic(&self, secret: &ClientSecret) -> Result<HeaderValue, CredentialError> {
        secret.basic(&self.id).ok_or_else(|| self.garbled("the client's id and secret do not fit a header"))
    }

    /// The failure of a request without an answer.
    fn transport(&self, error: reqwest::Error) -> CredentialError {
        let server = self.name();
        if error.is_timeout() {
            return CredentialError::ServerTimedOut { server, seconds: REQUEST_TIMEOUT.as_secs() };
        }
        // I8: without the URL.
        let error = error.without_url();
        let mut reason = if error.is_connect() { "cannot connect" } else { "the connection broke" }.to_owned();
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        if let Some(cause) = causes.last() {
            reason = format!("{reason}: {cause}");
        }
        CredentialError::ServerDown { server, reason }
    }
}

/// A number of seconds; some servers write it as a string.
fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn server(dir: &std::path::Path) -> TokenServer {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("secret");
        std::fs::write(&path, "p:w d\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let oauth = config::BackendOAuth {
            token_url: "https://login.example/token?key=hunter2".to_owned(),
            client_id: "gate:post".to_owned(),
            client_secret_file: path,
            ..config::BackendOAuth::default()
        };
        TokenServer::new(&oauth, FileAccess::default()).unwrap()
    }

    #[test]
    fn id_and_secret_are_form_encoded_before_base64() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        let value = server.basic(&server.secret.get()).unwrap();
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), b"gate%3Apost:p%3Aw+d");
        assert!(!format!("{server:?} {value:?}").contains("p:w"));
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_named_by_its_fault() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        for (answer, fault) in [
            ("", "is not JSON"),
            ("[]", "is not JSON"),
            (r#"{"access_token":"t"}"#, "is not JSON"),
            (r#"{"access_token":7,"token_type":"Bearer"}"#, "is not JSON"),
            (r#"{"access_token":"t","token_type":"N_A"}"#, "token_type"),
            (r#"{"access_token":"t","token_type":"DPoP"}"#, "token_type"),
            (r#"{"access_token":"a b","token_type":"Bearer"}"#, "access_token"),
            (r#"{"access_token":"","token_type":"Bearer"}"#, "access_token"),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":"soon"}"#, "expires_in"),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":-1}"#, "expires_in"),
            (
                r#"{"access_token":"t","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token"}"#,
                "issued_token_type",
            ),
        ] {
            let error = server.read(answer.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains("https://login.example "), "{answer}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for answer in [
            r#"{"access_token":"t","token_type":"bearer","expires_in":"3599"}"#,
            r#"{"access_token":"t","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:jwt"}"#,
        ] {
            assert!(server.read(answer.as_bytes()).is_ok(), "{answer}");
        }
    }
}
