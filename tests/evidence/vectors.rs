//! The files in `tests/fixtures/evidence`, which another program made: read, verified, and changed in each byte.

use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SigningKey, VerifierKey};
use gatepost::evidence::note::{Note, NoteError};
use gatepost::evidence::policy::{CheckError, Policy};
use gatepost::evidence::proof::{LogProof, ProofError};

const ORIGIN: &str = "example.com/gatepost/0d9c3fa6-94d1-4a05-a1a9-4e0d2b1c7f10";
const TIME: u64 = 1_795_910_000;

const CHECKPOINT: &str = include_str!("../fixtures/evidence/checkpoint");
const PROOF: &str = include_str!("../fixtures/evidence/record4.tlog-proof");
const POLICY: &str = include_str!("../fixtures/evidence/policy");
const LOG: (&str, &str) = (include_str!("../fixtures/evidence/log.key"), include_str!("../fixtures/evidence/log.vkey"));
const W1: (&str, &str) = (include_str!("../fixtures/evidence/w1.key"), include_str!("../fixtures/evidence/w1.vkey"));
const W2: (&str, &str) = (include_str!("../fixtures/evidence/w2.key"), include_str!("../fixtures/evidence/w2.vkey"));

fn verifier((_, verifier): (&str, &str)) -> VerifierKey {
    VerifierKey::parse(verifier.trim_end()).unwrap()
}

fn time() -> UnixTime {
    UnixTime::from_seconds(TIME).unwrap()
}

/// SHA-256 of "record 4", the hash in leaf 4.
fn record_4() -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest("record 4").into()
}

#[test]
fn keys_are_read_and_printed() {
    for pair in [LOG, W1, W2] {
        let (secret, public) = pair;
        assert_eq!(format!("{}\n", verifier(pair)), public);
        let signing = SigningKey::parse(secret).unwrap();
        assert_eq!(signing.verifier(), &verifier(pair));
        let shown = format!("{signing:?}");
        assert!(
            secret.starts_with("PRIVATE+KEY+")
                && !shown.contains("PRIVATE")
                && shown.contains(signing.verifier().name())
        );
    }
}

#[test]
fn a_checkpoint_of_another_program_is_verified() {
    let note = Note::parse(CHECKPOINT.as_bytes()).unwrap();
    assert_eq!(note.to_string(), CHECKPOINT);
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!((checkpoint.origin(), checkpoint.size(), checkpoint.to_string().as_str()), (ORIGIN, 7, note.text()));
    let (log, w1, w2) = (verifier(LOG), verifier(W1), verifier(W2));
    let verified = note.verify([&w2, &log, &w1]).unwrap();
    let found: Vec<_> = verified.iter().map(|found| (found.key, found.time)).collect();
    assert_eq!(found, [(&log, None), (&w1, Some(time())), (&w2, Some(time()))]);
}

#[test]
fn the_same_signatures_are_made() {
    let note = Note::parse(CHECKPOINT.as_bytes()).unwrap();
    for (idx, pair) in [LOG, W1, W2].into_iter().enumerate() {
        let signature = sign(&SigningKey::parse(pair.0).unwrap(), note.text(), time()).unwrap();
        // ML-DSA-44 signs with random numbers; the others have one signature for a text.
        assert_eq!(signature == note.signatures()[idx], idx < 2);
        let own = Note::new(note.text().to_owned(), vec![signature]).unwrap();
        assert_eq!(own.verify([&verifier(pair)]).unwrap().len(), 1);
    }
}

#[test]
fn a_note_with_any_byte_changed_is_refused() {
    let (log, w1, w2) = (verifier(LOG), verifier(W1), verifier(W2));
    for at in 0..CHECKPOINT.len() {
        let mut bytes = CHECKPOINT.as_bytes().to_vec();
        bytes[at] ^= 1;
        // A signature whose name or id was changed is one of an unknown key, and ignored: the others still count.
        let verified = Note::parse(&bytes).and_then(|note| Ok(note.verify([&log, &w1, &w2])?.len()));
        assert!(!matches!(verified, Ok(3)), "byte {at}");
        let text_end = CHECKPOINT.find("\n\n").unwrap() + 1;
        assert!(at >= text_end || verified.is_err(), "byte {at} of the text");
    }
}

#[test]
fn a_key_with_any_byte_changed_is_refused_or_another_key() {
    for (secret, public) in [LOG, W1] {
        for at in 0..public.trim_end().len() {
            let mut bytes = public.trim_end().as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(VerifierKey::parse(str::from_utf8(&bytes).unwrap()).is_err(), "byte {at} of {public}");
        }
        for at in 0..secret.trim_end().len() {
            let mut bytes = secret.as_bytes().to_vec();
            bytes[at] ^= 1;
            let error = SigningKey::parse(str::from_utf8(&bytes).unwrap()).unwrap_err();
            assert!(!error.to_string().contains(&secret.trim_end()[secret.len() - 20..]), "{error}");
        }
        // The secret is not shown if it is given in place of the public half.
        let error = VerifierKey::parse(secret).unwrap_err().to_string();
        assert!(error.contains("secret key") && !error.contains(&secret.trim_end()[secret.len() - 20..]), "{error}");
    }
}

#[test]
fn a_proof_of_another_program_is_verified() {
    let policy = Policy::parse(POLICY.as_bytes()).unwrap();
    let proof = LogProof::parse(PROOF.as_bytes()).unwrap();
    assert_eq!((proof.index, proof.hashes.len(), proof.to_string().as_str()), (4, 3, PROOF));
    let checked = proof.verify(&record_4(), &policy).unwrap();
    assert_eq!((checked.checkpoint.size(), checked.witnesses[0].time), (7, time()));
    assert!(matches!(proof.verify(&[0; 32], &policy), Err(ProofError::NotIncluded { index: 4, .. })));
    let with_extra = LogProof { extra: Some(b"why".to_vec()), ..proof.clone() };
    assert_eq!(LogProof::parse(with_extra.to_string().as_bytes()), Ok(with_extra));
}

#[test]
fn a_proof_with_any_byte_changed_is_refused() {
    let policy = Policy::parse(POLICY.as_bytes()).unwrap();
    for at in 0..PROOF.len() {
        let mut bytes = PROOF.as_bytes().to_vec();
        bytes[at] ^= 1;
        let verified =
            LogProof::parse(&bytes).and_then(|proof| Ok(proof.verify(&record_4(), &policy)?.witnesses.len()));
        assert!(verified.is_err(), "byte {at}: {verified:?}");
    }
    for cut in 0..PROOF.len() {
        let verified =
            LogProof::parse(&PROOF.as_bytes()[..cut]).map(|proof| proof.verify(&record_4(), &policy).is_ok());
        assert!(!matches!(verified, Ok(true)), "cut to {cut}");
    }
}

#[test]
fn a_witness_without_the_log_proves_nothing() {
    let policy = Policy::parse(POLICY.as_bytes()).unwrap();
    let note = Note::parse(CHECKPOINT.as_bytes()).unwrap();
    let only = |idx: usize| Note::new(note.text().to_owned(), vec![note.signatures()[idx].clone()]).unwrap();
    assert_eq!(policy.check(&only(1)), Err(CheckError::Log { origin: ORIGIN.to_owned() }));
    assert!(matches!(policy.check(&only(2)), Err(CheckError::Note(NoteError::Unknown { keys: 2, .. }))));
    let unwitnessed = only(0);
    let checked = policy.check(&unwitnessed).unwrap();
    assert!(!checked.quorum_is_met && checked.witnesses.is_empty());
    assert_eq!(checked.confirmed(), Err(CheckError::Quorum { origin: ORIGIN.to_owned(), witnesses: 0 }));
}
