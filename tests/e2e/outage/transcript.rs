//! What an operator typed and saw, written down as it happens.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use chrono::Utc;

use crate::common::gatepost::{BINARY, Gatepost, Setup};

/// The operations listener's address as the documentation has it; that of the gateway takes its place.
const OPS: &str = "http://127.0.0.1:8809";

/// A file that grows.
#[derive(Debug)]
pub struct Transcript<'a> {
    file: File,
    setup: &'a Setup,
    ops: String,
    stopped: Option<Instant>,
}

impl<'a> Transcript<'a> {
    /// A new file `transcript.md` in `dir`.
    pub fn new(dir: &Path, setup: &'a Setup, gatepost: &Gatepost) -> Self {
        let file = File::create(dir.join("transcript.md")).unwrap();
        Self { file, setup, ops: gatepost.ops_url.clone(), stopped: None }
    }

    /// Something that happened, and when: by the clock, and since Postgres was stopped.
    pub fn mark(&mut self, what: &str) {
        let now = Utc::now().format("%H:%M:%S UTC");
        let since = self.stopped.map_or(String::new(), |stopped| format!(", {:.1} s", stopped.elapsed().as_secs_f64()));
        self.write(&format!("\n## {now}{since}: {what}\n\n"));
    }

    /// Counts the seconds from `stopped` on.
    pub fn count_from(&mut self, stopped: Instant) {
        self.stopped = Some(stopped);
    }

    /// Text as it is.
    pub fn write(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).unwrap();
    }

    /// Runs a command by bash in the gateway's directory, with the binary on `PATH`; gives what it printed. It must
    /// succeed, and print no error.
    pub fn run(&mut self, command: &str) -> String {
        self.setup.config_file();
        let path =
            format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.args(["-o", "pipefail", "-c", &command.replace(OPS, &self.ops)]).current_dir(self.setup.dir());
        bash.env_clear().env("PATH", path).env("HOME", self.setup.dir());
        let output = bash.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (printed, errors) = (text(output.stdout), text(output.stderr));
        let mut shown = format!("```text\n$ {command}\n{printed}");
        shown.push_str(&errors);
        self.write(&format!("{shown}```\n\n"));
        assert!(output.status.success() && errors.is_empty(), "{command} ended with {}\n{shown}", output.status);
        printed
    }
}
