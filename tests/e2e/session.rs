//! Clients on an official SDK that stay connected, `tests/e2e/session.mjs`; the two talk by lines of JSON.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::clients_and_servers::modern_node;
use crate::common::gatepost::token;

/// Connected clients with the role `admin`, in one process. Dropping this ends them.
#[derive(Debug)]
pub struct Clients {
    driver: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    asked: u64,
    /// Lines of the clients that no method has returned yet.
    said: Vec<Value>,
}

/// One connected client.
#[derive(Debug)]
pub struct Session(Clients);

impl Clients {
    /// Connects one client to each of `urls`, in the era `legacy` or `modern`.
    pub fn start(urls: &[String], era: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/session.mjs");
        let mut command = Command::new(modern_node());
        command.arg(script).args([&token("admin"), era]).args(urls);
        let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(driver.stdout.take().unwrap()).lines();
        let mut clients = Self { input: driver.stdin.take(), driver, output, asked: 0, said: Vec::new() };
        let version = clients.wait_for("it connects", |said| said["connected"].is_string());
        assert_eq!(version["connected"] == "2026-07-28", era == "modern", "{version}");
        clients
    }

    /// The first line that fits and was not yet returned.
    fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(at) = self.said.iter().position(&fits) {
                return self.said.remove(at);
            }
            let line = self.output.next().unwrap_or_else(|| panic!("the client ended before {what}"));
            self.said.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
    }

    fn begin(&mut self, client: usize, mut asked: Value) -> u64 {
        self.asked += 1;
        (asked["id"], asked["client"]) = (json!(self.asked), json!(client));
        writeln!(self.input.as_mut().unwrap(), "{asked}").unwrap();
        self.asked
    }

    /// Begins a call; [`Clients::answer`] waits for its end.
    pub fn begin_call(&mut self, client: usize, tool: &str, arguments: &Value) -> u64 {
        self.begin(client, json!({"call": tool, "arguments": arguments}))
    }

    /// The text of a call's result, or the SDK's message about the error.
    pub fn answer(&mut self, id: u64) -> Result<String, String> {
        let answer = self.wait_for("it answers", |said| said["id"] == id);
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["result"]["content"][0]["text"].as_str().unwrap().to_owned()),
        }
    }

    pub fn call(&mut self, client: usize, tool: &str, arguments: &Value) -> Result<String, String> {
        let id = self.begin_call(client, tool, arguments);
        self.answer(id)
    }

    /// The names of all tools.
    pub fn tools(&mut self, client: usize) -> Vec<String> {
        let id = self.begin(client, json!({"list": true}));
        let answer = self.wait_for("it lists", |said| said["id"] == id);
        assert!(answer["error"].is_null(), "{answer}");
        serde_json::from_value(answer["tools"].clone()).unwrap()
    }

    /// Waits for a notification.
    pub fn hears(&mut self, client: usize, method: &str) {
        self.wait_for(&format!("it hears {method}"), |said| said["client"] == client && said["heard"] == method);
    }

    /// The notifications that a client has heard and that were not waited for.
    pub fn heard(&self, client: usize) -> Vec<&Value> {
        self.said.iter().filter(|said| said["client"] == client && said["heard"].is_string()).collect()
    }
}

impl Session {
    /// Connects to `url` in the era `legacy` or `modern`.
    pub fn start(url: &str, era: &str) -> Self {
        Self(Clients::start(&[url.to_owned()], era))
    }

    /// As [`Clients::begin_call`].
    pub fn begin_call(&mut self, tool: &str, arguments: &Value) -> u64 {
        self.0.begin_call(0, tool, arguments)
    }

    /// As [`Clients::answer`].
    pub fn answer(&mut self, id: u64) -> Result<String, String> {
        self.0.answer(id)
    }

    pub fn call(&mut self, tool: &str, arguments: &Value) -> Result<String, String> {
        self.0.call(0, tool, arguments)
    }

    /// Says whether a call that was begun has not ended, as far as the client has said.
    pub fn is_open(&self, id: u64) -> bool {
        !self.0.said.iter().any(|said| said["id"] == id)
    }

    /// The names of all tools.
    pub fn tools(&mut self) -> Vec<String> {
        self.0.tools(0)
    }

    /// Waits for a notification.
    pub fn hears(&mut self, method: &str) {
        self.0.hears(0, method);
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.input.take());
        self.driver.wait().ok();
    }
}
