//! A bucket as an anchor, against a server that behaves as S3 does, or does not.

use std::collections::BTreeMap;
use std::time::Duration;

use gatepost::evidence::key::SigningKey;
use gatepost::notary::{AnchorClient as _, BucketAnchor, BucketSettings, Largest};

use crate::common::made_log::{Log, ORIGIN};
use crate::common::s3::{KEY_ID, REGION, SECRET, SharedBucket, serve_bucket};

async fn bucket(log: &Log, needs_lock: bool) -> (SharedBucket, BucketAnchor) {
    let (bucket, url) = serve_bucket().await;
    let settings = BucketSettings {
        url,
        region: REGION.to_owned(),
        key_id: KEY_ID.to_owned(),
        secret: SECRET.to_owned().into(),
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
    assert!(!format!("{anchor:?} {error}").contains(SECRET));
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
    // A server that lists the same object again is not asked for ever.
    bucket.lock().objects.remove(&key(5000));
    bucket.lock().forgets_place = true;
    let asked = tokio::time::timeout(Duration::from_secs(20), anchor.largest(ORIGIN)).await;
    let error = asked.expect("an answer").unwrap_err().to_string();
    assert!(error.contains("is not a checkpoint that this log signed"), "{error}");
}
