//! A JSON Web Key Set (RFC 7517) and its usable keys.
//!
//! A key that cannot be used safely is skipped with a log message. A set without usable keys is an error, so that it
//! never replaces keys that work.

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::auth::keys::{Key, TokenRequirements};

/// Largest document, in bytes. *Chosen*: a hundred RSA keys with their certificates; real sets have under 20 KiB.
pub(super) const BYTES_MAX: usize = 256 * 1024;

/// Most keys of a set; the others are ignored. *Chosen*: real sets have under ten.
const KEYS_MAX: usize = 100;

/// Shortest RSA modulus, in bits. *Spec*: RFC 7518 3.3.
const RSA_BITS_MIN: usize = 2048;

/// Longest RSA modulus, in bits. *Spec*: the limit of AWS-LC.
const RSA_BITS_MAX: usize = 8192;

/// The reason why a document cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// The document is too large.
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// The document is not a JSON object with an array `keys`.
    #[error("it is not a JSON object with an array of keys ({0})")]
    Json(#[from] serde_json::Error),
    /// The set has no usable key.
    #[error("none of its {count} keys can be used; the log has the reason for each")]
    Empty {
        /// The number of keys in the set.
        count: usize,
    },
}

/// The reason why a key is skipped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum SkipReason {
    #[error("it is not a JWK")]
    NotJwk,
    #[error("use is not sig, or key_ops lacks verify")]
    Use,
    #[error("the kty is not supported")]
    KeyType,
    #[error("a symmetric key cannot be a public key")]
    Symmetric,
    #[error("it contains the private key: publish the public key only, and revoke this one")]
    Private,
    #[error("the crv is not supported")]
    Curve,
    #[error("alg does not match kty and crv")]
    Algorithm,
    #[error("its algorithm is not one of the issuer's algorithms in the configuration")]
    NotAllowed,
    #[error("the RSA modulus has fewer than {RSA_BITS_MIN} or more than {RSA_BITS_MAX} bits")]
    RsaSize,
    #[error("the key's numbers are missing or malformed")]
    Numbers,
    #[error("it has no kid, and is not the only key")]
    NoKid,
}

/// The usable keys of one set.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

impl KeySet {
    /// Parses a set. Its keys check `requirements` and verify only the algorithms `allowed`.
    pub(super) fn parse(
        document: &[u8],
        requirements: &TokenRequirements,
        allowed: &[Algorithm],
    ) -> Result<Self, JwksError> {
        if document.len() > BYTES_MAX {
            return Err(JwksError::TooLarge); // I6: a set is bounded.
        }
        let Document { keys: found } = serde_json::from_slice(document)?;
        let count = found.len();
        let mut keys = Vec::new();
        for (idx, value) in found.into_iter().take(KEYS_MAX).enumerate() {
            let kid = value.get("kid").and_then(serde_json::Value::as_str).map(str::to_owned);
            match key(value, requirements, allowed, count == 1) {
                Ok(key) => keys.push(key),
                Err(reason) => tracing::warn!(
                    issuer = requirements.issuer, idx, kid, %reason, "skipping a key of the issuer's JWKS"
                ),
            }
        }
        if count > KEYS_MAX {
            tracing::warn!(
                issuer = requirements.issuer,
                count,
                limit = KEYS_MAX,
                "the issuer's JWKS has too many keys; ignoring the rest"
            );
        }
        if keys.is_empty() { Err(JwksError::Empty { count }) } else { Ok(Self { keys }) }
    }

    /// The number of keys.
    pub(super) fn count(&self) -> usize {
        self.keys.len()
    }

    /// The keys for tokens with this `kid`. The only key of a set also verifies tokens without a `kid` and, if it has
    /// no `kid` itself, all tokens.
    pub(super) fn named(&self, kid: Option<&str>) -> Vec<&Key> {
        match (self.keys.as_slice(), kid) {
            ([only], None) => vec![only],
            ([only], Some(_)) if only.kid.is_none() => vec![only],
            (_, None) => Vec::new(),
            (keys, kid) => keys.iter().filter(|key| key.kid.as_deref() == kid).collect(),
        }
    }
}

fn key(
    value: serde_json::Value,
    requirements: &TokenRequirements,
    allowed: &[Algorithm],
    only: bool,
) -> Result<Key, SkipReason> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| SkipReason::NotJwk)?;
    let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
    if jwk.r#use.as_deref().is_some_and(|r#use| r#use != "sig") || !jwk.key_ops.as_ref().is_none_or(verifies) {
        return Err(SkipReason::Use);
    }
    let algorithm = algorithm(&jwk)?;
    if jwk.d.is_some() {
        return Err(SkipReason::Private); // Every reader of the set could mint tokens.
    }
    if !allowed.contains(&algorithm) {
        return Err(SkipReason::NotAllowed);
    }
    if jwk.kid.is_none() && !only {
        return Err(SkipReason::NoKid);
    }
    let decoding = decoding(&jwk, algorithm)?;
    Ok(requirements.key(jwk.kid, algorithm, decoding))
}

/// The algorithm of a key: its `alg`, which must match its type, or the usual algorithm of the type.
fn algorithm(jwk: &Jwk) -> Result<Algorithm, SkipReason> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let possible: &[Algorithm] = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        ("EC", Some("P-256")) => &[ES256],
        ("EC", Some("P-384")) => &[ES384],
        ("OKP", Some("Ed25519")) => &[EdDSA],
        ("EC" | "OKP", _) => return Err(SkipReason::Curve),
        ("oct", _) => return Err(SkipReason::Symmetric),
        _ => return Err(SkipReason::KeyType),
    };
    let named = |alg: &str| possible.iter().copied().find(|algorithm| format!("{algorithm:?}") == alg);
    match jwk.alg.as_deref() {
        // RFC 9864 names EdDSA by its curve.
        Some("Ed25519") if possible == [EdDSA] => Ok(EdDSA),
        Some(alg) => named(alg).ok_or(SkipReason::Algorithm),
        None => possible.first().copied().ok_or(SkipReason::Algorithm),
    }
}

fn decoding<'a>(jwk: &'a Jwk, algorithm: Algorithm) -> Result<DecodingKey, SkipReason> {
    let number = |part: Option<&'a String>| part.ok_or(SkipReason::Numbers);
    let malformed = |_| SkipReason::Numbers;
    let (key, bytes) = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => {
            let bytes = if algorithm == Algorithm::ES256 { 65 } else { 97 }; // 0x04, x, y
            (
                DecodingKey::from_ec_components(number(jwk.x.as_ref())?, number(jwk.y.as_ref())?).map_err(malformed)?,
                bytes,
            )
        }
        Algorithm::EdDSA => (DecodingKey::from_ed_components(number(jwk.x.as_ref())?).map_err(malformed)?, 32),
        _ => {
            let key = DecodingKey::from_rsa_components(number(jwk.n.as_ref())?, number(jwk.e.as_ref())?)
                .map_err(malformed)?;
            return if rsa_bits(&key).is_some_and(|bits| (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits)) {
                Ok(key)
            } else {
                Err(SkipReason::RsaSize)
            };
        }
    };
    let has_length = key.try_get_as_bytes().is_ok_and(|key| key.len() == bytes);
    if has_length { Ok(key) } else { Err(SkipReason::Numbers) }
}

/// The length of an RSA modulus, in bits.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else { return None };
    let n = n.get(n.iter().position(|&byte| byte != 0)?..)?;
    Some(n.len() * 8 - n.first()?.leading_zeros() as usize)
}

#[cfg(test)]
mod tests;
