//! This program in another role, to be killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts this program in another role and waits for its first line.
pub fn spawn(role: &str, dir: &Path) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--role", role, "--dir"]).arg(dir).stdout(Stdio::piped());
    if super::is_quick() {
        command.arg("--quick");
    }
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the child in role {role} died");
    (child, line.trim().to_owned())
}

/// SIGKILL.
pub fn kill((mut child, _): (Child, String)) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The child's part: says `word` and waits to be killed.
pub fn ready(word: &str) -> ! {
    println!("{word}");
    loop {
        std::thread::park();
    }
}
