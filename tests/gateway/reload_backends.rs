//! A reload that changes or removes backends: their processes, what their clients are told, and files that they may
//! read.

use std::fs;
use std::path::Path;

use crate::child_life::runs;
use crate::common::gatepost::{BINARY, Gatepost, Setup, write_secret};
use crate::common::mcp::Era;
use crate::common::wait::{SOON, until};
use crate::listening::Told;
use crate::reload::records_of;
use nix::sys::signal::Signal;
use serde_json::json;

const TOOLS: &str = "notifications/tools/list_changed";

/// Adds a backend whose processes first append the output of a shell `command` to the file `alias` in the work
/// directory.
fn noting(setup: &mut Setup, alias: &str, command: &str) {
    let script = format!(r#"{command} >>"$1"; exec "$2" example-backend"#);
    let notes = setup.work_dir().join(alias);
    setup.backend(alias, &["/bin/sh", "-c", &script, "sh", notes.to_str().unwrap(), BINARY]);
}

/// What the processes of this backend have noted, oldest first.
fn notes(setup: &Setup, alias: &str) -> Vec<String> {
    let text = fs::read_to_string(setup.work_dir().join(alias)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn reload(setup: &Setup, gatepost: &Gatepost) {
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
}

fn remove(setup: &mut Setup, alias: &str) {
    let prefix = format!("backends.{alias}.");
    setup.settings.retain(|key, _| !key.starts_with(&prefix));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_replaced_backends_end_at_once_if_no_call_uses_them() {
    let mut setup = Setup::new();
    setup.set("server.drain_timeout", "10m");
    for alias in ["changed", "removed"] {
        noting(&mut setup, alias, "echo $$");
    }
    let gatepost = setup.start();
    let client = gatepost.client(Era::Legacy, "admin").await;
    let mut pids = Vec::new();
    for alias in ["changed", "removed"] {
        let reply = client.call(&format!("{alias}__echo"), json!({"text": "x"})).await.unwrap();
        assert_eq!(reply.content(), "x");
        // The shared one, and that of the session.
        until("both processes have started", SOON, || notes(&setup, alias).len() == 2);
        pids.extend(notes(&setup, alias).iter().map(|pid| pid.parse::<u32>().unwrap()));
    }
    assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
    setup.set_toml("backends.changed.env", r#"{ REGION = "north" }"#);
    remove(&mut setup, "removed");
    reload(&setup, &gatepost);
    until("the old processes have ended", SOON, || !pids.iter().any(|pid| runs(*pid)));
    let reply = client.call("changed__echo", json!({"text": "y"})).await.unwrap();
    assert_eq!(reply.content(), "y", "the session has a new process");
    assert_eq!(notes(&setup, "removed").len(), 2, "none was started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_that_a_backend_was_removed() {
    let mut setup = Setup::new();
    setup.backend("removed", &[BINARY, "example-backend"]);
    let gatepost = setup.start();
    let filter = json!({"toolsListChanged": true});
    let mut subscriptions = Vec::new();
    for path in ["/mcp", "/mcp/removed"] {
        let mut subscription = Told::subscribe(&gatepost, path, &filter).await;
        assert_eq!(subscription.acknowledged().await, filter);
        subscriptions.push((path, subscription));
    }
    let mut session = Told::of_session(&gatepost, "/mcp").await;
    let session_at_removed = Told::of_session(&gatepost, "/mcp/removed").await;
    remove(&mut setup, "removed");
    reload(&setup, &gatepost);
    session.next(TOOLS).await;
    for (path, subscription) in subscriptions {
        let text = subscription.rest().await;
        assert!(text.contains(TOOLS) && text.contains(r#""resultType":"complete""#), "{path}: {text}");
    }
    session_at_removed.rest().await;
    until("the end of the session is recorded", SOON, || !records_of(&setup, "session/close").is_empty());
    let closed = records_of(&setup, "session/close");
    assert_eq!((closed.len(), &closed[0]["backend_name"]), (1, &json!("removed")), "{closed:?}");
    assert!(closed[0]["request_args"].to_string().contains("a reload removed its backend"), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_a_reload_is_closed_to_processes_that_start_later() {
    let mut setup = Setup::new();
    let credential = setup.dir().join("credential");
    write_secret(&credential, "Bearer secret");
    let is_readable =
        |path: &Path| format!("if cat '{}' >/dev/null; then echo open; else echo closed; fi", path.display());
    noting(&mut setup, "reader", &is_readable(&credential));
    let gatepost = setup.start();
    until("the shared process has started", SOON, || notes(&setup, "reader") == ["open"]);
    setup.set("backends.far.url", "http://127.0.0.1:1/mcp");
    setup.set("backends.far.header_file.authorization", credential.to_str().unwrap());
    reload(&setup, &gatepost);
    setup.wait_for_log("configuration reloaded");
    // A session has a process of its own.
    let client = gatepost.client(Era::Legacy, "admin").await;
    assert_eq!(client.call("reader__echo", json!({"text": "x"})).await.unwrap().content(), "x");
    assert_eq!(notes(&setup, "reader"), ["open", "closed"]);
}
