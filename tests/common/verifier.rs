//! The independent verifier, many certificates at once, and a log and a witness whose keys the test has.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use gatepost::audit::record::AuditRecord;
use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::{Edge, TreeHead};
use serde_json::json;

use super::python::python_program;

/// Checks each line of a file, `{"policy": ..., "certificate": ...}`, and prints a line about it.
const BATCH: &str = "
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import gatepost_verify as verifier
for line in open(sys.argv[2], encoding='utf-8', newline='\\n'):
    case = json.loads(line)
    try:
        said = verifier.prove_range(verifier.parse_policy(case['policy']), case['certificate'])[0]
    except Exception as error:
        said = f'not proven: {error or type(error).__name__}'
    print(said.replace('\\n', ' '))
";

/// What the verifier says of certificates, each with its policy, in one process.
pub fn verdicts(cases: &[(String, String)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cases");
    let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    for (policy, certificate) in cases {
        writeln!(file, "{}", json!({ "policy": policy, "certificate": certificate })).unwrap();
    }
    file.into_inner().unwrap();
    let mut command = Command::new(python_program("python"));
    command.arg("-c").arg(BATCH).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("verify")).arg(&path);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(said.len(), cases.len());
    said
}

/// A log and a witness.
pub struct Parties {
    pub log: SigningKey,
    pub witness: SigningKey,
}

impl Parties {
    pub fn new(origin: &str) -> Self {
        let key = |name, kind| SigningKey::generate(name, kind).unwrap().0;
        Self {
            log: key(origin, SignatureType::Ed25519),
            witness: key("witness.example/w1", SignatureType::CosignatureEd25519),
        }
    }

    /// The policy of those who trust the log's key, and need the witness.
    pub fn policy(&self) -> String {
        format!("log {}\nwitness w1 {}\nquorum w1\n", self.log.verifier(), self.witness.verifier())
    }

    /// The text of the checkpoint of a tree.
    pub fn text(&self, edge: &Edge) -> String {
        let head = TreeHead { size: edge.size(), root: edge.root() };
        Checkpoint::new(self.log.verifier().name(), head).unwrap().to_string()
    }

    /// The checkpoint of a tree, signed by both at this time.
    pub fn note(&self, edge: &Edge, seconds: u64) -> Note {
        let (text, time) = (self.text(edge), UnixTime::from_seconds(seconds).unwrap());
        let signatures = [&self.log, &self.witness].map(|key| sign(key, &text, time).unwrap());
        Note::new(text, signatures.to_vec()).unwrap()
    }

    /// The checkpoint of another tree: signed by a key of the log, with the signature of the witness on `note`.
    pub fn forged(&self, key: &SigningKey, edge: &Edge, note: &Note) -> Note {
        let text = self.text(edge);
        let own = sign(key, &text, UnixTime::from_seconds(1).unwrap()).unwrap();
        Note::new(text, vec![own, note.signatures()[1].clone()]).unwrap()
    }
}

/// The edge of the tree of these records.
pub fn edge<'a>(records: impl IntoIterator<Item = &'a AuditRecord>) -> Edge {
    let mut edge = Edge::default();
    records.into_iter().for_each(|record| edge.push(&record.position.hash.0, |_, _, _| {}).unwrap());
    edge
}
