//! The protocol's own conformance suite, against a server on the official SDK, directly and through the gateway.
//!
//! What the suite scores must all pass, both ways. What it runs besides must not differ.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::clients_and_servers::{modern_node, node_module};
use crate::common::gatepost::{Setup, token};
use crate::common::python::python_program;
use crate::common::server::Server;

/// Scenarios that each revision requires. *Measured*: docs/measurements.md, "Clients and servers in tests".
const REQUIRED: [(&str, usize); 2] = [("2025-11-25", 30), ("2026-07-28", 37)];

fn program(interpreter: &Path, script: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script));
    command
}

/// Runs the suite: the scored scenarios, then the others, each with what passed and failed in it.
fn suite(url: &str, requirements: &str) -> [BTreeMap<String, String>; 2] {
    let mut command = Command::new(modern_node());
    command.arg(node_module("@modelcontextprotocol/conformance/dist/index.js"));
    command.args(["server", "--url", url, "--requirements", requirements]);
    let output = command.output().expect("node runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    let (summary, others) = shown.split_once("Not scored").unwrap_or_else(|| panic!("no summary: {output:?}"));
    let others: Vec<&str> = others.lines().filter_map(|line| line.trim().split([' ']).nth(1)).collect();
    let of_scenario = |line: &str| {
        let (name, counts) = line.strip_prefix(['\u{2713}', '\u{2717}'])?.trim().split_once(": ")?;
        Some((name.to_owned(), counts.to_owned()))
    };
    let all: BTreeMap<String, String> = summary.lines().filter_map(of_scenario).collect();
    let (others, scored) = all.into_iter().partition(|(name, _)| others.contains(&name.as_str()));
    [scored, others]
}

/// Scenarios that answer questions which were never asked. The suite warns that a server should take such answers; the
/// gateway refuses them, because they would be a person's answers without a question in the trail.
const UNASKED: [&str; 2] =
    ["input-required-result-ignore-extra-params", "input-required-result-missing-input-response"];
const UNASKED_COUNTS: &str = "1 passed, 0 failed";

/// The scenario of streams that begin with an event without data. The gateway sends one, whatever the backend does.
const PRIMED: (&str, &str) = ("server-sse-polling", "1 passed, 0 failed");

#[test]
fn the_suite_scores_the_gateway_like_the_backend() {
    let fixture = Server::start(&mut program(&python_program("python"), "conformance_server.py"));
    let mut setup = Setup::new();
    setup.set("backends.fixture.url", &fixture.url);
    let gatepost = setup.start();
    let mut shim = program(&modern_node(), "shim.mjs");
    let shim = Server::start(shim.env("TARGET", gatepost.url()).env("TOKEN", token("admin")));
    for (requirements, count) in REQUIRED {
        let [scored, mut others] = suite(&fixture.url, requirements);
        let [through, others_through] = suite(&format!("{}/mcp/fixture", shim.url), requirements);
        assert_eq!((scored.len(), through.len()), (count, count), "{requirements}: {through:?}");
        for (name, counts) in &through {
            assert!(counts.ends_with(" 0 failed"), "{requirements} {name}: {counts} through the gateway");
            let is_unasked = UNASKED.contains(&name.as_str());
            let want = if is_unasked { Some(UNASKED_COUNTS) } else { scored.get(name).map(String::as_str) };
            assert_eq!(Some(counts.as_str()), want, "{requirements} {name}: differs from the backend alone");
        }
        if let Some(counts) = others.get_mut(PRIMED.0) {
            PRIMED.1.clone_into(counts);
        }
        assert_eq!(others, others_through, "{requirements}: what is not scored differs");
    }
}
