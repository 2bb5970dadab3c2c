//! Attacks by what a message is: its keys, its size, its types, and headers that say something else.

use super::fixture::{Attack, AttackFixture, BODY_BYTES_MAX, Expect, META, call, malformed, row, rpc};

const BAD: Expect = malformed(400, -32600);
const BAD_JSON: Expect = malformed(400, -32700);
const BAD_PARAMS: Expect = malformed(400, -32602);
const MISMATCH: Expect = malformed(400, -32020);

pub fn attacks(fixture: &AttackFixture) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for (name, body, expect) in [keys(), ids(), shapes()].concat() {
        attacks.push(row(name, &fixture.post("/mcp/raw", body), expect));
    }
    attacks.extend(headers(fixture));
    attacks
}

type Row = (String, Vec<u8>, Expect);

fn of(name: &str, body: impl Into<Vec<u8>>, expect: Expect) -> Row {
    (name.to_owned(), body.into(), expect)
}

/// What two parsers may read differently.
fn keys() -> Vec<Row> {
    let call = |params: &str| rpc("tools/call", params);
    let mut rows = Vec::new();
    for (name, body) in [
        (
            "the method twice",
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"echo"}}"#,
        ),
        ("the id twice", r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"echo"}}"#),
        ("params twice", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"params":{"name":"echo"}}"#),
        ("jsonrpc twice", r#"{"jsonrpc":"2.0","jsonrpc":"1.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#),
        ("the method in another case", r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#),
        (
            "only the method in another case",
            r#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call","params":{"name":"echo"}}"#,
        ),
        ("params in another case", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","Params":{"name":"echo"}}"#),
        ("the id in another case", r#"{"jsonrpc":"2.0","Id":1,"id":2,"method":"tools/call","params":{"name":"echo"}}"#),
        ("the method with an escape, twice", r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#),
        (
            "a key that is no text",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","\ud800":1,"params":{"name":"echo"}}"#,
        ),
    ] {
        rows.push(of(name, body, BAD));
    }
    for (name, params) in [
        ("the name twice", r#"{"name":"none","name":"echo"}"#),
        ("the name with an escape, twice", r#"{"name":"none","n\u0061me":"echo"}"#),
        ("arguments twice", r#"{"name":"echo","arguments":{},"arguments":{"text":"attack"}}"#),
        ("an argument twice", r#"{"name":"echo","arguments":{"text":"a","text":"b"}}"#),
        ("an argument with an escape, twice", r#"{"name":"echo","arguments":{"text":"a","\u0074ext":"b"}}"#),
        ("an argument twice, deep", r#"{"name":"echo","arguments":{"a":[{"b":{"c":1,"c":2}}]}}"#),
        ("_meta twice", r#"{"name":"echo","_meta":{},"_meta":{"x":1}}"#),
    ] {
        rows.push(of(name, call(params), BAD));
    }
    for (name, params) in [
        ("the name in another case", r#"{"name":"none","NAME":"echo"}"#),
        ("only the name in another case", r#"{"Name":"echo"}"#),
        ("the name with an underscore", r#"{"name":"none","_name":"echo"}"#),
        ("the name in full width", r#"{"name":"none","\uff4e\uff41\uff4d\uff45":"echo"}"#),
        ("arguments in another case", r#"{"name":"echo","Arguments":{"text":"attack"}}"#),
        ("arguments with a long s", "{\"name\":\"echo\",\"argument\u{17f}\":{\"text\":\"attack\"}}"),
        ("arguments with an escaped long s", r#"{"name":"echo","argument\u017f":{"text":"attack"}}"#),
        ("arguments with a hyphen", r#"{"name":"echo","argu-ments":{"text":"attack"}}"#),
        ("answers that nobody asked for", r#"{"name":"echo","inputResponses":{"q":{"action":"accept"}}}"#),
        ("a member that the method does not have", r#"{"name":"echo","anything":"x"}"#),
        ("a member that is no text", r#"{"name":"echo","x\ud800":"x"}"#),
        ("a progress token in another case", r#"{"name":"echo","_meta":{"ProgressToken":1}}"#),
        ("a trace in another spelling", r#"{"name":"echo","_meta":{"trace_parent":"x"}}"#),
        ("a progress token that is an object", r#"{"name":"echo","_meta":{"progressToken":{}}}"#),
        ("meta without its underscore", r#"{"name":"echo","meta":{"x":1}}"#),
    ] {
        rows.push(of(name, call(params), if name == "a member that is no text" { BAD } else { BAD_PARAMS }));
    }
    rows
}

/// Calls that nobody could be answered, or several.
fn ids() -> Vec<Row> {
    let with = |id: &str| format!(r#"{{"jsonrpc":"2.0",{id}"method":"tools/call","params":{{"name":"echo"}}}}"#);
    let mut rows = Vec::new();
    let long = format!("\"id\":\"{}\",", "i".repeat(300));
    for (name, id) in [
        ("no id", ""),
        ("the id null", "\"id\":null,"),
        ("an object for an id", "\"id\":{},"),
        ("a list for an id", "\"id\":[1],"),
        ("a fraction for an id", "\"id\":1.5,"),
        ("an exponent for an id", "\"id\":1e3,"),
        ("a truth for an id", "\"id\":true,"),
        ("an id that is no text", "\"id\":\"\\ud800\","),
        ("an id that is too long", long.as_str()),
    ] {
        rows.push(of(&format!("a call with {name}"), with(id), BAD));
    }
    let one = call("echo");
    rows.push(of("a batch of calls", format!("[{one},{one}]"), BAD));
    rows.push(of("a batch of one", format!("[{one}]"), BAD));
    rows.push(of("an empty batch", "[]", BAD));
    rows.push(of("two calls, one after the other", format!("{one}{one}"), BAD_JSON));
    rows.push(of("two calls, a line each", format!("{one}\n{one}"), BAD_JSON));
    rows
}

fn shapes() -> Vec<Row> {
    let deep = |open: &str, close: &str, depth: usize| {
        let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        rpc("tools/call", &format!(r#"{{"name":"echo","arguments":{{"text":{nested}}}}}"#))
    };
    let name = |name: &str| rpc("tools/call", &format!(r#"{{"name":{name},"arguments":{{"text":"attack"}}}}"#));
    let mut large = call("echo");
    large.push_str(&" ".repeat(BODY_BYTES_MAX));
    let good = call("echo");
    let swapped = |from: &str, to: &str| good.replacen(from, to, 1);
    let not_utf8 = [&good.as_bytes()[..good.len() - 4], b"\xc0\xaf", &good.as_bytes()[good.len() - 4..]].concat();
    vec![
        of("an empty body", "", BAD_JSON),
        of("half a call", &good[..good.len() - 1], BAD_JSON),
        of("a byte order mark", format!("\u{feff}{good}"), BAD_JSON),
        of("no UTF-8", not_utf8, BAD_JSON),
        of("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), BAD_JSON),
        of("a comment", swapped("{", "{/**/"), BAD_JSON),
        of("single quotes", good.replace('"', "'"), BAD_JSON),
        of("a trailing comma", format!("{},}}", &good[..good.len() - 1]), BAD_JSON),
        of("NaN", swapped("\"attack\"", "NaN"), BAD_JSON),
        of("a text for a message", format!("{good:?}"), BAD),
        of("JSON-RPC 1.0", swapped("2.0", "1.0"), BAD),
        of("a number for the version", swapped("\"2.0\"", "2.0"), BAD),
        of("no version", swapped("\"jsonrpc\":\"2.0\",", ""), BAD),
        of("a list for the method", swapped("\"tools/call\"", "[\"tools/call\"]"), BAD),
        of("an empty method", swapped("tools/call", ""), BAD),
        of("a method that is too long", swapped("tools/call", &"m".repeat(129)), BAD),
        of("a list for params", rpc("tools/call", r#"["echo"]"#), BAD_PARAMS),
        of("null for params", rpc("tools/call", "null"), BAD_PARAMS),
        of("no name", rpc("tools/call", "{}"), BAD_PARAMS),
        of("a list for a name", name(r#"["echo"]"#), BAD_PARAMS),
        of("null for a name", name("null"), BAD_PARAMS),
        of("an empty name", name("\"\""), BAD_PARAMS),
        of("a name that is too long", name(&format!("\"{}\"", "n".repeat(257))), BAD_PARAMS),
        of("NUL in a name", name(r#""ech\u0000o""#), BAD_PARAMS),
        of("NUL after a name", name(r#""echo\u0000""#), BAD_PARAMS),
        of("a line end in a name", name(r#""echo\n""#), BAD_PARAMS),
        of("an escape of terminals in a name", name(r#""\u001b[2Kecho""#), BAD_PARAMS),
        of("DEL in a name", name(r#""echo\u007f""#), BAD_PARAMS),
        of("a C1 control in a name", name(r#""echo\u0085""#), BAD_PARAMS),
        of("a name that is no text", name(r#""ech\ud800o""#), BAD_PARAMS),
        of("a list for arguments", rpc("tools/call", r#"{"name":"echo","arguments":[]}"#), BAD_PARAMS),
        of("a text for arguments", rpc("tools/call", r#"{"name":"echo","arguments":"{}"}"#), BAD_PARAMS),
        of("a text for _meta", rpc("tools/call", r#"{"name":"echo","_meta":"x"}"#), BAD_PARAMS),
        of("too deep lists", deep("[", "]", 200), BAD),
        of("too deep objects", deep("{\"a\":", "}", 200), BAD),
        of("far too deep lists", deep("[", "]", 20_000), BAD),
        of("deep lists without an end", "[".repeat(BODY_BYTES_MAX), BAD_JSON),
        of("too large a body", large, malformed(413, -32600)),
    ]
}

/// Headers that say something else than the body.
fn headers(fixture: &AttackFixture) -> Vec<Attack> {
    let members = r#""name":"echo","arguments":{"text":"attack"}"#;
    let good = fixture.modern("/mcp/raw", "tools/call", members, Some("echo"));
    let mut attacks = Vec::new();
    let mut add = |name: &str, request: &super::wire::Request, expect| {
        attacks.push(row(format!("headers: {name}"), request, expect));
    };
    for (name, value) in [
        ("another method", "ping"),
        ("a method in capitals", "TOOLS/CALL"),
        ("a method of the same beginning", "tools/call/x"),
        ("an empty method", ""),
        ("two methods in one", "tools/call, tools/call"),
    ] {
        add(name, &good.clone().set("mcp-method", value), MISMATCH);
    }
    add("no method", &good.clone().without("mcp-method"), MISMATCH);
    add("the method twice", &good.clone().with("Mcp-Method", "tools/call"), MISMATCH);
    add("another method first", &good.clone().set("mcp-method", "ping").with("mcp-method", "tools/call"), MISMATCH);
    for (name, value) in [
        ("another name", "exact"),
        ("a name in capitals", "ECHO"),
        ("an empty name", ""),
        ("a quoted name", "\"echo\""),
        ("an escaped name", "%65cho"),
        ("two names in one", "echo, echo"),
        // "echo" is ZWNobw==.
        ("Base64 with bits to spare", "=?base64?ZWNobx==?="),
        ("Base64 without padding", "=?base64?ZWNobw?="),
        ("Base64 with much padding", "=?base64?ZWNobw====?="),
        ("Base64 with a space", "=?base64?ZWNo bw==?="),
        ("Base64 of another name", "=?base64?ZXhhY3Q=?="),
        ("empty Base64", "=?base64??="),
        ("Base64 in capitals", "=?BASE64?ZWNobw==?="),
        ("Base64 without its end", "=?base64?ZWNobw=="),
        ("Base64 of another alphabet", "=?base64?ZWNobw--?="),
        ("Base64 as mail has it", "=?utf-8?B?ZWNobw==?="),
    ] {
        add(name, &good.clone().set("mcp-name", value), MISMATCH);
    }
    add("no name", &good.clone().without("mcp-name"), MISMATCH);
    add("the name twice", &good.clone().with("Mcp-Name", "echo"), MISMATCH);
    add("another name first", &good.clone().set("mcp-name", "exact").with("mcp-name", "echo"), MISMATCH);
    add("an older version", &good.clone().set("mcp-protocol-version", "2025-11-25"), MISMATCH);
    add("no version", &good.clone().without("mcp-protocol-version"), MISMATCH);
    add("the version twice", &good.clone().with("mcp-protocol-version", "2026-07-28"), MISMATCH);
    add("two versions", &good.clone().with("mcp-protocol-version", "2025-11-25"), MISMATCH);
    let legacy = fixture.post("/mcp/raw", call("echo"));
    add("a version that never was", &legacy.clone().with("mcp-protocol-version", "1999-01-01"), malformed(400, -32022));
    add("a newer version without _meta", &legacy.clone().with("mcp-protocol-version", "2026-07-28"), BAD_PARAMS);
    let params = format!("{{{members},\"_meta\":{{{}}}}}", META.replace("2026-07-28", "2027-01-01"));
    let next = fixture.post("/mcp/raw", rpc("tools/call", &params)).with("mcp-protocol-version", "2027-01-01");
    add(
        "a version of the future",
        &next.with("mcp-method", "tools/call").with("mcp-name", "echo"),
        malformed(400, -32022),
    );
    let params = format!("{{{members},\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}}}}");
    let body = rpc("tools/call", &params);
    let request = fixture.post("/mcp/raw", body).with("mcp-protocol-version", "2026-07-28");
    add("_meta without capabilities", &request.with("mcp-method", "tools/call").with("mcp-name", "echo"), BAD_PARAMS);
    attacks
}
