//! Tests of published keys: which tokens they verify, and when they are fetched. Time is paused and the network is a
//! fake.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::auth::fetch::FetchFuture;
use crate::auth::issuer::*;
use crate::auth::tests::{claims, jwk, private_key, signed, with};
use crate::auth::{AuthError, Authenticator, LoadError, Principal, Withdrawal};

const ISSUER: &str = "https://issuer.example";

/// A fake of the network: its response, and the number of fetches.
#[derive(Clone, Default)]
struct FakeFetch(Arc<Mutex<FakeResponse>>);

#[derive(Default)]
struct FakeResponse {
    document: Option<String>,
    delay: Duration,
    count: usize,
}

impl FakeFetch {
    fn with_keys(keys: &[Value]) -> Self {
        let fake = Self::default();
        fake.publish(keys);
        fake
    }

    fn publish(&self, keys: &[Value]) {
        self.respond(Some(&json!({ "keys": keys }).to_string()));
    }

    fn respond(&self, document: Option<&str>) {
        self.0.lock().document = document.map(str::to_owned);
    }

    fn delay(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    fn count(&self) -> usize {
        self.0.lock().count
    }
}

impl Fetch for FakeFetch {
    fn fetch<'a>(&'a self, _url: &'a Url) -> FetchFuture<'a> {
        Box::pin(async {
            let (document, delay) = {
                let mut response = self.0.lock();
                response.count += 1;
                (response.document.clone(), response.delay)
            };
            tokio::time::timeout(delay, std::future::pending::<()>()).await.ok();
            document.map(String::into_bytes).ok_or(FetchError::Status(503))
        })
    }
}

const TTL: Duration = Duration::from_mins(10);

fn published(name: &str, fake: &FakeFetch) -> Issuer {
    let url = Url::parse("https://issuer.example/jwks.json").unwrap();
    let requirements = TokenRequirements { issuer: name.to_owned(), leeway: Duration::from_secs(30) };
    let algorithms = vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let (first, fetch) = (FirstUrl::Keys(url), Box::new(fake.clone()));
    let set = FetchedKeySet::new(first, TTL, requirements, algorithms.clone(), fetch);
    Issuer {
        name: name.to_owned(),
        claim_rules: ClaimRules::new(&config::Auth::default()),
        audiences: vec!["gatepost".to_owned()],
        algorithms,
        place: Arc::new(KeysPlace { file: None, url: Some("https://issuer.example/jwks.json".to_owned()) }),
        source: Source::Fetched(Arc::new(set)),
    }
}

fn authenticator(issuers: Vec<Issuer>) -> Authenticator {
    Authenticator { published: issuers, ..Authenticator::from_config(&config::Auth::default()).unwrap() }
}

fn with_one(fake: &FakeFetch) -> Authenticator {
    authenticator(vec![published(ISSUER, fake)])
}

async fn authenticate(auth: &Authenticator, token: &str) -> Result<Principal, AuthError> {
    auth.authenticate(Some(format!("Bearer {token}").as_bytes()), None, &|_| false).await
}

async fn refusal(auth: &Authenticator, token: &str) -> String {
    let refused = authenticate(auth, token).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains(token), "I8: an error must not contain the token");
    refused.to_string()
}

fn es256(kid: &str) -> String {
    signed(Algorithm::ES256, Some(kid), &claims())
}

#[tokio::test(start_paused = true)]
async fn each_algorithm_verifies_with_its_published_key() {
    let algorithms = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let keys: Vec<Value> = algorithms.iter().map(|alg| jwk(*alg, Some(&format!("{alg:?}")))).collect();
    let fake = FakeFetch::with_keys(&keys);
    let auth = with_one(&fake);
    for algorithm in algorithms {
        let token = signed(algorithm, Some(&format!("{algorithm:?}")), &claims());
        let caller = authenticate(&auth, &token).await.unwrap();
        assert!(caller.subject == "ann" && caller.issuer == ISSUER && caller.roles == ["admin"]);
    }
    assert_eq!(fake.count(), 1);
    assert_eq!(auth.authorization_servers(), [ISSUER]);
}

#[tokio::test(start_paused = true)]
async fn a_published_key_is_not_accepted_as_an_hs256_secret() {
    let public = jwk(Algorithm::RS256, Some("k"));
    let auth = with_one(&FakeFetch::with_keys(std::slice::from_ref(&public)));
    let pem = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rs256_public.pem")).unwrap();
    for secret in [pem, public["n"].as_str().unwrap().into(), public.to_string().into_bytes()] {
        let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::HS256) };
        let forged = encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(refusal(&auth, &forged).await, "the token's algorithm does not match its key");
    }
    let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::RS512) };
    let other = encode(&header, &claims(), &private_key(Algorithm::RS256)).unwrap();
    assert_eq!(refusal(&auth, &other).await, "the token's algorithm does not match its key");
    let body = other.split('.').nth(1).unwrap();
    // {"alg":"none","kid":"k"}
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiayJ9.{body}.");
    assert_eq!(refusal(&auth, &none).await, "the token is not a JWT with a known algorithm");
}

#[tokio::test(start_paused = true)]
async fn a_key_does_not_verify_another_issuers_token() {
    let (one, two) = ("https://one.example", "https://two.example");
    let (first, second) = (
        FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("k"))]),
        FakeFetch::with_keys(&[jwk(Algorithm::EdDSA, Some("k"))]),
    );
    let auth = authenticator(vec![published(one, &first), published(two, &second)]);
    let token = |algorithm, issuer: &str| signed(algorithm, Some("k"), &with("iss", issuer.into()));
    for (algorithm, own, other) in [(Algorithm::ES256, one, two), (Algorithm::EdDSA, two, one)] {
        assert_eq!(authenticate(&auth, &token(algorithm, own)).await.unwrap().issuer, own);
        assert_eq!(refusal(&auth, &token(algorithm, other)).await, "the token's algorithm does not match its key");
    }
    let stranger = token(Algorithm::ES256, "https://three.example");
    assert_eq!(refusal(&auth, &stranger).await, "the token is from another issuer");
    assert_eq!((first.count(), second.count()), (1, 1), "a token of an unknown issuer causes no fetch");
}

#[tokio::test(start_paused = true)]
async fn the_first_tokens_wait_for_one_fetch() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("k"))]);
    fake.delay(Duration::from_secs(2));
    let auth = Arc::new(with_one(&fake));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let auth = Arc::clone(&auth);
        calls.spawn(async move { authenticate(&auth, &es256("k")).await.is_ok() });
    }
    assert!(calls.join_all().await.into_iter().all(|verified| verified));
    assert_eq!(fake.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn i6_unknown_kids_cause_few_fetches_and_then_one_in_ten_seconds() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("old"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    let forge = async || {
        for kid in 0..50 {
            assert!(authenticate(&auth, &es256(&kid.to_string())).await.is_err());
        }
    };
    forge().await;
    let early = usize::try_from(EARLY_FETCHES_MAX).unwrap();
    assert_eq!(fake.count(), 1 + early, "the first fetch was less than the interval ago");
    tokio::time::advance(FETCH_INTERVAL).await;
    forge().await;
    assert_eq!(fake.count(), 2 + early);
    // The issuer publishes its next key before it uses it: whatever was forged meanwhile, it is known by then.
    fake.publish(&[jwk(Algorithm::ES256, Some("old")), jwk(Algorithm::EdDSA, Some("new"))]);
    tokio::time::advance(FETCH_INTERVAL).await;
    assert_eq!(refusal(&auth, &es256("forged")).await, "the token is signed by an unknown key");
    assert!(authenticate(&auth, &signed(Algorithm::EdDSA, Some("new"), &claims())).await.is_ok());
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    assert_eq!(fake.count(), 3 + early);
    // After a quiet minute there are early fetches again, and not more than at first.
    tokio::time::advance(FETCH_INTERVAL * 6).await;
    forge().await;
    assert_eq!(fake.count(), 4 + 2 * early);
}

#[tokio::test(start_paused = true)]
async fn forged_kids_that_use_up_the_early_fetches_do_not_make_a_good_token_bad() {
    let (old, new) = (jwk(Algorithm::ES256, Some("old")), jwk(Algorithm::EdDSA, Some("new")));
    let fake = FakeFetch::with_keys(std::slice::from_ref(&old));
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    for kid in 0..EARLY_FETCHES_MAX {
        assert_eq!(refusal(&auth, &es256(&kid.to_string())).await, "the token is signed by an unknown key");
    }
    fake.publish(&[old, new]);
    let good = signed(Algorithm::EdDSA, Some("new"), &claims());
    tokio::time::advance(Duration::from_secs(3)).await;
    let refused = authenticate(&auth, &good).await.unwrap_err();
    let AuthError::Unavailable { retry_in } = refused else { panic!("{refused}") };
    assert_eq!(retry_in + Duration::from_secs(3), FETCH_INTERVAL);
    tokio::time::advance(retry_in).await;
    assert!(authenticate(&auth, &good).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_token_of_a_withdrawn_key_is_known_to_be_bad_after_one_interval() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::EdDSA, Some("new"))]);
    let auth = Arc::new(with_one(&fake));
    let tokens: Vec<String> = (0..100).map(|_| es256("withdrawn")).collect();
    let mut unavailable = 0;
    for token in &tokens {
        unavailable += usize::from(matches!(authenticate(&auth, token).await, Err(AuthError::Unavailable { .. })));
    }
    let (count, early) = (fake.count(), usize::try_from(EARLY_FETCHES_MAX).unwrap());
    assert_eq!((count, unavailable), (1 + early, tokens.len() - 1 - early));
    tokio::time::advance(FETCH_INTERVAL).await;
    fake.delay(Duration::from_secs(2));
    // All at once, so that they wait for one fetch.
    let mut calls = tokio::task::JoinSet::new();
    for token in tokens {
        let auth = Arc::clone(&auth);
        calls.spawn(async move { refusal(&auth, &token).await });
    }
    let refusals = calls.join_all().await;
    assert!(refusals.iter().all(|refusal| refusal == "the token is signed by an unknown key"), "{refusals:?}");
    assert_eq!(fake.count(), count + 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_used_right_after_another_fetch_is_found() {
    let new = || signed(Algorithm::EdDSA, Some("new"), &claims());
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("old"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    fake.publish(&[jwk(Algorithm::EdDSA, Some("new"))]);
    assert!(authenticate(&auth, &new()).await.is_ok());
    assert_eq!(fake.count(), 2);
    // Also if the fetch that was running has missed it.
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("old"))]);
    let auth = Arc::new(with_one(&fake));
    fake.delay(Duration::from_secs(2));
    let first = tokio::spawn({
        let auth = Arc::clone(&auth);
        async move { authenticate(&auth, &es256("old")).await.is_ok() }
    });
    tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.ok();
    fake.publish(&[jwk(Algorithm::EdDSA, Some("new"))]);
    assert!(authenticate(&auth, &new()).await.is_ok());
    assert!(first.await.unwrap() && fake.count() == 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_down_it_is_not_known_whether_an_unknown_key_is_good() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("old"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("old")).await.is_ok());
    fake.respond(None);
    let new = signed(Algorithm::EdDSA, Some("new"), &claims());
    for _ in 0..50 {
        assert!(matches!(authenticate(&auth, &new).await, Err(AuthError::Unavailable { .. })));
        assert!(authenticate(&auth, &es256("old")).await.is_ok());
    }
    assert_eq!(fake.count(), 2, "an issuer that is down is asked no more often than before");
    fake.publish(&[jwk(Algorithm::EdDSA, Some("new"))]);
    tokio::time::advance(FETCH_INTERVAL).await;
    assert!(authenticate(&auth, &new).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_old_key_set_is_refreshed_in_the_background() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("k"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
    tokio::time::advance(TTL).await;
    fake.delay(Duration::from_secs(3));
    fake.publish(&[jwk(Algorithm::EdDSA, Some("new"))]);
    let start = Instant::now();
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
    assert_eq!(start.elapsed(), Duration::ZERO, "no call waits while there are keys");
    // A token with the new key waits for the running fetch, after which the withdrawn key is refused.
    assert!(authenticate(&auth, &signed(Algorithm::EdDSA, Some("new"), &claims())).await.is_ok());
    assert_eq!(fake.count(), 2);
    assert_eq!(refusal(&auth, &es256("k")).await, "the token is signed by an unknown key");
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_while_the_issuer_is_down() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("k"))]);
    let auth = with_one(&fake);
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
    for document in [None, Some("<html>"), Some("{\"keys\":[]}")] {
        fake.respond(document);
        let before = fake.count();
        tokio::time::advance(TTL * 100).await;
        for _ in 0..20 {
            assert!(authenticate(&auth, &es256("k")).await.is_ok(), "{document:?}");
            tokio::task::yield_now().await;
        }
        assert_eq!(fake.count(), before + 1, "{document:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_fetched_keys_the_issuer_is_unavailable() {
    let fake = FakeFetch::default();
    let auth = with_one(&fake);
    for _ in 0..10 {
        assert!(matches!(authenticate(&auth, &es256("k")).await, Err(AuthError::Unavailable { .. })));
    }
    assert_eq!(fake.count(), 1);
    tokio::time::advance(FETCH_INTERVAL).await;
    fake.publish(&[jwk(Algorithm::ES256, Some("k"))]);
    assert!(authenticate(&auth, &es256("k")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_at_most_two_fetches() {
    let fake = FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("k"))]);
    fake.delay(Duration::from_hours(1));
    let auth = with_one(&fake);
    let start = Instant::now();
    assert!(matches!(authenticate(&auth, &es256("k")).await, Err(AuthError::Unavailable { .. })));
    assert!(start.elapsed() <= FETCH_TIMEOUT + Duration::from_millis(10));
    // The first one succeeds just in time and lacks the key.
    let auth = Arc::new(with_one(&fake));
    fake.delay(FETCH_TIMEOUT.saturating_sub(Duration::from_millis(10)));
    let first = tokio::spawn({
        let auth = Arc::clone(&auth);
        async move { authenticate(&auth, &es256("k")).await.is_ok() }
    });
    tokio::task::yield_now().await;
    fake.delay(Duration::from_hours(1));
    let start = Instant::now();
    assert!(matches!(authenticate(&auth, &es256("other")).await, Err(AuthError::Unavailable { .. })));
    assert!(first.await.unwrap());
    assert!((FETCH_TIMEOUT..=FETCH_TIMEOUT * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reload_fetches_only_the_keys_of_an_issuer_that_is_new_or_elsewhere() {
    let (old_fake, fake) = (FakeFetch::with_keys(&[jwk(Algorithm::ES256, Some("k"))]), FakeFetch::default());
    let old = with_one(&old_fake);
    let caller = authenticate(&old, &es256("k")).await.unwrap();
    let with_ttl = |issuer: &mut Issuer, ttl| {
        let Source::Fetched(set) = &mut issuer.source else { panic!("it is fetched") };
        Arc::get_mut(set).unwrap().ttl = ttl;
    };
    // Whatever else of the issuer differs, its keys are known, although it is down now.
    for ttl in [TTL, TTL * 2] {
        let mut issuer = published(ISSUER, &fake);
        issuer.audiences.push("other".to_owned());
        with_ttl(&mut issuer, ttl);
        let mut new = authenticator(vec![published("https://added.example", &fake), issuer]);
        new.replace(&old);
        assert!(authenticate(&new, &es256("k")).await.is_ok());
        assert_eq!((old_fake.count(), fake.count()), (1, 0));
        assert_eq!(new.check(&caller), Ok(()));
    }
    // Keys of another place are other keys, and the tokens that the old ones verified are not accepted.
    let mut elsewhere = published(ISSUER, &fake);
    elsewhere.place = Arc::new(KeysPlace { file: None, url: Some("https://other.example/jwks.json".to_owned()) });
    let mut new = authenticator(vec![elsewhere]);
    new.replace(&old);
    assert!(matches!(authenticate(&new, &es256("k")).await, Err(AuthError::Unavailable { .. })));
    assert_eq!(new.check(&caller), Err(Withdrawal::Key));
    // Algorithms that were taken from an issuer are not accepted in what was fetched before.
    let mut narrow = published(ISSUER, &fake);
    narrow.algorithms = vec![Algorithm::EdDSA];
    let set = FetchedKeySet::new(
        FirstUrl::Keys(Url::parse("https://issuer.example/jwks.json").unwrap()),
        TTL,
        TokenRequirements { issuer: ISSUER.to_owned(), leeway: Duration::ZERO },
        narrow.algorithms.clone(),
        Box::new(fake.clone()),
    );
    narrow.source = Source::Fetched(Arc::new(set));
    let mut new = authenticator(vec![narrow]);
    new.replace(&old);
    assert!(authenticate(&new, &es256("k")).await.is_err());
    assert_eq!(new.check(&caller), Err(Withdrawal::Key));
    assert_eq!(authenticator(Vec::new()).check(&caller), Err(Withdrawal::Issuer));
}

/// An issuer of the configuration with its key set in a file.
fn in_file(path: &std::path::Path) -> config::Issuer {
    config::Issuer {
        name_claim: None,
        roles: None,
        role_prefix: None,
        issuer: ISSUER.to_owned(),
        jwks_file: Some(path.to_owned()),
        jwks_url: None,
        jwks_ttl: TTL,
        algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
        audiences: None,
        role_claim: None,
    }
}

fn configured(issuers: Vec<config::Issuer>) -> Result<Authenticator, Vec<LoadError>> {
    Authenticator::from_config(&config::Auth { issuers, ..config::Auth::default() })
}

#[tokio::test(start_paused = true)]
async fn a_changed_key_set_file_is_reloaded_and_a_broken_one_is_ignored() {
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
async fn an_issuer_may_have_its_own_audience_and_role_claim() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": [jwk(Algorithm::ES256, Some("k"))] }).to_string()).unwrap();
    let own = config::Issuer {
        audiences: Some(vec!["other".to_owned()]),
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
fn every_unusable_issuer_is_reported_with_its_setting() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.json");
    std::fs::write(&empty, "{\"keys\":[]}").unwrap();
    let missing = dir.path().join("missing.json");
    let issuers = vec![
        in_file(&missing),
        in_file(&empty),
        config::Issuer { algorithms: vec!["HS256".to_owned()], ..in_file(&empty) },
        config::Issuer { jwks_file: None, issuer: "http://id.example".to_owned(), ..in_file(&empty) },
        config::Issuer { jwks_file: None, jwks_url: Some("nowhere".to_owned()), ..in_file(&empty) },
    ];
    let errors = configured(issuers).unwrap_err();
    let wanted = [
        "auth.issuers[0].jwks_file: \"",
        "auth.issuers[1].jwks_file: ",
        "auth.issuers[2].algorithms: algorithm \"HS256\" is not supported",
        "auth.issuers[3].issuer: its keys cannot be discovered",
        "auth.issuers[4].jwks_url: not a URL",
    ];
    assert_eq!(errors.len(), wanted.len());
    for (error, wanted) in errors.iter().zip(wanted) {
        assert!(error.to_string().starts_with(wanted), "{error}");
    }
}
