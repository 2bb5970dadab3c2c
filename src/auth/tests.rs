//! Tests of accepted and, above all, of refused tokens.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use crate::auth::keys::KeyError;
use crate::auth::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn secret_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn key(algorithm: &str, kid: Option<&str>) -> config::Key {
    let public = algorithm != "HS256";
    config::Key {
        kid: kid.map(str::to_owned),
        algorithm: algorithm.to_owned(),
        issuer: "https://issuer.example".to_owned(),
        secret_file: None,
        secret_env: None,
        public_key_file: public.then(|| fixture(&format!("{}_public.pem", algorithm.to_lowercase()))),
    }
}

fn authenticator(keys: Vec<config::Key>, change: impl FnOnce(&mut config::Auth)) -> Authenticator {
    let mut auth = config::Auth { keys, ..config::Auth::default() };
    change(&mut auth);
    Authenticator::from_config(&auth).unwrap()
}

fn hs256(change: impl FnOnce(&mut config::Auth)) -> Authenticator {
    let file = secret_file(SECRET);
    let key = config::Key { secret_file: Some(file.path().to_owned()), ..key("HS256", None) };
    authenticator(vec![key], change)
}

/// The public key of a fixture, as an issuer publishes it.
pub(super) fn jwk(algorithm: Algorithm, kid: Option<&str>) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private_key(algorithm), algorithm).unwrap();
    jwk.common.key_id = kid.map(str::to_owned);
    serde_json::to_value(jwk).unwrap()
}

/// The private key of a fixture.
pub(super) fn private_key(algorithm: Algorithm) -> EncodingKey {
    let pem = |name: &str| std::fs::read(fixture(&format!("{name}_private.pem"))).unwrap();
    match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(&pem("es256")),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem("eddsa")),
        _ => EncodingKey::from_rsa_pem(&pem("rs256")),
    }
    .unwrap()
}

/// A token signed by a fixture.
pub(super) fn signed(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, &private_key(algorithm)).unwrap()
}

pub(super) fn claims() -> Value {
    json!({
        "sub": "ann", "iss": "https://issuer.example", "aud": "gatepost", "jti": "t1", "role": "admin",
        "exp": get_current_timestamp() + 600,
    })
}

pub(super) fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn sign(header: &Header, claims: &Value) -> String {
    encode(header, claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn token(claims: &Value) -> String {
    sign(&Header::new(Algorithm::HS256), claims)
}

pub(super) fn try_token(auth: &Authenticator, token: &str) -> Result<Principal, AuthError> {
    authenticate(auth, Some(format!("Bearer {token}").as_bytes()))
}

/// Authenticates without a runtime, because nothing waits when the keys are loaded.
fn authenticate(auth: &Authenticator, authorization: Option<&[u8]>) -> Result<Principal, AuthError> {
    ready(std::pin::pin!(auth.authenticate(authorization, None, &|_| false)))
}

fn ready<T>(future: Pin<&mut impl Future<Output = T>>) -> T {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("must not wait"),
    }
}

pub(super) fn refusal(auth: &Authenticator, token: &str) -> String {
    let error = try_token(auth, token).unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    assert!(!text.contains(token), "I8: an error must not contain the token");
    error.to_string()
}

#[test]
fn a_valid_token_identifies_its_caller() {
    let principal = try_token(&hs256(|_| {}), &token(&claims())).unwrap();
    assert_eq!(principal.subject, "ann");
    assert_eq!(principal.issuer, "https://issuer.example");
    assert_eq!(principal.token_id.as_deref(), Some("t1"));
    assert_eq!(principal.roles, ["admin"]);
}

#[test]
fn each_asymmetric_algorithm_verifies_with_its_public_key() {
    type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
    let cases: [(&str, Algorithm, FromPem); 3] = [
        ("RS256", Algorithm::RS256, EncodingKey::from_rsa_pem),
        ("ES256", Algorithm::ES256, EncodingKey::from_ec_pem),
        ("EdDSA", Algorithm::EdDSA, EncodingKey::from_ed_pem),
    ];
    for (name, algorithm, from_pem) in cases {
        let private = std::fs::read(fixture(&format!("{}_private.pem", name.to_lowercase()))).unwrap();
        let auth = authenticator(vec![key(name, None)], |_| {});
        let token = encode(&Header::new(algorithm), &claims(), &from_pem(&private).unwrap()).unwrap();
        assert!(try_token(&auth, &token).is_ok(), "{name}");
        let mut forged = token.into_bytes();
        let at = forged.iter().rposition(|&byte| byte == b'.').unwrap() + 5;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert!(try_token(&auth, &String::from_utf8(forged).unwrap()).is_err(), "{name}");
    }
}

#[test]
fn a_public_key_is_not_accepted_as_an_hs256_secret() {
    for name in ["RS256", "ES256", "EdDSA"] {
        let public = std::fs::read(key(name, None).public_key_file.unwrap()).unwrap();
        let forged = encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(&public)).unwrap();
        let auth = authenticator(vec![key(name, None)], |_| {});
        assert_eq!(refusal(&auth, &forged), "the token's algorithm does not match its key");
    }
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let auth = hs256(|_| {});
    let signed = token(&claims());
    let body = signed.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    for forged in [format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}."), format!("eyJhbGciOiJub25lIn0.{body}.")] {
        assert_eq!(refusal(&auth, &forged), "the token is not a JWT with a known algorithm");
    }
    let header = signed.split('.').next().unwrap();
    assert_eq!(refusal(&auth, &format!("{header}.{body}.")), "the token's signature is wrong");
}

#[test]
fn another_hmac_algorithm_with_the_same_secret_is_refused() {
    let token = encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(refusal(&hs256(|_| {}), &token), "the token's algorithm does not match its key");
}

#[test]
fn i8_each_claim_is_checked_and_no_error_contains_the_token() {
    let now = get_current_timestamp();
    let cases = [
        (with("exp", (now - 60).into()), "the token has expired"),
        (without("exp"), "the token has no exp"),
        (with("exp", json!("soon")), "the token has no exp"),
        (with("nbf", (now + 120).into()), "the token is not valid yet"),
        (with("nbf", json!("x")), "a claim of the token has the wrong type"),
        (with("aud", json!("other")), "the token is for another audience"),
        (with("aud", json!(["other"])), "the token is for another audience"),
        (without("aud"), "the token has no aud"),
        (with("iss", json!("https://other.example")), "the token is from another issuer"),
        (without("iss"), "the token has no iss"),
        (with("iss", json!(["https://issuer.example"])), "the token's iss is not a string"),
        (without("sub"), "the token has no sub"),
        (with("sub", json!("")), "the token's sub is missing or not a string"),
    ];
    let auth = hs256(|_| {});
    for (claims, want) in cases {
        assert_eq!(refusal(&auth, &token(&claims)), want, "{claims}");
    }
    for claims in [with("aud", json!(["x", "gatepost"])), with("exp", (now - 10).into()), with("nbf", now.into())] {
        assert!(try_token(&auth, &token(&claims)).is_ok(), "{claims}");
    }
}

#[test]
fn kid_selects_the_key() {
    let (one, two) = (secret_file(SECRET), secret_file(b"another secret of at least 32 bytes!"));
    let named = |kid, file: &tempfile::NamedTempFile| config::Key {
        secret_file: Some(file.path().to_owned()),
        ..key("HS256", Some(kid))
    };
    let auth = authenticator(vec![named("one", &one), named("two", &two)], |_| {});
    let with_kid = |kid: Option<&str>| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        sign(&header, &claims())
    };
    assert!(try_token(&auth, &with_kid(Some("one"))).is_ok());
    assert_eq!(refusal(&auth, &with_kid(Some("two"))), "the token's signature is wrong");
    assert_eq!(refusal(&auth, &with_kid(Some("three"))), "the token is signed by an unknown key");
    assert_eq!(refusal(&auth, &with_kid(None)), "the token is signed by an unknown key");
    assert_eq!(refusal(&hs256(|_| {}), &with_kid(Some("one"))), "the token is signed by an unknown key");
}

#[test]
fn i10_without_keys_every_token_is_refused() {
    let auth = authenticator(Vec::new(), |_| {});
    assert_eq!(refusal(&auth, &token(&claims())), "the token is from another issuer");
}

#[test]
fn only_the_typ_of_an_access_token_is_accepted() {
    let with_typ = |typ: Option<&str>| {
        let header = Header { typ: typ.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        sign(&header, &claims())
    };
    let good = ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"];
    for typ in good.into_iter().map(Some).chain([None]) {
        assert!(try_token(&hs256(|_| {}), &with_typ(typ)).is_ok(), "{typ:?}");
    }
    for typ in ["", "JWS", "id+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "application/", "text/jwt", "jwt "] {
        let refused = refusal(&hs256(|_| {}), &with_typ(Some(typ)));
        assert_eq!(refused, "the token's typ is neither JWT nor at+jwt", "{typ:?}");
    }
}

#[test]
fn the_leeway_is_configurable() {
    let now = get_current_timestamp();
    let (expired, early) = (with("exp", (now - 10).into()), with("nbf", (now + 10).into()));
    let strict = hs256(|auth| auth.leeway = Duration::ZERO);
    assert_eq!(refusal(&strict, &token(&expired)), "the token has expired");
    assert_eq!(refusal(&strict, &token(&early)), "the token is not valid yet");
    let lenient = hs256(|auth| auth.leeway = Duration::from_secs(20));
    assert!(try_token(&lenient, &token(&expired)).is_ok() && try_token(&lenient, &token(&early)).is_ok());
}

#[test]
fn a_key_does_not_verify_another_issuers_token() {
    let issued = |issuer: &str, algorithm| config::Key { issuer: issuer.to_owned(), ..key(algorithm, Some("k")) };
    let auth = authenticator(vec![issued("a", "ES256"), issued("b", "EdDSA")], |_| {});
    for (algorithm, own, other) in [(Algorithm::ES256, "a", "b"), (Algorithm::EdDSA, "b", "a")] {
        assert!(try_token(&auth, &signed(algorithm, Some("k"), &with("iss", own.into()))).is_ok());
        let refused = refusal(&auth, &signed(algorithm, Some("k"), &with("iss", other.into())));
        assert_eq!(refused, "the token's algorithm does not match its key");
    }
}

#[derive(Debug)]
struct Validity(bool);

impl certificate::Revalidate for Validity {
    fn is_valid(&self) -> bool {
        self.0
    }
}

#[test]
fn a_certificate_is_used_only_without_authorization() {
    let roles = BTreeMap::from([("spiffe://x/ci".to_owned(), vec!["dev".to_owned()])]);
    let auth = hs256(|auth| auth.certificates = roles);
    let certified = |subject: &str, authorization: Option<&str>| {
        let certificate = Arc::new(Certificate::new(subject, Arc::new(Validity(true))));
        let authenticated =
            std::pin::pin!(auth.authenticate(authorization.map(str::as_bytes), Some(&certificate), &|_| false));
        ready(authenticated)
    };
    let principal = certified("spiffe://x/ci", None).unwrap();
    assert_eq!((principal.subject.as_str(), principal.issuer.as_str()), ("spiffe://x/ci", "mtls"));
    assert_eq!(principal.roles, ["dev"]);
    // I10: a certificate that is not listed has no role.
    assert!(certified("spiffe://x/other", None).unwrap().roles.is_empty());
    let with_token = certified("spiffe://x/ci", Some(&format!("Bearer {}", token(&claims())))).unwrap();
    assert_eq!(with_token.subject, "ann", "a token takes precedence");
    assert!(certified("spiffe://x/ci", Some("Bearer x")).is_err(), "even an invalid one");
    let revoked = Arc::new(Certificate::new("spiffe://x/ci", Arc::new(Validity(false))));
    let refused = ready(std::pin::pin!(auth.authenticate(None, Some(&revoked), &|_| false)));
    assert!(matches!(refused, Err(AuthError::Certificate)), "{refused:?}");
}

#[test]
fn a_critical_extension_is_refused() {
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::HS256) };
    assert_eq!(
        refusal(&hs256(|_| {}), &sign(&header, &claims())),
        "the token requires an extension that is not supported"
    );
}

#[test]
fn roles_are_read_from_the_configured_claim() {
    let roles = |path: &str, claim: Value| {
        let auth = hs256(|auth| path.clone_into(&mut auth.role_claim));
        try_token(&auth, &token(&with("realm", claim))).unwrap().roles
    };
    assert_eq!(roles("realm.access", json!({ "access": ["a", "b", 7, ""] })), ["a", "b"]);
    assert_eq!(roles("realm", json!("a")), ["a"]);
    assert!(roles("realm.access", json!("a")).is_empty());
    assert!(roles("realm", json!({ "a": 1 })).is_empty());
    assert!(roles("missing", json!(1)).is_empty());
}

#[test]
fn a_required_scope_is_checked_and_its_lack_names_the_caller() {
    let auth = hs256(|auth| auth.required_scope = Some("mcp".to_owned()));
    assert!(try_token(&auth, &token(&with("scope", json!("openid mcp")))).is_ok());
    assert!(try_token(&auth, &token(&with("scp", json!(["mcp"])))).is_ok());
    for claims in [claims(), with("scope", json!("mcpx")), with("scope", json!(7))] {
        let error = try_token(&auth, &token(&claims)).unwrap_err();
        assert!(matches!(error, AuthError::Scope { principal, .. } if principal.subject == "ann"));
    }
}

#[test]
fn the_header_must_contain_one_bearer_token() {
    let auth = hs256(|_| {});
    assert!(matches!(authenticate(&auth, None), Err(AuthError::Missing)));
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer\ta.b.c"] {
        assert!(matches!(authenticate(&auth, Some(value.as_bytes())), Err(AuthError::NotBearer)), "{value}");
    }
    assert!(matches!(authenticate(&auth, Some(b"Bearer \xff")), Err(AuthError::NotBearer)));
    let lower = format!("bearer  {}", token(&claims()));
    assert!(authenticate(&auth, Some(lower.as_bytes())).is_ok());
    let long = format!("Bearer {}", "a".repeat(TOKEN_BYTES_MAX));
    assert!(matches!(authenticate(&auth, Some(long.as_bytes())), Err(AuthError::NotBearer)));
}

#[test]
fn minted_tokens_verify() {
    let minted = |roles: &[&str], path: &str| {
        let claims = Claims {
            subject: "dev".to_owned(),
            issuer: "https://issuer.example".to_owned(),
            audience: "gatepost".to_owned(),
            role_claim: path.to_owned(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            scope: Some("mcp".to_owned()),
            kid: None,
            valid_for: Duration::from_mins(1),
        };
        mint(SECRET, &claims).unwrap()
    };
    let auth = hs256(|auth| {
        auth.required_scope = Some("mcp".to_owned());
        "realm.roles".clone_into(&mut auth.role_claim);
    });
    assert_eq!(try_token(&auth, &minted(&["a"], "realm.roles")).unwrap().roles, ["a"]);
    assert_eq!(try_token(&auth, &minted(&["a", "b"], "realm.roles")).unwrap().roles, ["a", "b"]);
    assert!(matches!(mint(b"short", &minted_claims()), Err(MintError::Short { bytes: 5 })));
}

fn minted_claims() -> Claims {
    Claims {
        subject: String::new(),
        issuer: String::new(),
        audience: String::new(),
        role_claim: "role".to_owned(),
        roles: Vec::new(),
        scope: None,
        kid: None,
        valid_for: Duration::ZERO,
    }
}

#[test]
fn every_unusable_key_is_reported_with_its_setting() {
    let (short, pem) = (secret_file(b"short\n"), secret_file(&std::fs::read(fixture("rs256_public.pem")).unwrap()));
    let file = |file: &tempfile::NamedTempFile| Some(file.path().to_owned());
    let keys = vec![
        config::Key { algorithm: "none".to_owned(), ..key("HS256", None) },
        key("HS256", None),
        config::Key { secret_file: file(&short), ..key("HS256", None) },
        config::Key { secret_file: file(&pem), ..key("HS256", None) },
        config::Key { secret_file: Some(fixture("missing")), ..key("HS256", None) },
        config::Key { secret_env: Some("GATEPOST_TEST_NOT_SET".to_owned()), ..key("HS256", None) },
        config::Key { public_key_file: Some(fixture("rs256_private.pem")), ..key("RS256", None) },
        config::Key { public_key_file: Some(fixture("rs256_public.pem")), ..key("ES256", None) },
        config::Key { secret_file: file(&short), ..key("RS256", None) },
        config::Key { issuer: String::new(), ..key("RS256", None) },
    ];
    let count = keys.len();
    let errors = Authenticator::from_config(&config::Auth { keys, ..config::Auth::default() }).unwrap_err();
    let settings: Vec<String> = (0..count).map(|idx| format!("auth.keys[{idx}]")).collect();
    assert_eq!(errors.iter().map(|error| error.key.as_str()).collect::<Vec<_>>(), settings);
    let fits = |idx: usize, want: fn(&KeyError) -> bool| {
        assert!(matches!(&errors[idx].reason, LoadReason::Key(error) if want(error)), "{}", errors[idx]);
    };
    fits(0, |error| matches!(error, KeyError::Algorithm { .. }));
    fits(1, |error| matches!(error, KeyError::Source { .. }));
    fits(2, |error| matches!(error, KeyError::Short { bytes: 5, .. }));
    fits(3, |error| matches!(error, KeyError::PemAsSecret { .. }));
    fits(4, |error| matches!(error, KeyError::File(_)));
    fits(5, |error| matches!(error, KeyError::NotSet { .. }));
    fits(6, |error| matches!(error, KeyError::Private { .. }));
    fits(7, |error| matches!(error, KeyError::NotPem { .. }));
    fits(8, |error| matches!(error, KeyError::Source { .. }));
    fits(9, |error| matches!(error, KeyError::NoIssuer));
}

mod attacks {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_authorization_headers_are_refused(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let refused = authenticate(&hs256(|_| {}), Some(&value)).is_err();
            prop_assert!(refused);
        }
    }
}

#[test]
fn a_reload_withdraws_a_token_only_if_it_does_not_pass_or_gives_other_roles() {
    type Change = fn(&mut config::Auth);
    const ENDPOINT: &str = "https://gate.example/mcp";
    let listing = |audiences: &[&str]| audiences.iter().copied().map(str::to_owned).collect::<Vec<_>>();
    let mut claims = with("aud", json!([ENDPOINT, "gatepost"]));
    (claims["role"], claims["groups"], claims["fewer"]) = (json!(["a", "b"]), json!(["b", "a"]), json!(["a"]));
    let token = format!("Bearer {}", token(&claims));
    let caller = |auth: &Authenticator, endpoint: &str| {
        let is_endpoint = |aud: &str| aud == endpoint;
        ready(std::pin::pin!(auth.authenticate(Some(token.as_bytes()), None, &is_endpoint))).unwrap()
    };
    let cases: [(Change, Result<(), Withdrawal>); 6] = [
        (|auth| auth.role_claim = "groups".to_owned(), Ok(())),
        (|auth| auth.role_claim = "fewer".to_owned(), Err(Withdrawal::Roles)),
        (
            |auth| auth.role_map = [("b", "b"), ("a", "a")].map(|(x, y)| (x.to_owned(), vec![y.to_owned()])).into(),
            Ok(()),
        ),
        (|auth| auth.role_map = [("b".to_owned(), vec!["b".to_owned()])].into(), Err(Withdrawal::Roles)),
        (|auth| auth.required_scope = Some("mcp".to_owned()), Err(Withdrawal::Scope)),
        (|auth| auth.audiences = vec!["other".to_owned()], Ok(())),
    ];
    let old = hs256(|auth| auth.audiences = listing(&[ENDPOINT, "gatepost"]));
    let (at_endpoint, elsewhere) = (caller(&old, ENDPOINT), caller(&old, "https://gate.example/mcp/b"));
    for (idx, (change, expected)) in cases.into_iter().enumerate() {
        let new = hs256(|auth| {
            auth.audiences = listing(&[ENDPOINT, "gatepost"]);
            change(auth);
        });
        assert_eq!(new.check(&at_endpoint), expected, "{idx}");
    }
    // The URL of another endpoint is good only while it is listed.
    let unlisted = hs256(|auth| auth.audiences = listing(&["other"]));
    assert_eq!(unlisted.check(&elsewhere), Err(Withdrawal::Audience));
    // I8: what a token says about a person is not shown.
    assert!(!format!("{at_endpoint:?}").contains("fewer"));
}

#[test]
fn new_rules_accept_all_tokens_of_old_ones_unless_something_is_taken() {
    type Change = fn(&mut config::Auth);
    let issuer = |name: &str| config::Issuer {
        issuer: name.to_owned(),
        jwks_file: None,
        jwks_url: Some(format!("{name}/jwks")),
        jwks_ttl: Duration::from_mins(10),
        algorithms: vec!["ES256".to_owned(), "RS256".to_owned()],
        audiences: None,
        role_claim: None,
        name_claim: None,
        roles: None,
        role_prefix: None,
    };
    let with_all = |change: Change| {
        authenticator(vec![key("ES256", None), key("EdDSA", Some("k"))], |auth| {
            auth.issuers = vec![issuer("https://a.example"), issuer("https://b.example")];
            auth.audiences = vec!["one".to_owned(), "two".to_owned()];
            change(auth);
        })
    };
    let old = with_all(|_| ());
    let cases: [(Change, bool); 15] = [
        (|_| (), true),
        (|auth| auth.role_claim = "roles".to_owned(), true),
        (|auth| auth.issuers[0].roles = Some(Vec::new()), true),
        (|auth| auth.issuers[0].name_claim = Some("name".to_owned()), true),
        (|auth| auth.audiences.push("three".to_owned()), true),
        (|auth| auth.keys.push(key("RS256", Some("more"))), true),
        (|auth| auth.keys.reverse(), true),
        (|auth| auth.issuers.reverse(), true),
        (|auth| drop(auth.audiences.remove(0)), false),
        (|auth| auth.required_scope = Some("mcp".to_owned()), false),
        (|auth| drop(auth.keys.remove(0)), false),
        (|auth| auth.keys[0].kid = Some("other".to_owned()), false),
        (|auth| drop(auth.issuers.remove(0)), false),
        (|auth| auth.issuers[0].jwks_url = Some("https://a.example/other".to_owned()), false),
        (|auth| auth.issuers[0].algorithms.truncate(1), false),
    ];
    for (idx, (change, expected)) in cases.into_iter().enumerate() {
        assert_eq!(with_all(change).accepts_all_of(&old), expected, "{idx}");
    }
    let scoped = with_all(|auth| auth.required_scope = Some("mcp".to_owned()));
    assert!(scoped.accepts_all_of(&scoped) && old.accepts_all_of(&scoped));
}
