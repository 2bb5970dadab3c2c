//! `tests/e2e/raw_server.py`, a backend that writes down each call that reaches it.

use std::path::PathBuf;

use super::gatepost::Setup;
use super::python::python_program;

/// Adds the backend to `setup`; gives the file that it writes the calls into.
pub fn raw_backend(setup: &mut Setup, alias: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/raw_server.py");
    let (python, received) = (python_program("python"), setup.work_dir().join(format!("received by {alias}")));
    setup.backend(alias, &[python.to_str().unwrap(), script, received.to_str().unwrap()]);
    received
}
