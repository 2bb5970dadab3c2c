//! The console in Chromium, driven by a script of `tests/e2e/`; the two talk by lines.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::json;

use crate::clients_and_servers::{modern_node, node_module};
use crate::common::gatepost::{Gatepost, token_with};

/// A browser with its driver. Dropped, it hears the end of its input and ends.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Where it leaves screenshots.
    pub shots: PathBuf,
}

impl Browser {
    /// Starts `tests/e2e/SCRIPT` for an auditor of this gateway, which must believe roles; `shots` is below `target/`.
    pub fn start(script: &str, gatepost: &Gatepost, shots: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let shots = root.join("target").join(shots);
        std::fs::create_dir_all(&shots).unwrap();
        let modules = node_module("playwright-core").parent().unwrap().parent().unwrap().to_owned();
        let auditor = token_with(&json!({ "sub": "olga", "role": "auditor" }));
        let mut command = Command::new(modern_node());
        command.arg(root.join("tests/e2e").join(script)).arg(modules);
        command.args([&gatepost.ops_url, &auditor]).arg(&shots);
        let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = driver.stdin.take().unwrap();
        let output = BufReader::new(driver.stdout.take().unwrap()).lines();
        Self { driver, input, output, shots }
    }

    /// The next line that the driver says; `None` at its end.
    pub fn hears(&mut self) -> Option<String> {
        self.output.next().map(Result::unwrap)
    }

    /// Says a line to the driver.
    pub fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Ends the driver's input and waits for its end.
    pub fn end(self) -> ExitStatus {
        let Self { mut driver, input, .. } = self;
        drop(input);
        driver.wait().unwrap()
    }
}
