//! The client of witnesses, against the real witness and against answers that a witness should not give.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::connections::serve_router;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey, VerifierKey};
use gatepost::evidence::tree::Hash;
use gatepost::witness::client::{ClientError, Cosigned, SubmitError, WitnessClient};
use gatepost::witness::store::Store;
use gatepost::witness::{Witness, server};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::common::made_log::{Log, ORIGIN};

fn witness_key() -> SigningKey {
    SigningKey::generate("witness.example/w", SignatureType::CosignatureEd25519).unwrap().0
}

pub async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve_router(listener, router, 8, CancellationToken::new()));
    url
}

/// A real witness of these logs, and a client for it.
async fn real(logs: &[VerifierKey]) -> (TempDir, WitnessClient) {
    let (dir, key) = (tempfile::tempdir().unwrap(), witness_key());
    let verifier = key.verifier().clone();
    Store::create(&DiskFs, dir.path(), &[&verifier]).unwrap();
    let store = Store::open(Arc::new(DiskFs), dir.path(), &[&verifier]).unwrap();
    let url = serve(server::router(Arc::new(Witness::new(vec![key], logs.to_vec(), store)))).await;
    (dir, WitnessClient::new(&format!("{url}/"), vec![verifier]).unwrap())
}

/// Submits the checkpoint of `size`, and returns the sizes that a proof was made from too.
async fn submit(client: &WitnessClient, log: &Log, known: u64, size: u64) -> (Result<Cosigned, ClientError>, Vec<u64>) {
    let mut asked = Vec::new();
    let mut prove = |old: u64| {
        asked.push(old);
        std::future::ready(Ok::<Vec<Hash>, Infallible>(log.proof(old, size)))
    };
    let result = client.submit(&log.note(size), known, &mut prove).await.map_err(|error| match error {
        SubmitError::Witness(error) => error,
        SubmitError::Proof { .. } => unreachable!(),
    });
    (result, asked)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_checkpoint_is_signed_from_whatever_size_the_witness_knows() {
    let log = Log::new();
    let (_dir, client) = real(&[log.key.verifier().clone()]).await;
    assert!(client.last(ORIGIN, &[]).await.unwrap().is_none());
    for (known, size, asked) in [(0, 5, &[0][..]), (5, 9, &[5]), (0, 20, &[0, 9]), (7, 33, &[7, 20]), (40, 33, &[33])] {
        let (cosigned, proven) = submit(&client, &log, known, size).await;
        let cosigned = cosigned.unwrap();
        assert!(cosigned.time.seconds().abs_diff(now()) < 60 && cosigned.signatures.len() == 1);
        assert_eq!(proven, asked, "from {known} to {size}");
        let (note, checkpoint) = client.last(ORIGIN, &[]).await.unwrap().unwrap();
        assert_eq!((note.text(), checkpoint.size()), (log.note(size).text(), size));
    }
}

#[tokio::test]
async fn each_refusal_of_a_witness_has_its_own_error() {
    let log = Log::new();
    let (_dir, client) = real(&[log.key.verifier().clone()]).await;
    submit(&client, &log, 0, 9).await.0.unwrap();
    let (error, _) = submit(&client, &log, 0, 5).await;
    assert!(matches!(error, Err(ClientError::Ahead { known: 9, size: 5 })), "{error:?}");
    let forked = Log { salt: 1, key: SigningKey::parse(&log.secret).unwrap(), secret: log.secret.clone() };
    for size in [9, 12] {
        let (error, _) = submit(&client, &forked, 9, size).await;
        assert!(matches!(error, Err(ClientError::Contradiction { status: 422, .. })), "{error:?}");
    }
    let other = Log::new();
    let (error, _) = submit(&client, &other, 9, 12).await;
    assert!(matches!(error, Err(ClientError::UnknownKey { .. })), "{error:?}");
    let (_dir, stranger) = real(&[witness_key().verifier().clone()]).await;
    let (error, _) = submit(&stranger, &log, 0, 9).await;
    assert!(matches!(error, Err(ClientError::UnknownLog { ref origin, .. }) if origin == ORIGIN), "{error:?}");
    // The proof cannot be made.
    let failed = client.submit(&log.note(12), 9, &mut |_| std::future::ready(Err("a tile is missing"))).await;
    assert!(matches!(failed, Err(SubmitError::Proof { old_size: 9, source: "a tile is missing" })));
}

/// A witness that gives these answers, one after another.
async fn scripted(answers: Vec<(u16, &'static str, String)>) -> String {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let answer = move || {
        let (status, content_type, body) = answers.lock().pop_front().unwrap();
        let response = (StatusCode::from_u16(status).unwrap(), [("content-type", content_type)], body);
        std::future::ready(response)
    };
    serve(Router::new().route("/add-checkpoint", post(answer))).await
}

const TEXT: &str = "text/plain";
const SIZE: &str = "text/x.tlog.size";

#[tokio::test]
async fn an_answer_that_is_wrong_signs_nothing() {
    let (log, key) = (Log::new(), witness_key());
    let text = log.note(9).text().to_owned();
    let line = |key: &SigningKey, text: &str, time: u64| {
        format!("{}\n", sign(key, text, UnixTime::from_seconds(time).unwrap()).unwrap())
    };
    let (good, stranger) = (line(&key, &text, now()), witness_key());
    let by_stranger = line(&stranger, &text, now());
    let of_another = line(&key, log.note(8).text(), now());
    for (answers, wanted) in [
        (vec![(200, TEXT, String::new())], "is not signature lines"),
        (vec![(200, TEXT, "thanks\n".to_owned())], "is not signature lines: \"thanks\""),
        (vec![(200, TEXT, good.trim_end().to_owned())], "is not signature lines"),
        (vec![(200, TEXT, good.repeat(33))], "more than 32 signatures"),
        (vec![(200, TEXT, by_stranger.clone())], "is not signed by the witness"),
        (vec![(200, TEXT, format!("{by_stranger}{of_another}"))], "does not match"),
        (vec![(200, TEXT, line(&key, &text, now() - 1000))], "one of the clocks is wrong"),
        (vec![(200, TEXT, line(&key, &text, now() + 1000))], "one of the clocks is wrong"),
        (vec![(200, TEXT, "x".repeat(1 << 20))], "has more than 131072 bytes"),
        (vec![(409, SIZE, "7\n".to_owned()), (409, SIZE, "8\n".to_owned())], "first knew 7 records and then 8"),
        (vec![(409, SIZE, "5\n".to_owned())], "does not continue (409)"),
        (vec![(409, SIZE, "10\n".to_owned())], "signed a tree of 10 records, and this checkpoint has 9"),
        (vec![(409, SIZE, "07\n".to_owned())], "is not a size in decimal"),
        (vec![(409, SIZE, "7".to_owned())], "is not a size in decimal"),
        (vec![(409, TEXT, "7\n".to_owned())], "does not continue (409)"),
        (vec![(422, TEXT, "no\u{1b}[31m".to_owned())], r#"(422). It says: "no\u{1b}[31m""#),
        (vec![(400, TEXT, "what?\n".to_owned())], "HTTP status 400: \"what?\""),
        (vec![(500, TEXT, "disk\n".to_owned())], "HTTP status 500: \"disk\""),
        (vec![(301, TEXT, String::new())], "HTTP status 301"),
    ] {
        let url = scripted(answers).await;
        let client = WitnessClient::new(&url, vec![key.verifier().clone()]).unwrap();
        let error = submit(&client, &log, 5, 9).await.0.unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted:?} is not in {error}");
    }
    // Signatures of others beside its own are dropped.
    let url = scripted(vec![(200, TEXT, format!("{by_stranger}{good}"))]).await;
    let client = WitnessClient::new(&url, vec![key.verifier().clone()]).unwrap();
    let cosigned = submit(&client, &log, 5, 9).await.0.unwrap();
    assert_eq!(cosigned.signatures.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>(), [good]);
}

#[tokio::test]
async fn i8_a_witness_is_reached_by_tls_and_no_error_shows_its_url() {
    let (log, key) = (Log::new(), witness_key().verifier().clone());
    for url in ["http://witness.example/hunter2", "ftp://witness.example/hunter2", "hunter2"] {
        let error = WitnessClient::new(url, vec![key.clone()]).unwrap_err();
        assert!(
            matches!(error, ClientError::Url { .. }) && !format!("{error} {error:?}").contains("hunter2"),
            "{error}"
        );
    }
    let refused = WitnessClient::new("https://witness.example", vec![log.key.verifier().clone()]);
    assert!(matches!(refused, Err(ClientError::KeyType { .. })));
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = WitnessClient::new(&format!("http://{unused}/hunter2"), vec![key]).unwrap();
    let error = anyhow::Error::new(submit(&client, &log, 0, 1).await.0.unwrap_err());
    let shown = format!("{error:#} {error:?} {client:?}");
    assert!(shown.contains("no answer from the witness") && !shown.contains("hunter2"), "{shown}");
}
