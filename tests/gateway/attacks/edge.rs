//! Attacks on HTTP itself: where a request comes from, where it goes to, and where it ends.

use super::fixture::{
    Attack, AttackFixture, BODY_BYTES_MAX, DENIED, Expect, UNAUTHENTICATED, bytes, call, malformed, row, rpc,
};
use super::wire::Request;

const FORBIDDEN: Expect = malformed(403, -32600);
const TYPE: Expect = malformed(415, -32600);
const TOO_LARGE: Expect = malformed(413, -32600);
const BROKEN: Expect = malformed(408, -32600);
const AMBIGUOUS: Expect = malformed(400, -32600);
const NOT_HERE: Expect = malformed(404, -32602);

pub fn attacks(fixture: &AttackFixture) -> Vec<Attack> {
    [origins(fixture), hosts(fixture), types(fixture), paths(fixture), sizes(fixture), ends(fixture)]
        .into_iter()
        .flatten()
        .collect()
}

fn origins(fixture: &AttackFixture) -> Vec<Attack> {
    let good = fixture.post("/mcp/raw", call("echo"));
    let host = &fixture.host;
    let mut attacks = Vec::new();
    for origin in [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        String::new(),
        "*".to_owned(),
        "file://".to_owned(),
        format!("http://{host}.evil.example"),
        format!("http://evil.example.{host}"),
        format!("http://{host}@evil.example"),
        format!("http://evil.example@{host}"),
        format!("http://{host}/"),
        format!("http://{host}:80"),
        host.clone(),
        "file://localhost".to_owned(),
        "http://localhost:x".to_owned(),
        "http://localhost:1/".to_owned(),
        "http://evil@localhost".to_owned(),
        "http://localhost.evil.example".to_owned(),
        "http://app.example".to_owned(),
        "https://app.example:8443".to_owned(),
        "https://app.example.evil.example".to_owned(),
        "https://evilapp.example".to_owned(),
        "https://evil.example/https://app.example".to_owned(),
        "https://app.example https://evil.example".to_owned(),
        "https://app.example, https://evil.example".to_owned(),
        "https://gate.example".to_owned(),
    ] {
        let request = good.clone().with("origin", &origin);
        attacks.push(row(format!("Origin {origin:?}"), &request, FORBIDDEN));
    }
    let twice = good.with("origin", "https://app.example").with("origin", "https://evil.example");
    attacks.push(row("two Origins", &twice, FORBIDDEN));
    for verb in ["GET", "DELETE"] {
        let request = fixture.bare(verb, "/mcp/raw").with("origin", "https://evil.example");
        attacks.push(row(format!("{verb} of a foreign Origin"), &request, FORBIDDEN));
    }
    attacks
}

fn hosts(fixture: &AttackFixture) -> Vec<Attack> {
    let good = fixture.post("/mcp/raw", call("echo"));
    let host = &fixture.host;
    let mut attacks = Vec::new();
    for name in [
        "evil.example".to_owned(),
        String::new(),
        "*".to_owned(),
        "localhost.evil.example".to_owned(),
        "evillocalhost".to_owned(),
        "127.0.0.1.evil.example".to_owned(),
        format!("user@{host}"),
        format!("{host}@evil.example"),
        format!("evil.example, {host}"),
        format!("{host}:80"),
        format!("{host}/"),
        format!("{host}#"),
        format!("http://{host}"),
        "127.0.0.1:80@evil.example".to_owned(),
        "127.1".to_owned(),
        "127.0.0.2".to_owned(),
        "0.0.0.0".to_owned(),
        "2130706433".to_owned(),
        "[::1].evil.example".to_owned(),
        "[::ffff:127.0.0.1]".to_owned(),
        "gate.example.evil.example".to_owned(),
        "gate.example.".to_owned(),
        "gate.example:80a".to_owned(),
    ] {
        attacks.push(row(format!("Host {name:?}"), &good.clone().set("host", &name), FORBIDDEN));
    }
    attacks.push(row("no Host", &good.clone().without("host"), FORBIDDEN));
    attacks.push(row("two Hosts", &good.clone().with("host", "evil.example"), FORBIDDEN));
    attacks.push(row("the same Host twice", &good.clone().with("host", host), FORBIDDEN));
    let forwarded =
        good.set("host", "evil.example").with("x-forwarded-host", host).with("forwarded", &format!("host={host}"));
    attacks.push(row("a Host that is forwarded", &forwarded, FORBIDDEN));
    for authority in ["evil.example", "127.0.0.1", "user@gate.example", "gate.example"] {
        let request = fixture.post(&format!("http://{authority}/mcp/raw"), call("echo"));
        attacks.push(row(format!("the whole address of {authority}"), &request, FORBIDDEN));
    }
    let old = String::from_utf8(fixture.post("/mcp/raw", call("echo")).without("host").bytes()).unwrap();
    attacks.push(bytes("no Host in HTTP/1.0", old.replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes(), [FORBIDDEN]));
    // The metadata is public, and so is its refusal: no record.
    let metadata = fixture.bare("GET", "/.well-known/oauth-protected-resource").set("host", "evil.example");
    attacks.push(row("metadata for a foreign Host", &metadata, malformed(403, -32600)));
    for verb in ["GET", "DELETE"] {
        let request = fixture.bare(verb, "/mcp/raw").set("host", "evil.example");
        attacks.push(row(format!("{verb} to a foreign Host"), &request, FORBIDDEN));
    }
    attacks
}

fn types(fixture: &AttackFixture) -> Vec<Attack> {
    let good = fixture.post("/mcp/raw", call("echo"));
    let mut attacks = Vec::new();
    for value in [
        "text/plain",
        "text/plain; application/json",
        "application/jsonx",
        "application/json+x",
        "application/x-json",
        "application/json-rpc",
        "application/json, text/plain",
        "application",
        "json",
        "",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/ json",
    ] {
        attacks.push(row(format!("Content-Type {value:?}"), &good.clone().set("content-type", value), TYPE));
    }
    for value in ["gzip", "br", "deflate", "x", "identity, gzip", "gzip, identity", "identity, identity", ""] {
        // The body is a plain call.
        let request = good.clone().with("content-encoding", value);
        attacks.push(row(format!("Content-Encoding {value:?}"), &request, TYPE));
    }
    attacks.push(row(
        "two Content-Encodings",
        &good.clone().with("content-encoding", "identity").with("content-encoding", "gzip"),
        TYPE,
    ));
    attacks.push(row("no Content-Type", &good.clone().without("content-type"), TYPE));
    attacks.push(row("two Content-Types", &good.clone().with("content-type", "application/json"), TYPE));
    attacks.push(row(
        "another Content-Type first",
        &good.set("content-type", "text/plain").with("content-type", "application/json"),
        TYPE,
    ));
    attacks
}

/// One spelling of a path, one backend: what bob may not call by one he may not call by another.
fn paths(fixture: &AttackFixture) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for path in ["/mcp/raw", "/mcp/%72aw", "/mcp/%72%61%77", "/mcp/raw?x=/mcp/example", "/mcp/raw#x"] {
        let request = fixture.post(path, call("exact")).by(&fixture.bob);
        attacks.push(row(format!("bob's other tool at {path}"), &request, DENIED));
    }
    for path in [
        "/mcp/RAW",
        "/mcp/Raw",
        "/mcp/raw%00",
        "/mcp/raw%20",
        "/mcp/%20raw",
        "/mcp/raw%0a",
        "/mcp/raw.",
        "/mcp/raw;x=1",
        "/mcp/%2572aw",
        "/mcp/raw%3f",
        "/mcp/raw%23",
        "/mcp/%2e",
        "/mcp/%2e%2e",
        "/mcp/..",
        "/mcp/*",
        "/mcp/r%D0%B0w",
        "/mcp/raw%E2%80%8B",
        "/mcp/raw__echo",
        "/mcp/%EF%BC%B2aw",
        "/mcp/-",
        "/mcp/{backend}",
    ] {
        attacks.push(row(format!("ann calls at {path}"), &fixture.post(path, call("echo")), NOT_HERE));
        attacks.push(row(format!("bob calls at {path}"), &fixture.post(path, call("echo")).by(&fixture.bob), DENIED));
        let anonymous = fixture.post(path, call("echo")).without("authorization");
        attacks.push(row(format!("somebody calls at {path}"), &anonymous, UNAUTHENTICATED));
    }
    // A pattern's star stands for no slash.
    for path in [
        "/mcp/..%2fraw",
        "/mcp/%2e%2e%2fraw",
        "/mcp/raw%2f",
        "/mcp/raw%2fecho",
        "/mcp/%2fraw",
        "/mcp/raw%2f..%2fexample",
    ] {
        attacks.push(row(format!("ann calls at {path}"), &fixture.post(path, call("echo")), DENIED));
    }
    for (path, status) in [
        ("/mcp/raw/", 404),
        ("//mcp/raw", 404),
        ("/mcp//raw", 404),
        ("/mcp/", 404),
        ("/MCP/raw", 404),
        ("/mcp%2fraw", 404),
        ("/./mcp/raw", 404),
        ("/mcp/../mcp/raw", 404),
        ("/mcp/./raw", 404),
        ("/mcp/raw/echo", 404),
        ("/", 404),
        ("/mcp\\raw", 404),
        ("/mcp/%ff", 400),
        ("/mcp/raw%c0%af", 400),
        ("/%6dcp/raw", 404),
    ] {
        attacks.push(row(format!("ann calls at {path}"), &fixture.post(path, call("echo")), malformed(status, -32600)));
    }
    for verb in ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "post"] {
        let request = Request::new(&fixture.host, verb, "/mcp/raw", call("echo")).by(&fixture.ann);
        attacks.push(row(format!("{verb} for a call"), &request, malformed(405, -32600)));
    }
    let absolute = format!("http://{}/mcp/raw", fixture.host);
    attacks.push(row(
        "a whole address, another Host",
        &fixture.post(&absolute, call("echo")).set("host", "evil.example"),
        FORBIDDEN,
    ));
    attacks
}

fn sizes(fixture: &AttackFixture) -> Vec<Attack> {
    let good = fixture.post("/mcp/raw", call("echo"));
    let mut attacks = Vec::new();
    for length in [BODY_BYTES_MAX + 1, usize::MAX / 2] {
        // The body itself is never sent.
        let head = good.clone().with("content-length", &length.to_string()).head();
        attacks.push(bytes(format!("a body of {length} bytes is announced"), head, [TOO_LARGE]));
    }
    let large = fixture.post(
        "/mcp/raw",
        rpc("tools/call", &format!(r#"{{"name":"echo","arguments":{{"text":"{}"}}}}"#, "x".repeat(BODY_BYTES_MAX))),
    );
    attacks.push(bytes("a large body in one chunk", large.chunked(), [TOO_LARGE]));
    let mut small = good.clone().with("transfer-encoding", "chunked").head();
    small.extend(b"400\r\n".iter().chain(&[b' '; 1024]).chain(b"\r\n").copied().collect::<Vec<u8>>().repeat(80));
    attacks.push(bytes("a large body in small chunks", small, [TOO_LARGE]));
    let header = good.clone().with("x-large", &"x".repeat(33 * 1024));
    attacks.push(row("large headers", &header, malformed(431, -32600)));
    let mut many = good.clone();
    for at in 0..60 {
        many = many.with(&format!("x-{at}"), &"x".repeat(1024));
    }
    attacks.push(row("many headers", &many, malformed(431, -32600)));
    let mut more = good.clone();
    for at in 0..120 {
        more = more.with(&format!("x-{at}"), "x");
    }
    attacks.push(row("more headers than the HTTP library takes", &more, Expect::Unseen(431)));
    attacks.push(row(
        "larger headers than it takes",
        &good.with("x-large", &"x".repeat(600 * 1024)),
        Expect::Unseen(431),
    ));
    let long = format!("/mcp/raw?{}", "x".repeat(70_000));
    attacks.push(row("a longer address than it takes", &fixture.post(&long, call("echo")), Expect::Unseen(414)));
    attacks
}

/// Where two parsers may see the end of a request, and the beginning of the next, at different places.
fn ends(fixture: &AttackFixture) -> Vec<Attack> {
    let good = fixture.post("/mcp/raw", call("echo"));
    let smuggled = fixture.post("/mcp/raw", call("exact")).bytes();
    let cut = |mut bytes: Vec<u8>, at: usize| {
        bytes.truncate(at);
        bytes
    };
    let mut attacks = Vec::new();
    let body = call("echo").len();
    let mut broken = |name: &str, bytes: Vec<u8>, expect: Expect| {
        attacks.push(Attack { name: name.to_owned(), bytes, ends: true, expect: vec![expect] });
    };
    let whole = good.bytes();
    broken("a body that ends early", cut(whole.clone(), whole.len() - 10), BROKEN);
    broken("a body that never begins", cut(whole.clone(), whole.len() - body), BROKEN);
    let chunked = good.chunked();
    broken("a chunked body without its end", cut(chunked.clone(), chunked.len() - 5), BROKEN);
    broken("a chunk that ends early", cut(chunked.clone(), chunked.len() - 20), BROKEN);
    // The length of the request behind it may be meant for this one.
    let te = |size: &str| {
        let mut bytes = good.clone().with("transfer-encoding", "chunked").head();
        bytes.extend_from_slice(format!("{size}\r\n{}\r\n0\r\n\r\n", call("echo")).as_bytes());
        bytes.extend_from_slice(&smuggled);
        bytes
    };
    for size in ["zz", "-1", "0x10", "", "ffffffffffffffffff", "+5", "10 10", "1e1"] {
        broken(&format!("a chunk of {size:?} bytes"), te(size), AMBIGUOUS);
    }
    broken("a chunk that is too short for what it holds", te("5"), AMBIGUOUS);
    // From here on the HTTP library refuses, and nothing behind the first request is served.
    let mut unseen = |name: &str, head: Vec<u8>, status: u16| {
        let all = [head, call("echo").into_bytes(), smuggled.clone()].concat();
        attacks.push(bytes(name, all, [Expect::Unseen(status)]));
    };
    let length = |value: &str| good.clone().with("content-length", value);
    let own = body.to_string();
    unseen("two lengths", length(&own).with("content-length", "5").head(), 400);
    unseen("two lengths, the good one last", length("5").with("content-length", &own).head(), 400);
    for value in ["-1", "+5", "0x10", "5, 6", "1e1", "99999999999999999999999", "5 5", "five", ""] {
        unseen(&format!("the length {value:?}"), length(value).head(), 400);
    }
    for value in ["chunked, identity", "identity", "xchunked", "chunked;x", "gzip"] {
        let head = good.clone().with("transfer-encoding", value).head();
        unseen(&format!("Transfer-Encoding {value:?}"), head, 400);
    }
    let text = String::from_utf8(length(&own).head()).unwrap();
    for (name, from, to) in [
        ("a header on two lines", "content-type: application/json", "content-type:\r\n application/json"),
        ("a header on two lines, with a tab", "connection: close", "connection: close\r\n\tx"),
        ("a space before a colon", "content-type:", "content-type :"),
        ("a space before a name", "content-type:", " content-type:"),
        ("NUL in a header", "application/json", "application/json\0"),
        ("a return alone in a header", "application/json", "application/json\rx: y"),
        ("a header without a name", "content-type:", ":"),
        ("a header without a colon", "content-type: application/json", "content-type"),
        ("HTTP/1.1 twice", "HTTP/1.1", "HTTP/1.1 HTTP/1.1"),
        ("HTTP/1.2", "HTTP/1.1", "HTTP/1.2"),
        ("HTTP/2.0", "HTTP/1.1", "HTTP/2.0"),
        ("a space in the path", "/mcp/raw", "/mcp/raw x"),
        ("a control in the path", "/mcp/raw", "/mcp/raw\x01"),
    ] {
        unseen(name, text.replacen(from, to, 1).into_bytes(), 400);
    }
    let old = text.replacen("HTTP/1.1", "HTTP/1.0", 1).replace("content-length: ", "transfer-encoding: chunked\r\nx: ");
    unseen("chunks in HTTP/1.0", old.into_bytes(), 400);
    // Where both are there, or a coding that another reader may not know, nothing is served.
    let first = fixture.post("/mcp/raw", call("echo")).without("connection");
    let chunks = format!("{:x}\r\n{}\r\n0\r\n\r\n", body, call("echo")).into_bytes();
    for (name, headers) in [
        ("a length and then chunks", &[("content-length", "5"), ("transfer-encoding", "chunked")][..]),
        ("chunks and then a length", &[("transfer-encoding", "chunked"), ("Content-Length", "5")]),
        (
            "chunks and then two lengths",
            &[("transfer-encoding", "chunked"), ("content-length", "5"), ("content-length", "6")],
        ),
        ("a coding before chunks", &[("transfer-encoding", "gzip, chunked")]),
        ("an unknown coding before chunks", &[("transfer-encoding", "x, chunked")]),
        ("a coding before chunks, in two headers", &[("transfer-encoding", "x"), ("transfer-encoding", "chunked")]),
        ("chunks twice", &[("transfer-encoding", "chunked, chunked")]),
        ("chunks in two headers", &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
    ] {
        let head = headers.iter().fold(first.clone(), |request, (header, value)| request.with(header, value)).head();
        attacks.push(bytes(name, [head, chunks.clone(), smuggled.clone()].concat(), [AMBIGUOUS]));
    }
    attacks
}
