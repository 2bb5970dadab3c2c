//! The bodies of the fuzz targets on the committed corpus, and on what chance makes of it.

#[path = "../../fuzz/bodies/mod.rs"]
mod bodies;

use std::fs;
use std::path::Path;

use bodies::{TARGETS, Target};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Inputs a target that chance makes. *Chosen*: some seconds in a debug build; `FUZZ_CASES` asks for more.
const CASES: u32 = 200;

fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.0 == name).unwrap()
}

/// The inputs in `fuzz/corpus` and, under the names of their faults, in `fuzz/regressions`.
fn committed(name: &str) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for folder in ["corpus", "regressions"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(name);
        let files = fs::read_dir(&dir).into_iter().flatten();
        inputs.extend(files.map(|file| fs::read(file.unwrap().path()).unwrap()));
    }
    inputs
}

/// Bytes of chance, and committed inputs with some of their bytes changed, cut out or doubled.
fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let chance = prop::collection::vec(any::<u8>(), 0..600);
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    let changed = (prop::sample::select(corpus), prop::collection::vec(edit, 0..8)).prop_map(|(mut input, edits)| {
        for (at, byte, how) in edits.into_iter().filter(|_| !input.is_empty()).collect::<Vec<_>>() {
            if input.is_empty() {
                break;
            }
            let at = at.index(input.len());
            match how {
                0 => input[at] = byte,
                1 => drop(input.drain(at..(at + usize::from(byte)).min(input.len()))),
                _ => input.insert(at, byte),
            }
        }
        input
    });
    prop_oneof![1 => chance, 3 => changed]
}

fn holds(name: &str, share: u32) {
    let (_, body) = target(name);
    let corpus = committed(name);
    assert!(!corpus.is_empty(), "{name} has a committed corpus");
    for input in &corpus {
        body(input);
    }
    let cases = std::env::var("FUZZ_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(CASES);
    let config =
        ProptestConfig { cases: (cases / share).max(1), failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&inputs(corpus), |input| {
            body(&input);
            Ok(())
        })
        .unwrap();
}

#[test]
fn record_decode_holds() {
    holds("record_decode", 1);
}

#[test]
fn segment_open_holds() {
    holds("segment_open", 5);
}

#[test]
fn outbox_ops_hold() {
    holds("outbox_ops", 20);
}

#[test]
fn jsonrpc_envelope_holds() {
    holds("jsonrpc_envelope", 1);
}

#[test]
fn params_forwarded_holds() {
    holds("params_forwarded", 1);
}

/// Members of parameters: those of the protocol, such as resemble them, and others.
fn params() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        4 => prop::sample::select(vec![
            "name", "uri", "arguments", "inputResponses", "requestState", "task", "ref", "argument", "context", "cursor",
            "level", "notifications", "protocolVersion", "capabilities", "clientInfo", "hint",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "Name", "na_me", "argument\u{17f}", "\u{ff4e}ame", "request_state", "input-responses", "meta", "_Meta", "Task",
            "io.gatepost/x", "io.gate_post/x", "n\\u0061me", "\\ud800",
        ]).prop_map(str::to_owned),
        1 => "[a-z_]{1,6}",
    ];
    let value = prop::sample::select(vec![
        "null",
        "1",
        "-1.0e5",
        "\"x\"",
        "\"\\ud800\"",
        "{}",
        "{\"a\":{\"b\":[1, 2]}}",
        "[]",
        "[{\"name\":1}]",
        "true",
        "{\"type\":\"ref/prompt\",\"name\":\"p\",\"title\":null}",
        "{\"name\":\"n\",\"value\":\"\"}",
        "{\"arguments\":{}}",
        "{\"tasks\":{},\"extensions\":{\"io.modelcontextprotocol/tasks\":{}}}",
        "{\"toolsListChanged\":true}",
    ]);
    let meta_key = prop::sample::select(vec![
        "progressToken",
        "ProgressToken",
        "traceparent",
        "tracestate",
        "baggage",
        "com.example/x",
        "io.gatepost/request_id",
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/related-task",
        "io.modelcontextprotocol/other",
        "trace-parent",
    ]);
    let meta = prop::collection::vec((meta_key, value.clone()), 0..4).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    });
    let members = prop::collection::vec((key, value.prop_map(str::to_owned)), 0..5);
    (members, prop::option::of(meta)).prop_map(|(mut members, meta)| {
        members.extend(meta.map(|meta| ("_meta".to_owned(), meta)));
        let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\" :{value} ")).collect();
        format!("{{ {}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_parameters_are_forwarded_as_recorded(method in 0..16_u8, era in 0..2_u8, params in params()) {
        let input = [&[method, era], params.as_bytes()].concat();
        target("params_forwarded").1(&input);
    }
}

#[test]
fn jwt_header_holds() {
    holds("jwt_header", 1);
}

#[test]
fn config_holds() {
    holds("config", 1);
}
