//! An OAuth token server controlled by the test: client credentials and token exchange.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::common::gatepost::{Setup, write_secret};

/// The gateway's client at the server.
pub const CLIENT: &str = "gate";
pub const SECRET: &str = "hunter2:secret of the client";

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// One request that reached the server.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    pub form: BTreeMap<String, String>,
    pub authorization: Option<String>,
}

impl TokenRequest {
    pub fn is_exchange(&self) -> bool {
        self.form["grant_type"] == EXCHANGE
    }

    /// The claims of the caller's token.
    pub fn caller(&self) -> Value {
        claims(&self.form["subject_token"])
    }
}

/// The server; what the test does not answer is answered with a token.
pub struct TokenServer {
    pub url: String,
    pub seen: Arc<Mutex<Vec<TokenRequest>>>,
    /// All tokens that were issued.
    pub issued: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    pub async fn start(answer: impl Fn(&TokenRequest) -> Option<Response> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let (seen, issued) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (log, tokens, answer) = (Arc::clone(&seen), Arc::clone(&issued), Arc::new(answer));
        let handle = move |headers: HeaderMap, body: Bytes| {
            let form = url::form_urlencoded::parse(&body).into_owned().collect();
            let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let request = TokenRequest { form, authorization };
            log.lock().unwrap().push(request.clone());
            let answered = answer(&request).unwrap_or_else(|| {
                let mut tokens = tokens.lock().unwrap();
                let token = token_for(&request, tokens.len());
                tokens.push(token.clone());
                issue(&token, 300)
            });
            async move { answered }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await });
        Self { url, seen, issued }
    }

    /// Makes this the token server of a backend.
    pub fn serve(&self, setup: &mut Setup, backend: &str) {
        let secret = setup.dir().join("client-secret");
        write_secret(&secret, format!("{SECRET}\n"));
        let key = |name: &str| format!("backends.{backend}.oauth.{name}");
        setup.set(&key("token_url"), &self.url).set(&key("client_id"), CLIENT);
        setup.set(&key("client_secret_file"), secret.to_str().unwrap());
        setup.set(&key("audience"), backend);
    }

    pub fn requests(&self) -> Vec<TokenRequest> {
        self.seen.lock().unwrap().clone()
    }
}

/// The usual token: a JWT for the caller or the client, for the audience of the request.
fn token_for(request: &TokenRequest, number: usize) -> String {
    let subject = if request.is_exchange() { request.caller()["sub"].clone() } else { json!(CLIENT) };
    jwt(&json!({"sub": subject, "aud": request.form.get("audience"), "jti": format!("issued-{number}")}))
}

/// A JWT without a signature that anyone could verify.
pub fn jwt(claims: &Value) -> String {
    jwt_of(&claims.to_string())
}

/// As [`jwt`], for a payload as it is.
pub fn jwt_of(payload: &str) -> String {
    format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(payload))
}

/// The claims of a JWT.
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_default();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The answer with `token`.
pub fn issue(token: &str, expires_in: u64) -> Response {
    let answer = json!({
        "access_token": token, "token_type": "Bearer", "expires_in": expires_in, "issued_token_type": ACCESS_TOKEN,
    });
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

/// The refusal of a request.
pub fn refuse(status: StatusCode, error: &str, description: &str) -> Response {
    let answer = json!({"error": error, "error_description": description});
    (status, [("content-type", "application/json")], answer.to_string()).into_response()
}
