//! Tests the documentation as a reader uses it: every command runs, every example loads, every link has a target.
//!
//! A block fenced as `console` shows commands, on lines that begin with `$ `, and their output. The commands of a page
//! run in order, by bash, in a directory of the page's own, with the binary on `PATH`. Variables that one command
//! exports are set for the next ones. Each command must succeed. The directory contains the examples, and
//! `gatepost.toml` is a copy of `examples/quickstart.toml`.
//!
//! `serve` runs until the end of the page or its next `serve`, and must then exit with success. It listens on free
//! ports, which replace `127.0.0.1:8808` and `:8809`. `postgres://gatepost@localhost/audit` is replaced by the URL of a
//! database of the page's own.
//!
//! In `docs/runbook.md` the commands after `**Type**:` run last, if they are `gatepost` or `curl`: the other programs
//! are the operator's. A block after the line `<!-- not run: REASON -->` does not run. Everything else that readers do
//! not type is fenced as `text`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::command;
use crate::common::gatepost::{BINARY, write_secret};
use crate::common::postgres::{Cluster, Database};
use crate::common::process;
use crate::common::wait::{SOON, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const POSTGRES: &str = "postgres://gatepost@localhost/audit";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and all pages below `docs/`, by their paths from the root.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs
        .map(|name| format!("docs/{}", name.to_str().unwrap()))
        .filter(|name| Path::new(name).extension().is_some_and(|found| found == "md"));
    let mut pages: Vec<String> = docs.chain(["README.md".to_owned()]).collect();
    pages.sort();
    pages
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// The commands of a page's `console` blocks that are to be run.
fn commands(page: &str, text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut inside, mut run, mut goes_on) = (false, false, false);
    let mut before = "";
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with("```") {
            inside = !inside && line == "```console";
            if inside {
                let reason = before.strip_prefix("<!-- not run:").and_then(|rest| rest.strip_suffix("-->"));
                assert!(reason.is_none_or(|reason| reason.trim().len() > 5), "{page}: give the reason in {before:?}");
                run = reason.is_none();
            }
        } else if inside && run {
            if goes_on {
                let last = found.last_mut().unwrap();
                last.push('\n');
                last.push_str(line);
            } else if let Some(command) = line.strip_prefix("$ ") {
                found.push(command.to_owned());
            }
            goes_on = (goes_on || line.starts_with("$ ")) && line.ends_with('\\');
        }
        if !line.is_empty() {
            before = line;
        }
    }
    found
}

/// The commands of ours behind each `**Type**:` of a page, and `curl`.
fn typed(text: &str) -> Vec<String> {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| paragraph.split_once("**Type**:"));
    let spans = paragraphs.flat_map(|(_, rest)| rest.split('`').skip(1).step_by(2));
    let commands = spans.map(|span| span.replace('\n', " "));
    commands.filter(|command| command.starts_with("gatepost ") || command.starts_with("curl ")).collect()
}

/// A page's directory, environment and running gateway.
struct Reader {
    dir: TempDir,
    database: Option<Database>,
    server: Option<Child>,
    /// The gateway's own addresses, without the scheme.
    mcp: String,
    ops: String,
}

impl Reader {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("bin")).unwrap();
        std::os::unix::fs::symlink(BINARY, at("bin/gatepost")).unwrap();
        command::run(Command::new("cp").arg("-r").arg(root().join("examples")).arg(at("examples")));
        fs::copy(root().join("examples/quickstart.toml"), at("gatepost.toml")).unwrap();
        Self { dir, database: None, server: None, mcp: String::new(), ops: String::new() }
    }

    async fn follow(&mut self, page: &str, command: &str) {
        let mut command = command
            .replace("cargo run --release --", "gatepost")
            .replace("./target/release/gatepost", "gatepost")
            .replace("127.0.0.1:8808", &self.mcp)
            .replace("127.0.0.1:8809", &self.ops);
        if command.contains(POSTGRES) {
            if self.database.is_none() {
                self.database = Some(Cluster::shared().create_database().await);
            }
            command = command.replace(POSTGRES, &self.database.as_ref().unwrap().url);
        }
        if command.split_whitespace().any(|word| word == "serve") {
            self.serve(page, &command);
        } else {
            let script = format!("[ ! -f state ] || . ./state\n{command}\ncode=$?\nexport -p >state\nexit $code\n");
            let output = self.bash(&script).output().unwrap();
            let said = [&output.stdout[..], &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
            assert!(output.status.success(), "{page}: $ {command}\n{}\n{}", said.concat(), self.log());
        }
    }

    fn serve(&mut self, page: &str, command: &str) {
        self.stop(page);
        let log = File::create(self.dir.path().join("log")).unwrap();
        let script = format!("[ ! -f state ] || . ./state\nexec env {command}");
        let mut bash = self.bash(&script);
        let mut child = bash.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut bound = Value::Null;
        until("the gateway listens", SOON, || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{page}: $ {command}\nended with {ended:?}\n{}", self.log());
            let dir = if command.contains("--quickstart") { ".local/state/gatepost" } else { "gatepost-data" };
            let text = fs::read_to_string(self.dir.path().join(dir).join("serve.json")).unwrap_or_default();
            bound = serde_json::from_str(&text).unwrap_or_default();
            bound["pid"] == child.id() && (!command.contains("--quickstart") || self.log().contains("Stop with Ctrl-C"))
        });
        self.server = Some(child);
        let address = |name: &str| bound[name].as_str().unwrap().split_once("://").unwrap().1.to_owned();
        (self.mcp, self.ops) = (address("mcp"), address("ops"));
        // The reader pastes the lines that it prints.
        let exports: Vec<String> =
            self.log().lines().filter(|line| line.starts_with("export ")).map(str::to_owned).collect();
        let state = self.dir.path().join("state");
        let known = fs::read_to_string(&state).unwrap_or_default();
        fs::write(state, format!("{known}{}\n", exports.join("\n"))).unwrap();
    }

    fn bash(&self, script: &str) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(dir).stdin(Stdio::null()).env_clear();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", dir.join("bin").display())).env("HOME", dir);
        command.env("GATEPOST_SERVER_LISTEN", "127.0.0.1:0").env("GATEPOST_OPS_LISTEN", "127.0.0.1:0");
        command.env("DEV_SECRET", "a secret for the documentation, with more than 32 bytes");
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn stop(&mut self, page: &str) {
        let Some(mut server) = self.server.take() else { return };
        process::signal(server.id(), Signal::SIGTERM);
        until("the gateway has ended", 2 * SOON, || server.try_wait().unwrap().is_some());
        assert_eq!(server.wait().unwrap().code(), Some(0), "{page}\n{}", self.log());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            process::signal(server.id(), Signal::SIGKILL);
            server.wait().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_the_documentation_succeeds() {
    let mut count = 0;
    for page in pages() {
        let mut reader = Reader::new();
        let text = read(&page);
        let typed = if page == "docs/runbook.md" { typed(&text) } else { Vec::new() };
        assert_eq!(typed.len() > 5, page == "docs/runbook.md", "{typed:?}");
        for command in commands(&page, &text).into_iter().chain(typed) {
            reader.follow(&page, &command).await;
            count += 1;
        }
        reader.stop(&page);
    }
    assert!(count > 10, "{count} commands were run");
}

#[test]
fn a_command_that_is_not_run_needs_a_reason() {
    let page = "a\n```console\n$ one \\\n  two\nsaid\n$ three\n```\n<!-- not run: needs a network -->\n\n```console\n$ four\n```\n\
                ```text\n$ five\n```\n";
    assert_eq!(commands("page", page), ["one \\\ntwo", "three"]);
    let without = std::panic::catch_unwind(|| commands("page", "<!-- not run: -->\n```console\n$ a\n```\n"));
    assert!(without.is_err());
}

#[test]
fn every_link_in_the_documentation_resolves() {
    for page in pages() {
        let text = read(&page);
        let base = root().join(&page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            let outside = link.is_empty() || link.contains("://");
            assert!(outside || base.join(link).exists(), "{page}: {link} is not there");
        }
    }
}

#[test]
fn the_index_names_every_page_and_the_readme_names_the_index() {
    let index = read("docs/README.md");
    for page in pages().iter().filter_map(|page| page.strip_prefix("docs/")).filter(|page| *page != "README.md") {
        assert!(index.contains(&format!("({page})")), "docs/README.md does not name {page}");
    }
    assert!(read("README.md").contains("(docs/README.md)"));
}

fn examples(extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    assert!(files.len() > 2, "{files:?}");
    files
}

#[test]
fn config_check_accepts_every_example() {
    let reader = Reader::new();
    let secret = reader.dir.path().join("secret");
    write_secret(&secret, "a secret for the documentation, with more than 32 bytes");
    for file in examples("toml") {
        // The secrets of an example are no files of this machine.
        let mut text = fs::read_to_string(&file).unwrap();
        for named in ["/home/alice/.config/gatepost/secret", "/etc/gatepost/tickets.token"] {
            text = text.replace(named, secret.to_str().unwrap());
        }
        fs::write(reader.dir.path().join("example.toml"), &text).unwrap();
        let mut check = reader.bash("gatepost config check --config example.toml");
        if text.contains("GATEPOST_DEV_SECRET") {
            check.env("GATEPOST_DEV_SECRET", "a secret for the documentation, with more than 32 bytes");
        }
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_client_example_sets_a_token_and_leaves_the_directory_to_the_configuration() {
    let desktop = fs::read_to_string(root().join("examples/desktop.toml")).unwrap();
    let mut count = 0;
    for file in examples("json") {
        let json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let Some(servers) = json.get("mcpServers").or_else(|| json.get("servers")) else { continue };
        for (name, server) in servers.as_object().unwrap() {
            if file.file_stem().unwrap().to_str().unwrap().ends_with("-remote") {
                continue;
            }
            assert_eq!(server["command"], "/usr/bin/gatepost", "{}", file.display());
            let args: Vec<&str> = server["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
            assert_eq!(args[..2], ["stdio", "--config"], "{}", file.display());
            assert_eq!(Path::new(args[2]).file_name().unwrap(), "desktop.toml");
            assert_eq!(args[3..5], ["--backend", name.as_str()]);
            assert!(desktop.contains(&format!("[backends.{name}]")));
            assert!(args.get(5) == Some(&"--token-file") || server["env"]["GATEPOST_TOKEN"].is_string());
            assert!(server["env"]["GATEPOST_AUDIT_DIR"].is_null(), "{}: a slot for each", file.display());
            count += 1;
        }
    }
    assert!(count > 2 && desktop.contains("\ndir = \"/home/"), "a client starts its servers in any working directory");
}

#[test]
fn every_example_of_a_client_of_a_team_server_names_the_public_url_and_no_token() {
    let team = fs::read_to_string(root().join("examples/team.toml")).unwrap();
    let packages: Value =
        serde_json::from_str(&fs::read_to_string(root().join("tests/e2e/package.json")).unwrap()).unwrap();
    let remote = format!("mcp-remote@{}", packages["dependencies"]["mcp-remote"].as_str().unwrap());
    let mut count = 0;
    for file in examples("json").iter().filter(|file| file.file_stem().unwrap().to_str().unwrap().ends_with("-remote"))
    {
        let text = fs::read_to_string(file).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let server = &json.get("mcpServers").or_else(|| json.get("servers")).unwrap()["team"];
        let url = server["url"].as_str().or_else(|| server["args"][2].as_str()).unwrap();
        let base = url.strip_suffix("/mcp").unwrap();
        assert!(team.contains(&format!("public_url = {base:?}")), "{}: {url}", file.display());
        // The version that tests/e2e/sign_in.rs tries.
        assert!(server["command"].is_null() || server["args"][1] == *remote, "{}", file.display());
        assert!(!text.contains("Authorization") && !text.contains("token"), "{}", file.display());
        count += 1;
    }
    assert_eq!(count, 3);
}
