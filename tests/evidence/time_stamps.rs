//! Time stamps, by `openssl ts` and against answers that an authority should not give.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gatepost::evidence::time_stamp::{Nonce, TimeStampError, Token};
use gatepost::evidence::time_stamp_roots::Roots;
use gatepost::notary::{TimeStampAnchor, TimeStampAnchorError};

use crate::common::tsa::Tsa;

const NOTE: &str = "example.com/gatepost/log\n1\nAAAA\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_one_that_openssl_verifies() {
    let tsa = Tsa::start().await;
    let anchor = TimeStampAnchor::new(&format!("{}/good", tsa.url), Duration::ZERO, None).unwrap();
    let token = anchor.stamp(NOTE, now()).await.unwrap();
    assert!(token.time.abs_diff(now()) < 60);
    assert!(tsa.verifies(&token.der, NOTE.as_bytes()));
    assert!(!tsa.verifies(&token.der, NOTE.replace('1', "2").as_bytes()));
    // A token that another key signed: openssl refuses it, and so does the anchor if it has a root.
    let other = Tsa::start().await;
    assert!(!other.verifies(&token.der, NOTE.as_bytes()));
    assert!(anchor.verify(NOTE, &token.der).unwrap_err().to_string().contains("root_file"));
    for (root, is_trusted) in [(&tsa, true), (&other, false)] {
        let roots = Roots::from_pem(&std::fs::read(root.root_file()).unwrap()).unwrap();
        let anchor = TimeStampAnchor::new(&format!("{}/good", tsa.url), Duration::ZERO, Some(roots)).unwrap();
        let checked = anchor.verify(NOTE, &token.der).map_err(|error| error.to_string());
        let stamped = anchor.stamp(NOTE, now()).await.map_err(|error| error.to_string());
        assert_eq!((checked.is_ok(), stamped.is_ok()), (is_trusted, is_trusted), "{checked:?} {stamped:?}");
        assert!(is_trusted || checked.unwrap_err().contains("that no certificate of root_file leads to"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_which_a_byte_was_changed_says_nothing_else() {
    let tsa = Tsa::start().await;
    let roots = Roots::from_pem(&std::fs::read(tsa.root_file()).unwrap()).unwrap();
    let anchor = TimeStampAnchor::new(&format!("{}/good", tsa.url), Duration::ZERO, None).unwrap();
    let token = anchor.stamp(NOTE, now()).await.unwrap();
    let hash: [u8; 32] =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, NOTE.as_bytes()).as_ref().try_into().unwrap();
    assert_eq!(roots.verify(&token.der, &hash), Ok(token.time));
    assert_eq!(roots.verify(&token.der, &[4; 32]), Err(TimeStampError::Hash));
    let position = |part: &[u8]| token.der.windows(part.len()).position(|bytes| bytes == part).unwrap();
    let attributes = position(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04]);
    // The hash of the note up to the time; the attribute with the hash of all this; the signature.
    let (begin, time, end) = (position(&hash), position(&[0x18, 0x0f]), token.der.len());
    let signed = [begin..time + 17, attributes..attributes + 45, end - 64..end];
    for at in 0..token.der.len() {
        assert!(roots.verify(&token.der[..at], &hash).is_err(), "{at} bytes");
        let mut changed = token.der.clone();
        changed[at] ^= 1;
        match roots.verify(&changed, &hash) {
            Ok(time) => assert_eq!(time, token.time, "byte {at}"),
            Err(_) => continue,
        }
        assert!(!signed.iter().any(|range| range.contains(&at)), "byte {at} is signed");
    }
    for at in [time + 14, end - 1] {
        let mut changed = token.der.clone();
        changed[at] ^= 1;
        let error = roots.verify(&changed, &hash).unwrap_err();
        assert!(matches!(error, TimeStampError::Signature { .. }), "byte {at}: {error}");
    }
    assert!(Roots::from_pem(b"").is_err() && Roots::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_that_is_no_time_stamp_has_its_own_error() {
    let tsa = Tsa::start().await;
    let stamp = async |path: &str, now: u64| {
        let anchor = TimeStampAnchor::new(&format!("{}/{path}", tsa.url), Duration::ZERO, None).unwrap();
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
    let nobody = TimeStampAnchor::new("http://127.0.0.1:1/secret", Duration::ZERO, None).unwrap();
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
