//! A client that has started `gatepost stdio`, as desktop clients do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::gatepost::{Setup, token};

/// A client with its gateway.
#[derive(Debug)]
pub struct StdioClient {
    pub child: Child,
    pub input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl StdioClient {
    /// Starts the gateway for one backend, with a token for `role`.
    pub fn start(setup: &Setup, backend: &str, role: &str, stderr: impl Into<Stdio>) -> Self {
        let mut command = setup.command(&["stdio", "--backend", backend]);
        command.env("GATEPOST_TOKEN", token(role));
        Self::start_command(&mut command, stderr)
    }

    /// Starts a command that becomes the gateway.
    pub fn start_command(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), child, output }
    }

    pub fn send(&mut self, message: &Value) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{message}\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }

    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The response to request `id`, and what came before it.
    pub fn response(&mut self, id: u64) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let message = self.read();
            if message["id"] == id && message.get("method").is_none() {
                return (message, before);
            }
            before.push(message);
        }
    }

    pub fn ask(&mut self, id: u64, method: &str, params: &Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        self.response(id).0
    }

    pub fn initialize(&mut self) -> Value {
        let info = json!({"name": "desktop", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
        let hello = self.ask(1, "initialize", &params);
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        hello
    }

    /// Closes the client's end, as a desktop client does when it ends.
    pub fn leave(mut self) -> Option<i32> {
        drop(self.input.take());
        self.child.wait().unwrap().code()
    }
}
