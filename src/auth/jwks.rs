//! A JSON Web Key Set (RFC 7517) and the keys of it that verify tokens.
//!
//! A key that cannot be used, or not safely, is left out with a log line; the others stand. A set of which nothing is left
//! is an error, so that it never takes the place of keys that work.

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::auth::keys::{Key, Rules};

/// Longest set, in bytes. *Chosen*: a hundred RSA keys with their certificates; real sets have under 20 KiB.
pub(super) const BYTES_MAX: usize = 256 * 1024;

/// Most keys of one set that count. *Chosen*: a real one has under ten.
const KEYS_MAX: usize = 100;

/// Shortest RSA modulus, in bits. *Spec*: RFC 7518 3.3.
const RSA_BITS_MIN: usize = 2048;

/// Longest RSA modulus, in bits. *Spec*: what AWS-LC verifies with.
const RSA_BITS_MAX: usize = 8192;

/// Why a document is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Too large for a set.
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// No JSON object with a list `keys`.
    #[error("it is no JSON object with a list of keys ({0})")]
    Json(#[from] serde_json::Error),
    /// Nothing that verifies.
    #[error("none of its {count} keys can be used; the log says why of each")]
    Empty {
        /// How many keys it has.
        count: usize,
    },
}

/// Why one key is left out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Skip {
    #[error("it is no JWK")]
    NoJwk,
    #[error("use is not sig, or key_ops has no verify")]
    Use,
    #[error("the kty is not supported")]
    KeyType,
    #[error("a symmetric key is no public key")]
    Symmetric,
    #[error("it holds the private half: publish the public one, and take this one back")]
    Private,
    #[error("the crv is not supported")]
    Curve,
    #[error("alg does not fit the kty and crv")]
    Algorithm,
    #[error("its algorithm is not in the issuer's algorithms")]
    NotAllowed,
    #[error("the RSA modulus is shorter than 2048 bits, or longer than 8192")]
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
    /// Reads a set; its keys verify by `rules`, each with one of the algorithms `allowed`.
    pub(super) fn parse(document: &[u8], rules: &Rules, allowed: &[Algorithm]) -> Result<Self, Error> {
        if document.len() > BYTES_MAX {
            return Err(Error::TooLarge); // I6: a set is bounded.
        }
        let Document { keys: found } = serde_json::from_slice(document)?;
        let count = found.len();
        let mut keys = Vec::new();
        for (idx, value) in found.into_iter().take(KEYS_MAX).enumerate() {
            let kid = value.get("kid").and_then(serde_json::Value::as_str).map(str::to_owned);
            match key(value, rules, allowed, count == 1) {
                Ok(key) => keys.push(key),
                Err(reason) => tracing::warn!(
                    issuer = rules.issuer, idx, kid, %reason, "a key of the issuer's JWKS is not used"
                ),
            }
        }
        if count > KEYS_MAX {
            tracing::warn!(issuer = rules.issuer, count, limit = KEYS_MAX, "the issuer's JWKS has too many keys");
        }
        if keys.is_empty() { Err(Error::Empty { count }) } else { Ok(Self { keys }) }
    }

    /// The keys that may have signed a token with this `kid`. The only key of a set needs no name: it answers for tokens
    /// without `kid`, and, where it has none itself, for all.
    pub(super) fn named(&self, kid: Option<&str>) -> Vec<&Key> {
        match (self.keys.as_slice(), kid) {
            ([only], None) => vec![only],
            ([only], Some(_)) if only.kid.is_none() => vec![only],
            (_, None) => Vec::new(),
            (keys, kid) => keys.iter().filter(|key| key.kid.as_deref() == kid).collect(),
        }
    }
}

fn key(value: serde_json::Value, rules: &Rules, allowed: &[Algorithm], only: bool) -> Result<Key, Skip> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| Skip::NoJwk)?;
    let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
    if jwk.r#use.as_deref().is_some_and(|r#use| r#use != "sig") || !jwk.key_ops.as_ref().is_none_or(verifies) {
        return Err(Skip::Use);
    }
    let algorithm = algorithm(&jwk)?;
    if jwk.d.is_some() {
        return Err(Skip::Private); // Whoever can read the set could mint tokens.
    }
    if !allowed.contains(&algorithm) {
        return Err(Skip::NotAllowed);
    }
    if jwk.kid.is_none() && !only {
        return Err(Skip::NoKid);
    }
    let decoding = decoding(&jwk, algorithm)?;
    Ok(rules.key(jwk.kid, algorithm, decoding))
}

/// The one algorithm of a key: its `alg` where that fits what it is, else the usual one.
fn algorithm(jwk: &Jwk) -> Result<Algorithm, Skip> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let fitting: &[Algorithm] = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        ("EC", Some("P-256")) => &[ES256],
        ("EC", Some("P-384")) => &[ES384],
        ("OKP", Some("Ed25519")) => &[EdDSA],
        ("EC" | "OKP", _) => return Err(Skip::Curve),
        ("oct", _) => return Err(Skip::Symmetric),
        _ => return Err(Skip::KeyType),
    };
    let named = |alg: &str| fitting.iter().copied().find(|fitting| format!("{fitting:?}") == alg);
    match jwk.alg.as_deref() {
        // RFC 9864 calls it by the curve's name.
        Some("Ed25519") if fitting == [EdDSA] => Ok(EdDSA),
        Some(alg) => named(alg).ok_or(Skip::Algorithm),
        None => fitting.first().copied().ok_or(Skip::Algorithm),
    }
}

fn decoding<'a>(jwk: &'a Jwk, algorithm: Algorithm) -> Result<DecodingKey, Skip> {
    let number = |part: Option<&'a String>| part.ok_or(Skip::Numbers);
    let malformed = |_| Skip::Numbers;
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
                Err(Skip::RsaSize)
            };
        }
    };
    let fits = key.try_get_as_bytes().is_ok_and(|key| key.len() == bytes);
    if fits { Ok(key) } else { Err(Skip::Numbers) }
}

/// The length of an RSA modulus.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else { return None };
    let n = n.get(n.iter().position(|&byte| byte != 0)?..)?;
    Some(n.len() * 8 - n.first()?.leading_zeros() as usize)
}

#[cfg(test)]
mod tests;
