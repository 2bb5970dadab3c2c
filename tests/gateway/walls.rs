//! The walls around stdio backends: the attacks of a hostile backend on its gateway and its siblings.
//!
//! `hostile_backend.py` tries each attack. [`ATTACKS`] names what stops it, and each claim is tested from both sides:
//! an attack that Landlock stops succeeds without walls.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::mcp::{Client, Era};
use serde_json::{Value, json};

/// What stops an attack of a backend that has the gateway's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoppedBy {
    /// The walls alone: without them it succeeds.
    Landlock,
    /// The same, by a scope, since ABI 6.
    LandlockScope,
    /// The walls, and the gateway's memory that is closed to its own user.
    LandlockAndNotDumpable,
    /// The walls and, on some machines, the Yama module.
    LandlockAndYama,
    /// The token of the admin socket.
    Token,
    /// A right that only root has.
    OnlyRoot,
    /// Nothing, if the backend has the gateway's user.
    Nothing,
}

use StoppedBy::{Landlock, LandlockAndNotDumpable, LandlockAndYama, LandlockScope, Nothing, OnlyRoot, Token};

const ATTACKS: [(&str, StoppedBy); 67] = [
    ("environment of the gateway", LandlockAndNotDumpable),
    ("memory of the gateway", LandlockAndNotDumpable),
    ("mappings of the gateway", LandlockAndNotDumpable),
    ("open files of the gateway", LandlockAndNotDumpable),
    ("descriptor of the gateway", LandlockAndNotDumpable),
    ("root directory of the gateway", LandlockAndNotDumpable),
    ("tracing the gateway", LandlockAndNotDumpable),
    ("signal to the gateway", LandlockScope),
    ("limits of the gateway", Nothing),
    ("priority of the gateway", Nothing),
    ("command line of the gateway", Nothing),
    ("environment of the sibling", Landlock),
    ("memory of the sibling", LandlockAndYama),
    ("mappings of the sibling", Landlock),
    ("open files of the sibling", Landlock),
    ("descriptor of the sibling", LandlockAndYama),
    ("root directory of the sibling", Landlock),
    ("tracing the sibling", LandlockAndYama),
    ("signal to the sibling", LandlockScope),
    ("limits of the sibling", Nothing),
    ("priority of the sibling", Nothing),
    ("command line of the sibling", Nothing),
    ("reading the configuration", Landlock),
    ("writing the configuration", Landlock),
    ("truncating the configuration", Landlock),
    ("linking the configuration", Landlock),
    ("reading the configuration by a symbolic link", Landlock),
    ("replacing the configuration", Landlock),
    ("reading the key", Landlock),
    ("writing the key", Landlock),
    ("truncating the key", Landlock),
    ("linking the key", Landlock),
    ("reading the key by a symbolic link", Landlock),
    ("replacing the key", Landlock),
    ("reading the tokens", Landlock),
    ("writing the tokens", Landlock),
    ("truncating the tokens", Landlock),
    ("linking the tokens", Landlock),
    ("reading the tokens by a symbolic link", Landlock),
    ("replacing the tokens", Landlock),
    ("reading the credential", Landlock),
    ("writing the credential", Landlock),
    ("truncating the credential", Landlock),
    ("linking the credential", Landlock),
    ("reading the credential by a symbolic link", Landlock),
    ("replacing the credential", Landlock),
    ("reading the token of the admin socket", Landlock),
    ("writing the token of the admin socket", Landlock),
    ("truncating the token of the admin socket", Landlock),
    ("linking the token of the admin socket", Landlock),
    ("reading the token of the admin socket by a symbolic link", Landlock),
    ("replacing the token of the admin socket", Landlock),
    ("reading the outbox", Landlock),
    ("writing the outbox", Landlock),
    ("truncating the outbox", Landlock),
    ("removing the outbox", Landlock),
    ("moving the outbox away", Landlock),
    ("a new file in the outbox directory", Landlock),
    ("mounting the outbox directory elsewhere", OnlyRoot),
    ("the memory of the machine as a device", OnlyRoot),
    ("the admin socket without a token", Token),
    ("the admin socket with its token", Landlock),
    ("an abstract socket", LandlockScope),
    ("writing elsewhere", Landlock),
    ("names in the outbox directory", Nothing),
    ("mode of the configuration", Nothing),
    ("the gateway's listener", Nothing),
];

/// A user without rights of its own: `nobody` on Debian.
const NOBODY: u32 = 65_534;

const HOSTILE: &str = include_str!("hostile_backend.py");

/// A gateway with two hostile backends.
struct Attacked {
    setup: Setup,
    /// A directory of everyone's in which the backends may write.
    work: tempfile::TempDir,
    /// A directory of everyone's in which the backends may not write.
    elsewhere: tempfile::TempDir,
}

impl Attacked {
    fn new() -> Self {
        let mut setup = Setup::new();
        let public = || {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
            dir
        };
        let (work, elsewhere) = (public(), public());
        for (name, text) in [("tokens", ""), ("credential", "Bearer secret")] {
            std::fs::write(setup.dir().join(name), text).unwrap();
            std::fs::set_permissions(setup.dir().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        setup.set("auth.tokens_file", setup.dir().join("tokens").to_str().unwrap());
        setup.set("backends.remote.url", "http://127.0.0.1:1/mcp");
        let credential = setup.dir().join("credential");
        setup.set("backends.remote.header_file.authorization", credential.to_str().unwrap());
        for alias in ["hostile", "sibling"] {
            setup.backend(alias, &["python3", "-c", HOSTILE]);
            setup.set_toml(&format!("backends.{alias}.write"), &format!("[\"{}\"]", work.path().display()));
        }
        Self { setup, work, elsewhere }
    }

    fn each_backend(&mut self, key: &str, value: &str) {
        for alias in ["hostile", "sibling"] {
            self.setup.set_toml(&format!("backends.{alias}.{key}"), value);
        }
    }

    /// Starts the gateway, has the backend attack, and gives the result of each attack.
    async fn attack(&self) -> BTreeMap<String, String> {
        let gatepost = self.setup.start();
        let abstract_name = format!("gatepost-test-{}", gatepost.pid);
        let address = SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap();
        let _abstract_socket = UnixListener::bind_addr(&address).unwrap();
        let client = gatepost.client(Era::Legacy, "admin").await;
        let sibling = identify(&client, "sibling").await;
        assert_eq!(sibling["parent"], gatepost.pid);
        let targets = self.targets(&gatepost, &sibling["pid"], &abstract_name);
        let results = ask(&client, "hostile__attack", targets).await;
        // The gateway has survived all that.
        assert_eq!(gatepost.terminate(), Some(0), "{}", self.setup.log());
        serde_json::from_value(results).unwrap()
    }

    fn targets(&self, gatepost: &Gatepost, sibling: &Value, abstract_name: &str) -> Value {
        let (dir, data) = (self.setup.dir(), self.setup.audit_dir());
        let listener = gatepost.url().strip_prefix("http://").unwrap().split_once(':').unwrap();
        json!({
            "gateway": gatepost.pid,
            "sibling": sibling,
            "data": data,
            "outbox": outbox_file(&data),
            "work": self.work.path(),
            "elsewhere": self.elsewhere.path(),
            "configuration": dir.join("gatepost.toml"),
            "key": dir.join("secret"),
            "tokens": dir.join("tokens"),
            "credential": dir.join("credential"),
            "token of the admin socket": data.join("admin.token"),
            "abstract": abstract_name,
            "listener": [listener.0, listener.1.parse::<u16>().unwrap()],
        })
    }
}

async fn ask(client: &Client, tool: &str, arguments: Value) -> Value {
    serde_json::from_str(client.call(tool, arguments).await.unwrap().content()).unwrap()
}

async fn identify(client: &Client, backend: &str) -> Value {
    ask(client, &format!("{backend}__identify"), json!({})).await
}

/// An outbox file of a running gateway.
fn outbox_file(data: &Path) -> PathBuf {
    let files = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|end| end == "redb")).unwrap()
}

fn has_yama() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0")
}

/// Checks the attacks for which `should_succeed` has an opinion.
fn check(results: &BTreeMap<String, String>, should_succeed: impl Fn(&str, StoppedBy) -> Option<bool>) {
    let named: Vec<&str> = ATTACKS.iter().map(|(name, _)| *name).collect();
    let tried: Vec<&str> = results.keys().map(String::as_str).collect();
    let untried: Vec<_> = named.iter().filter(|name| !tried.contains(name)).collect();
    let unnamed: Vec<_> = tried.iter().filter(|name| !named.contains(name)).collect();
    assert!(untried.is_empty() && unnamed.is_empty(), "untried: {untried:?}, unnamed: {unnamed:?}");
    let wrong: Vec<String> = ATTACKS
        .iter()
        .filter(|(name, by)| should_succeed(name, *by).is_some_and(|success| success != (results[*name] == "done")))
        .map(|(name, by)| format!("{name} ({by:?}): {}", results[*name]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn walls_stop_what_they_promise_whatever_the_gateways_user_is() {
    let attacked = Attacked::new();
    let root = nix::unistd::geteuid().is_root();
    // A gateway with root's capabilities is not touched by a backend without them.
    let is_undecided = |name: &str| root && name == "priority of the gateway";
    check(&attacked.attack().await, |name, by| (!is_undecided(name)).then_some(by == Nothing));
    if root {
        let mut attacked = Attacked::new();
        attacked.setup.user = Some(NOBODY);
        check(&attacked.attack().await, |_, by| Some(by == Nothing));
    }
    assert!(attacked.setup.log().contains("backend started behind walls"), "{}", attacked.setup.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_walls_the_gateways_memory_and_the_admin_token_are_all_that_is_closed() {
    let mut attacked = Attacked::new();
    attacked.each_backend("walls", "false");
    // Root needs no right to read another process's memory.
    attacked.setup.user = nix::unistd::geteuid().is_root().then_some(NOBODY);
    let results = attacked.attack().await;
    check(&results, |name, by| match by {
        LandlockAndNotDumpable | Token | OnlyRoot => Some(false),
        LandlockAndYama if has_yama() => None,
        // Attacks before it have moved the file away.
        _ if name.ends_with("the outbox") || name == "moving the outbox away" => None,
        _ => Some(true),
    });
    assert_eq!((&*results["reading the outbox"], &*results["writing the outbox"]), ("done", "done"));
    assert!(attacked.setup.log().contains("backend started without walls"), "{}", attacked.setup.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_can_neither_limit_the_gateway_nor_change_the_mode_of_its_files() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can start a process of another user.
    }
    let mut attacked = Attacked::new();
    attacked.each_backend("user", "\"nobody\"");
    let open = ["limits of the sibling", "priority of the sibling", "the gateway's listener"];
    check(&attacked.attack().await, |name, _| Some(open.contains(&name) || name.starts_with("command line")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_inherits_neither_files_nor_blocked_signals_and_has_a_session_of_its_own() {
    let mut setup = Setup::new();
    let script = r#"
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message: continue
    if message["method"] == "tools/call":
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        state = {"files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1], "session": os.getsid(0) == os.getpid(),
                 "blocked": int(status["SigBlk"], 16), "ignored": int(status["SigIgn"], 16) & 0x7FFFFFFF & ~(1 << 12 | 1 << 24),
                 "new_privileges": status["NoNewPrivs"].strip(), "environment": sorted(os.environ)}
        result = {"content": [{"type": "text", "text": json.dumps(state)}]}
    elif message["method"] == "tools/list": result = {"tools": [{"name": "state", "inputSchema": {"type": "object"}}]}
    else: result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;
    setup.backend("state", &["python3", "-c", script]);
    setup.set_toml("backends.state.env", "{ OWN = \"1\" }");
    // A gateway that was started with an open file and a blocked signal.
    let wrapper = setup.dir().join("start");
    std::fs::write(
        &wrapper,
        "import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\nos.set_inheritable(os.dup2(2, 9), True)\nos.execv(sys.argv[1], sys.argv[1:])\n",
    )
    .unwrap();
    setup.wrapper = vec!["python3".to_owned(), wrapper.to_str().unwrap().to_owned()];
    let gatepost = setup.start();
    let state = ask(&gatepost.client(Era::Legacy, "admin").await, "state__state", json!({})).await;
    assert_eq!(state["files"], json!([0, 1, 2]), "{state}");
    assert_eq!((&state["blocked"], &state["ignored"], &state["session"]), (&json!(0), &json!(0), &json!(true)));
    assert_eq!(state["new_privileges"], "1");
    let mut names: Vec<&str> = state["environment"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    names.retain(|name| *name != "LC_CTYPE"); // Python sets it for itself.
    // The directory for temporary files contains the test's own gateway.
    assert_eq!(names, ["HOME", "OWN", "PATH", "TMPDIR"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_script_works_behind_walls() {
    let mut setup = Setup::new();
    let script = r#"
        set -e
        echo noise >/dev/null; echo noise >/dev/stderr; : >/dev/full; head -c 1 /dev/zero >/dev/null; head -c 1 /dev/urandom >/dev/null
        cd "$1"; echo 1 >file; echo 2 >file; mkdir a b; mv file a/file; mv a/file b/file; ln b/file a/link; rm -r a
        mkdir "$2/copy"; mv b "$2/copy/"; cat "$2/copy/b/file" >/dev/null; ls / >/dev/null; cat /etc/passwd | wc -l >/dev/null
        kill -0 $$; (sleep 60 & kill $!)
        exec "$3" example-backend"#;
    let dirs = [
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    ];
    let paths = dirs.each_ref().map(|dir| dir.path().to_str().unwrap());
    setup.backend("script", &["/bin/sh", "-c", script, "sh", paths[0], paths[1], crate::common::gatepost::BINARY]);
    setup.set_toml("backends.script.write", &format!("{paths:?}"));
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    let reply = client.call("script__echo", json!({"text": "hi"})).await.unwrap();
    assert_eq!(reply.content(), "hi", "{}", setup.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_started_is_named() {
    let mut setup = Setup::new();
    let text = setup.dir().join("text");
    std::fs::write(&text, "no program\n").unwrap();
    setup.backend("missing", &["/nonexistent/program"]).backend("text", &[text.to_str().unwrap()]);
    setup.backend("nobody", &["true"]).set("backends.nobody.user", "no-such-user");
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    for (backend, reason) in [
        ("missing", "cannot start /nonexistent/program (No such file or directory"),
        ("text", "Permission denied"),
        ("nobody", "there is no user"),
    ] {
        let reply = client.call(&format!("{backend}__x"), json!({})).await.unwrap();
        assert!(reply.text.contains("is down"), "{}", reply.text);
        setup.wait_for_log(reason);
    }
}
