//! Development tokens: HS256, for `gatepost token`, the quickstart and tests. Real ones come from an issuer.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::auth::keys::SECRET_BYTES_MIN;

/// What a development token says.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `sub`.
    pub subject: String,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// The claim that holds the roles; dots lead into objects.
    pub role_claim: String,
    /// The roles.
    pub roles: Vec<String>,
    /// `scope`, if any.
    pub scope: Option<String>,
    /// The header's `kid`, if any.
    pub kid: Option<String>,
    /// How long the token is valid, from now.
    pub valid_for: Duration,
}

/// A token that cannot be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// A secret that is too short.
    #[error("the secret has {bytes} bytes, and HS256 needs {SECRET_BYTES_MIN}")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// The library's own refusal.
    #[error("cannot sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Mints an HS256 token with a fresh `jti`.
///
/// # Errors
/// [`MintError::Short`] for a secret that no gateway would load.
pub fn mint(secret: &[u8], claims: &Claims) -> Result<String, MintError> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(MintError::Short { bytes: secret.len() });
    }
    let mut header = Header::new(Algorithm::HS256);
    header.kid.clone_from(&claims.kid);
    let now = jsonwebtoken::get_current_timestamp();
    let mut body = serde_json::json!({
        "sub": claims.subject,
        "iss": claims.issuer,
        "aud": claims.audience,
        "iat": now,
        "exp": now.saturating_add(claims.valid_for.as_secs()),
        "jti": uuid::Uuid::now_v7().to_string(),
    });
    let roles = match claims.roles.as_slice() {
        [one] => serde_json::Value::from(one.as_str()),
        many => serde_json::Value::from(many.to_vec()),
    };
    let claim = claims.role_claim.rsplit('.').fold(roles, |value, name| serde_json::json!({ name: value }));
    if let (Some(body), serde_json::Value::Object(claim)) = (body.as_object_mut(), claim) {
        body.extend(claim);
        body.extend(claims.scope.clone().map(|scope| ("scope".to_owned(), scope.into())));
    }
    jsonwebtoken::encode(&header, &body, &EncodingKey::from_secret(secret)).map_err(MintError::Sign)
}
