//! `deny.toml` against the dependencies as they are locked, without `cargo-deny`: every license is allowed, every
//! allowed license is needed, every exception says why, what comes after, and when to look again.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn deny() -> toml::Table {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    std::fs::read_to_string(file).unwrap().parse().unwrap()
}

fn allowed(deny: &toml::Table) -> BTreeSet<String> {
    let allow = deny["licenses"]["allow"].as_array().unwrap();
    allow.iter().map(|license| license.as_str().unwrap().to_owned()).collect()
}

/// The packages that the lock file resolves to for the targets of `deny.toml`.
fn packages(deny: &toml::Table) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version=1", "--locked", "--all-features"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for target in deny["graph"]["targets"].as_array().unwrap() {
        command.args(["--filter-platform", target.as_str().unwrap()]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Whether an SPDX expression holds with the allowed licenses.
fn holds(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let outer = strip_parentheses(expression.trim());
    for (word, all) in [(" OR ", false), (" AND ", true)] {
        let parts = split_outside(outer, word);
        if parts.len() > 1 {
            let mut results = parts.iter().map(|part| holds(part, allowed));
            return if all { results.all(|held| held) } else { results.any(|held| held) };
        }
    }
    allowed.contains(outer)
}

/// Splits at `word` where it stands outside of parentheses.
fn split_outside<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    for (at, _) in text.match_indices(word) {
        if text[..at].matches('(').count() == text[..at].matches(')').count() {
            parts.push(&text[begin..at]);
            begin = at + word.len();
        }
    }
    parts.push(&text[begin..]);
    parts
}

fn strip_parentheses(text: &str) -> &str {
    match text.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) if !inner.contains(['(', ')']) => inner.trim(),
        _ => text,
    }
}

#[test]
fn allowed_licenses_are_those_of_the_dependencies() {
    let deny = deny();
    let allowed = allowed(&deny);
    let packages = packages(&deny);
    for package in &packages {
        let license = package["license"].as_str().unwrap_or_else(|| panic!("{} has no license", package["name"]));
        assert!(holds(license, &allowed), "{}: {license} is not allowed by deny.toml", package["name"]);
    }
    for license in &allowed {
        let others: BTreeSet<String> = allowed.iter().filter(|other| *other != license).cloned().collect();
        let all_hold = packages.iter().all(|package| holds(package["license"].as_str().unwrap(), &others));
        assert!(!all_hold, "deny.toml allows {license}, which nothing needs");
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    for package in packages(&deny()).iter().filter(|package| package["name"] != "gatepost") {
        let source = package["source"].as_str().unwrap_or_default();
        assert!(source.starts_with("registry+"), "{} comes from {source:?}", package["name"]);
    }
}

#[test]
fn every_ignored_advisory_has_reason_successor_and_date() {
    let deny = deny();
    let mut ids = BTreeSet::new();
    for entry in deny["advisories"]["ignore"].as_array().unwrap() {
        let (id, reason) = (entry["id"].as_str().unwrap(), entry["reason"].as_str().unwrap());
        assert!(reason.contains("Successor: ") && reason.contains("Look again 20"), "{id}: {reason}");
        ids.insert(id.to_owned());
    }
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["RUSTSEC-2024-0384", "RUSTSEC-2025-0012", "RUSTSEC-2025-0141"]);
}

#[test]
fn license_expressions_with_or_and_and_are_evaluated() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    let holds = |expression| holds(expression, &allowed);
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("ISC AND (GPL-3.0 OR BSD-3-Clause)", false),
        ("GPL-3.0 OR MIT AND ISC", true),
    ] {
        assert_eq!(holds(expression), wanted, "{expression}");
    }
}
