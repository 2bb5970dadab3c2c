//! Callers without a session at backends of the older era: nothing that one principal sets reaches another.

use std::fs;
use std::path::PathBuf;

use crate::common::gatepost::{Gatepost, Setup, token_with};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until, until_async};
use crate::http_backend_stub::{BackendStub, result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A server of the older era that keeps what its caller sets: a login, a log level, and with the login another tool and
/// another resource. It writes its process id and every method into a file.
const STATEFUL: &str = r#"
import json, os, sys, time
user, level = None, None
def text(value): return {"content": [{"type": "text", "text": json.dumps(value)}]}
def tool(name): return {"name": name, "inputSchema": {"type": "object"}}
for line in sys.stdin:
    message = json.loads(line)
    with open(sys.argv[1], "a") as file: file.write(f"{os.getpid()} {message['method']}\n")
    if "id" not in message: continue
    method, params = message["method"], message.get("params", {})
    name, arguments = params.get("name"), params.get("arguments", {})
    if method == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "resources": {}, "logging": {}}, "serverInfo": {"name": "s", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [tool(name) for name in ["login", "state", "wait"] + (["secret"] if user else [])]}
    elif method == "resources/list":
        result = {"resources": [{"uri": uri, "name": "n"} for uri in ["doc://own"] + (["doc://shared"] if user else [])]}
    elif method == "resources/templates/list": result = {"resourceTemplates": []}
    elif method == "resources/read": result = {"contents": [{"uri": params["uri"], "text": "of the stateful server"}]}
    elif method == "logging/setLevel": level = params["level"]; result = {}
    elif name == "login": user = arguments["as"]; result = text(user)
    elif name == "state": result = text({"user": user, "level": level, "pid": os.getpid()})
    elif name == "secret": result = text("secret of " + user)
    elif name == "wait":
        while not os.path.exists(arguments["for"]): time.sleep(0.005)
        result = text("waited")
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

/// Adds such a server; gives the file of its methods.
fn stateful(setup: &mut Setup, alias: &str) -> PathBuf {
    let methods = setup.work_dir().join(alias);
    setup.backend(alias, &["python3", "-c", STATEFUL, methods.to_str().unwrap()]);
    methods
}

/// A caller without a session.
fn caller(gatepost: &Gatepost, path: &str, era: Era, subject: &str) -> Client {
    let token = token_with(&json!({"sub": subject, "role": "admin"}));
    Client::unconnected(&format!("{}{path}", gatepost.url()), era, Some(&token))
}

async fn ask(client: &Client, tool: &str, arguments: Value) -> Value {
    serde_json::from_str(client.call(tool, arguments).await.unwrap().content()).unwrap()
}

async fn state(client: &Client) -> Value {
    ask(client, "state", json!({})).await
}

async fn tools(client: &Client) -> Vec<String> {
    let reply = client.request("tools/list", json!({})).await.unwrap();
    let tools = reply.result()["tools"].as_array().unwrap().iter();
    tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_sets_at_a_stateful_stdio_server_is_its_own() {
    let mut setup = Setup::new();
    let methods = stateful(&mut setup, "bank");
    let gatepost = setup.start();
    for (era, alice, bob) in [(Era::Modern, "alice", "bob"), (Era::Legacy, "anna", "bert")] {
        let [alice, bob] = [alice, bob].map(|subject| caller(&gatepost, "/mcp/bank", era, subject));
        assert_eq!(ask(&alice, "login", json!({"as": "alice@bank"})).await, "alice@bank");
        if era == Era::Legacy {
            alice.request("logging/setLevel", json!({"level": "debug"})).await.unwrap().result();
        }
        let (of_alice, of_bob) = (state(&alice).await, state(&bob).await);
        assert_eq!((&of_alice["user"], &of_bob["user"]), (&json!("alice@bank"), &Value::Null), "{era:?}");
        assert_eq!(of_alice["level"], if era == Era::Legacy { json!("debug") } else { Value::Null });
        assert_eq!(of_bob["level"], Value::Null);
        assert_ne!(of_alice["pid"], of_bob["pid"]);
        // What the server offers after a login is listed and called by that caller alone.
        assert!(tools(&alice).await.contains(&"secret".to_owned()));
        assert!(!tools(&bob).await.contains(&"secret".to_owned()));
        assert_eq!(ask(&alice, "secret", json!({})).await, "secret of alice@bank");
        bob.call("secret", json!({})).await.unwrap().error_code();
        assert_eq!(state(&alice).await["pid"], of_alice["pid"], "one conversation for all of a caller's requests");
    }
    // The gateway's own conversation is initialized, and lists.
    let text = fs::read_to_string(&methods).unwrap();
    let own = text.lines().next().unwrap().split(' ').next().unwrap();
    let of_own = text.lines().filter_map(|line| line.strip_prefix(&format!("{own} ")));
    let foreign: Vec<_> = of_own.filter(|method| method.contains("call") || method.contains("setLevel")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_levels_at_all_backends_are_the_callers_own() {
    let mut setup = Setup::new();
    stateful(&mut setup, "bank");
    let gatepost = setup.start();
    let [alice, bob] = ["alice", "bob"].map(|subject| caller(&gatepost, "/mcp", Era::Legacy, subject));
    alice.request("logging/setLevel", json!({"level": "error"})).await.unwrap().result();
    assert_eq!(ask(&alice, "bank__state", json!({})).await["level"], "error");
    assert_eq!(ask(&bob, "bank__state", json!({})).await["level"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_server_has_one_process_for_all_callers() {
    let mut setup = Setup::new();
    stateful(&mut setup, "clock");
    setup.set_toml("backends.clock.shared", "true");
    let gatepost = setup.start();
    let [alice, bob] = ["alice", "bob"].map(|subject| caller(&gatepost, "/mcp/clock", Era::Modern, subject));
    ask(&alice, "login", json!({"as": "alice"})).await;
    assert_eq!(state(&bob).await["user"], "alice", "that is what the operator asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_legacy_http_server_have_sessions_of_their_own() {
    let backend = BackendStub::start(|_| None).await;
    let (_setup, gatepost) = backend.gateway(|_| ());
    let [alice, bob] = ["alice", "bob"].map(|subject| caller(&gatepost, "/mcp/far", Era::Modern, subject));
    for client in [&alice, &bob, &alice] {
        assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    }
    let sessions = |method: &str| {
        let seen = backend.seen(method);
        seen.iter().map(|asked| asked.header("mcp-session-id").unwrap().to_owned()).collect::<Vec<_>>()
    };
    let calls = sessions("tools/call");
    assert!(calls[0] == calls[2] && calls[0] != calls[1], "{calls:?}");
    // The gateway's own session lists, and no call is made in it.
    assert!(sessions("tools/list").iter().all(|session| !calls.contains(session)), "{:?}", sessions("tools/list"));
}

/// Mallory, whose role reaches one backend, lists there a resource of another backend that alice reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_caller_lists_does_not_decide_where_another_reads() {
    let steers = BackendStub::start(|asked| match asked.method() {
        "resources/list" if asked.header("mcp-session-id").is_some_and(|id| id != "s0") => {
            Some(result(asked, r#"{"resources":[{"uri":"doc://shared","name":"n"}]}"#))
        }
        "resources/list" => Some(result(asked, r#"{"resources":[]}"#)),
        "resources/templates/list" => Some(result(asked, r#"{"resourceTemplates":[]}"#)),
        "resources/read" => Some(result(asked, r#"{"contents":[{"uri":"doc://shared","text":"steered"}]}"#)),
        _ => None,
    })
    .await;
    let mut setup = Setup::new();
    // Before the true owner in the order of the aliases.
    setup.set("backends.a.url", &steers.url).role("narrow", &["a/*"]);
    let honest = BackendStub::start(|asked| match asked.method() {
        "resources/list" => Some(result(asked, r#"{"resources":[{"uri":"doc://shared","name":"n"}]}"#)),
        "resources/templates/list" => Some(result(asked, r#"{"resourceTemplates":[]}"#)),
        "resources/read" => Some(result(asked, r#"{"contents":[{"uri":"doc://shared","text":"honest"}]}"#)),
        _ => None,
    })
    .await;
    setup.set("backends.b.url", &honest.url);
    let gatepost = setup.start();
    let alice = caller(&gatepost, "/mcp", Era::Modern, "alice");
    let read = async || alice.request("resources/read", json!({"uri": "doc://shared"})).await.unwrap().text;
    assert!(read().await.contains("honest"));
    let narrow = token_with(&json!({"sub": "mallory", "role": "narrow"}));
    let mallory = Client::connect(&format!("{}/mcp", gatepost.url()), Era::Legacy, Some(&narrow)).await;
    let listed = mallory.request("resources/list", json!({})).await.unwrap();
    assert!(listed.text.contains("doc://shared"), "{}", listed.text);
    assert!(read().await.contains("honest"), "mallory's list decided where alice reads");
    let own = mallory.request("resources/read", json!({"uri": "doc://shared"})).await.unwrap();
    assert!(own.text.contains("steered"), "its own reads are where it listed: {}", own.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_conversations_are_bounded_and_the_refusal_says_why() {
    let mut setup = Setup::new();
    stateful(&mut setup, "bank");
    setup.set_toml("backends.bank.conversations_max", "1");
    let gatepost = setup.start();
    let [alice, bob] = ["alice", "bob"].map(|subject| caller(&gatepost, "/mcp/bank", Era::Modern, subject));
    let first = state(&alice).await["pid"].clone();
    let (release, caller) = (setup.work_dir().join("release"), alice.clone());
    let arguments = json!({"for": release});
    let waiting = tokio::spawn(async move { ask(&caller, "wait", arguments).await });
    until_async("alice's call is open", SOON, || async { !gatepost.get_ops("/metrics").1.contains("calls_open 0") })
        .await;
    let refused = bob.call("state", json!({})).await.unwrap();
    assert!(refused.text.contains("conversations with 1 other callers"), "{}", refused.text);
    fs::write(&release, "").unwrap();
    assert_eq!(waiting.await.unwrap(), "waited");
    // Alice's conversation is idle now, and makes room.
    until_async("there is room", SOON, || async { bob.call("state", json!({})).await.unwrap().status == 200 }).await;
    assert_ne!(state(&bob).await["pid"], first);
    assert_ne!(state(&alice).await["pid"], first, "alice's conversation was ended, and begins again");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_conversations_end_and_ended_ones_begin_again() {
    let mut setup = Setup::new();
    stateful(&mut setup, "bank");
    setup.set("server.session_idle_timeout", "1s");
    let gatepost = setup.start();
    let alice = caller(&gatepost, "/mcp/bank", Era::Modern, "alice");
    let child = async || u32::try_from(state(&alice).await["pid"].as_u64().unwrap()).unwrap();
    let first = child().await;
    until("the idle conversation has ended", SOON, || !std::path::Path::new(&format!("/proc/{first}")).exists());
    let second = child().await;
    assert_ne!(first, second);
    crate::common::process::signal(second, Signal::SIGKILL);
    until_async("the conversation begins again", SOON, || async {
        // The call may be on its way when the server ends.
        let reply = alice.call("state", json!({})).await.unwrap();
        reply.body["result"]["content"][0]["text"].as_str().is_some_and(|text| !text.contains(&second.to_string()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_a_conversation_is_of_the_roles_of_a_token_and_ends_when_a_reload_takes_the_backend() {
    let mut setup = Setup::new();
    stateful(&mut setup, "bank");
    setup.role("wide", &["bank/*", "example/*"]).role("narrow", &["bank/state"]);
    let gatepost = setup.start();
    let [wide, narrow] = ["wide", "narrow"].map(|role| {
        let token = token_with(&json!({"sub": "alice", "role": role}));
        Client::unconnected(&format!("{}/mcp/bank", gatepost.url()), Era::Modern, Some(&token))
    });
    assert_eq!(ask(&wide, "login", json!({"as": "alice@bank"})).await, "alice@bank");
    let (of_wide, of_narrow) = (state(&wide).await, state(&narrow).await);
    assert_eq!(of_narrow["user"], Value::Null, "what a wider role set is not there for a narrower one");
    setup.role("wide", &["example/*"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    let child = format!("/proc/{}", of_wide["pid"]);
    until("the conversation ends with the role's right", SOON, || !std::path::Path::new(&child).exists());
    assert_eq!(state(&narrow).await["pid"], of_narrow["pid"], "the other one goes on");
}
