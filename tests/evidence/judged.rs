//! Policies and notes that Gatepost and the independent verifier must accept or refuse alike.

use std::path::Path;
use std::process::Command;

use gatepost::evidence::note::Note;
use gatepost::evidence::policy::{Checked, Policy};
use serde_json::Value;

use crate::common::python::python_program;

const JUDGED: &str = include_str!("../fixtures/evidence/judged");

/// Prints a line about each line of a file: nothing if the policy accepts the note.
const VERIFIER: &str = "
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import gatepost_verify as verifier
for line in open(sys.argv[2], encoding='utf-8'):
    case = json.loads(line)
    try:
        verifier.checkpoint(case['note'], verifier.parse_policy(case['policy']))
        print()
    except Exception as error:
        print(ascii(f'refused: {error or type(error).__name__}'))
";

/// The reason why Gatepost refuses the note by the policy.
fn refusal(policy: &str, note: &str) -> Option<String> {
    let policy = match Policy::parse(policy.as_bytes()) {
        Ok(policy) => policy,
        Err(error) => return Some(error.to_string()),
    };
    let note = match Note::parse(note.as_bytes()) {
        Ok(note) => note,
        Err(error) => return Some(error.to_string()),
    };
    policy.check(&note).and_then(Checked::confirmed).err().map(|error| error.to_string())
}

#[test]
fn gatepost_and_the_verifier_judge_alike() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python_program("python"));
    command.arg("-c").arg(VERIFIER).arg(root.join("verify")).arg(root.join("tests/fixtures/evidence/judged"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), JUDGED.lines().count());
    let mut wrong = Vec::new();
    for (line, by_verifier) in JUDGED.lines().zip(said.lines()) {
        let case: Value = serde_json::from_str(line).unwrap();
        let [what, policy, note] = ["what", "policy", "note"].map(|name| case[name].as_str().unwrap());
        let accepted = case["accepted"].as_bool().unwrap();
        let by_gatepost = refusal(policy, note);
        if by_gatepost.is_none() != accepted || by_verifier.is_empty() != accepted {
            wrong.push(format!("{what}: accepted {accepted}, Gatepost {by_gatepost:?}, verifier {by_verifier:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
