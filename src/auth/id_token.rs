//! ID tokens: they name a person who has signed in at an issuer for one client. *Spec*: `OpenID` Connect Core 1.0 2 and
//! 3.1.3.7.
//!
//! Signature, issuer, expiry and roles are those of any token of the issuer; `aud`, `azp` and `nonce` are of the
//! sign-in. An ID token has no scope, so `auth.required_scope` does not apply to it.

use std::time::Duration;

use serde_json::{Map, Value};

use super::audience::has_audience;
use super::jwt::{JwtError, refuse};
use super::validity::Validity;
use crate::audit::record::Timestamp;

/// The time for which a person is signed in. *Chosen*: `exp` limits how long an ID token may be presented, not how long
/// the person stays (Keycloak: 5 minutes, Auth0: 10 hours); a closed account is out after this time, and the provider
/// signs in all others again without a question.
pub const SIGNED_IN: Duration = Duration::from_hours(1);

/// The claims that the ID token of a sign-in must have.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer at which the person signs in.
    pub issuer: &'a str,
    /// The console's client id there.
    pub client_id: &'a str,
    /// The nonce of this sign-in.
    pub nonce: &'a str,
}

/// Checks the claims that are of the sign-in alone.
///
/// # Errors
/// [`JwtError`]: the token is not the answer to this sign-in.
pub(super) fn check(claims: &Map<String, Value>, expected: Expected<'_>) -> Result<(), JwtError> {
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err(refuse("the ID token is from another issuer"));
    }
    if !is_for_client(claims, expected.client_id) {
        return Err(refuse("the ID token is for another client"));
    }
    if claims.get("nonce").and_then(Value::as_str) != Some(expected.nonce) {
        return Err(refuse("the ID token is the answer to another sign-in"));
    }
    Ok(())
}

/// The time until which a person who signs in now is signed in.
pub(super) fn validity() -> Validity {
    let micros = i64::try_from(SIGNED_IN.as_micros()).unwrap_or(i64::MAX);
    Validity::until(Timestamp::from_micros(Timestamp::now().micros().saturating_add(micros)))
}

/// Returns true if the token is for this client: alone, or as the authorized party among several audiences.
fn is_for_client(claims: &Map<String, Value>, client_id: &str) -> bool {
    let is_alone = match claims.get("aud") {
        Some(Value::Array(several)) => several.len() == 1,
        _ => true,
    };
    let is_authorized = match claims.get("azp") {
        Some(party) => party.as_str() == Some(client_id),
        None => is_alone,
    };
    is_authorized && has_audience(claims, &|value| value == client_id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_person_is_signed_in_for_an_hour() {
        let validity = validity();
        tokio::time::advance(SIGNED_IN.checked_sub(Duration::from_secs(5)).unwrap()).await;
        assert!(!validity.has_ended());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(validity.has_ended());
    }

    #[test]
    fn an_id_token_is_for_its_client_alone_or_as_the_authorized_party() {
        for (claims, is_for) in [
            (json!({ "aud": "console" }), true),
            (json!({ "aud": ["console"] }), true),
            (json!({ "aud": ["console"], "azp": "console" }), true),
            (json!({ "aud": ["console", "api"], "azp": "console" }), true),
            (json!({ "aud": ["console", "api"] }), false),
            (json!({ "aud": ["console", "api"], "azp": "api" }), false),
            (json!({ "aud": "console", "azp": "api" }), false),
            (json!({ "aud": "console", "azp": 7 }), false),
            (json!({ "aud": "api", "azp": "console" }), false),
            (json!({ "aud": [] , "azp": "console" }), false),
            (json!({ "azp": "console" }), false),
            (json!({}), false),
        ] {
            assert_eq!(is_for_client(claims.as_object().unwrap(), "console"), is_for, "{claims}");
        }
    }
}
