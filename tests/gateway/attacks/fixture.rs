//! One gateway under attack, its callers, and the rows of the table.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::wire::{Request, Response, send};
use crate::common::gatepost::{Gatepost, ISSUER, Setup, token_with, write_secret};
use crate::common::raw_backend::raw_backend;
use crate::common::server::Server;

/// What one response must be, and what its record must say.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Refused, and recorded with this status.
    Refused { http: u16, code: i64, status: &'static str },
    /// Taken and dropped, as the protocol says for what asks for nothing: there is nothing to record.
    Dropped,
    /// Refused by the HTTP library, before there is a request: not recorded.
    Unseen(u16),
}

/// One attack: what is sent, and what each response on the connection must be. None: the connection is closed.
#[derive(Debug)]
pub struct Attack {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Whether the client says that no more will come.
    pub ends: bool,
    pub expect: Vec<Expect>,
}

/// The gateway and those who call it.
#[derive(Debug)]
pub struct AttackFixture {
    pub setup: Setup,
    pub gatepost: Gatepost,
    pub host: String,
    /// The calls that reached the raw backend.
    pub received: PathBuf,
    /// May call everything.
    pub ann: String,
    /// May call everything, too.
    pub eve: String,
    /// May call `raw/echo` and `fixture/test_simple_text` only.
    pub bob: String,
    _fixture: Server,
}

pub const UNAUTHENTICATED: Expect = Expect::Refused { http: 401, code: -32001, status: "unauthenticated" };
pub const DENIED: Expect = Expect::Refused { http: 200, code: -32003, status: "denied" };

pub const fn malformed(http: u16, code: i64) -> Expect {
    Expect::Refused { http, code, status: "malformed" }
}

/// The issuers of the keys besides that of [`Setup`].
pub const RSA_ISSUER: &str = "rsa-issuer";
pub const EC_ISSUER: &str = "ec-issuer";
pub const SECOND_ISSUER: &str = "second-issuer";
/// The secret of the last of them.
pub const SECOND_SECRET: &[u8] = b"another secret for the tests, with more than 32 bytes";

/// Largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

pub fn fixture_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The JSON text of one request.
pub fn rpc(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"attack","method":"{method}","params":{params}}}"#)
}

/// The JSON text of a call of `tool`, whose arguments say that it is an attack.
pub fn call(tool: &str) -> String {
    rpc("tools/call", &json!({"name": tool, "arguments": {"text": "attack"}}).to_string())
}

pub const META: &str =
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;

impl AttackFixture {
    /// `fixture` serves the conformance server.
    pub fn start(fixture_server: Server) -> Self {
        let mut setup = Setup::new();
        // Attacks are alike; each is to have its own record here.
        setup.set_toml("audit.refusals_singly_max", "1000000");
        let second = setup.dir().join("second");
        write_secret(&second, SECOND_SECRET);
        let path = |path: &Path| path.display().to_string();
        let keys = format!(
            "[{{ kid = \"test\", algorithm = \"HS256\", issuer = {ISSUER:?}, secret_file = {:?} }}, \
             {{ kid = \"rsa\", algorithm = \"RS256\", issuer = {RSA_ISSUER:?}, public_key_file = {:?} }}, \
             {{ kid = \"ec\", algorithm = \"ES256\", issuer = {EC_ISSUER:?}, public_key_file = {:?} }}, \
             {{ kid = \"second\", algorithm = \"HS256\", issuer = {SECOND_ISSUER:?}, secret_file = {:?} }}]",
            path(&setup.dir().join("secret")),
            path(&fixture_file("rs256_public.pem")),
            path(&fixture_file("es256_public.pem")),
            path(&second),
        );
        setup.set_toml("auth.keys", &keys).set_toml("server.body_bytes_max", &BODY_BYTES_MAX.to_string());
        setup.set_toml("server.calls_max", "2").set_toml("server.allowed_origins", r#"["https://app.example"]"#);
        setup.set_toml("server.allowed_hosts", r#"["gate.example"]"#).set("log.filter", "debug");
        setup.role("echo", &["raw/echo", "fixture/test_simple_text"]);
        let received = raw_backend(&mut setup, "raw");
        setup.set("backends.fixture.url", &fixture_server.url);
        let gatepost = setup.start();
        let host = gatepost.url().strip_prefix("http://").unwrap().to_owned();
        let token = |subject: &str, role: &str| token_with(&json!({"sub": subject, "role": role}));
        let (ann, eve, bob) = (token("ann", "admin"), token("eve", "admin"), token("bob", "echo"));
        Self { setup, gatepost, host, received, ann, eve, bob, _fixture: fixture_server }
    }

    /// A POST by ann.
    pub fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Request {
        Request::new(&self.host, "POST", path, body).by(&self.ann)
    }

    /// A request without a body by ann.
    pub fn bare(&self, verb: &str, path: &str) -> Request {
        Request::new(&self.host, verb, path, "").by(&self.ann).with("accept", "text/event-stream")
    }

    /// A modern POST by ann: `members` are those of `params` without `_meta`, and `name` what `Mcp-Name` says.
    pub fn modern(&self, path: &str, method: &str, members: &str, name: Option<&str>) -> Request {
        let members = if members.is_empty() { String::new() } else { format!("{members},") };
        let body = rpc(method, &format!("{{{members}\"_meta\":{{{META}}}}}"));
        let request = self.post(path, body).with("mcp-protocol-version", "2026-07-28").with("mcp-method", method);
        match name {
            Some(name) => request.with("mcp-name", name),
            None => request,
        }
    }

    /// Sends a request that must be served, and gives its one response.
    pub fn served(&self, request: &Request) -> Response {
        let mut answers = send(&self.host, &request.bytes());
        assert_eq!(answers.responses.len(), 1, "{request:?}: {answers:?}");
        let response = answers.responses.remove(0);
        assert!(response.code().is_none() && response.status < 300, "{request:?}: {response:?}");
        response
    }

    /// Opens a legacy session and gives its id.
    pub fn session(&self, path: &str, token: &str) -> String {
        let info = json!({"name": "attacks", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
        let response = self.served(&self.post(path, rpc("initialize", &params.to_string())).by(token));
        let session = response.header("mcp-session-id").to_owned();
        assert!(!session.is_empty(), "{response:?}");
        session
    }

    /// All records, in their order.
    pub fn records(&self) -> Vec<Value> {
        let output = self.setup.command(&["audit", "query", "--json", "--limit", "10000"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many calls were begun and have no record yet.
    pub fn open_calls(&self) -> usize {
        let output = self.setup.command(&["outbox", "list", "--intents", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count()
    }

    /// The calls that reached the raw backend, one line each.
    pub fn received(&self) -> String {
        std::fs::read_to_string(&self.received).unwrap_or_default()
    }
}

/// A row whose request is a valid one of HTTP.
pub fn row(name: impl Into<String>, request: &Request, expect: Expect) -> Attack {
    bytes(name, request.bytes(), [expect])
}

/// A row of bytes as they are.
pub fn bytes(name: impl Into<String>, bytes: Vec<u8>, expect: impl Into<Vec<Expect>>) -> Attack {
    Attack { name: name.into(), bytes, ends: false, expect: expect.into() }
}
