//! Attacks by way of another's session, request or state.

use super::fixture::{Attack, AttackFixture, Expect, UNAUTHENTICATED, call, malformed, row, rpc};
use super::wire::Request;
use crate::common::gatepost::token_with;

const UNKNOWN: Expect = malformed(404, -32600);

/// Of ann, who has a session at `/mcp` and at `/mcp/raw`, and of those who have one of their own or none.
pub fn attacks(fixture: &AttackFixture) -> Vec<Attack> {
    let (ann_all, ann_raw) = (fixture.session("/mcp", &fixture.ann), fixture.session("/mcp/raw", &fixture.ann));
    let bob_raw = fixture.session("/mcp/raw", &fixture.bob);
    let closed = fixture.session("/mcp/raw", &fixture.ann);
    fixture.served(&fixture.bare("DELETE", "/mcp/raw").with("mcp-session-id", &closed));
    let post = |path: &str| fixture.post(path, call(if path == "/mcp" { "raw__echo" } else { "echo" }));
    let session = |request: Request, id: &str| request.with("mcp-session-id", id);
    let mut attacks = Vec::new();
    let mut add = |name: &str, request: &Request, expect| attacks.push(row(name, request, expect));
    for verb in ["POST", "GET", "DELETE"] {
        for (path, id) in [("/mcp", &ann_all), ("/mcp/raw", &ann_raw)] {
            for (who, token) in [("eve", &fixture.eve), ("bob", &fixture.bob)] {
                let request = if verb == "POST" { post(path) } else { fixture.bare(verb, path) };
                add(&format!("{verb} {path}: {who} uses ann's session"), &session(request.by(token), id), UNKNOWN);
            }
        }
        let request = if verb == "POST" { post("/mcp/raw") } else { fixture.bare(verb, "/mcp/raw") };
        let elsewhere = if verb == "POST" { post("/mcp") } else { fixture.bare(verb, "/mcp") };
        add(&format!("{verb}: a session of /mcp at one backend"), &session(request.clone(), &ann_all), UNKNOWN);
        add(&format!("{verb}: a session of one backend at /mcp"), &session(elsewhere, &ann_raw), UNKNOWN);
        add(&format!("{verb}: a session that was closed"), &session(request.clone(), &closed), UNKNOWN);
        let never = "00000000-0000-4000-8000-000000000000";
        add(&format!("{verb}: a session that never was"), &session(request.clone(), never), UNKNOWN);
        let anonymous = session(request.clone(), &ann_raw).without("authorization");
        add(&format!("{verb}: a session for a token"), &anonymous, UNAUTHENTICATED);
        let twice = session(session(request, &ann_raw), &bob_raw);
        let expect = if verb == "DELETE" { malformed(400, -32600) } else { UNKNOWN };
        add(&format!("{verb}: two sessions"), &twice, expect);
    }
    for (name, id) in [
        ("an empty session", ""),
        ("any session", "*"),
        ("a path for a session", "../raw"),
        ("a session in capitals", &ann_raw.to_uppercase()),
        ("a part of a session", &ann_raw[..20]),
        ("two sessions in one header", &format!("{ann_raw}, {ann_raw}")),
    ] {
        add(name, &session(post("/mcp/raw"), id), UNKNOWN);
    }
    let bare = |verb: &str| fixture.bare(verb, "/mcp/raw");
    add("DELETE without a session", &bare("DELETE"), malformed(400, -32600));
    add("GET without a session", &bare("GET"), malformed(400, -32600));
    let modern = session(bare("GET"), &ann_raw).with("mcp-protocol-version", "2026-07-28");
    add("GET of the protocol that has none", &modern, malformed(405, -32600));
    add("GET of anything", &session(bare("GET"), &ann_raw).without("accept"), malformed(406, -32600));
    for last in ["999-1", "x", "1", "-1-1", "18446744073709551616-0"] {
        let request = session(bare("GET"), &ann_raw).with("last-event-id", last);
        add(&format!("GET of a stream that never was: {last}"), &request, malformed(400, -32600));
    }
    let lower = token_with(&serde_json::json!({"sub": "ANN", "role": "admin"}));
    add("a subject in capitals", &session(post("/mcp/raw").by(&lower), &ann_raw), UNKNOWN);
    // What asks for nothing is dropped; that it reaches no backend is seen in that backend's log.
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}"#;
    add("a response to no request", &session(fixture.post("/mcp/raw", response), &ann_raw), Expect::Dropped);
    add("a response to no request, and no session", &fixture.post("/mcp/raw", response), malformed(400, -32600));
    add("a response in another's session", &session(fixture.post("/mcp/raw", response), &bob_raw), UNKNOWN);
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#;
    add("an error to no request, and no session", &fixture.post("/mcp/raw", error), malformed(400, -32600));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"attack"}}"#;
    add("a cancellation in another's session", &session(fixture.post("/mcp/raw", cancel), &bob_raw), UNKNOWN);
    add("a cancellation without a session", &fixture.post("/mcp/raw", cancel), Expect::Dropped);
    let call = rpc("notifications/tools/call", r#"{"name":"echo","arguments":{"text":"attack"}}"#);
    add(
        "a request named as a notification",
        &session(fixture.post("/mcp/raw", call), &ann_raw),
        malformed(200, -32601),
    );
    let call = r#"{"jsonrpc":"2.0","method":"notifications/tools/call","params":{"name":"echo","arguments":{}}}"#;
    let unknown = malformed(400, -32601);
    add("a notification named as a call", &session(fixture.post("/mcp/raw", call), &ann_raw), unknown.clone());
    let lines = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{\"a\":\n\
                 {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"tools/call\",\"params\":{\"name\":\"exact\"}}\n}}";
    add("a call on a line of a notification", &session(fixture.post("/mcp/raw", lines), &ann_raw), unknown);
    for params in [r#"{"a":1}"#, r#"{"Progress":1}"#, r#"{"progressToken":{}}"#] {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#);
        add(
            &format!("a notification with the members {params}"),
            &session(fixture.post("/mcp/raw", text), &ann_raw),
            malformed(400, -32602),
        );
    }
    let lines = lines.replace("\"method\":\"notifications/x\",\"params\"", "\"id\":1,\"result\"");
    add("a call on a line of a response", &session(fixture.post("/mcp/raw", lines), &ann_raw), Expect::Dropped);
    attacks.extend(states(fixture));
    attacks
}

const TOOL: &str = "test_input_required_result_request_state";
const OTHER: &str = "test_input_required_result_tampered_state";

/// The state of a call that needs input.
fn states(fixture: &AttackFixture) -> Vec<Attack> {
    let ask = |tool: &str, state: &str| {
        let answer = r#""inputResponses":{"confirm":{"action":"accept","content":{"ok":true}}}"#;
        let members = format!(r#""name":"{tool}","arguments":{{}},{answer},"requestState":{state}"#);
        fixture.modern("/mcp/fixture", "tools/call", &members, Some(tool))
    };
    let begin = |token: &str| {
        let members = format!(r#""name":"{TOOL}","arguments":{{}}"#);
        let response = fixture.served(&fixture.modern("/mcp/fixture", "tools/call", &members, Some(TOOL)).by(token));
        response.json()["result"]["requestState"].as_str().unwrap_or_else(|| panic!("{response:?}")).to_owned()
    };
    let (anns, eves) = (begin(&fixture.ann), begin(&fixture.eve));
    let parts: Vec<&str> = anns.splitn(6, '.').collect();
    let [_, origin, expiry, schemas, mac, state] = parts[..] else { panic!("{anns}") };
    let sealed = |origin: &str, mac: &str, state: &str| format!("gatepost.{origin}.{expiry}.{schemas}.{mac}.{state}");
    let later = format!("gatepost.{origin}.1{expiry}.{schemas}.{mac}.{state}");
    let of_schemas = format!("gatepost.{origin}.{expiry}.7b7d.{mac}.{state}");
    let flipped = if mac.starts_with('0') { "1" } else { "0" };
    let other = eves.split('.').nth(1).unwrap();
    let quoted = |state: String| serde_json::Value::from(state).to_string();
    let foreign = malformed(400, -32602);
    let mut attacks = vec![
        row("another's state", &ask(TOOL, &quoted(anns.clone())).by(&fixture.eve), foreign.clone()),
        row("a state of another tool", &ask(OTHER, &quoted(anns.clone())), foreign.clone()),
    ];
    for (name, state) in [
        ("a state that was never given", quoted(state.to_owned())),
        ("a state without a seal", quoted(sealed(origin, "", state))),
        ("a state with another seal", quoted(sealed(origin, &format!("{flipped}{}", &mac[1..]), state))),
        ("a state with half a seal", quoted(sealed(origin, &mac[..32], state))),
        ("a state with a seal of signs", quoted(sealed(origin, &format!("+{}", &mac[1..]), state))),
        ("another state under a seal", quoted(sealed(origin, mac, "second"))),
        ("an empty state under a seal", quoted(sealed(origin, mac, ""))),
        ("a state of another call", quoted(sealed(other, mac, state))),
        ("a state that expires later", quoted(later)),
        ("a state with other schemas", quoted(of_schemas)),
        ("an empty state", quoted(String::new())),
        ("a state that is no text", "7".to_owned()),
        ("a state that is an object", r#"{"a":1}"#.to_owned()),
    ] {
        attacks.push(row(name, &ask(TOOL, &state), foreign.clone()));
    }
    // A backend may read a key in another spelling, where the gateway sees no state.
    for key in ["RequestState", "requeststate", "request_state", "REQUEST_STATE", "request\\u005fstate"] {
        let answer = r#""inputResponses":{"confirm":{"action":"accept","content":{"ok":true}}}"#;
        let members = format!(r#""name":"{TOOL}","arguments":{{}},{answer},"{key}":"{state}""#);
        let request = fixture.modern("/mcp/fixture", "tools/call", &members, Some(TOOL)).by(&fixture.eve);
        attacks.push(row(format!("another's state as {key}"), &request, malformed(400, -32602)));
    }
    // It is good for whom it was made: otherwise the rows above would show nothing.
    let response = fixture.served(&ask(TOOL, &quoted(anns.clone())));
    assert_eq!(response.json()["result"]["content"][0]["text"], "state-ok", "{response:?}");
    attacks
}
