//! A client on an official SDK that stays connected, `tests/e2e/session.mjs`; the two talk by lines of JSON.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::clients_and_servers::modern_node;
use crate::common::gatepost::token;

/// A connected client with the role `admin`. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    driver: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    asked: u64,
    /// What the client said that was not yet waited for.
    said: Vec<Value>,
}

impl Session {
    /// Connects to `url` in the era `legacy` or `modern`.
    pub fn start(url: &str, era: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/session.mjs");
        let mut command = Command::new(modern_node());
        command.arg(script).args([url, &token("admin"), era]);
        let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(driver.stdout.take().unwrap()).lines();
        let mut session = Self { input: driver.stdin.take(), driver, output, asked: 0, said: Vec::new() };
        let version = session.wait_for("it connects", |said| said["connected"].is_string());
        assert_eq!(version["connected"] == "2026-07-28", era == "modern", "{version}");
        session
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

    fn begin(&mut self, mut asked: Value) -> u64 {
        self.asked += 1;
        asked["id"] = json!(self.asked);
        writeln!(self.input.as_mut().unwrap(), "{asked}").unwrap();
        self.asked
    }

    /// Begins a call; [`Session::answer`] waits for its end.
    pub fn begin_call(&mut self, tool: &str, arguments: &Value) -> u64 {
        self.begin(json!({"call": tool, "arguments": arguments}))
    }

    /// The text of a call's result, or the SDK's message about the error.
    pub fn answer(&mut self, id: u64) -> Result<String, String> {
        let answer = self.wait_for("it answers", |said| said["id"] == id);
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["result"]["content"][0]["text"].as_str().unwrap().to_owned()),
        }
    }

    pub fn call(&mut self, tool: &str, arguments: &Value) -> Result<String, String> {
        let id = self.begin_call(tool, arguments);
        self.answer(id)
    }

    /// Says whether a call that was begun has not ended, as far as the client has said.
    pub fn is_open(&self, id: u64) -> bool {
        !self.said.iter().any(|said| said["id"] == id)
    }

    /// The names of all tools.
    pub fn tools(&mut self) -> Vec<String> {
        let id = self.begin(json!({"list": true}));
        let answer = self.wait_for("it lists", |said| said["id"] == id);
        assert!(answer["error"].is_null(), "{answer}");
        serde_json::from_value(answer["tools"].clone()).unwrap()
    }

    /// Waits for a notification.
    pub fn hears(&mut self, method: &str) {
        self.wait_for(&format!("it hears {method}"), |said| said["heard"] == method);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        self.driver.wait().ok();
    }
}
