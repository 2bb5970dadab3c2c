//! The notary's records of keys and checkpoints.

use std::sync::Arc;

use crate::audit::chain::Head;
use crate::audit::meter::Meter;
use crate::audit::record::DigestKey;
use crate::audit::ring::{Ring, RingLimits, WorkItem};
use crate::audit::{Audit, Timeouts};
use crate::evidence::key::SigningKey;
use crate::notary::POSTGRES;
use crate::notary::tests::{LOG, Running, Store, secret, tree};

#[tokio::test(start_paused = true)]
async fn nothing_is_signed_before_its_keys_are_on_record() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let wait = std::time::Duration::from_secs(1);
    let audit = || {
        let ring = Ring::new(RingLimits { records: 10, bytes: 1 << 20 }, Head::START);
        let (timeouts, key) = (Timeouts { admission: wait, store: wait }, DigestKey::from_bytes([1; 32]));
        (Arc::clone(&ring), Audit::enabled(ring, Arc::new(Meter::default()), false, timeouts, key))
    };
    let (_, full) = audit();
    let event = || crate::audit::record::Call::gateway_event("test", &serde_json::json!({}));
    while full.record_event(event()).await.is_ok() {}
    let running = Running::with(dir.path(), &store, tree(LOG, 5, 0), vec![secret()], full);
    let state = running.after(30).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("on record"), "{:?}", store.heads());
    assert!(running.end().await.signed.is_none());
    let (ring, audit) = audit();
    let running = Running::with(dir.path(), &store, tree(LOG, 5, 0), vec![secret()], audit);
    assert_eq!(running.after(11).await.signed.unwrap().size, 5);
    assert_eq!(events(&ring).pop().unwrap().0, "gateway/key");
    running.end().await;
}

/// The events in a ring: their method and their details.
fn events(ring: &Ring) -> Vec<(String, serde_json::Value)> {
    let items = ring.take(Some(std::time::Duration::ZERO)).items;
    let event = |item| {
        let WorkItem::End { record, .. } = item else { return None };
        let call = &record.entry().call;
        Some((call.method.to_string(), serde_json::from_str(call.request_args.as_deref()?).unwrap()))
    };
    items.into_iter().filter_map(event).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_and_checkpoints_are_on_record() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let ring = Ring::new(RingLimits { records: 100, bytes: 1 << 20 }, Head::START);
    let (wait, key) = (std::time::Duration::from_secs(1), DigestKey::from_bytes([1; 32]));
    let timeouts = Timeouts { admission: wait, store: wait };
    let audit = Audit::enabled(Arc::clone(&ring), Arc::new(Meter::default()), false, timeouts, key);
    let (one, two) = (secret(), secret());
    let start = |secrets: &[&zeroize::Zeroizing<String>], size| {
        let secrets = secrets.iter().map(|secret| (*secret).clone()).collect();
        Running::with(dir.path(), &store, tree(LOG, size, 0), secrets, audit.clone())
    };
    let running = start(&[&one], 5);
    running.after(1).await;
    let (method, details) = events(&ring).pop().unwrap();
    let name = "example.com/gatepost/00000000-0000-0000-0000-000000000007";
    let verifier = |secret| SigningKey::parse_named(secret, name).unwrap().verifier().to_string();
    assert_eq!((method.as_str(), &details["log"]), ("gateway/key", &serde_json::json!(1)));
    assert_eq!(details["keys"], serde_json::json!([verifier(&one)]));
    // Silence is on record too.
    running.after(595).await;
    assert_eq!(events(&ring), []);
    running.after(10).await;
    let [(method, details)] = <[_; 1]>::try_from(events(&ring)).unwrap();
    assert_eq!((method.as_str(), &details["size"]), ("gateway/checkpoint", &serde_json::json!(5)));
    assert_eq!(details["places"][POSTGRES]["size"], 5);
    assert_eq!(details["fault"], serde_json::Value::Null);
    let root = tree(LOG, 5, 0).root();
    assert_eq!(details["root"], base64::Engine::encode(&base64::prelude::BASE64_STANDARD, root.0));
    running.end().await;
    // The same keys are not recorded again; others are, and so is why nothing is signed.
    let running = start(&[&one], 6);
    running.after(11).await;
    running.end().await;
    assert_eq!(events(&ring), []);
    let running = start(&[&one, &two], 7);
    running.after(11).await;
    running.end().await;
    assert_eq!(events(&ring).pop().unwrap().1["keys"], serde_json::json!([verifier(&one), verifier(&two)]));
    let running = start(&[&two], 3);
    running.after(605).await;
    running.end().await;
    let [(_, details)] = <[_; 1]>::try_from(events(&ring)).unwrap();
    assert!(details["fault"].as_str().unwrap().contains("only 3 records") && details["size"] == 7, "{details}");
}
