//! An `OpenID` provider controlled by the test: people agree by a call of the test, and each code is good once.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::stub_issuer::SigningKey;
use crate::token_server::refuse;

/// The console's client at the provider.
pub const CLIENT: &str = "console";
pub const SECRET: &str = "hunter2 of the console";

/// A running provider.
pub struct Provider {
    pub issuer: String,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Members of the metadata besides the usual ones.
    metadata: Value,
    is_down: bool,
    token_status: StatusCode,
    codes: BTreeMap<String, Approved>,
    issued: usize,
    /// `Authorization` and body of each token request.
    seen: Vec<(Option<String>, BTreeMap<String, String>)>,
}

/// A sign-in to which the person has agreed.
struct Approved {
    challenge: String,
    redirect_uri: String,
    id_token: Option<String>,
}

impl Provider {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            metadata: json!({}),
            is_down: false,
            token_status: StatusCode::OK,
            codes: BTreeMap::new(),
            issued: 0,
            seen: Vec::new(),
        }));
        let (metadata, tokens, of) = (Arc::clone(&state), Arc::clone(&state), issuer.clone());
        let metadata = async move || {
            let state = metadata.lock();
            let mut document = json!({
                "issuer": of,
                "jwks_uri": format!("{of}/jwks"),
                "authorization_endpoint": format!("{of}/authorize?tenant=one"),
                "token_endpoint": format!("{of}/token"),
            });
            for (name, value) in state.metadata.as_object().unwrap() {
                document[name] = value.clone();
            }
            let status = if state.is_down { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
            (status, document.to_string())
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(async || json!({ "keys": [SigningKey::Es256.public()] }).to_string()))
            .route(
                "/token",
                post(async move |headers: HeaderMap, body: Bytes| tokens.lock().exchange(&headers, &body)),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { issuer, state }
    }

    /// Adds members to the metadata.
    pub fn publish(&self, members: Value) {
        self.state.lock().metadata = members;
    }

    pub fn set_down(&self, is_down: bool) {
        self.state.lock().is_down = is_down;
    }

    /// The status with which the token endpoint answers.
    pub fn set_token_status(&self, status: StatusCode) {
        self.state.lock().token_status = status;
    }

    /// The token requests, as `Authorization` and form.
    pub fn seen(&self) -> Vec<(Option<String>, BTreeMap<String, String>)> {
        self.state.lock().seen.clone()
    }

    /// The claims of the ID token for a request that reached the authorization endpoint.
    pub fn claims(&self, request: &Url) -> Value {
        let asked = parameters(request);
        let now = jsonwebtoken::get_current_timestamp();
        json!({
            "iss": self.issuer, "sub": "ann", "aud": CLIENT, "nonce": asked["nonce"], "role": "auditor",
            "iat": now, "exp": now + 300,
        })
    }

    /// The person agrees to a request that reached the authorization endpoint. Returns the code.
    pub fn approve(&self, request: &Url) -> String {
        self.approve_with(request, Some(SigningKey::Es256.sign(&self.claims(request))))
    }

    /// The same, with these claims in the ID token instead.
    pub fn approve_with_claims(&self, request: &Url, change: &Value) -> String {
        let mut claims = self.claims(request);
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.approve_with(request, Some(SigningKey::Es256.sign(&claims)))
    }

    /// The same, with this ID token.
    pub fn approve_with(&self, request: &Url, id_token: Option<String>) -> String {
        let mut asked = parameters(request);
        let fixed =
            [("response_type", "code"), ("client_id", CLIENT), ("code_challenge_method", "S256"), ("tenant", "one")];
        for (name, value) in fixed {
            assert_eq!(asked[name], value, "{request}");
        }
        assert!(asked["scope"].split(' ').any(|word| word == "openid") && asked["state"].len() == 64);
        let mut take = |name: &str| asked.remove(name).unwrap();
        let approved = Approved { challenge: take("code_challenge"), redirect_uri: take("redirect_uri"), id_token };
        let mut state = self.state.lock();
        state.issued += 1;
        let code = format!("code-{}", state.issued);
        state.codes.insert(code.clone(), approved);
        code
    }
}

impl State {
    fn exchange(&mut self, headers: &HeaderMap, body: &[u8]) -> Response {
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
        let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.seen.push((authorization, form.clone()));
        if self.token_status != StatusCode::OK {
            return self.token_status.into_response();
        }
        let Some(approved) = self.codes.remove(&form["code"]) else {
            return refuse(StatusCode::BAD_REQUEST, "invalid_grant", "the code eyJ0 was used");
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
        let is_good = form["grant_type"] == "authorization_code"
            && challenge == approved.challenge
            && form["redirect_uri"] == approved.redirect_uri;
        if !is_good {
            return refuse(StatusCode::BAD_REQUEST, "invalid_grant", "");
        }
        let answer = json!({"access_token": "opaque", "token_type": "Bearer", "id_token": approved.id_token});
        ([("content-type", "application/json")], answer.to_string()).into_response()
    }
}

/// The parameters of a URL.
pub fn parameters(url: &Url) -> BTreeMap<String, String> {
    url.query_pairs().into_owned().collect()
}
