//! Features that the official clients can use through the gateway: the table of `docs/compatibility.md`.
//!
//! A driver of each client tries every feature against `tests/e2e/feature_server.py`, at `/mcp` with another backend
//! beside it, and at the path of the backend alone. The results must equal the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clients_and_servers::modern_node;
use crate::common::gatepost::{Setup, token};
use crate::common::python::python_program;
use crate::common::server::Server;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/compatibility.md");

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(name)
}

/// The column of the table: feature to `yes`, or `-` where client or era have no such feature.
fn documented(column: &str) -> BTreeMap<String, String> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut rows = DOCUMENT.lines().filter(|line| line.starts_with('|')).map(cells);
    let head = rows.find(|head| head.iter().any(|cell| cell == column)).expect("a table with this column");
    let at = head.iter().position(|cell| cell == column).unwrap();
    let rows = rows.skip(1).take_while(|row| row.len() == head.len());
    rows.map(|row| (row[0].clone(), row[at].clone())).collect()
}

fn tried(program: &Path, driver: &str, url: &str, prefix: &str, era: &str) -> BTreeMap<String, String> {
    let mut command = Command::new(program);
    command.arg(script("clients").join(driver)).args([url, &token("admin"), era, "all"]);
    let output = command.env("TOOL_PREFIX", prefix).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let lines = shown.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let cell = |line: Value| {
        let cell = match &line["ok"] {
            Value::Bool(true) => "yes".to_owned(),
            Value::Null => "-".to_owned(),
            _ => line["why"].to_string(),
        };
        (line["feature"].as_str().unwrap().to_owned(), cell)
    };
    let found: BTreeMap<_, _> = lines.map(cell).collect();
    assert!(!found.is_empty(), "{output:?}");
    found
}

fn tries(column: &str, driver: &str, era: &str) {
    let program = if driver.starts_with("python") { python_program("python") } else { modern_node() };
    let mut features = Command::new(python_program("python"));
    let features = Server::start(features.arg(script("feature_server.py")));
    let mut setup = Setup::new();
    setup.set("backends.far.url", &features.url);
    let gatepost = setup.start();
    let want = documented(column);
    for (path, prefix) in [("/mcp", "far__"), ("/mcp/far", "")] {
        let found = tried(&program, driver, &format!("{}{path}", gatepost.url()), prefix, era);
        let listed: BTreeMap<_, _> = want.iter().filter(|(feature, _)| found.contains_key(*feature)).collect();
        assert_eq!(found.iter().collect::<BTreeMap<_, _>>(), listed, "{column} at {path}");
        // What the driver does not even try is no feature of the client.
        let rest = want.iter().filter(|(feature, _)| !found.contains_key(*feature));
        assert!(rest.clone().all(|(_, cell)| cell == "-"), "{column} at {path}: {:?}", rest.collect::<Vec<_>>());
    }
}

#[test]
fn the_python_client_of_the_older_era() {
    tries("Python 2.3.0, legacy", "python_client.py", "legacy");
}

#[test]
fn the_python_client_of_the_stateless_era() {
    tries("Python 2.3.0, modern", "python_client.py", "modern");
}

#[test]
fn version_1_of_the_typescript_client() {
    tries("TypeScript 1.32.2, legacy", "ts_legacy.mjs", "legacy");
}

#[test]
fn version_2_of_the_typescript_client_in_the_older_era() {
    tries("TypeScript 2.4.0, legacy", "ts_modern.mjs", "legacy");
}

#[test]
fn version_2_of_the_typescript_client_in_the_stateless_era() {
    tries("TypeScript 2.4.0, modern", "ts_modern.mjs", "modern");
}

#[test]
fn the_inspector_in_the_older_era() {
    tries("Inspector 2.12.0, legacy", "inspector.mjs", "legacy");
}

#[test]
fn the_inspector_in_the_stateless_era() {
    tries("Inspector 2.12.0, modern", "inspector.mjs", "modern");
}
