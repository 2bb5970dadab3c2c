//! Attacks by tokens that a real issuer has signed for another place: another endpoint, another host, or a host that
//! the caller names.

use serde_json::{Value, json};

use super::fixture::{Attack, AttackFixture, UNAUTHENTICATED, call, malformed, row};
use super::wire::Request;
use crate::common::gatepost::token_with;

/// A token of a caller who may call everything, for these audiences.
fn token_for(aud: &Value) -> String {
    token_with(&json!({"sub": "ann", "role": "admin", "aud": aud}))
}

pub fn attacks(fixture: &AttackFixture) -> Vec<Attack> {
    let own = format!("http://{}", fixture.host);
    let mut attacks = Vec::new();
    let mut add = |name: String, request: Request| attacks.push(row(name, &request, UNAUTHENTICATED));
    // Good tokens, at the wrong endpoint.
    for (aud, path) in [
        ("/mcp/fixture", "/mcp/raw"),
        ("/mcp/raw", "/mcp/fixture"),
        ("/mcp/raw", "/mcp"),
        ("/mcp/raw", "/mcp/ra"),
        ("/mcp/ra", "/mcp/raw"),
        ("/mcp/nowhere", "/mcp/raw"),
        ("/mcp/fixture", "/mcp/%72aw"),
    ] {
        let token = token_for(&json!(format!("{own}{aud}")));
        add(format!("audience {aud} at {path}"), fixture.post(path, call("echo")).by(&token));
        for verb in ["GET", "DELETE"] {
            add(format!("audience {aud}, {verb} of {path}"), fixture.bare(verb, path).by(&token));
        }
    }
    let session = fixture.session("/mcp/raw", &token_for(&json!(format!("{own}/mcp/raw"))));
    let other = token_for(&json!(format!("{own}/mcp/fixture")));
    let request = fixture.post("/mcp/raw", call("echo")).by(&other).with("mcp-session-id", &session);
    add("a session of this endpoint with a token for another".to_owned(), request);
    // Audiences that only look like the endpoint.
    for aud in [
        json!(own),
        json!(format!("{own}/")),
        json!(format!("{own}/mcp/")),
        json!(format!("{own}/mcp/raw/")),
        json!(format!("{own}/mcp/raw?x")),
        json!(format!("{own}/mcp/raw#x")),
        json!(format!("{own}/mcp/RAW")),
        json!(format!("{own}/mcp/fixture/../raw")),
        json!(format!("{own}/mcp/%72aw")),
        json!(format!("{own}//mcp/raw")),
        json!(format!("HTTP://{}/mcp/raw", fixture.host)),
        json!(format!("https://{}/mcp/raw", fixture.host)),
        json!(format!("http://user@{}/mcp/raw", fixture.host)),
        json!(fixture.host),
        json!("/mcp/raw"),
        json!("raw"),
        json!([]),
        json!([[format!("{own}/mcp/raw")]]),
        json!([7, null]),
        json!({"aud": format!("{own}/mcp/raw")}),
    ] {
        add(format!("audience {aud}"), fixture.post("/mcp/raw", call("echo")).by(&token_for(&aud)));
    }
    // A caller that names the host for which its token was issued: another service of an allowed host.
    for host in
        ["gate.example:9000", "gate.example:443", "localhost", "localhost:9000", "127.0.0.1", "127.0.0.1:1", "[::1]:1"]
    {
        let token = token_for(&json!([format!("http://{host}/mcp/raw"), format!("https://{host}/mcp/raw")]));
        add(
            format!("Host {host}, for which the token is"),
            fixture.post("/mcp/raw", call("echo")).by(&token).set("host", host),
        );
    }
    // Headers of proxies, from a client that is none.
    let named = |host: &str, scheme: &str| token_for(&json!(format!("{scheme}://{host}/mcp/raw")));
    let forwarded = |token: &str| fixture.post("/mcp/raw", call("echo")).by(token).set("host", "gate.example");
    for scheme in ["https", "https, http"] {
        let request = forwarded(&named("gate.example", "https")).with("x-forwarded-proto", scheme);
        add(format!("a scheme {scheme} that nobody forwarded"), request);
    }
    let request = forwarded(&named("gate.example", "https")).with("forwarded", "proto=https;host=gate.example");
    add("a Forwarded that nobody wrote".to_owned(), request);
    for name in ["x-forwarded-host", "x-original-host", "x-host", "forwarded"] {
        let value = if name == "forwarded" { "host=other.example" } else { "other.example" };
        let request = forwarded(&named("other.example", "http")).with(name, value);
        add(format!("a host in {name}"), request);
    }
    let request = forwarded(&named("gate.example", "http")).set("host", "other.example");
    attacks.push(row("a Host that is not served, and a token for one that is", &request, malformed(403, -32600)));
    let request = forwarded(&named("other.example", "http")).set("host", "other.example");
    attacks.push(row("a Host that is not served, and a token for it", &request, malformed(403, -32600)));
    // No port, and addresses that are no place.
    let port = fixture.host.rsplit_once(':').map_or("", |(_, port)| port);
    for host in ["gate.example:99999".to_owned(), format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        let request = fixture.post("/mcp/raw", call("echo")).by(&named(&host, "http")).set("host", &host);
        attacks.push(row(format!("Host {host}, for which the token is"), &request, malformed(403, -32600)));
    }
    attacks
}
