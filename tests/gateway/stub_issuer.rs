//! An issuer whose keys and health a test controls, and its tokens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The key of a fixture, by which the issuer signs.
#[derive(Clone, Copy)]
pub enum SigningKey {
    Es256,
    EdDsa,
}

impl SigningKey {
    fn parts(self) -> (&'static str, Algorithm) {
        match self {
            Self::Es256 => ("es256", Algorithm::ES256),
            Self::EdDsa => ("eddsa", Algorithm::EdDSA),
        }
    }

    fn private(self) -> EncodingKey {
        let (name, _) = self.parts();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}_private.pem"));
        let pem = std::fs::read(file).unwrap();
        if name == "es256" { EncodingKey::from_ec_pem(&pem) } else { EncodingKey::from_ed_pem(&pem) }.unwrap()
    }

    /// The published key.
    pub fn public(self) -> Value {
        let (name, algorithm) = self.parts();
        let mut jwk = Jwk::from_encoding_key(&self.private(), algorithm).unwrap();
        jwk.common.key_id = Some(name.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    /// A token with these claims.
    pub fn sign(self, claims: &Value) -> String {
        let (kid, algorithm) = self.parts();
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, claims, &self.private()).unwrap()
    }
}

/// A running issuer.
pub struct StubIssuer {
    pub issuer: String,
    published: Arc<Mutex<Vec<SigningKey>>>,
    fetches: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

/// The query of its JWKS's URL, which is a secret.
pub const SECRET_QUERY: &str = "hunter2";

impl StubIssuer {
    /// Starts an issuer that publishes `keys`.
    pub async fn start(keys: &[SigningKey]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let published = Arc::new(Mutex::new(keys.to_vec()));
        let (fetches, is_down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let state = (Arc::clone(&published), Arc::clone(&fetches), Arc::clone(&is_down));
        let answer = async move || {
            let (published, fetches, is_down) = &state;
            fetches.fetch_add(1, Ordering::SeqCst);
            if is_down.load(Ordering::SeqCst) {
                return (StatusCode::SERVICE_UNAVAILABLE, String::new());
            }
            let keys: Vec<Value> = published.lock().iter().map(|key| key.public()).collect();
            (StatusCode::OK, json!({ "keys": keys }).to_string())
        };
        let router = Router::new().route("/jwks", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { issuer, published, fetches, is_down }
    }

    /// Its entry in `auth.issuers`, with more settings.
    pub fn entry(&self, more: &str) -> String {
        format!("{{ issuer = {0:?}, jwks_url = \"{0}/jwks?key={SECRET_QUERY}\"{more} }}", self.issuer)
    }

    pub fn publish(&self, keys: &[SigningKey]) {
        *self.published.lock() = keys.to_vec();
    }

    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// A token of `ann` with this role.
    pub fn token(&self, key: SigningKey, role: &str) -> String {
        let expires = jsonwebtoken::get_current_timestamp() + 600;
        key.sign(&json!({"iss": self.issuer, "sub": "ann", "aud": "gatepost", "role": role, "exp": expires}))
    }
}
