//! A JWT: its header, its unverified issuer, its verification by a key, and its scope.

use jsonwebtoken::{Algorithm, Header};
use serde_json::{Map, Value};

use crate::auth::keys::Key;

/// The message for a `kid` of which the issuer has no key.
pub(super) const UNKNOWN_KEY: &str = "the token is signed by an unknown key";

/// The reason why a JWT is not valid.
#[derive(Debug)]
pub(super) struct JwtError {
    /// The message for the caller.
    pub(super) public: &'static str,
    /// The cause, for the log.
    pub(super) cause: Option<jsonwebtoken::errors::Error>,
}

/// The token's header, if it is supported.
pub(super) fn header(token: &str) -> Result<Header, JwtError> {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|cause| JwtError { public: "the token is not a JWT with a known algorithm", cause: Some(cause) })?;
    if header.crit.is_some() {
        // RFC 7515 4.1.11: a token is invalid if it has a critical extension that is not supported.
        return Err(refuse("the token requires an extension that is not supported"));
    }
    if header.typ.as_deref().is_some_and(|typ| !is_access_token(typ)) {
        return Err(refuse("the token's typ is neither JWT nor at+jwt"));
    }
    Ok(header)
}

/// The token's unverified `iss`, which selects the keys. Verification checks it again.
pub(super) fn claimed_issuer(token: &str) -> Result<String, JwtError> {
    // I8: the cause would quote the claims.
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token)
        .map_err(|_| refuse("the token's claims are not a JSON object"))?;
    match claims.get("iss") {
        Some(Value::String(issuer)) => Ok(issuer.clone()),
        Some(_) => Err(refuse("the token's iss is not a string")),
        None => Err(refuse("the token has no iss")),
    }
}

/// The claims, and the index of the key that verifies the token. Its audience is not checked.
pub(super) fn verify_by(
    keys: &[&Key],
    algorithm: Algorithm,
    token: &str,
) -> Result<(Map<String, Value>, usize), JwtError> {
    if keys.is_empty() {
        return Err(refuse(UNKNOWN_KEY));
    }
    // The key decides the algorithm; the token's header must agree with it.
    let mut matching = keys.iter().enumerate().filter(|(_, key)| key.algorithm == algorithm).peekable();
    if matching.peek().is_none() {
        return Err(refuse("the token's algorithm does not match its key"));
    }
    let mut last_error = refuse("the token cannot be verified");
    for (at, key) in matching {
        match jsonwebtoken::decode(token, &key.decoding, &key.validation) {
            Ok(data) => return Ok((data.claims, at)),
            Err(cause) => last_error = JwtError { public: public_reason(&cause), cause: Some(cause) },
        }
    }
    Err(last_error)
}

pub(super) fn refuse(public: &'static str) -> JwtError {
    JwtError { public, cause: None }
}

/// Returns true if `typ` is that of an access token (RFC 9068 4), and not that of an ID token, a logout token or
/// another kind.
///
/// The case of `typ` does not matter, and `application/` may be omitted (RFC 7515 4.1.9).
fn is_access_token(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float is clamped")]
pub(super) fn whole_seconds(seconds: f64) -> u64 {
    seconds as u64
}

fn public_reason(cause: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match cause.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token has no exp",
            "aud" => "the token has no aud",
            "iss" => "the token has no iss",
            _ => "the token has no sub",
        },
        ErrorKind::InvalidClaimFormat(_) => "a claim of the token has the wrong type",
        _ => "the token cannot be verified",
    }
}

/// Returns true if the claims contain `scope`: in `scope`, a string of words (RFC 8693 4.2), or in `scp`, a string or
/// an array.
pub(super) fn has_scope(claims: &Map<String, Value>, scope: &str) -> bool {
    ["scope", "scp"].iter().filter_map(|name| claims.get(*name)).any(|value| match value {
        Value::String(text) => text.split(' ').any(|word| word == scope),
        Value::Array(list) => list.iter().any(|word| word.as_str() == Some(scope)),
        _ => false,
    })
}
