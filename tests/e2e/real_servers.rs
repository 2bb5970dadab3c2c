//! Real stdio servers behind their walls, with default settings, in a working directory of the gateway's own and in one
//! that contains the outbox, the configuration and the keys.

use std::path::Path;
use std::process::Command;

use crate::clients_and_servers::node_program;
use crate::common::gatepost::{BINARY, Setup};
use crate::common::mcp::{Client, Era};
use crate::common::python::{program, python_program};
use serde_json::{Value, json};

/// A repository with one commit.
fn repository(dir: &Path) {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(arguments).current_dir(dir);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    std::fs::write(dir.join("file"), "first\n").unwrap();
    git(&["init", "--quiet"]);
    git(&["config", "user.name", "t"]);
    git(&["config", "user.email", "t@example.com"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "first"]);
}

/// The servers, each with a call that shows that it does its work, and a part of the answer.
fn servers(work: &Path) -> Vec<(&'static str, Vec<String>, &'static str, Value, &'static str)> {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (files, repository) = (work.join("files"), work.join("repository"));
    let npx =
        ["npx", "--offline", "--prefix", &text(&program("E2E_NODE", ".test-env/node", "")), "mcp-server-everything"]
            .map(str::to_owned)
            .to_vec();
    let script =
        r#"set -e; echo noise >/dev/null; tmp=$(mktemp); echo 1 >"$tmp"; rm "$tmp"; exec "$0" example-backend"#;
    vec![
        (
            "everything",
            vec![text(&node_program("mcp-server-everything")), "stdio".to_owned()],
            "echo",
            json!({"message": "hi"}),
            "Echo: hi",
        ),
        ("npx", npx, "echo", json!({"message": "hi"}), "Echo: hi"),
        (
            "filesystem",
            vec![text(&node_program("mcp-server-filesystem")), text(&files)],
            "write_file",
            json!({"path": files.join("new"), "content": "text"}),
            "Successfully wrote",
        ),
        (
            "memory",
            vec![text(&node_program("mcp-server-memory"))],
            "create_entities",
            json!({"entities": [{"name": "e", "entityType": "t", "observations": ["o"]}]}),
            "observations",
        ),
        (
            "time",
            vec![text(&python_program("mcp-server-time")), "--local-timezone".to_owned(), "UTC".to_owned()],
            "get_current_time",
            json!({"timezone": "UTC"}),
            "datetime",
        ),
        (
            "git",
            vec![text(&python_program("mcp-server-git")), "--repository".to_owned(), text(&repository)],
            "git_create_branch",
            json!({"repo_path": repository, "branch_name": "new"}),
            "Created branch",
        ),
        (
            "script",
            vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), BINARY.to_owned()],
            "echo",
            json!({"text": "hi"}),
            "hi",
        ),
    ]
}

async fn all_servers_work(mut setup: Setup) {
    let work = setup.work_dir();
    for dir in ["files", "repository"] {
        std::fs::create_dir(work.join(dir)).unwrap();
    }
    repository(&work.join("repository"));
    for (alias, command, ..) in servers(&work) {
        setup.backend(alias, &command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // Its default is beside its own program, wherever that is installed.
    let memory = work.join("memory.jsonl");
    setup.set_toml("backends.memory.env", &format!("{{ MEMORY_FILE_PATH = {:?} }}", memory.display().to_string()));
    let gatepost = setup.start();
    let client = gatepost.client(Era::Legacy, "admin").await;
    for (alias, _, tool, arguments, expected) in servers(&work) {
        let call =
            async |client: &Client| client.call(&format!("{alias}__{tool}"), arguments.clone()).await.unwrap().text;
        let text = call(&client).await;
        assert!(text.contains(expected) && !text.contains("\"isError\":true"), "{alias}: {text}\n{}", setup.log());
    }
    assert_eq!(std::fs::read_to_string(work.join("files/new")).unwrap(), "text");
    assert!(std::fs::read_to_string(memory).unwrap().contains("\"o\""));
    assert!(work.join("repository/.git/refs/heads/new").exists());
    assert_eq!(gatepost.terminate(), Some(0), "{}", setup.log());
    assert_eq!(
        setup.log().matches("backend started behind walls").count(),
        servers(&work).len() + 1,
        "{}",
        setup.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_work_behind_walls() {
    let mut setup = Setup::new();
    setup.cwd = Some(setup.work_dir());
    all_servers_work(setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_work_in_the_directory_of_the_outbox_and_the_keys() {
    all_servers_work(Setup::new()).await;
}

/// A server that a caller without a session uses is a process of that caller's own, and works as well.
#[tokio::test(flavor = "multi_thread")]
async fn real_servers_of_the_older_era_serve_callers_without_a_session() {
    let mut setup = Setup::new();
    let everything = node_program("mcp-server-everything");
    setup.backend("everything", &[everything.to_str().unwrap(), "stdio"]);
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    let reply = client.call("everything__echo", json!({"message": "hi"})).await.unwrap();
    assert_eq!(reply.content(), "Echo: hi", "{}", setup.log());
}
