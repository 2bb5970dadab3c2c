//! Attacks on what somebody may do: names that look alike, and what stands beside the tools.

use serde_json::json;

use super::fixture::{Attack, AttackFixture, DENIED, Expect, UNAUTHENTICATED, call, malformed, row, rpc};
use super::wire::Request;

/// Unknown to a legacy client.
const UNKNOWN: Expect = malformed(200, -32602);
/// A backend that is as one that is not there.
const NOT_HERE: Expect = malformed(404, -32602);
const NO_METHOD: Expect = malformed(200, -32601);

pub fn attacks(fixture: &AttackFixture) -> Vec<Attack> {
    let mut attacks = Vec::new();
    let bob = |path: &str, body: String| fixture.post(path, body).by(&fixture.bob);
    // Bob may call `echo`, and these are not it.
    for name in [
        "Echo",
        "ECHO",
        "eCHO",
        "echo ",
        " echo",
        "echo\u{a0}",
        "ech",
        "echoo",
        "exact",
        "echo/",
        "echo/../exact",
        "./echo",
        "echo;exact",
        "echo,exact",
        "*",
        "e*",
        "echo*",
        "raw/echo",
        "raw__echo",
        "__echo",
        "%65cho",
        "echo%00",
        "\u{435}cho",
        "e\u{441}ho",
        "ech\u{43e}",
        "\u{ff45}\u{ff43}\u{ff48}\u{ff4f}",
        "e\u{301}cho",
        "echo\u{301}",
        "\u{e9}cho",
        "echo\u{200b}",
        "\u{200b}echo",
        "ec\u{200d}ho",
        "echo\u{feff}",
        "echo\u{ad}",
        "\u{202e}ohce",
        "\u{1d41e}cho",
        "\u{24d4}cho",
        "echo\u{fe0f}",
    ] {
        attacks.push(row(format!("bob calls {name:?}"), &bob("/mcp/raw", call(name)), DENIED));
    }
    for name in [
        "raw__exact",
        "raw__Echo",
        "RAW__echo",
        "Raw__echo",
        "raw__raw__echo",
        "raw____echo",
        "raw___echo",
        "example__echo",
        "example__example__echo",
        "raw__example__echo",
        "fixture__echo",
        "missing__echo",
        "*__echo",
        "raw__*",
        "r\u{430}w__echo",
        "raw\u{200b}__echo",
        "raw/echo__x",
        "../raw__echo",
    ] {
        attacks.push(row(format!("bob calls {name:?} at /mcp"), &bob("/mcp", call(name)), DENIED));
    }
    for name in ["__echo", "raw__", "raw", "echo", "raw_echo", "raw.echo", "raw/echo", "__", "____"] {
        attacks.push(row(format!("bob calls {name:?} at /mcp"), &bob("/mcp", call(name)), UNKNOWN));
    }
    // Ann may call everything, of what there is.
    for name in [
        "raw__add",
        "example__exact",
        "raw__raw__echo",
        "example__example__echo",
        "missing__echo",
        "RAW__echo",
        "raw__Echo",
        "raw__\u{435}cho",
        "__raw__echo",
        "example__",
    ] {
        attacks.push(row(format!("ann calls {name:?} at /mcp"), &fixture.post("/mcp", call(name)), UNKNOWN));
    }
    // A pattern's star stands for no slash.
    attacks.push(row("ann calls a path", &fixture.post("/mcp/raw", call("echo/../exact")), DENIED));
    attacks.extend(others(fixture));
    attacks.extend(methods(fixture));
    attacks
}

/// What is beside the tools, of a backend that bob reaches for one tool only, and of one that he does not reach.
fn others(fixture: &AttackFixture) -> Vec<Attack> {
    let uri = "test://static-text";
    let legacy = [
        ("resources/read", json!({"uri": uri})),
        ("resources/subscribe", json!({"uri": uri})),
        ("resources/unsubscribe", json!({"uri": uri})),
        ("prompts/get", json!({"name": "test_simple_prompt"})),
        ("completion/complete", json!({"ref": {"type": "ref/prompt", "name": "test_simple_prompt"}, "argument": {}})),
        ("completion/complete", json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {}})),
    ];
    let mut attacks = Vec::new();
    for (method, params) in legacy {
        let at = |path: &str, params: &serde_json::Value| {
            fixture.post(path, rpc(method, &params.to_string())).by(&fixture.bob)
        };
        let prefixed: serde_json::Value =
            serde_json::from_str(&params.to_string().replace("test_simple", "fixture__test_simple")).unwrap();
        let what = format!("bob asks for {method} {params}");
        attacks.push(row(format!("{what} where he has one tool"), &at("/mcp/fixture", &params), DENIED));
        attacks.push(row(format!("{what} where he has none"), &at("/mcp/example", &params), NOT_HERE));
        let expect = if params == prefixed { UNKNOWN } else { DENIED };
        attacks.push(row(format!("{what} at /mcp"), &at("/mcp", &prefixed), expect));
    }
    for (method, members, name) in [
        ("resources/read", r#""uri":"test://static-text""#, Some(uri)),
        ("prompts/get", r#""name":"test_simple_prompt""#, Some("test_simple_prompt")),
        ("completion/complete", r#""ref":{"type":"ref/prompt","name":"test_simple_prompt"},"argument":{}"#, None),
    ] {
        let request = fixture.modern("/mcp/fixture", method, members, name).by(&fixture.bob);
        attacks.push(row(format!("bob asks for {method}, statelessly"), &request, DENIED));
    }
    for wanted in [
        r#""resourceSubscriptions":["test://watched-resource"]"#,
        r#""resourceSubscriptions":[],"resource_subscriptions":["test://watched-resource"]"#,
        r#""toolsListChanged":true,"ResourceSubscriptions":["test://watched-resource"]"#,
        r#""taskIds":["1"]"#,
    ] {
        let refused =
            if wanted.starts_with(r#""resourceSubscriptions":["test"#) { DENIED } else { malformed(400, -32602) };
        for (path, expect) in [("/mcp/fixture", refused.clone()), ("/mcp/raw", refused), ("/mcp/example", NOT_HERE)] {
            let members = format!(r#""notifications":{{{wanted}}}"#);
            let request = fixture.modern(path, "subscriptions/listen", &members, None).by(&fixture.bob);
            attacks.push(row(format!("bob listens to {wanted} at {path}"), &request, expect));
        }
    }
    let request =
        fixture.modern("/mcp/fixture", "subscriptions/listen", r#""Notifications":{}"#, None).by(&fixture.bob);
    attacks.push(row("bob listens to Notifications", &request, malformed(400, -32602)));
    for method in ["tools/list", "resources/list", "prompts/list", "ping", "logging/setLevel"] {
        let request = fixture.post("/mcp/example", rpc(method, r#"{"level":"debug"}"#)).by(&fixture.bob);
        attacks.push(row(format!("bob asks for {method} where he has nothing"), &request, NOT_HERE));
    }
    let hello = rpc("initialize", r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#);
    attacks.push(row(
        "bob opens a session where he has nothing",
        &fixture.post("/mcp/example", hello).by(&fixture.bob),
        NOT_HERE,
    ));
    attacks.push(row(
        "bob calls where he has nothing",
        &fixture.post("/mcp/example", call("echo")).by(&fixture.bob),
        DENIED,
    ));
    attacks.push(row(
        "bob calls what is not there",
        &fixture.post("/mcp/missing", call("echo")).by(&fixture.bob),
        DENIED,
    ));
    attacks.push(row("ann calls what is not there", &fixture.post("/mcp/missing", call("echo")), NOT_HERE));
    attacks
}

/// Methods that nobody serves.
fn methods(fixture: &AttackFixture) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for method in [
        "tasks/get",
        "tasks/list",
        "tools/Call",
        "TOOLS/CALL",
        "tools/call ",
        "tools//call",
        "tools/call/",
        "/tools/call",
        "tools\\u2215call",
        "tools.call",
        "tool/call",
        "rpc.discover",
        "server/discover",
        "subscriptions/listen",
        "sampling/createMessage",
        "elicitation/create",
        "roots/list",
        "gateway/opened",
        "gateway/closed",
        "gateway/gap",
        "session/close",
        "unknown",
        "tools\\u0000/call",
        "tools/call\\n",
        "\\u0442ools/call",
    ] {
        for (path, who) in [("/mcp/raw", &fixture.ann), ("/mcp", &fixture.bob)] {
            let params = r#"{"name":"echo","arguments":{"text":"attack"},"taskId":"1"}"#;
            let request: Request = fixture.post(path, rpc(method, params)).by(who);
            attacks.push(row(format!("method {method:?} at {path}"), &request, NO_METHOD));
        }
    }
    // The gateway's own records are known by their methods.
    let anonymous = |method: &str| fixture.post("/mcp/raw", rpc(method, r#"{"lost":1}"#)).without("authorization");
    for method in ["gateway/closed", "gateway/gap", "gateway/\\u0063losed", "session/close"] {
        attacks.push(row(format!("somebody sends {method:?}"), &anonymous(method), UNAUTHENTICATED));
    }
    for method in ["ping", "initialize", "logging/setLevel", "resources/subscribe", "tasks/get"] {
        let request = fixture.modern("/mcp/raw", method, r#""uri":"a:b""#, None);
        attacks.push(row(format!("method {method:?}, statelessly"), &request, malformed(404, -32601)));
    }
    attacks
}
