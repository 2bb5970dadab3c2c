//! `gatepost outbox verify` and `gatepost audit verify` on the directory of a gateway without Postgres: nothing is ever
//! delivered from it, so whatever is missing was pruned or taken away.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::gatepost::Setup;
use crate::common::mcp::Era;
use serde_json::json;
use tempfile::TempDir;

/// A copy of the files in `dir`, without the lock and the socket.
fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "redb") {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn file(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("outbox-{number:06}.redb"))
}

/// The exit code and all output of a command on `dir`.
fn verify(setup: &Setup, command: &str, dir: &Path) -> (Option<i32>, String) {
    let output = setup.command(&[command, "verify", "--dir", dir.to_str().unwrap()]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

type Manipulate = fn(&Path, &Path);

/// The name, the manipulation of a directory (with an earlier copy of it), and what is found; nothing if the two
/// commands cannot see it without a file of heads.
const MANIPULATIONS: [(&str, Manipulate, Option<&str>); 9] = [
    (
        "a bit of a record flipped",
        |dir, _| {
            let mut bytes = fs::read(file(dir, 2)).unwrap();
            let places: Vec<_> =
                bytes.windows(9).enumerate().filter(|(_, it)| *it == b"flip this").map(|(at, _)| at).collect();
            assert!(!places.is_empty());
            for at in places {
                bytes[at] ^= 1;
            }
            fs::write(file(dir, 2), bytes).unwrap();
        },
        Some("outbox-000002.redb"),
    ),
    ("a middle file deleted", |dir, _| fs::remove_file(file(dir, 2)).unwrap(), Some("outbox-000002.redb is missing")),
    ("the oldest file deleted", |dir, _| fs::remove_file(file(dir, 1)).unwrap(), Some("the trail begins after 1/")),
    ("the newest file deleted", |dir, _| fs::remove_file(file(dir, 4)).unwrap(), None),
    (
        "the two newest files deleted",
        |dir, _| {
            fs::remove_file(file(dir, 4)).unwrap();
            fs::remove_file(file(dir, 3)).unwrap();
        },
        None,
    ),
    (
        "two files swapped",
        |dir, _| {
            fs::rename(file(dir, 1), dir.join("aside")).unwrap();
            fs::rename(file(dir, 2), file(dir, 1)).unwrap();
            fs::rename(dir.join("aside"), file(dir, 2)).unwrap();
        },
        Some("the file's epoch is 1, but the previous file's is 2"),
    ),
    (
        "an older copy of the newest file",
        |dir, early| {
            fs::copy(file(early, 4), file(dir, 4)).unwrap();
        },
        None,
    ),
    (
        "the newest file cut",
        |dir, _| {
            let length = fs::metadata(file(dir, 4)).unwrap().len();
            fs::File::options().write(true).open(file(dir, 4)).unwrap().set_len(length - 4096).unwrap();
        },
        Some("outbox-000004.redb"),
    ),
    (
        "all files but the newest deleted",
        |dir, _| {
            (1..4).for_each(|number| fs::remove_file(file(dir, number)).unwrap());
        },
        Some("the trail begins after 3/"),
    ),
];

#[tokio::test]
async fn manipulations_of_a_directory_are_faults_for_both_commands() {
    let setup = Setup::new();
    let mut early = None;
    for epoch in 1..=4 {
        let gatepost = setup.start();
        let client = gatepost.client(Era::Modern, "admin").await;
        for text in ["flip this", "and more"] {
            client.call("example__echo", json!({ "text": text })).await.unwrap();
        }
        if epoch == 4 {
            early = Some(copy(&setup.audit_dir()));
            client.call("example__echo", json!({ "text": "late" })).await.unwrap();
        }
        assert_eq!(gatepost.terminate(), Some(0));
    }
    let early = early.unwrap();
    let whole = copy(&setup.audit_dir());
    let (code, text) = verify(&setup, "outbox", whole.path());
    assert!(code == Some(0) && text.contains("no fault"), "{text}");
    assert_eq!(verify(&setup, "audit", whole.path()).0, Some(4));
    for (name, manipulate, found) in MANIPULATIONS {
        let dir = copy(whole.path());
        manipulate(dir.path(), early.path());
        let (of_outbox, of_audit) = (verify(&setup, "outbox", dir.path()), verify(&setup, "audit", dir.path()));
        match found {
            Some(found) => {
                assert!(of_outbox.0 == Some(1) && of_outbox.1.contains(found), "{name}: {of_outbox:?}");
                assert!(of_audit.0 == Some(1) && of_audit.1.contains(found), "{name}: {of_audit:?}");
            }
            None => assert_eq!((of_outbox.0, of_audit.0), (Some(0), Some(4)), "{name}: {of_outbox:?} {of_audit:?}"),
        }
    }
}
