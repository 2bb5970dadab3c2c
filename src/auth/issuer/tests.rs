//! What issuers' keys verify, and when they are fetched. Time is paused; the network is a fake.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::auth::fetch::Fetching;
use crate::auth::issuer::*;
use crate::auth::tests::{claims, jwk, private_key, signed, with};
use crate::auth::{AuthError, Authenticator, LoadError, Principal};

const ISSUER: &str = "https://issuer.example";

/// An issuer to be fetched from: what it answers, and how often it was asked.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Answer>>);

#[derive(Default)]
struct Answer {
    document: Option<String>,
    takes: Duration,
    count: usize,
}

impl Fake {
    fn publishes(keys: &[Value]) -> Self {
        let fake = Self::default();
        fake.publish(keys);
        fake
    }

    fn publish(&self, keys: &[Value]) {
        self.answer(Some(&json!({ "keys": keys }).to_string()));
    }

    fn answer(&self, document: Option<&str>) {
        self.0.lock().unwrap().document = document.map(str::to_owned);
    }

    fn takes(&self, takes: Duration) {
        self.0.lock().unwrap().takes = takes;
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().count
    }
}

impl Fetch for Fake {
    fn fetch<'a>(&'a self, _url: &'a Url) -> Fetching<'a> {
        Box::pin(async {
            let (document, takes) = {
                let mut answer = self.0.lock().unwrap();
                answer.count += 1;
                (answer.document.clone(), answer.takes)
            };
            tokio::time::timeout(takes, std::future::pending::<()>()).await.ok();
            document.map(String::into_bytes).ok_or(FetchError::Status(503))
        })
    }
}

const TTL: Duration = Duration::from_mins(10);

fn published(name: &str, fake: &Fake) -> Issuer {
    let url = Url::parse("https://issuer.example/jwks.json").unwrap();
    let rules = Rules { issuer: name.to_owned(), audience: "gatepost".to_owned(), leeway: Duration::from_secs(30) };
    let allowed = vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let source = Source::Url(Remote::new(url, TTL, rules, allowed, Box::new(fake.clone())));
    Issuer { name: name.to_owned(), role_path: vec!["role".to_owned()], source }
}

fn authenticator(issuers: Vec<Issuer>) -> Authenticator {
    Authenticator { published: issuers, ..Authenticator::from_config(&config::Auth::default()).unwrap() }
}

fn with_one(fake: &Fake) -> Authenticator {
    authenticator(vec![published(ISSUER, fake)])
}

async fn authenticate(auth: &Authenticator, token: &str) -> Result<Principal, AuthError> {
    auth.authenticate(Some(format!("Bearer {token}").as_bytes()), None).await
}

async fn refusal(auth: &Authenticator, token: &str) -> String {
    let refused = authenticate(auth, token).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains(token), "I8: an error holds no token");
    refused.to_string()
}

fn es256(kid: &str) -> String {
    signed(Algorithm::ES256, Some(kid), &claims())
}

#[tokio::test(start_paused = true)]
async fn each_algorithm_verifies_with_its_published_key() {
    let algorithms = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let keys: Vec<Value> = algorithms.iter().map(|alg| jwk(*alg, Some(&format!("{alg:?}")))).collect();
    let (fake, principal) = (Fake::publishes(&keys), |subject: &str| subject == "ann");
    let auth = with_one(&fake);
    for algorithm in algorithms {
        let token = signed(algorithm, Some(&format!("{algorithm:?}")), &claims());
        let caller = authenticate(&auth, &token).await.unwrap();
        assert!(principal(&caller.subject) && caller.issuer == ISSUER && caller.roles == ["admin"]);
    }
    assert_eq!(fake.count(), 1);
    assert_eq!(auth.issuers(), [ISSUER]);
}

#[tokio::test(start_paused = true)]
async fn a_published_key_is_no_hs256_secret() {
    let public = jwk(Algorithm::RS256, Some("k"));
    let auth = with_one(&Fake::publishes(std::slice::from_ref(&public)));
    let pem = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rs256_public.pem")).unwrap();
    for secret in [pem, public["n"].as_str().unwrap().into(), public.to_string().into_bytes()] {
        let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::HS256) };
        let forged = encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(refusal(&auth, &forged).await, "the token's algorithm is not its key's");
    }
    let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::RS512) };
    let other = encode(&header, &claims(), &private_key(Algorithm::RS256)).unwrap();
    assert_eq!(refusal(&auth, &other).await, "the token's algorithm is not its key's");
    let body = other.split('.').nth(1).unwrap();
    // {"alg":"none","kid":"k"}
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiayJ9.{body}.");
    assert_eq!(refusal(&auth, &none).await, "the token is no JWT of a known algorithm");
}

#[tokio::test(start_paused = true)]
async fn a_key_of_one_issuer_verifies_no_token_of_another() {
    let (one, two) = ("https://one.example", "https://two.example");
    let (first, second) =
        (Fake::publishes(&[jwk(Algorithm::ES256, Some("k"))]), Fake::publishes(&[jwk(Algorithm::EdDSA, Some("k"))]));
    let auth = authenticator(vec![published(one, &first), published(two, &second)]);
    let token = |algorithm, issuer: &str| signed(algorithm, Some("k"), &with("iss", issuer.into()));
    for (algorithm, own, other) in [(Algorithm::ES256, one, two), (Algorithm::EdDSA, two, one)] {
        assert_eq!(authenticate(&auth, &token(algorithm, own)).await.unwrap().issuer, own);
        assert_eq!(refusal(&auth, &token(algorithm, other)).await, "the token's algorithm is not its key's");
    }
    let stranger = token(Algorithm::ES256, "https://three.example");
    assert_eq!(refusal(&auth, &stranger).await, "the token is from another issuer");
    assert_eq!((first.count(), second.count()), (1, 1), "a stranger's token makes nobody fetch");
}

#[tokio::test(start_paused = true)]
async fn the_first_tokens_wait_for_one_fetch() {
    let fake = Fake::publishes(&[jwk(Algorithm::ES256, Some("k"))]);
    fake.takes(Duration::from_secs(2));
    let auth = Arc::new(with_one(&fake));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let auth = Arc::clone(&auth);
        asking.spawn(async move { authenticate(&auth, &es256("k")).await.is_ok() });
    }
    assert!(asking.join_all().await.into_iter().all(|verified| verified));
    assert_eq!(fake.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_kids_cause_one_fetch_in_ten_seconds() {
    let fake = Fake::publishes(&[jwk(Algorithm::ES256, Some("old"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    for kid in 0..50 {
        assert_eq!(refusal(&auth, &es256(&kid.to_string())).await, "the token is signed by an unknown key");
    }
    assert_eq!(fake.count(), 1, "the first fetch is fresh");
    tokio::time::advance(FETCH_EVERY).await;
    for kid in 0..50 {
        assert_eq!(refusal(&auth, &es256(&kid.to_string())).await, "the token is signed by an unknown key");
    }
    assert_eq!(fake.count(), 2);
    // The issuer rotates: its new key is found at the first token that names it.
    tokio::time::advance(FETCH_EVERY).await;
    fake.publish(&[jwk(Algorithm::ES256, Some("old")), jwk(Algorithm::EdDSA, Some("new"))]);
    assert!(authenticate(&auth, &signed(Algorithm::EdDSA, Some("new"), &claims())).await.is_ok());
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    assert_eq!(fake.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_old_set_is_refreshed_beside_the_calls() {
    let fake = Fake::publishes(&[jwk(Algorithm::ES256, Some("k"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
    tokio::time::advance(TTL).await;
    fake.takes(Duration::from_secs(3));
    fake.publish(&[jwk(Algorithm::EdDSA, Some("new"))]);
    let asked = Instant::now();
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waits while there are keys");
    // A token of the new key waits for the fetch that runs, and the withdrawn key is gone after it.
    assert!(authenticate(&auth, &signed(Algorithm::EdDSA, Some("new"), &claims())).await.is_ok());
    assert_eq!(fake.count(), 2);
    assert_eq!(refusal(&auth, &es256("k")).await, "the token is signed by an unknown key");
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_while_the_issuer_is_down() {
    let fake = Fake::publishes(&[jwk(Algorithm::ES256, Some("k"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
    for answer in [None, Some("<html>"), Some("{\"keys\":[]}")] {
        fake.answer(answer);
        let before = fake.count();
        tokio::time::advance(TTL * 100).await;
        for _ in 0..20 {
            assert!(authenticate(&auth, &es256("k")).await.is_ok(), "{answer:?}");
            tokio::task::yield_now().await;
        }
        assert_eq!(fake.count(), before + 1, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_was_never_there_is_said_to_be_away() {
    let fake = Fake::default();
    let auth = with_one(&fake);
    for _ in 0..10 {
        assert!(matches!(authenticate(&auth, &es256("k")).await, Err(AuthError::Unavailable)));
    }
    assert_eq!(fake.count(), 1);
    tokio::time::advance(FETCH_EVERY).await;
    fake.publish(&[jwk(Algorithm::ES256, Some("k"))]);
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit() {
    let fake = Fake::publishes(&[jwk(Algorithm::ES256, Some("k"))]);
    fake.takes(Duration::from_hours(1));
    let auth = with_one(&fake);
    let asked = Instant::now();
    assert!(matches!(authenticate(&auth, &es256("k")).await, Err(AuthError::Unavailable)));
    assert!(asked.elapsed() <= FETCH_TIMEOUT + Duration::from_millis(10));
}

/// An issuer of the configuration, whose set is in a file.
fn in_file(path: &std::path::Path) -> config::Issuer {
    config::Issuer {
        issuer: ISSUER.to_owned(),
        jwks_file: Some(path.to_owned()),
        jwks_url: None,
        jwks_ttl: TTL,
        algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
        audience: None,
        role_claim: None,
    }
}

fn configured(issuers: Vec<config::Issuer>) -> Result<Authenticator, Vec<LoadError>> {
    Authenticator::from_config(&config::Auth { issuers, ..config::Auth::default() })
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_when_it_changes_and_kept_when_it_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |keys: &[Value]| std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    write(&[jwk(Algorithm::ES256, Some("old"))]);
    let auth = configured(vec![in_file(&path)]).unwrap();
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    let new = signed(Algorithm::EdDSA, Some("new"), &claims());
    write(&[jwk(Algorithm::EdDSA, Some("new")), jwk(Algorithm::ES256, Some("old"))]);
    assert_eq!(refusal(&auth, &new).await, "the token is signed by an unknown key");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(authenticate(&auth, &new).await.is_ok());
    for broken in ["", "{\"keys\":[", "{\"keys\":[]}"] {
        std::fs::write(&path, broken).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(authenticate(&auth, &new).await.is_ok(), "{broken:?}");
    }
    std::fs::remove_file(&path).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(authenticate(&auth, &new).await.is_ok());
    write(&[jwk(Algorithm::ES256, Some("old"))]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(refusal(&auth, &new).await, "the token is signed by an unknown key");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_has_an_audience_and_a_role_claim_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": [jwk(Algorithm::ES256, Some("k"))] }).to_string()).unwrap();
    let own = config::Issuer {
        audience: Some("other".to_owned()),
        role_claim: Some("realm.roles".to_owned()),
        ..in_file(&path)
    };
    let auth = configured(vec![own]).unwrap();
    assert_eq!(refusal(&auth, &es256("k")).await, "the token is for another audience");
    let mut claims = with("aud", "other".into());
    claims["realm"] = json!({ "roles": ["a", "b"] });
    let caller = authenticate(&auth, &signed(Algorithm::ES256, Some("k"), &claims)).await.unwrap();
    assert_eq!(caller.roles, ["a", "b"]);
}

#[test]
fn every_unusable_issuer_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.json");
    std::fs::write(&empty, "{\"keys\":[]}").unwrap();
    let missing = dir.path().join("missing.json");
    let issuers = vec![
        in_file(&missing),
        in_file(&empty),
        config::Issuer { algorithms: vec!["HS256".to_owned()], ..in_file(&empty) },
        config::Issuer { jwks_file: None, ..in_file(&empty) },
        config::Issuer { jwks_file: None, jwks_url: Some("nowhere".to_owned()), ..in_file(&empty) },
    ];
    let errors = configured(issuers).unwrap_err();
    let wanted = [
        "auth.issuers[0].jwks_file: cannot read ",
        "auth.issuers[1].jwks_file: ",
        "auth.issuers[2].algorithms: algorithm \"HS256\" is not supported",
        "auth.issuers[3]: it needs jwks_file or jwks_url",
        "auth.issuers[4].jwks_url: \"nowhere\" is no URL",
    ];
    assert_eq!(errors.len(), wanted.len());
    for (error, wanted) in errors.iter().zip(wanted) {
        assert!(error.to_string().starts_with(wanted), "{error}");
    }
}
