//! ID tokens: they name a person who has signed in at an issuer for one client. *Spec*: `OpenID` Connect Core 1.0 2 and
//! 3.1.3.7.
//!
//! Signature, issuer, expiry and roles are those of any token of the issuer; `aud`, `azp` and `nonce` are of the
//! sign-in. An ID token has no scope, so `auth.required_scope` does not apply to it.

use std::time::Duration;

use serde_json::{Map, Value};

use super::audience::has_audience;
use super::jwt::refuse;
use super::validity::Validity;
use super::verified_token::Purpose;
use super::{AuthError, Authenticator, Principal, principal};
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

impl Authenticator {
    /// Authenticates the person that an ID token names. The principal ends after [`SIGNED_IN`].
    ///
    /// # Errors
    /// [`AuthError`]: the token is not valid, or is not the answer to this sign-in.
    pub async fn authenticate_id_token(&self, token: &str, expected: Expected<'_>) -> Result<Principal, AuthError> {
        let (mut verified, _, claim_rules) = self.signed(token).await?;
        let claims = &verified.claims;
        if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
            return Err(refuse("the ID token is from another issuer").into());
        }
        if !is_for_client(claims, expected.client_id) {
            return Err(refuse("the ID token is for another client").into());
        }
        if claims.get("nonce").and_then(Value::as_str) != Some(expected.nonce) {
            return Err(refuse("the ID token is the answer to another sign-in").into());
        }
        verified.purpose = Purpose::SignIn;
        let micros = i64::try_from(SIGNED_IN.as_micros()).unwrap_or(i64::MAX);
        let end = Timestamp::from_micros(Timestamp::now().micros().saturating_add(micros));
        principal(verified, claim_rules, Validity::until(end))
    }
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
