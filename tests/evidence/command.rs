//! `gatepost evidence` and `gatepost witness`, as an operator runs them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gatepost::evidence::key::{SigningKey, VerifierKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::made_log::Log;

/// Runs a command to its end: exit code, standard output, standard error.
fn gatepost(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gatepost")).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

/// Makes a key, and returns its file and its verifier key.
fn keygen(dir: &TempDir, key_type: &str) -> (String, String) {
    let file = path(dir, &format!("{key_type}.key"));
    let (code, printed, said) =
        gatepost(&["evidence", "keygen", "--name", "witness.example/w", "--out", &file, "--type", key_type]);
    assert_eq!((code, said.as_str()), (0, ""), "{said}");
    (file, printed.trim_end().to_owned())
}

#[test]
fn a_key_is_written_for_its_owner_alone_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    for (key_type, byte) in [("log", 1), ("witness", 4), ("ml-dsa-44", 6)] {
        let (file, printed) = keygen(&dir, key_type);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = fs::read_to_string(&file).unwrap();
        let key = SigningKey::parse(&secret).unwrap();
        assert_eq!(
            (key.verifier(), key.verifier().signature_type().byte()),
            (&VerifierKey::parse(&printed).unwrap(), byte)
        );
        let (code, printed, said) = gatepost(&["evidence", "keygen", "--name", "x", "--out", &file]);
        assert_eq!((code, printed.as_str()), (2, ""));
        assert!(said.contains("exists: a key is never replaced"), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), secret);
        let (code, shown, _) = gatepost(&["evidence", "show", &file]);
        assert_eq!(code, 0);
        // Base64 has plus signs of its own.
        let seed = secret.trim_end().splitn(5, '+').last().unwrap();
        assert!(shown.starts_with("signing key (secret) of ") && !shown.contains(seed), "{shown}");
    }
    let link = path(&dir, "link");
    symlink(path(&dir, "nowhere"), &link).unwrap();
    assert_eq!(gatepost(&["evidence", "keygen", "--name", "x", "--out", &link]).0, 2, "no link is followed");
    let (code, _, said) = gatepost(&["evidence", "keygen", "--name", "a b", "--out", &path(&dir, "new")]);
    assert!(code == 2 && said.contains("key name \"a b\""), "{said}");
    assert!(!Path::new(&path(&dir, "new")).exists());
}

#[test]
fn evidence_is_shown_in_plain_words() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evidence");
    let fixture = |name: &str| fixtures.join(name).to_str().unwrap().to_owned();
    let policy = fixture("policy");
    let show = |name: &str, more: &[&str]| gatepost(&[&["evidence", "show", &fixture(name)], more].concat());
    let (code, shown, _) = show("record4.tlog-proof", &["--policy", &policy]);
    assert_eq!(code, 0, "{shown}");
    for line in [
        "proof that a record is number 4 (from 0) of a log: 3 hashes",
        "checkpoint of the log example.com/gatepost/0d9c3fa6-94d1-4a05-a1a9-4e0d2b1c7f10: 7 records, root dfd16085a9cf",
        "signed by the log (key id 88547b7f)",
        "signed by the witness W1 (witness.example/w1) at 2026-11-28T23:53:20Z",
        "the witnesses suffice",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let (code, shown, _) = show("checkpoint", &[]);
    assert!(
        code == 0 && shown.contains("signed by witness.example/w2 (key id f0810786): not checked, give --policy"),
        "{shown}"
    );
    let (code, shown, _) = show("w1.vkey", &[]);
    assert!(
        code == 0 && shown.starts_with("verifier key of witness.example/w1\nid df1c0a35, signs checkpoints"),
        "{shown}"
    );
    // Each kind of refusal: not evidence, a policy that is not met, another policy.
    let dir = tempfile::tempdir().unwrap();
    let w2 = fs::read_to_string(fixture("w2.vkey")).unwrap();
    let log = fs::read_to_string(fixture("log.vkey")).unwrap();
    fs::write(path(&dir, "stricter"), format!("log {log}witness W2 {w2}quorum W2\n")).unwrap();
    let (code, shown, said) = show("record4.tlog-proof", &["--policy", &path(&dir, "stricter")]);
    assert!(code == 1 && shown.contains("signed by the log"), "{shown}");
    assert!(said.contains("is signed by 0 of the policy's witnesses, and they do not suffice"), "{said}");
    fs::write(path(&dir, "other"), "quorum none\n").unwrap();
    let (code, _, said) = show("checkpoint", &["--policy", &path(&dir, "other")]);
    assert!(code == 1 && said.contains("which the policy does not name"), "{said}");
    fs::write(path(&dir, "wrong"), "quorum W9\n").unwrap();
    let (code, _, said) = show("checkpoint", &["--policy", &path(&dir, "wrong")]);
    assert!(code == 2 && said.contains("policy line 1: W9 is not a witness"), "{said}");
    let (code, _, said) = show("vectors.py", &[]);
    assert!(code == 1 && said.contains("vectors.py"), "{said}");
}

/// A running witness. Dropping it kills it.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    /// Starts a witness and waits until it listens; the error is its output.
    fn start(args: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.args(["witness", "--listen", "127.0.0.1:0"]).args(args).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            said = format!("{said}{line}\n");
            line.split_once("listening witness=").map(|(_, url)| url.to_owned())
        });
        // The rest is read, so that the witness never waits for its reader.
        std::thread::spawn(move || lines.count());
        match url {
            Some(url) => Ok(Self { child, url }),
            None => Err(format!("{:?} {said}", child.wait().unwrap().code())),
        }
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn post(witness: &Process, body: String) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.post(format!("{}/add-checkpoint", witness.url)).body(body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_witness_keeps_its_state_when_it_is_killed() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let (key, _) = keygen(&dir, "witness");
    let (data, log_key) = (path(&dir, "data"), log.key.verifier().to_string());
    let args = ["--key", &key, "--dir", &data, "--log", &log_key];
    let refused = Process::start(&args).err().unwrap();
    assert!(refused.contains("is not the directory of a witness: if this witness never ran"), "{refused}");
    let witness = Process::start(&[&args[..], &["--create"]].concat()).unwrap();
    let request = |old, size| log.request(old, size).to_string();
    assert_eq!(post(&witness, request(0, 5)).await.0, 200);
    let second = Process::start(&args).err().unwrap();
    assert!(second.contains("is in use by another witness"), "{second}");
    witness.end(Signal::SIGKILL);
    let again = Process::start(&[&args[..], &["--create"]].concat()).err().unwrap();
    assert!(again.starts_with("Some(2)") && again.contains("start without --create"), "{again}");
    let witness = Process::start(&args).unwrap();
    assert_eq!(post(&witness, request(0, 5)).await, (409, "5\n".to_owned()));
    assert_eq!(post(&witness, request(5, 9)).await.0, 200);
    assert_eq!(witness.end(Signal::SIGTERM), Some(0));
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_witness_refuses_to_start_with_wrong_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let ((key, _), (log_key, log)) = (keygen(&dir, "witness"), keygen(&dir, "log"));
    let data = path(&dir, "data");
    let policy: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evidence/policy");
    let with = |key: &str, more: &[&str]| {
        Process::start(&[&["--key", key, "--dir", &data, "--create"], more].concat()).err().unwrap_or_default()
    };
    for (said, wanted) in [
        (with(&key, &[]), "there is no log to sign for"),
        (with(&log_key, &["--log", &log]), "log.key is the key of a log"),
        (with(&key, &["--log", "nonsense"]), "--log: \"nonsense\" is not a verifier key"),
        (with(&key, &["--log", &fs::read_to_string(&key).unwrap()]), "--log: this is a secret key"),
        (with(&path(&dir, "missing"), &["--log", &log]), "cannot be read"),
        (with(&key, &["--policy", &key]), "policy line 1: "),
    ] {
        assert!(said.starts_with("Some(2)") && said.contains(wanted), "{wanted:?} is not in {said}");
        assert!(!Path::new(&data).exists(), "{said}: nothing was made");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = with(&key, &["--log", &log]);
    assert!(said.starts_with("Some(2)") && said.contains("must have mode 0600"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let _started =
        Process::start(&["--key", &key, "--dir", &data, "--create", "--policy", policy.to_str().unwrap()]).unwrap();
}
