//! `gatepost serve --quickstart`: what it prints can be used, and what is wrong on its command line is said before
//! anything is opened.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::gatepost::BINARY;
use crate::common::mcp::{Client, Era};
use crate::common::process;
use crate::common::wait::{SOON, until};

/// `serve --quickstart` with these arguments, in a home of its own.
fn quickstart(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--quickstart"]).args(args).current_dir(home).stdin(Stdio::null()).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
    command.env("GATEPOST_SERVER_LISTEN", "127.0.0.1:0").env("GATEPOST_OPS_LISTEN", "127.0.0.1:0");
    command
}

/// A running quickstart. Dropping it kills it.
struct Running {
    home: TempDir,
    child: Child,
}

impl Running {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(home.path().join(name)).unwrap();
        let mut command = quickstart(home.path(), args);
        let child = command.envs(env.iter().copied()).stdout(file("printed")).stderr(file("log")).spawn().unwrap();
        let mut running = Self { home, child };
        until("the quickstart has printed all", SOON, || {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended with {ended:?}\n{}", running.read("log"));
            running.read("printed").contains("Stop with Ctrl-C.")
        });
        running
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.path().join(name)).unwrap_or_default()
    }

    /// The value of a line `export NAME=value`.
    fn exported(&self, name: &str) -> Option<String> {
        let printed = self.read("printed");
        let mut lines = printed.lines();
        lines.find_map(|line| line.strip_prefix(&format!("export {name}="))).map(str::to_owned)
    }

    /// The address that the text `before` is printed before.
    fn address(&self, path: &str) -> String {
        let printed = self.read("printed");
        let mut words = printed.split_whitespace().map(|word| word.trim_matches([',', '.', ':']));
        words.find(|word| word.starts_with("http://") && word.ends_with(path)).unwrap().to_owned()
    }

    /// The printed configuration of a client: its URL, and its token.
    fn client(&self) -> (String, String) {
        let printed = self.read("printed");
        let line = printed.lines().find(|line| line.contains("mcpServers")).unwrap();
        let server = serde_json::from_str::<Value>(line).unwrap()["mcpServers"]["gatepost"].take();
        assert_eq!(server["type"], "http");
        let authorization = server["headers"]["Authorization"].as_str().unwrap();
        (server["url"].as_str().unwrap().to_owned(), authorization.strip_prefix("Bearer ").unwrap().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        process::signal(self.child.id(), Signal::SIGTERM);
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn servers_of_the_command_line_are_served_beside_the_example() {
    let other = Running::start(&[], &[]);
    let (url, _) = other.client();
    assert!(url.ends_with("/mcp"), "{url}");
    // A command line with a quoted word, and a URL that cannot be called without a token.
    let command = format!("'{BINARY}' example-backend");
    let running = Running::start(&["--backend", &command, "--backend", &format!("far={url}/example")], &[]);
    for alias in ["example", "backend", "far"] {
        assert!(running.address(&format!("/mcp/{alias}")).starts_with("http://127.0.0.1:"));
    }
    let (url, token) = running.client();
    assert_eq!(Some(token), running.exported("ALICE"));
    let call = async |name: &str, tool: &str| {
        let client = Client::connect(&url, Era::Modern, running.exported(name).as_deref()).await;
        client.call(tool, json!({"text": "hi"})).await.unwrap()
    };
    assert_eq!(call("ALICE", "backend__echo").await.content(), "hi");
    assert_eq!(call("BOB", "backend__echo").await.error_code(), -32003);
    assert_eq!(call("BOB", "example__echo").await.content(), "hi");
}

#[tokio::test]
async fn one_server_of_the_command_line_is_the_one_of_the_printed_client() {
    let running = Running::start(&["--backend", &format!("mine={BINARY} example-backend")], &[]);
    let (url, token) = running.client();
    assert!(url.ends_with("/mcp/mine"), "{url}");
    let client = Client::connect(&url, Era::Legacy, Some(&token)).await;
    assert_eq!(client.call("echo", json!({"text": "hi"})).await.unwrap().content(), "hi");
}

#[tokio::test]
async fn the_console_is_printed_with_a_token_that_opens_it_and_no_token_is_logged() {
    let running = Running::start(&[], &[]);
    let console = running.address("/console");
    let status = async |token: &str| {
        let get = reqwest::Client::new().get(format!("{console}/status")).bearer_auth(token);
        get.send().await.unwrap().status().as_u16()
    };
    let tokens = ["ALICE", "BOB", "CAROL"].map(|name| running.exported(name).unwrap());
    assert_eq!(status(&tokens[2]).await, 200);
    assert_eq!(status(&tokens[0]).await, 403);
    let log = running.read("log");
    assert!(log.contains("listening"), "{log}");
    assert!(tokens.iter().all(|token| !log.contains(token.as_str())), "I8");

    let without = Running::start(&[], &[("GATEPOST_OPS_LISTEN", "off")]);
    let printed = without.read("printed");
    assert!(!printed.contains("console") && without.exported("CAROL").is_none(), "{printed}");
}

#[test]
fn a_server_that_cannot_be_used_is_named_before_anything_is_opened() {
    for (value, part) in [
        ("", "--backend is empty"),
        ("npx 'y", "--backend has a ' that is not closed"),
        ("no-such-program-here", "--backend names the program \"no-such-program-here\", which is not in PATH"),
        ("sh -c $HOME", "--backend has a $, which only a shell understands"),
        ("http://user:hunter2@h/mcp", "--backend (backend) contains a user name or password"),
        ("mine=https:///", "--backend (mine) is not a URL"),
        ("example=sh", "--backend: a backend named example is there already"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = quickstart(home.path(), &["--backend", value]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{value}: {said}");
        assert!(said.contains(part) && !said.contains("hunter2"), "{value}: {said}");
        assert!(output.stdout.is_empty() && fs::read_dir(home.path()).unwrap().next().is_none(), "{value}");
    }
    let alone = Command::new(BINARY).args(["serve", "--config", "x.toml", "--backend", "sh"]).output().unwrap();
    assert_eq!(alone.status.code(), Some(2), "--backend is for the quickstart");
}
