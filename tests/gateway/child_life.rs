//! The life of stdio backends: what starts them, what ends them, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::gatepost::{BINARY, Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A server that does not end with its input, and writes what happens to it into a file.
const DEAF: &str = r#"
import json, os, signal, sys, threading
def note(text):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()} {text}\n")
def terminate(*_):
    note("terminated")
    if "stubborn" not in sys.argv:
        os._exit(0)
signal.signal(signal.SIGTERM, terminate)
def serve():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message: continue
        if message["method"] == "initialize":
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "d", "version": "1"}}
        elif message["method"] == "tools/list": result = {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}
        elif message["method"] == "tools/call": result = {"content": [{"type": "text", "text": str(os.getpid())}]}
        else:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
            continue
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
    note("input ended")
note("started")
threading.Thread(target=serve, daemon=True).start()
while True: signal.pause()
"#;

/// Adds such a server; gives the file of its notes.
fn deaf(setup: &mut Setup, alias: &str, more: &[&str]) -> PathBuf {
    let notes = setup.work_dir().join(alias);
    let mut command = vec!["python3", "-c", DEAF, notes.to_str().unwrap()];
    command.extend(more);
    setup.backend(alias, &command);
    notes
}

fn notes(file: &Path, pid: u32) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let of_pid = text.lines().filter_map(|line| line.strip_prefix(&format!("{pid} ")));
    of_pid.map(str::to_owned).collect()
}

async fn pid(client: &Client) -> u32 {
    client.call("pid", json!({})).await.unwrap().content().parse().unwrap()
}

/// Whether the process runs: it is there, and not a zombie.
pub fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_takes_its_backends_along() {
    for walls in ["true", "false"] {
        let mut setup = Setup::new();
        deaf(&mut setup, "deaf", &["stubborn"]);
        setup.set_toml("backends.deaf.walls", walls);
        let gatepost = setup.start();
        let (shared, session) = (
            gatepost.client_at("/mcp/deaf", Era::Modern, "admin"),
            gatepost.client_at("/mcp/deaf", Era::Legacy, "admin"),
        );
        let pids = [pid(&shared.await).await, pid(&session.await).await];
        assert!(pids[0] != pids[1] && pids.iter().all(|pid| runs(*pid)));
        assert_eq!(gatepost.end(Signal::SIGKILL), None);
        until("the backends have ended", SOON, || !pids.iter().any(|pid| runs(*pid)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_hears_sigterm_before_it_is_killed() {
    let mut setup = Setup::new();
    let (polite, stubborn) = (deaf(&mut setup, "polite", &[]), deaf(&mut setup, "stubborn", &["stubborn"]));
    let gatepost = setup.start();
    let end = ["started", "input ended", "terminated"];
    let session = gatepost.client_at("/mcp/polite", Era::Legacy, "admin").await;
    let of_session = pid(&session).await;
    let request = reqwest::Client::new().delete(format!("{}/mcp/polite", gatepost.url()));
    let request = request.header("mcp-session-id", session.session.as_deref().unwrap()).bearer_auth(token("admin"));
    assert!(request.send().await.unwrap().status().is_success());
    until("the session's backend has ended", SOON, || !runs(of_session));
    assert_eq!(notes(&polite, of_session), end, "at the end of its session");
    let of_polite = pid(&gatepost.client_at("/mcp/polite", Era::Modern, "admin").await).await;
    let of_stubborn = pid(&gatepost.client_at("/mcp/stubborn", Era::Modern, "admin").await).await;
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(notes(&polite, of_polite), end, "at the end of the gateway");
    assert_eq!(notes(&stubborn, of_stubborn), end);
    assert!(!runs(of_polite) && !runs(of_stubborn));
    assert!(setup.log().contains("backend did not end after SIGTERM; killed it"), "{}", setup.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn descendants_of_a_backend_hear_sigterm_too() {
    let mut setup = Setup::new();
    let notes = setup.work_dir().join("descendant");
    // As npx does: the server is started beside a process that outlives it, and ends first.
    let script = format!(
        "(trap 'echo terminated >>\"$1\"; exit' TERM; echo $BASHPID >>\"$1\"; while :; do sleep 0.1; done) </dev/null >/dev/null 2>&1 & exec {BINARY} example-backend"
    );
    setup.backend("family", &["bash", "-c", &script, "bash", notes.to_str().unwrap()]);
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    assert_eq!(client.call("family__echo", json!({"text": "hi"})).await.unwrap().content(), "hi");
    let lines = || fs::read_to_string(&notes).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    until("the descendant runs", SOON, || lines().len() == 1);
    let descendant = lines()[0].parse().unwrap();
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(lines()[1..], ["terminated"]);
    assert!(!runs(descendant));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_ends_with_its_backend_and_its_record_says_why() {
    let mut setup = Setup::new();
    deaf(&mut setup, "deaf", &[]);
    setup.set("server.session_idle_timeout", "1s");
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/deaf", Era::Legacy, "admin").await;
    let child = pid(&client).await;
    until("the idle session's backend has ended", SOON, || !runs(child));
    assert_eq!(client.call("pid", json!({})).await.unwrap().status, 404, "the session is gone");
    let output = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    let records = String::from_utf8(output.stdout).unwrap();
    assert!(records.contains("idle for more than 1s") && records.contains("session/close"), "{records}");
}

/// The thread of the gateway that the kernel takes for the child's parent, by its name.
fn parent_thread(gatepost: &Gatepost, child: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{}/task", gatepost.pid)).unwrap().map(|thread| thread.unwrap().path());
    let of_child = threads.into_iter().find(|thread| {
        let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
        children.split_whitespace().any(|known| known == child.to_string())
    });
    fs::read_to_string(of_child.unwrap().join("comm")).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_started_by_a_thread_that_lives_as_long_as_the_gateway() {
    let mut setup = Setup::new();
    deaf(&mut setup, "deaf", &[]);
    let gatepost = setup.start();
    for era in [Era::Modern, Era::Legacy] {
        let child = pid(&gatepost.client_at("/mcp/deaf", era, "admin").await).await;
        // The parent-death signal comes at the end of this thread: a thread of the runtime may end when it is idle.
        assert_eq!(parent_thread(&gatepost, child), "children");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_pid_1_reaps_what_backends_leave() {
    let mut setup = Setup::new();
    let notes = setup.work_dir().join("orphans");
    let script = format!(
        "for i in 1 2 3 4 5; do (setsid sh -c 'echo $$ >>\"$1\"' sh \"$1\" </dev/null >/dev/null 2>&1 &); done; exec {BINARY} example-backend"
    );
    setup.backend("example", &["sh", "-c", &script, "sh", notes.to_str().unwrap()]);
    let unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    setup.wrapper = unshare.map(str::to_owned).to_vec();
    let mut outer = setup.spawn();
    let mut addresses = Value::Null;
    until("the gateway's listeners are open", SOON, || {
        assert!(outer.try_wait().unwrap().is_none(), "{}", setup.log());
        let text = fs::read_to_string(setup.audit_dir().join("serve.json")).unwrap_or_default();
        addresses = serde_json::from_str(&text).unwrap_or_default();
        addresses["pid"] == 1
    });
    let children = |pid: u32| -> Vec<u32> {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
        let lists = threads.map(|thread| fs::read_to_string(thread.join("children")).unwrap_or_default());
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
    };
    let gateway = children(outer.id())[0];
    let url = format!("{}/mcp", addresses["mcp"].as_str().unwrap());
    let client = Client::connect(&url, Era::Modern, Some(&token("admin"))).await;
    for starts in 1..=2 {
        until("the backend is up", SOON, || setup.log().matches("backend is up").count() == starts);
        until("all orphans have run", SOON, || {
            fs::read_to_string(&notes).unwrap_or_default().lines().count() == 5 * starts
        });
        until("the orphans are reaped", SOON, || children(gateway).iter().all(|pid| runs(*pid)));
        assert_eq!(client.call("example__echo", json!({"text": "hi"})).await.unwrap().content(), "hi");
        // The runtime still gets the exit status of the gateway's own child, and starts it again.
        let own = children(gateway).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("example-backend"))
        });
        crate::common::process::signal(own.unwrap(), Signal::SIGKILL);
        until("its end is noticed", SOON, || setup.log().matches("signal: 9 (SIGKILL)").count() == starts);
    }
    crate::common::process::signal(gateway, Signal::SIGTERM);
    until("the gateway has ended", 2 * SOON, || outer.try_wait().unwrap().is_some());
    assert_eq!(outer.wait().unwrap().code(), Some(0), "{}", setup.log());
}
