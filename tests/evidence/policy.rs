//! Trust policies: every rule of C2SP tlog-policy, and quorums of nested groups.

use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::policy::{CheckError, Policy};
use gatepost::evidence::tree::{TreeHead, empty_root};

const ORIGIN: &str = "example.com/log";

fn key(name: &str, signature_type: SignatureType) -> SigningKey {
    SigningKey::generate(name, signature_type).unwrap().0
}

/// A log, and six witnesses.
struct Keys {
    log: SigningKey,
    witnesses: Vec<SigningKey>,
}

impl Keys {
    fn new() -> Self {
        let witness = |idx| key(&format!("witness.example/{idx}"), SignatureType::CosignatureEd25519);
        Self { log: key(ORIGIN, SignatureType::Ed25519), witnesses: (0..6).map(witness).collect() }
    }

    /// The log and the witnesses W0 to W5, followed by `rules`.
    fn policy(&self, rules: &str) -> Result<Policy, String> {
        let witnesses = self.witnesses.iter().enumerate();
        let lines = witnesses.map(|(idx, key)| format!("witness W{idx} {}\n", key.verifier()));
        let witnesses = lines.collect::<Vec<_>>().concat();
        let text =
            format!("# A policy.\n\n  \t# Logs\nlog\t {}  https://x/\t\n{witnesses}{rules}", self.log.verifier());
        Policy::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    /// A checkpoint that the log and these witnesses signed, each at the time of its number plus one.
    fn note(&self, witnesses: &[usize]) -> Note {
        let text = Checkpoint::new(ORIGIN, TreeHead { size: 0, root: empty_root() }).unwrap().to_string();
        let time = |idx: usize| UnixTime::from_seconds(idx as u64 + 1).unwrap();
        let by_witness = witnesses.iter().map(|idx| sign(&self.witnesses[*idx], &text, time(*idx)).unwrap());
        let signatures = [sign(&self.log, &text, time(0)).unwrap()].into_iter().chain(by_witness).collect();
        Note::new(text, signatures).unwrap()
    }
}

#[test]
fn quorums_of_groups_are_met_by_enough_members() {
    let keys = Keys::new();
    let nested = "group X 2 W0 W1 W2\ngroup Y any W3 W4 W5\ngroup both all X Y\nquorum both\n";
    for (rules, witnesses, is_met) in [
        ("quorum none\n", &[][..], true),
        ("quorum W0\n", &[1, 2, 3, 4, 5], false),
        ("quorum W0\n", &[0], true),
        ("group all all W0 W1\nquorum all\n", &[0], false),
        ("group all all W0 W1\nquorum all\n", &[0, 1], true),
        (nested, &[0, 1], false),
        (nested, &[0, 3, 4, 5], false),
        (nested, &[0, 2, 4], true),
        (nested, &[0, 1, 2, 3, 4, 5], true),
        // The same signature twice is one witness.
        ("group X 2 W0 W1 W2\nquorum X\n", &[0, 0], false),
    ] {
        let policy = keys.policy(rules).unwrap();
        let checked = policy.check(&keys.note(witnesses)).unwrap();
        assert_eq!(checked.quorum_is_met, is_met, "{rules} {witnesses:?}");
        let mut seen: Vec<_> = witnesses.to_vec();
        seen.dedup();
        let names: Vec<_> = seen.iter().map(|idx| format!("W{idx}")).collect();
        assert_eq!(checked.witnesses.iter().map(|seen| seen.witness.name.clone()).collect::<Vec<_>>(), names);
        assert!(checked.witnesses.iter().zip(&seen).all(|(found, idx)| found.time.seconds() == *idx as u64 + 1));
        assert_eq!(checked.confirmed().is_ok(), is_met);
    }
}

#[test]
fn only_the_named_log_counts_and_both_of_its_keys_do() {
    let keys = Keys::new();
    let policy = keys.policy("quorum none\n").unwrap();
    let other = Keys { log: key("example.com/other", SignatureType::Ed25519), witnesses: Vec::new() };
    let text = Checkpoint::new("example.com/other", TreeHead { size: 0, root: empty_root() }).unwrap().to_string();
    let time = UnixTime::from_seconds(1).unwrap();
    let note = Note::new(text.clone(), vec![sign(&other.log, &text, time).unwrap()]).unwrap();
    assert_eq!(policy.check(&note), Err(CheckError::Origin { origin: "example.com/other".to_owned() }));
    // A checkpoint of one log, signed by another log of the policy.
    let both = keys.policy(&format!("log {}\nquorum none\n", other.log.verifier())).unwrap();
    let crossed = Note::new(text.clone(), vec![sign(&keys.log, &text, time).unwrap()]).unwrap();
    assert!(both.check(&crossed).is_err() && both.check(&note).is_ok());
    // While keys are rotated, a log has two lines.
    let second = key(ORIGIN, SignatureType::CosignatureMlDsa44);
    let rotated = keys.policy(&format!("log {}\nquorum none\n", second.verifier())).unwrap();
    let note = keys.note(&[]);
    assert_eq!(rotated.check(&note).unwrap().log_keys, [keys.log.verifier()]);
    let by_both = [note.signatures()[0].clone(), sign(&second, note.text(), time).unwrap()];
    let note = Note::new(note.text().to_owned(), by_both.to_vec()).unwrap();
    assert_eq!(rotated.check(&note).unwrap().log_keys, [keys.log.verifier(), second.verifier()]);
}

#[test]
fn every_wrong_line_has_its_own_error() {
    let keys = Keys::new();
    let (log, w0) = (keys.log.verifier().to_string(), keys.witnesses[0].verifier().to_string());
    let fresh = key("example.com/fresh", SignatureType::Ed25519).verifier().to_string();
    for (rules, error) in [
        ("", "line 11: there is no line for the quorum"),
        ("quorum W0", "line 11: the last line does not end"),
        ("quorum W0\nquorum W1\n", "line 12: there is already a quorum"),
        ("quorum W6\n", "line 11: W6 is not a witness or a group of an earlier line"),
        ("quorum w0\n", "w0 is not a witness"),
        ("quorum W0 W1\n", "the line must be: quorum NAME"),
        ("quorum G\ngroup G any W0\n", "G is not a witness or a group of an earlier line"),
        ("group G any W0\ngroup G any W1\n", "the name G is already used"),
        ("group none any W0\n", "the name none is already used"),
        ("group W1 any W0\n", "the name W1 is already used"),
        ("group G any G\n", "G is not a witness"),
        ("group G any none\n", "none is not a witness"),
        ("group G any W0 W0\n", "W0 is already a member of a group"),
        ("group G any W0\ngroup H any G W0\n", "W0 is already a member of a group"),
        ("group G any\n", "the line must be: group NAME"),
        ("group G\n", "the line must be: group NAME"),
        ("group G 0 W0\n", "the number 0 must be"),
        ("group G 3 W0 W1\n", "the number 3 must be"),
        ("group G +1 W0 W1\n", "the number +1 must be"),
        ("group G 99999999999999999999 W0\n", "the number 99999999999999999999 must be"),
        ("log\n", "the line must be: log KEY [URL]"),
        (&format!("log {log} https://x y\n"), "the line must be: log KEY [URL]"),
        (&format!("log {log}\n"), "the public key of example.com/log is on an earlier line too"),
        (&format!("witness W7 {w0}\n"), "the public key of W7 is on an earlier line too"),
        (&format!("witness W0 {}\n", key("x", SignatureType::CosignatureEd25519).verifier()), "W0 is already used"),
        (&format!("witness W7 {fresh}\n"), "witness W7: the key has type 0x01"),
        ("witness W7\n", "the line must be: witness NAME KEY [URL]"),
        ("log example.com/x+00000000+AQ==\n", "it has 0 bytes, and a key of its type has 32"),
        ("log PRIVATE+KEY+x+00000000+AQ==\n", "this is a secret key"),
        ("quorom none\n", "quorom is not known"),
        ("quorum none\r\n", "the control character 0x0d is not allowed"),
        ("# \u{7f}\nquorum none\n", "the control character 0x7f"),
    ] {
        let found = keys.policy(rules).unwrap_err();
        assert!(found.contains(error), "{rules:?}: {found}");
    }
    let own = format!("log {}\nwitness W {}\nquorum W\n", keys.witnesses[0].verifier(), keys.witnesses[0].verifier());
    let found = Policy::parse(own.as_bytes()).unwrap_err().to_string();
    assert!(
        found.contains("line 2: the public key of W is on an earlier line"),
        "a log is not its own witness: {found}"
    );
}

#[test]
fn names_are_bytes_and_comments_may_be_anything() {
    let keys = Keys::new();
    let mut text = "# \u{e4} \u{2014}\n# not UTF-8: ".as_bytes().to_vec();
    text.extend_from_slice(b"\xff\nwitness \xff\xfe ");
    text.extend(format!("{}\nquorum ", keys.witnesses[0].verifier()).bytes());
    let with_end = |end: &[u8]| [&text[..], end].concat();
    assert_eq!(Policy::parse(&with_end(b"\xff\xfe\n")).unwrap().witnesses().len(), 1);
    assert!(Policy::parse(&with_end(b"\xff\xfd\n")).is_err());
    assert_eq!(Policy::parse(b"\t quorum \t none \n").unwrap().logs().len(), 0);
}
