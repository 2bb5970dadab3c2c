//! Features that the official clients can use through the gateway: the table of `docs/compatibility.md`.
//!
//! A driver of each client tries every feature against `tests/e2e/feature_server.py`, at `/mcp` with another backend
//! beside it, and at the path of the backend alone. The results must equal the table.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::clients_and_servers::{modern_node, python_beside};
use crate::common::gatepost::{BINARY, Setup, token};
use crate::common::python::python_program;
use crate::common::server::Server;
use crate::common::stored_records::stored_records;
use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::record::{Entry, Status};
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

/// A setup with the features as its second backend, `far`.
fn with_features() -> (Setup, Server) {
    let mut features = Command::new(python_program("python"));
    let features = Server::start(features.arg(script("feature_server.py")));
    let mut setup = Setup::new();
    setup.set("backends.far.url", &features.url);
    (setup, features)
}

/// Compares what a driver found with the column of the table.
fn is_as_documented(column: &str, path: &str, found: &BTreeMap<String, String>) {
    let want = documented(column);
    let listed: BTreeMap<_, _> = want.iter().filter(|(feature, _)| found.contains_key(*feature)).collect();
    assert_eq!(found.iter().collect::<BTreeMap<_, _>>(), listed, "{column} at {path}");
    // What the driver does not even try is no feature of the client.
    let rest = want.iter().filter(|(feature, _)| !found.contains_key(*feature));
    assert!(rest.clone().all(|(_, cell)| cell == "-"), "{column} at {path}: {:?}", rest.collect::<Vec<_>>());
}

fn tries(column: &str, driver: &str, era: &str) {
    let program = if driver.starts_with("python") { python_program("python") } else { modern_node() };
    tries_at(column, driver, era, &program, &["/mcp", "/mcp/far"]);
}

fn tries_at(column: &str, driver: &str, era: &str, program: &Path, paths: &[&str]) {
    let (setup, _features) = with_features();
    let gatepost = setup.start();
    let want = documented(column);
    let asks = ["elicit", "sample", "roots"].into_iter().filter(|feature| want[*feature] == "yes").count();
    for path in paths {
        let prefix = if *path == "/mcp" { "far__" } else { "" };
        is_as_documented(column, path, &tried(program, driver, &format!("{}{path}", gatepost.url()), prefix, era));
    }
    assert_eq!(gatepost.terminate(), Some(0));
    answers_are_linked(&setup, era, paths.len() * asks);
}

/// Each of `asks` questions left its answer in the trail, below the call that asked.
fn answers_are_linked(setup: &Setup, era: &str, asks: usize) {
    let reader = Reader::offline(Arc::new(DiskFs), &setup.audit_dir()).unwrap();
    let calls: BTreeMap<_, _> =
        stored_records(&reader).into_iter().map(|record| (record.entry.call.request_id, record.entry)).collect();
    let parent = |entry: &Entry| entry.call.parent_id.and_then(|id| calls.get(&id));
    let is_question = |entry: &Entry| {
        let asked = ["elicitation/create", "sampling/createMessage", "roots/list"].contains(&&*entry.call.method);
        asked && entry.response.is_some() && parent(entry).is_some_and(|call| call.call.method == "tools/call")
    };
    let is_retry = |entry: &Entry| {
        let first = parent(entry).filter(|first| first.response_status == Status::InputRequired);
        let asked = first.and_then(|first| first.response.as_ref());
        asked.is_some_and(|questions| questions.contains("inputRequests"))
            && entry.call.request_extra.as_ref().is_some_and(|extra| extra.contains("inputResponses"))
    };
    let is_answered = |entry: &&Entry| if era == "legacy" { is_question(entry) } else { is_retry(entry) };
    let answered = calls.values().filter(is_answered).count();
    assert!(answered >= asks, "{answered} of {asks}: {calls:#?}");
    if let Some(name) = calls.values().filter(is_answered).find(|entry| format!("{entry:?}").contains("Your name?")) {
        assert!(format!("{name:?}").contains("Ada"), "{name:?}");
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
fn version_1_of_the_python_client() {
    let program = python_beside("mcp-proxy", "python");
    tries_at("Python 1.30.0, legacy", "python_v1_client.py", "legacy", &program, &["/mcp", "/mcp/far"]);
}

/// The first versions have no HTTP, and start the gateway themselves.
#[test]
fn an_early_version_of_the_python_client() {
    let (setup, _features) = with_features();
    let log = setup.dir().join("log");
    let words = format!("{BINARY} stdio --config {}", setup.config_file().display());
    let start = format!("#!/bin/sh\nexec {words} 2>>{}\n", log.display());
    let program = setup.dir().join("start");
    std::fs::write(&program, start).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let url = format!("stdio:{}", program.display());
    let found = tried(&python_beside("mcp-1.3", "python"), "python_v1_client.py", &url, "far__", "legacy");
    is_as_documented("Python 1.3.0, stdio", "stdio", &found);
}

#[test]
fn mcp_remote_as_the_stdio_server_of_a_client() {
    tries_at("mcp-remote 0.15.1, legacy", "mcp_remote.mjs", "legacy", &modern_node(), &["/mcp"]);
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
