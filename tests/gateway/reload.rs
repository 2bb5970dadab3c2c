//! A configuration that changes under a running gateway: taken up whole or not at all, and recorded.

use crate::common::gatepost::{Setup, token, write_secret};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::BackendStub;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn config_records(setup: &Setup) -> Vec<Value> {
    records_of(setup, "gateway/config")
}

/// The records with this method, oldest first.
pub fn records_of(setup: &Setup, method: &str) -> Vec<Value> {
    let output = setup.command(&["outbox", "list", "--json", "--limit", "5000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["method"] == method).collect()
}

#[tokio::test]
async fn i10_a_removed_rule_applies_to_the_next_call_and_is_recorded() {
    let mut setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "echo").await;
    assert_eq!(client.call("echo", json!({"text": "before"})).await.unwrap().content(), "before");
    assert!(config_records(&setup).is_empty());
    // A bad configuration is told of, and changes nothing.
    setup.role("echo", &["example"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the fault is told", SOON, async || setup.log().contains("roles.echo.allow[0]")).await;
    assert_eq!(client.call("echo", json!({"text": "still"})).await.unwrap().content(), "still");
    assert!(config_records(&setup).is_empty());
    // So is one with which the gateway could not start, though only the next start would use that setting.
    setup.role("echo", &["example/add"]);
    let digest_key = setup.dir().join("digest-key");
    write_secret(&digest_key, "not a key");
    setup.set("audit.digest_key_file", digest_key.to_str().unwrap());
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the fault is told", SOON, async || setup.log().contains("audit.digest_key_file: ")).await;
    assert_eq!(client.call("echo", json!({"text": "still"})).await.unwrap().content(), "still");
    assert!(config_records(&setup).is_empty());
    setup.settings.remove("audit.digest_key_file");
    // Whoever listens, in either era, hears that its lists may have changed.
    let legacy = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    let bearer = format!("Bearer {}", token("echo"));
    let listen = |request: reqwest::RequestBuilder| {
        request.header("authorization", &bearer).header("accept", "application/json, text/event-stream").send()
    };
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/mcp/example", gatepost.url());
    let mut older = listen(http.get(&url).header("mcp-session-id", legacy.session.as_deref().unwrap())).await.unwrap();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"notifications": {"toolsListChanged": true}, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params}).to_string();
    let request = http.post(&url).header("content-type", "application/json").body(body);
    let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "subscriptions/listen");
    let mut newer = listen(request).await.unwrap();
    // The administrator listens too, whose role stays as it is.
    let other = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
    let request = http.get(&url).header("mcp-session-id", other.session.as_deref().unwrap());
    let request = request.bearer_auth(token("admin")).header("accept", "text/event-stream");
    let mut unchanged = request.send().await.unwrap();
    let told = String::from_utf8_lossy(&newer.chunk().await.unwrap().unwrap()).into_owned();
    assert!(told.contains("acknowledged"), "{told}");
    // A good one is recorded before anybody is decided on by it.
    setup.role("echo", &["example/add"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the role has lost its rule", SOON, async || {
        let reply = client.call("echo", json!({"text": "after"})).await.unwrap();
        reply.body["error"]["code"] == -32003
    })
    .await;
    for stream in [&mut older, &mut newer] {
        let told = String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()).into_owned();
        assert!(told.contains("notifications/tools/list_changed"), "{told}");
    }
    let changed = config_records(&setup);
    assert_eq!(changed.len(), 1, "{changed:?}");
    // The first that The administrator hears of is the change of its own prompts, and of nothing else.
    setup.set_toml("roles.admin.prompts", "[]").set_toml("roles.admin.resources", r#"["*/*"]"#);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    let told = String::from_utf8_lossy(&unchanged.chunk().await.unwrap().unwrap()).into_owned();
    assert!(told.contains("notifications/prompts/list_changed") && !told.contains("tools"), "{told}");
    let said = changed[0]["request_args"].to_string();
    assert!(said.contains("roles"), "{said}");
    assert_eq!(client.call("add", json!({"a": 1, "b": 2})).await.unwrap().content(), "3");
}

/// The names of the listed tools that begin with the alias of one of `backends`.
async fn tools_of(client: &Client, backends: &[&str]) -> Vec<String> {
    let listed = client.request("tools/list", json!({})).await.unwrap();
    let names = listed.result()["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
    let names = names.filter(|name| name.ends_with("__echo"));
    names.filter(|name| backends.iter().any(|alias| name.starts_with(alias))).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_added_changed_and_removed_and_only_their_sessions_notice() {
    let example = [env!("CARGO_BIN_EXE_gatepost"), "example-backend"];
    let mut setup = Setup::new();
    setup.backend("changed", &example).backend("removed", &example);
    let gatepost = setup.start();
    let connect = async |path: &str| gatepost.client_at(path, Era::Legacy, "admin").await;
    let (all, kept) = (connect("/mcp").await, connect("/mcp/example").await);
    let (changed, removed) = (connect("/mcp/changed").await, connect("/mcp/removed").await);
    let stateless = gatepost.client_at("/mcp", Era::Modern, "admin").await;
    let aliases = ["added", "changed", "example", "removed"];
    assert_eq!(tools_of(&all, &aliases).await, ["changed__echo", "example__echo", "removed__echo"]);
    for (client, tool) in [(&all, "removed__echo"), (&kept, "echo"), (&changed, "echo"), (&removed, "echo")] {
        assert_eq!(client.call(tool, json!({"text": "x"})).await.unwrap().content(), "x");
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("{}/mcp", gatepost.url())).header("mcp-session-id", all.session.as_deref().unwrap());
    let mut stream = request.bearer_auth(token("admin")).header("accept", "text/event-stream").send().await.unwrap();
    // Calls that are open at the backends that change end as if nothing had happened.
    let open: Vec<_> = ["changed__sleep", "removed__sleep", "example__sleep"]
        .map(|tool| {
            let client = Client::unconnected(&format!("{}/mcp", gatepost.url()), Era::Modern, Some(&token("admin")));
            tokio::spawn(async move { client.call(tool, json!({"ms": 3000})).await.unwrap().content().to_owned() })
        })
        .into();
    until_async("the calls are open", SOON, async || {
        gatepost.get_ops("/metrics").1.contains("gatepost_calls_open 3.0")
    })
    .await;
    // One backend of several is wrong: nothing changes.
    setup.backend("added", &example).set_toml("backends.changed.env", r#"{ REGION = "north" }"#);
    setup.settings.retain(|key, _| !key.starts_with("backends.removed."));
    setup.set("backends.added.env_file", "/nowhere/variables");
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the fault is told", SOON, async || setup.log().contains("configuration not reloaded")).await;
    assert!(config_records(&setup).is_empty());
    assert_eq!(tools_of(&all, &aliases).await, ["changed__echo", "example__echo", "removed__echo"]);
    setup.settings.remove("backends.added.env_file");
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the new list is there", SOON, async || {
        tools_of(&stateless, &aliases).await == ["added__echo", "changed__echo", "example__echo"]
    })
    .await;
    let told = String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()).into_owned();
    assert!(told.contains("list_changed"), "{told}");
    assert_eq!(tools_of(&all, &aliases).await, ["added__echo", "changed__echo", "example__echo"]);
    for open in open {
        assert_eq!(open.await.unwrap(), "slept 3000 ms");
    }
    // The sessions go on, except at the backend that is gone.
    for (client, tool) in [(&all, "added__echo"), (&all, "changed__echo"), (&kept, "echo"), (&changed, "echo")] {
        assert_eq!(client.call(tool, json!({"text": "y"})).await.unwrap().content(), "y", "{tool}");
    }
    assert_eq!(removed.call("echo", json!({"text": "y"})).await.unwrap().status, 404);
    let gone = all.call("removed__echo", json!({"text": "y"})).await.unwrap();
    assert!(gone.body["error"]["message"].as_str().unwrap().contains("removed__echo"), "{:?}", gone.body);
    let records = config_records(&setup);
    assert_eq!(records.len(), 1, "{records:?}");
    let said = records[0]["request_args"].to_string();
    assert!(["backends.added", "backends.changed", "backends.removed"].iter().all(|key| said.contains(key)), "{said}");
    // The metrics know the backends that there are.
    let metrics = gatepost.get_ops("/metrics").1;
    assert!(metrics.contains(r#"backend="added""#) && !metrics.contains(r#"backend="removed""#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_the_backend_for_which_it_was_decided() {
    for era in [Era::Legacy, Era::Modern] {
        call_during_a_reload(era).await;
    }
}

/// A call that is decided before its backend is replaced, and one after that.
async fn call_during_a_reload(era: Era) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    // The definition of the tool is read while the reload is applied.
    let old = BackendStub::start(move |asked| {
        if asked.method() == "tools/list" {
            // Other tasks go on meanwhile.
            tokio::task::block_in_place(|| held.lock().unwrap().recv().ok());
        }
        None
    })
    .await;
    let new = BackendStub::start(|_| None).await;
    let (mut setup, gatepost) = old.gateway(|_| {});
    let client = gatepost.client(era, "admin").await;
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("far__t", json!({})).await.unwrap() });
    until_async("the call is being decided", SOON, async || !old.seen("tools/list").is_empty()).await;
    setup.set("backends.far.url", &format!("http://{}/mcp", new.address()));
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the reload is applied", SOON, async || setup.log().contains("configuration reloaded")).await;
    drop(release);
    assert_eq!(call.await.unwrap().content(), "done");
    assert_eq!((old.seen("tools/call").len(), new.seen("tools/call").len()), (1, 0));
    assert_eq!(client.call("far__t", json!({})).await.unwrap().content(), "done");
    assert_eq!((old.seen("tools/call").len(), new.seen("tools/call").len()), (1, 1));
}
