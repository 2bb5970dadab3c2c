//! Policies, notes and records that Gatepost and the independent verifier must accept or refuse alike.

use std::path::{Path, PathBuf};
use std::process::Command;

use gatepost::audit::chain;
use gatepost::evidence::note::Note;
use gatepost::evidence::policy::{Checked, Policy};
use gatepost::ops::export_line::parse_export_line;
use serde_json::Value;

use crate::common::python::python_program;

/// Prints a line about each line of a file: nothing if the policy accepts the note, or if the record has its hash.
const VERIFIER: &str = "
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import gatepost_verify as verifier
for line in open(sys.argv[2], encoding='utf-8'):
    case = json.loads(line)
    try:
        if 'record' in case:
            verifier.record_hash(verifier.members(case['record'], verifier.NAMES | {'quarantined'}))
        else:
            policy = bytes.fromhex(case['policy']).decode(errors='surrogateescape')
            verifier.checkpoint(case['note'], verifier.parse_policy(policy))
        print()
    except Exception as error:
        print(ascii(f'refused: {error or type(error).__name__}'))
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/evidence").join(name)
}

/// The reason why Gatepost refuses the note by the policy.
fn refused_note(case: &Value) -> Option<String> {
    let policy = hex::decode(case["policy"].as_str().unwrap()).unwrap();
    let policy = match Policy::parse(&policy) {
        Ok(policy) => policy,
        Err(error) => return Some(error.to_string()),
    };
    let note = match Note::parse(case["note"].as_str().unwrap().as_bytes()) {
        Ok(note) => note,
        Err(error) => return Some(error.to_string()),
    };
    policy.check(&note).and_then(Checked::confirmed).err().map(|error| error.to_string())
}

/// The reason why Gatepost refuses a record.
fn refused_record(case: &Value) -> Option<String> {
    match parse_export_line(case["record"].as_str().unwrap()) {
        Ok(record) if chain::hash_matches(&record.position, &record.entry) => None,
        Ok(_) => Some("it has another hash".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Compares the judgements of all lines of a file.
fn judge(name: &str, refused: impl Fn(&Value) -> Option<String>) {
    let cases = std::fs::read_to_string(fixture(name)).unwrap();
    let mut command = Command::new(python_program("python"));
    command.arg("-c").arg(VERIFIER).arg(root().join("verify")).arg(fixture(name));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), cases.lines().count());
    let mut wrong = Vec::new();
    for (line, by_verifier) in cases.lines().zip(said.lines()) {
        let case: Value = serde_json::from_str(line).unwrap();
        let accepted = case["accepted"].as_bool().unwrap();
        let by_gatepost = refused(&case);
        if by_gatepost.is_none() != accepted || by_verifier.is_empty() != accepted {
            let what = &case["what"];
            wrong.push(format!("{what}: accepted {accepted}, Gatepost {by_gatepost:?}, verifier {by_verifier:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn gatepost_and_the_verifier_judge_policies_and_notes_alike() {
    judge("judged", refused_note);
}

#[test]
fn gatepost_and_the_verifier_judge_records_alike() {
    judge("records.judged", refused_record);
}

#[test]
fn the_verifier_reads_a_policy_that_is_not_utf_8() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy");
    let text = std::fs::read_to_string(fixture("policy")).unwrap();
    let named = |name: &[u8]| text.split("W1").map(str::as_bytes).collect::<Vec<_>>().join(name);
    std::fs::write(&policy, [b"# \xff\n", &named(b"W\xff")[..]].concat()).unwrap();
    let mut command = Command::new(python_program("python"));
    command.arg(root().join("verify/gatepost_verify.py")).arg(&policy).arg(fixture("certificate"));
    let output = command.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.contains("signed by the witness W\\udcff at 2026"), "{said}");
}
