//! Tests of the keys that are used of a set, and of their algorithms.

use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::jwks::*;
use crate::auth::tests::jwk;

const ALL: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn requirements() -> TokenRequirements {
    TokenRequirements { issuer: "i".to_owned(), leeway: Duration::ZERO }
}

fn changed(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn read(jwk: Value) -> Result<Algorithm, SkipReason> {
    key(jwk, &requirements(), &ALL, false).map(|key| key.algorithm)
}

fn set(keys: &[Value]) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &requirements(), &ALL)
}

fn rsa() -> Value {
    jwk(Algorithm::RS256, Some("r"))
}

fn ec() -> Value {
    jwk(Algorithm::ES256, Some("e"))
}

#[test]
fn the_alg_of_a_key_is_its_algorithm_if_it_matches_the_type() {
    assert_eq!(read(rsa()), Ok(Algorithm::RS256));
    for alg in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
        assert_eq!(read(changed(rsa(), "alg", alg.into())).map(|found| format!("{found:?}")), Ok(alg.to_owned()));
    }
    assert_eq!(read(ec()), Ok(Algorithm::ES256));
    assert_eq!(read(jwk(Algorithm::EdDSA, Some("d"))), Ok(Algorithm::EdDSA));
    assert_eq!(read(changed(jwk(Algorithm::EdDSA, Some("d")), "alg", "Ed25519".into())), Ok(Algorithm::EdDSA));
}

#[test]
fn a_key_without_alg_has_the_usual_algorithm_of_its_type() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        assert_eq!(read(changed(jwk(algorithm, Some("k")), "alg", Value::Null)), Ok(algorithm));
    }
}

#[test]
fn a_key_that_cannot_be_used_safely_is_skipped() {
    // 2047, 1024 and 8424 bits.
    let [nearly, short, long] =
        [("P", 341), ("_", 170), ("_", 1403)].map(|(first, rest)| first.to_owned() + &"A".repeat(rest));
    let cases = [
        (changed(rsa(), "use", "enc".into()), SkipReason::Use),
        (changed(rsa(), "key_ops", json!(["encrypt"])), SkipReason::Use),
        (changed(rsa(), "kty", "XYZ".into()), SkipReason::KeyType),
        (changed(rsa(), "kty", 7.into()), SkipReason::NotJwk),
        (json!("text"), SkipReason::NotJwk),
        (
            json!({ "kty": "oct", "kid": "o", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0" }),
            SkipReason::Symmetric,
        ),
        (changed(rsa(), "alg", "HS256".into()), SkipReason::Algorithm),
        (changed(rsa(), "alg", "ES256".into()), SkipReason::Algorithm),
        (changed(rsa(), "alg", "RSA-OAEP".into()), SkipReason::Algorithm),
        (changed(rsa(), "alg", "none".into()), SkipReason::Algorithm),
        (changed(ec(), "alg", "RS256".into()), SkipReason::Algorithm),
        (changed(ec(), "alg", "ES384".into()), SkipReason::Algorithm),
        (changed(ec(), "crv", "P-521".into()), SkipReason::Curve),
        (changed(ec(), "crv", "secp256k1".into()), SkipReason::Curve),
        (changed(ec(), "crv", Value::Null), SkipReason::Curve),
        (changed(ec(), "crv", "P-384".into()), SkipReason::Algorithm),
        (changed(changed(ec(), "crv", "P-384".into()), "alg", Value::Null), SkipReason::Numbers),
        (changed(ec(), "y", Value::Null), SkipReason::Numbers),
        (changed(ec(), "x", "!".into()), SkipReason::Numbers),
        (changed(ec(), "x", "AAAA".into()), SkipReason::Numbers),
        (changed(jwk(Algorithm::EdDSA, Some("d")), "crv", "X25519".into()), SkipReason::Curve),
        (changed(jwk(Algorithm::EdDSA, Some("d")), "x", "AAAA".into()), SkipReason::Numbers),
        (changed(rsa(), "n", nearly.into()), SkipReason::RsaSize),
        (changed(rsa(), "n", short.into()), SkipReason::RsaSize),
        (changed(rsa(), "n", long.into()), SkipReason::RsaSize),
        (changed(rsa(), "n", "".into()), SkipReason::RsaSize),
        (changed(rsa(), "e", Value::Null), SkipReason::Numbers),
        (changed(rsa(), "kid", Value::Null), SkipReason::NoKid),
        (changed(ec(), "d", "AAAA".into()), SkipReason::Private),
    ];
    for (jwk, wanted) in cases {
        assert_eq!(read(jwk.clone()), Err(wanted), "{jwk}");
    }
    let refused = key(rsa(), &requirements(), &[Algorithm::ES256], false).map(|key| key.algorithm);
    assert_eq!(refused, Err(SkipReason::NotAllowed));
    let verifies = changed(rsa(), "key_ops", json!(["verify"]));
    assert!(read(verifies).is_ok());
}

#[test]
fn an_unusable_key_does_not_make_the_set_unusable() {
    let set = set(&[json!(7), changed(rsa(), "use", "enc".into()), ec()]).unwrap();
    assert_eq!(set.named(Some("e")).len(), 1);
    assert!(set.named(Some("r")).is_empty());
}

#[test]
fn the_only_key_of_a_set_needs_no_kid() {
    let unnamed = changed(ec(), "kid", Value::Null);
    let only = set(std::slice::from_ref(&unnamed)).unwrap();
    assert_eq!((only.named(None).len(), only.named(Some("any")).len()), (1, 1));
    let named = set(&[ec()]).unwrap();
    assert_eq!((named.named(None).len(), named.named(Some("e")).len(), named.named(Some("x")).len()), (1, 1, 0));
    let two = set(&[ec(), rsa(), unnamed]).unwrap();
    assert_eq!((two.named(None).len(), two.named(Some("e")).len(), two.named(Some("r")).len()), (0, 1, 1));
}

#[test]
fn a_document_without_usable_keys_is_an_error() {
    let parse = |text: &str| KeySet::parse(text.as_bytes(), &requirements(), &ALL).unwrap_err();
    for text in ["", "[]", "{}", "<html>", "{\"keys\":{}}"] {
        assert!(matches!(parse(text), JwksError::Json(_)), "{text}");
    }
    assert!(matches!(parse("{\"keys\":[]}"), JwksError::Empty { count: 0 }));
    assert!(matches!(set(&[changed(ec(), "use", "enc".into())]).unwrap_err(), JwksError::Empty { count: 1 }));
    // I6: a set is bounded.
    assert!(matches!(parse(&" ".repeat(BYTES_MAX + 1)), JwksError::TooLarge));
    let many: Vec<Value> = (0..=KEYS_MAX).map(|idx| changed(ec(), "kid", idx.to_string().into())).collect();
    assert_eq!(set(&many).unwrap().keys.len(), KEYS_MAX);
}
