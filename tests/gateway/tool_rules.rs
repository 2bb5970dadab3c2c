//! Tools that the operator hides or renames: what clients see of them at each endpoint, what may be called, what
//! reaches the backend, and what is recorded.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Era, Reply};
use crate::common::tool_names::tool_names;
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, modern, result};

/// The backend's own names.
const TOOLS: [&str; 6] = ["long_report", "report", "odd.name", "rm", "delete_all", "echo"];

/// A backend with [`TOOLS`], in one era.
async fn backend(is_modern: bool) -> BackendStub {
    let tools: Vec<_> =
        TOOLS.iter().map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#)).collect();
    let tools = format!(r#"{{"tools":[{}]}}"#, tools.join(","));
    BackendStub::start(move |asked: &ReceivedRequest| {
        if asked.method() == "tools/list" && (!is_modern || asked.header("mcp-protocol-version").is_some()) {
            return Some(result(asked, &tools));
        }
        is_modern.then(|| modern(asked))
    })
    .await
}

fn rules(setup: &mut Setup) {
    setup.set_toml("backends.far.rename", r#"{ long_report = "report", "odd.name" = "odd" }"#);
    setup.set_toml("backends.far.hide", r#"["delete_*", "rm"]"#);
}

/// The records of calls of tools of the backend, in their order.
fn calls(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut calls: Vec<Value> = all.filter(|record| record["method"] == "tools/call").collect();
    calls.sort_by_key(|record| record["seq"].as_u64());
    calls
}

/// The name that a record has, and the one in it by which the client called.
fn names(record: &Value) -> (String, Option<String>) {
    let context: Value = serde_json::from_str(record["context"].as_str().unwrap()).unwrap();
    (record["tool_name"].as_str().unwrap().to_owned(), context["called_as"].as_str().map(str::to_owned))
}

/// The names of the tools of calls that reached the backend.
fn reached(backend: &BackendStub) -> Vec<String> {
    let name = |asked: &ReceivedRequest| asked.message["params"]["name"].as_str().unwrap().to_owned();
    backend.seen("tools/call").iter().map(name).collect()
}

async fn call(gatepost: &Gatepost, path: &str, era: Era, role: &str, tool: &str) -> Reply {
    gatepost.client_at(path, era, role).await.call(tool, json!({})).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_tools_have_one_name_and_hidden_ones_none() {
    for (is_modern, era) in [(true, Era::Modern), (true, Era::Legacy), (false, Era::Modern), (false, Era::Legacy)] {
        let backend = backend(is_modern).await;
        let (setup, gatepost) = backend.gateway(rules);
        let listed = async |path: &str| tool_names(&gatepost.client_at(path, era, "admin").await).await;
        assert_eq!(listed("/mcp/far").await, ["report", "odd", "echo"], "{is_modern} {era:?}");
        let all = listed("/mcp").await;
        let far: Vec<_> = all.iter().filter_map(|name| name.strip_prefix("far__")).collect();
        assert_eq!(far, ["report", "odd", "echo"], "{is_modern} {era:?}");

        for (path, tool) in [("/mcp/far", "report"), ("/mcp", "far__report"), ("/mcp/far", "odd"), ("/mcp/far", "echo")]
        {
            assert!(call(&gatepost, path, era, "admin", tool).await.result()["content"].is_array(), "{tool}");
        }
        let forwarded = ["long_report", "long_report", "odd.name", "echo"];
        assert_eq!(reached(&backend), forwarded, "the backend has its own names");
        for (path, tool, code) in [
            ("/mcp/far", "long_report", -32602),
            ("/mcp", "far__long_report", -32602),
            ("/mcp/far", "rm", -32003),
            ("/mcp", "far__delete_all", -32003),
        ] {
            assert_eq!(call(&gatepost, path, era, "admin", tool).await.error_code(), code, "{tool}");
        }
        assert_eq!(reached(&backend), forwarded, "what is refused does not reach it");
        let records = calls(&setup);
        let recorded: Vec<_> = records.iter().map(names).collect();
        let want = [
            ("long_report", Some("report")),
            ("long_report", Some("far__report")),
            ("odd.name", Some("odd")),
            ("echo", None),
            ("long_report", None),
            ("long_report", None),
            ("rm", None),
            ("delete_all", None),
        ];
        let want = want.map(|(own, called)| (own.to_owned(), called.map(str::to_owned)));
        assert_eq!(recorded, want, "{is_modern} {era:?}");
        let status = |record: &Value| record["response_status"].as_str().unwrap().to_owned();
        let statuses: Vec<_> = records.iter().map(status).collect();
        assert_eq!(statuses, ["ok", "ok", "ok", "ok", "malformed", "malformed", "denied", "denied"]);
        assert_eq!(records[6]["decided_by"], "backends.far.hide[1]");
        assert_eq!(records[7]["decided_by"], "backends.far.hide[0]");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_conditions_and_pins_are_by_the_backends_own_names() {
    let backend = backend(false).await;
    let (mut setup, gatepost) = backend.gateway(|setup| {
        rules(setup);
        setup.role("own", &["far/long_report"]).role("listed", &["far/report"]).role("never", &["far/*"]);
        setup.set_toml("roles.never.when", r#"[{ tool = "far/long_report", pointer = "/a", equals = 1 }]"#);
    });
    for (role, code) in [("own", None), ("listed", Some(-32003)), ("never", Some(-32003))] {
        let reply = call(&gatepost, "/mcp/far", Era::Modern, role, "report").await;
        assert_eq!(reply.body["error"]["code"].as_i64(), code, "{role}");
    }
    let listed = async |role: &str| tool_names(&gatepost.client_at("/mcp/far", Era::Modern, role).await).await;
    assert_eq!(listed("own").await, ["report"]);
    // The tool whose own name it is cannot be reached by it.
    assert_eq!(listed("listed").await, Vec::<String>::new());
    gatepost.terminate();

    let pins = setup.dir().join("pins.json");
    setup.set("backends.far.pin", "refuse").set("backends.far.pins_file", pins.to_str().unwrap());
    let accepted = setup.command(&["audit", "pins", "accept", "far"]).output().unwrap();
    let text = String::from_utf8(accepted.stdout).unwrap() + &String::from_utf8(accepted.stderr).unwrap();
    assert!(std::fs::read_to_string(&pins).is_ok_and(|pins| pins.contains("long_report")), "{text}");
    let gatepost = setup.start();
    let names = tool_names(&gatepost.client_at("/mcp/far", Era::Modern, "admin").await).await;
    assert_eq!(names, ["report", "odd", "echo"]);
    assert_eq!(call(&gatepost, "/mcp/far", Era::Modern, "admin", "report").await.content(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_before_it_is_routed_is_recorded_by_the_own_name_too() {
    let backend = backend(false).await;
    let (setup, gatepost) = backend.gateway(rules);
    let client = gatepost.client_at("/mcp/far", Era::Modern, "admin").await;
    // `argumentz` is not a member of a call's parameters.
    let params = json!({"name": "report", "arguments": {}, "argumentz": 1});
    assert!(client.request("tools/call", params).await.unwrap().error_code() < 0);
    assert_eq!(names(&calls(&setup)[0]), ("long_report".to_owned(), Some("report".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_names_and_clients_hear_of_it() {
    let backend = backend(false).await;
    let (mut setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    assert_eq!(tool_names(&client).await.len(), TOOLS.len());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = http.get(format!("{}/mcp/far", gatepost.url())).bearer_auth(token("admin"));
    let get = get.header("mcp-session-id", client.session.as_deref().unwrap()).header("accept", "text/event-stream");
    let mut stream = get.send().await.unwrap();
    rules(&mut setup);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the lists are by the new rules", SOON, async || {
        tool_names(&client).await == ["report", "odd", "echo"]
    })
    .await;
    let mut heard = String::new();
    while !heard.contains("notifications/tools/list_changed") {
        let chunk = tokio::time::timeout(SOON, stream.chunk()).await.unwrap().unwrap();
        heard.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    assert!(!heard.contains("prompts/list_changed"), "{heard}");
    // The policy in the trail has the new rules.
    let output = setup.command(&["outbox", "list", "--json", "--limit", "100"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let config = text.lines().find(|line| line.contains("gateway/config")).unwrap();
    assert!(config.contains(r#"\"changed\":[\"backends.far\"]"#), "{config}");
    assert!(text.contains("delete_*") && text.contains("odd.name"), "{text}");
}

#[test]
fn rules_of_tools_that_cannot_be_meant_are_errors() {
    let mut setup = Setup::new();
    let long = "x".repeat(60);
    setup.set_toml(
        "backends.example.rename",
        &format!(
            r#"{{ a = "b", c = "b", d = "a b", e = "", f = 1, g = "{long}", h = "x__0123abcd", "" = "i", k = "l" }}"#
        ),
    );
    setup.set_toml("backends.example.hide", r#"["", "k", 1]"#);
    let output = setup.command(&["config", "check"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in [
        "rename.d: \"a b\" is a name that clients refuse",
        "rename.e: is empty",
        "rename.f: expected a string",
        "rename.\"\": is not a name of a tool",
        "hide[0]: is empty",
        "hide[2]: expected a string",
    ] {
        assert!(said.contains(&format!("backends.example.{part}")), "{part}: {said}");
    }
    // What involves more than one value is checked once each value is right.
    setup.set_toml(
        "backends.example.rename",
        &format!(r#"{{ a = "b", c = "b", g = "{long}", h = "x__0123abcd", k = "l" }}"#),
    );
    setup.set_toml("backends.example.hide", r#"["k"]"#);
    let output = setup.command(&["config", "check"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for part in [
        "rename.c: \"b\" is also the name of \"a\"",
        "has 69 characters, limit 64: shorten it",
        "rename.h: \"x__0123abcd\" has the form that the gateway gives",
        "rename.k: is also in hide",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
