//! Running commands of the binary to their end.

use std::process::Stdio;

use crate::common::gatepost::Setup;

/// Runs a subcommand with the configuration of `setup` and without input: its exit code, output and errors.
pub fn run(setup: &Setup, args: &[&str]) -> (Option<i32>, String, String) {
    let output = setup.command(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The same for a subcommand of `outbox`.
pub fn run_outbox(setup: &Setup, args: &[&str]) -> (Option<i32>, String, String) {
    run(setup, &[&["outbox"], args].concat())
}

/// The output of a subcommand of `outbox`, which succeeds.
pub fn outbox_succeeds(setup: &Setup, args: &[&str]) -> String {
    let (code, stdout, stderr) = run_outbox(setup, args);
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    stdout
}
