//! HS256 tokens for development: for `gatepost token`, the quickstart and tests. In production an issuer signs tokens.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::auth::keys::SECRET_BYTES_MIN;

/// The claims of a development token.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The claim `sub`.
    pub subject: String,
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`.
    pub audience: String,
    /// The name of the claim with the roles; a dot separates the names of nested objects.
    pub role_claim: String,
    /// The roles.
    pub roles: Vec<String>,
    /// The claim `scope`, if any.
    pub scope: Option<String>,
    /// The `kid` of the header, if any.
    pub kid: Option<String>,
    /// The token's lifetime, from now.
    pub valid_for: Duration,
}

/// The reason why a token cannot be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The secret is too short.
    #[error("the secret has {bytes} bytes, and HS256 needs at least {SECRET_BYTES_MIN}")]
    Short {
        /// The secret's length.
        bytes: usize,
    },
    /// The library cannot sign the token.
    #[error("cannot sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Mints an HS256 token with a new `jti`.
///
/// # Errors
/// [`MintError::Short`] if no gateway would load the secret.
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
        [role] => serde_json::Value::from(role.as_str()),
        roles => serde_json::Value::from(roles.to_vec()),
    };
    let claim = super::claims::path(&claims.role_claim)
        .into_iter()
        .rev()
        .fold(roles, |value, name| serde_json::json!({ name: value }));
    if let (Some(body), serde_json::Value::Object(claim)) = (body.as_object_mut(), claim) {
        body.extend(claim);
        body.extend(claims.scope.clone().map(|scope| ("scope".to_owned(), scope.into())));
    }
    jsonwebtoken::encode(&header, &body, &EncodingKey::from_secret(secret)).map_err(MintError::Sign)
}
