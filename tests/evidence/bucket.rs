//! A bucket as an anchor, against a server that behaves as S3 does, or does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use gatepost::evidence::key::SigningKey;
use gatepost::notary::{AnchorClient as _, BucketAnchor, BucketSettings, Largest};
use parking_lot::Mutex;

use crate::client::serve;
use crate::common::made_log::{Log, ORIGIN};

/// A bucket: its objects by key, and its habits.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    /// The value of the lock's mode, if objects are locked.
    lock: Option<&'static str>,
    requests: usize,
    status: Option<u16>,
}

type Shared = Arc<Mutex<Bucket>>;

async fn answer(State(bucket): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut bucket = bucket.lock();
    bucket.requests += 1;
    let authorization = headers["authorization"].to_str().unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=key-id/"), "{authorization}");
    if let Some(status) = bucket.status {
        return (StatusCode::from_u16(status).unwrap(), "<Code>AccessDenied</Code>").into_response();
    }
    let key = uri.path().strip_prefix("/checkpoints/").unwrap().to_owned();
    if method == Method::PUT {
        assert!(headers["if-none-match"] == "*" && headers.contains_key("x-amz-checksum-sha256"));
        if bucket.objects.contains_key(&key) {
            return StatusCode::PRECONDITION_FAILED.into_response();
        }
        bucket.objects.insert(key, body.to_vec());
        return StatusCode::OK.into_response();
    }
    if key.is_empty() {
        let url = url::Url::parse(&format!("http://x{uri}")).unwrap();
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let after = &query["start-after"];
        let mut found = bucket.objects.keys().filter(|key| *key > after && key.starts_with(&query["prefix"]));
        let found = found.next().map_or_else(String::new, |key| format!("<Contents><Key>{key}</Key></Contents>"));
        return format!("<?xml version=\"1.0\"?><ListBucketResult>{found}</ListBucketResult>").into_response();
    }
    let Some(object) = bucket.objects.get(&key) else { return StatusCode::NOT_FOUND.into_response() };
    let mut response = object.clone().into_response();
    if let Some(mode) = bucket.lock {
        response.headers_mut().insert("x-amz-object-lock-mode", mode.parse().unwrap());
        let until = "2126-01-01T00:00:00.000Z".parse().unwrap();
        response.headers_mut().insert("x-amz-object-lock-retain-until-date", until);
    }
    response
}

async fn bucket(log: &Log, needs_lock: bool) -> (Shared, BucketAnchor) {
    let bucket = Shared::default();
    bucket.lock().lock = Some("COMPLIANCE");
    let url = serve(Router::new().fallback(answer).with_state(Arc::clone(&bucket))).await;
    let settings = BucketSettings {
        url: format!("{url}/checkpoints/"),
        region: "eu-central-1".to_owned(),
        key_id: "key-id".to_owned(),
        secret: "hunter2".to_owned().into(),
        interval: Duration::ZERO,
        needs_lock,
        verifiers: vec![log.key.verifier().clone()],
    };
    (bucket, BucketAnchor::new(settings).unwrap())
}

fn key(size: u64) -> String {
    format!("{ORIGIN}/{size:020}.note")
}

#[tokio::test]
async fn a_checkpoint_is_created_once_and_kept_under_a_lock() {
    let log = Log::new();
    let (bucket, anchor) = bucket(&log, true).await;
    let proof = anchor.keep(&log.note(7).to_string()).await.unwrap();
    assert_eq!(proof, format!("{}\nCOMPLIANCE until 2126-01-01T00:00:00+00:00\n", key(7)).into_bytes());
    // Once more: it is there already, and is the same.
    assert_eq!(anchor.keep(&log.note(7).to_string()).await.unwrap(), proof);
    assert_eq!(bucket.lock().objects, BTreeMap::from([(key(7), log.note(7).to_string().into_bytes())]));
}

#[tokio::test]
async fn what_a_bucket_should_not_answer_has_its_own_error() {
    let log = Log::new();
    let (bucket, anchor) = bucket(&log, true).await;
    let keep = async |size| anchor.keep(&log.note(size).to_string()).await.unwrap_err().to_string();
    bucket.lock().lock = None;
    assert!(keep(7).await.contains("without a lock"));
    bucket.lock().status = Some(403);
    let error = keep(8).await;
    assert!(error.contains("HTTP status 403 to PutObject") && error.contains("AccessDenied"), "{error}");
    (bucket.lock().status, bucket.lock().lock) = (None, Some("GOVERNANCE"));
    // Any writer of the bucket could have put it there: it ends no log.
    bucket.lock().objects.insert(key(9), b"something".to_vec());
    assert!(keep(9).await.contains("is not a checkpoint that this log signed"));
    let stranger = Log::new();
    bucket.lock().objects.insert(key(10), stranger.note(10).to_string().into_bytes());
    assert!(keep(10).await.contains("is not a checkpoint that this log signed"));
    bucket.lock().objects.insert(key(11), log.note(7).to_string().into_bytes());
    assert!(keep(11).await.contains("is not a checkpoint that this log signed"));
    // Another history, signed by this log: two gateways have one key.
    let forked = Log { salt: 1, key: SigningKey::parse(&log.secret).unwrap(), secret: log.secret.clone() };
    bucket.lock().objects.insert(key(12), forked.note(12).to_string().into_bytes());
    let error = keep(12).await;
    assert!(error.contains("it has a tree of 12 records that this log does not have"), "{error}");
    assert!(!format!("{anchor:?} {error}").contains("hunter2"));
}

#[tokio::test]
async fn a_bucket_without_a_lock_counts_only_if_the_operator_says_so() {
    let log = Log::new();
    let (bucket, anchor) = bucket(&log, false).await;
    bucket.lock().lock = None;
    let proof = anchor.keep(&log.note(7).to_string()).await.unwrap();
    assert_eq!(proof, format!("{}\nnot locked\n", key(7)).into_bytes());
}

#[tokio::test]
async fn the_largest_checkpoint_is_found_in_a_few_requests() {
    let log = Log::new();
    let (bucket, anchor) = bucket(&log, true).await;
    assert_eq!(anchor.largest(ORIGIN).await.unwrap(), Largest::Nothing);
    for size in [1, 2, 3, 50, 51, 64, 1000, 1001, 1777] {
        let note = log.note(size).to_string().into_bytes();
        bucket.lock().objects.insert(key(size), note);
        // Objects of other logs are beside it.
        bucket.lock().objects.insert(format!("{ORIGIN}/3/{:020}.note", 9999), b"other".to_vec());
        bucket.lock().requests = 0;
        assert_eq!(anchor.largest(ORIGIN).await.unwrap(), Largest::Checkpoint(log.head(size)));
        assert!(bucket.lock().requests < 40, "{} requests", bucket.lock().requests);
    }
    bucket.lock().objects.insert(key(5000), b"something".to_vec());
    assert!(anchor.largest(ORIGIN).await.is_err(), "it is no answer");
}
