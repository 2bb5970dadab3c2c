//! The table of `docs/authorization.md`, row by row.

use std::path::Path;

use gatepost::config::Config;
use gatepost::rbac::{Access, Decision, DenialReason, Policy, Target, TargetKind};

const BACKENDS: &str = "[backends.wiki]\ncommand = [\"x\"]\n";

/// The texts between backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn i10_every_row_of_the_documentation_is_decided_as_written() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/authorization.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, example) = text.split_once("<!-- rules -->").unwrap();
    let (_, example) = example.split_once("```toml\n").unwrap();
    let (text, table) = example.split_once("```\n").unwrap();
    let config = Config::parse(&format!("{BACKENDS}{text}"), None, []).unwrap();
    let policy = Policy::new(&config.roles).unwrap().with_tools(&config.backends).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    for row in &rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" |").map(str::trim).collect();
        let [roles, what, arguments, outcome, by] = cells.as_slice() else { panic!("{row}") };
        let (roles, name, arguments) = (quoted(roles), quoted(what).remove(0), quoted(arguments).pop());
        let (backend, name) = name.split_once('/').unwrap();
        let kind = match what.split(' ').next().unwrap() {
            "tool" => TargetKind::Tool,
            "resource" => TargetKind::Resource,
            "prompt" => TargetKind::Prompt,
            other => panic!("{other}: {row}"),
        };
        let access = if *outcome == "listed" {
            Access::List
        } else {
            Access::Call { arguments: arguments.as_deref(), answers: None }
        };
        let decision = policy.decide(&roles, Target { kind, backend, name }, access);
        let got = match &decision {
            Decision::Allowed { role, .. } => ("allowed", (*role).to_owned()),
            Decision::Denied(DenialReason::NoRule) => ("denied", "no rule".to_owned()),
            Decision::Denied(DenialReason::Hidden { .. }) => ("denied", "hidden".to_owned()),
            Decision::Denied(DenialReason::Rule { role, .. }) => ("denied", format!("rule of {role}")),
            Decision::Denied(DenialReason::Condition { .. }) => ("denied", "condition".to_owned()),
        };
        assert_eq!(got, (outcome.replace("listed", "allowed").as_str(), (*by).to_owned()), "{row}");
    }
    assert!(rows.len() > 30, "the whole table was read");
}
