//! `gatepost config check --connect`: what it tries, what it says of each, and that it changes nothing.

use std::fs;
use std::net::TcpListener;

use serde_json::json;

use crate::common::gatepost::{BINARY, Setup};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::run::run;

/// The exit code, and the lines of the table: setting, word, text.
fn check(setup: &Setup) -> (Option<i32>, Vec<(String, String, String)>) {
    let (code, stdout, stderr) = run(setup, &["config", "check", "--connect"]);
    assert_eq!(stderr, "", "{stdout}");
    let (_, table) = stdout.split_once("\n\n").unwrap_or_else(|| panic!("no table: {stdout}"));
    let line = |line: &str| {
        let (what, rest) = line.split_once(' ').unwrap();
        let (word, text) = rest.trim_start().split_once(' ').unwrap();
        (what.to_owned(), word.to_owned(), text.trim_start().to_owned())
    };
    (code, table.lines().map(line).collect())
}

/// The word and the text about a setting.
fn of<'a>(lines: &'a [(String, String, String)], setting: &str) -> (&'a str, &'a str) {
    let line = lines.iter().find(|(what, ..)| what == setting).unwrap_or_else(|| panic!("{setting}: {lines:?}"));
    (line.1.as_str(), line.2.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_start_needs_is_tried_and_nothing_is_changed() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.env.insert("GATEPOST_POSTGRES_URL".to_owned(), database.url.clone());
    let keys = "[{ issuer = \"https://far.example\", jwks_url = \"http://URL/jwks\" }]";
    let jwks = axum::Router::new().route(
        "/jwks",
        axum::routing::get(async || {
            let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "a", "alg": "EdDSA"}]}).to_string()
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    setup.set_toml("auth.issuers", &keys.replace("URL", &listener.local_addr().unwrap().to_string()));
    tokio::spawn(async move { axum::serve(listener, jwks).await });
    setup.set_toml("backends.example.rename", r#"{ echo = "add", gone = "here" }"#);
    let pool = database.pool().await;
    let tables = async || -> i64 {
        let count = "SELECT count(*) FROM pg_class WHERE relname LIKE 'audit_%'";
        sqlx::query_scalar(count).fetch_one(&pool).await.unwrap()
    };

    let (code, lines) = check(&setup);
    assert_eq!(code, Some(0), "{lines:?}");
    let settings: Vec<_> = lines.iter().map(|(what, ..)| what.as_str()).collect();
    let all =
        ["audit.dir", "server.listen", "ops.listen", "postgres.url", "auth.issuers[0].jwks_url", "backends.example"];
    assert_eq!(settings, all);
    assert_eq!(of(&lines, "postgres.url"), ("OK", "connected; the start will make the schema"));
    assert_eq!(of(&lines, "auth.issuers[0].jwks_url"), ("OK", "1 usable key"));
    let backend = "5 tools; rename names tools that it does not have: gone; rename leaves out tools whose own name it gives \
                   to others: add";
    assert_eq!(of(&lines, "backends.example"), ("OK", backend));
    assert!(of(&lines, "audit.dir").1.ends_with("is writable"));
    assert_eq!(tables().await, 0, "no schema is made");
    assert!(!setup.audit_dir().exists(), "no directory is made");

    // Beside the gateway that runs with the same configuration.
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    let (mcp, ops) = (gatepost.url().to_owned(), gatepost.ops_url.clone());
    for (key, url) in [("server.listen", mcp), ("ops.listen", ops)] {
        setup.set(key, url.strip_prefix("http://").unwrap());
    }
    let rows = async |what: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {what}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap()
    };
    let before = (rows("audit_gateway").await, rows("audit_stream").await);
    let (code, lines) = check(&setup);
    assert_eq!(code, Some(0), "{lines:?}");
    for setting in ["audit.dir", "server.listen", "ops.listen"] {
        assert!(of(&lines, setting).1.contains(&format!("the running gateway (pid {}", gatepost.pid)), "{lines:?}");
    }
    assert!(of(&lines, "postgres.url").1.contains("the gateway is registered"), "{lines:?}");
    assert_eq!((rows("audit_gateway").await, rows("audit_stream").await), before);
    assert_eq!(client.call("add", json!({"text": "hi"})).await.unwrap().content(), "hi", "it is not disturbed");
    assert_eq!(gatepost.terminate(), Some(0));
}

#[test]
fn each_failure_has_its_reason_and_a_remedy_and_shows_no_secret() {
    let mut setup = Setup::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let unused = free.local_addr().unwrap();
    drop(free);
    setup.env.insert("GATEPOST_POSTGRES_URL".to_owned(), format!("postgres://u:hunter2@{unused}/d"));
    let reader = format!("postgres://u:hunter2@{unused}/d");
    setup.env.insert("GATEPOST_POSTGRES_READER_URL".to_owned(), reader);
    setup.env.insert("KEY".to_owned(), "hunter2".to_owned());
    setup.set("server.listen", &taken.local_addr().unwrap().to_string());
    // An address of a documentation's network is none of this machine.
    setup.set("ops.listen", "192.0.2.1:1");
    let issuer = format!("[{{ issuer = \"i\", jwks_url = \"http://{unused}/jwks?key=hunter2\" }}]");
    setup.set_toml("auth.issuers", &issuer);
    setup.backend("gone", &["sh", "-c", "exit 3"]).backend("example", &[BINARY, "example-backend"]);
    setup.set("backends.far.url", &format!("http://{unused}/mcp?key=hunter2"));
    setup.set_toml("backends.far.header_env", "{ Authorization = \"KEY\" }");
    let (code, lines) = check(&setup);
    assert_eq!(code, Some(1), "{lines:?}");
    for (setting, part) in [
        ("server.listen", "stop the program that listens there, or change server.listen"),
        ("ops.listen", "use an address of this machine, or change ops.listen"),
        ("postgres.url", "Connection refused"),
        ("postgres.reader_url", "gatepost_reader"),
        ("auth.issuers[0].jwks_url", "check jwks_url"),
        ("backends.gone", "run sh by hand"),
        ("backends.far", "check url, its headers, and that the server runs"),
    ] {
        let (word, text) = of(&lines, setting);
        assert!(word == "FAILED" && text.contains(part), "{setting}: {word} {text}");
    }
    assert_eq!(of(&lines, "backends.example"), ("OK", "5 tools"), "one failure hides no other result");
    assert!(!format!("{lines:?}").contains("hunter2"), "I8: {lines:?}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let mut setup = Setup::new();
    fs::write(setup.dir().join("file"), "").unwrap();
    let dir = setup.dir().join("file/data");
    setup.set("audit.dir", dir.to_str().unwrap());
    let (code, lines) = check(&setup);
    let (word, text) = of(&lines, "audit.dir");
    assert!(
        code == Some(1) && word == "FAILED" && text.contains("file is not a directory: use another path"),
        "{text}"
    );
}

#[test]
fn a_directory_of_another_gateway_is_named() {
    let mut setup = Setup::new();
    let gatepost = setup.start();
    assert_eq!(gatepost.terminate(), Some(0));
    setup.set("audit.gateway_id", "00000000-0000-4000-8000-000000000000");
    let (code, lines) = check(&setup);
    let (word, text) = of(&lines, "audit.dir");
    assert!(code == Some(1) && word == "FAILED" && text.contains("not to audit.gateway_id"), "{lines:?}");
    let (code, _, _) = run(&setup, &["serve"]);
    assert_eq!(code, Some(3), "serve refuses it too");
}
