//! Time stamps, by `openssl ts` and against answers that an authority should not give.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gatepost::evidence::time_stamp::{Nonce, TimeStampError, Token};
use gatepost::notary::{TimeStampAnchor, TimeStampAnchorError};

use crate::common::tsa::Tsa;

const NOTE: &str = "example.com/gatepost/log\n1\nAAAA\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_one_that_openssl_verifies() {
    let tsa = Tsa::start().await;
    let anchor = TimeStampAnchor::new(&format!("{}/good", tsa.url), Duration::ZERO).unwrap();
    let token = anchor.stamp(NOTE, now()).await.unwrap();
    assert!(token.time.abs_diff(now()) < 60);
    assert!(tsa.verifies(&token.der, NOTE.as_bytes()));
    assert!(!tsa.verifies(&token.der, NOTE.replace('1', "2").as_bytes()));
    // What we do not verify, the verifier does: a token that another key signed.
    let other = Tsa::start().await;
    assert!(!other.verifies(&token.der, NOTE.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_that_is_no_time_stamp_has_its_own_error() {
    let tsa = Tsa::start().await;
    let stamp = async |path: &str, now: u64| {
        let anchor = TimeStampAnchor::new(&format!("{}/{path}", tsa.url), Duration::ZERO).unwrap();
        anchor.stamp(NOTE, now).await.unwrap_err().to_string()
    };
    for (path, wanted) in [
        ("expired", "was not valid at the time in the token: it ended"),
        ("refusing", "the authority refused (status 2, badAlg)"),
        ("other-hash", "the token is of other data"),
        ("other-nonce", "its nonce is another one"),
        ("no-certificate", "has no certificate that may sign time stamps"),
        ("down", "HTTP status 503"),
        ("page", "is not a time stamp (RFC 3161)"),
        ("long", "more than 65536 bytes"),
    ] {
        let found = stamp(path, now()).await;
        assert!(found.contains(wanted), "{path}: {found}");
    }
    for wrong in [now() + 400, now() - 400] {
        let found = stamp("good", wrong).await;
        assert!(found.contains("one of the clocks is wrong"), "{found}");
    }
    let nobody = TimeStampAnchor::new("http://127.0.0.1:1/secret", Duration::ZERO).unwrap();
    let error = nobody.stamp(NOTE, now()).await.unwrap_err();
    assert!(matches!(error, TimeStampAnchorError::Request(_)), "{error}");
    assert!(!format!("{error:?} {nobody:?}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_or_is_of_another_request_is_refused_and_none_panics() {
    let tsa = Tsa::start().await;
    let (nonce, hash) = (Nonce::new(7), [3; 32]);
    let request = reqwest::Client::new().post(format!("{}/good", tsa.url)).body(nonce.request(&hash));
    let answer = request.send().await.unwrap().bytes().await.unwrap().to_vec();
    let token = Token::parse(&answer, nonce, &hash).unwrap();
    for length in 0..answer.len() {
        assert!(Token::parse(&answer[..length], nonce, &hash).is_err(), "{length} bytes");
    }
    for (at, bit) in (0..answer.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut changed = answer.clone();
        changed[at] ^= 1 << bit;
        // What the token says of its signature is for the signature to show.
        if let Ok(other) = Token::parse(&changed, nonce, &hash) {
            assert!(other.der.len() == token.der.len() && changed.ends_with(&other.der), "byte {at}");
        }
    }
    assert_eq!(Token::parse(&answer, Nonce::new(8), &hash), Err(TimeStampError::Nonce));
    assert_eq!(Token::parse(&answer, nonce, &[4; 32]), Err(TimeStampError::Hash));
}
