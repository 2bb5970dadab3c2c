//! Programs of the Python environment that `scripts/setup` installs.

use std::path::{Path, PathBuf};

/// A program of the Python environment, as `mcp-server-time` or `python`.
pub fn python_program(name: &str) -> PathBuf {
    program("E2E_VENV", ".test-env/venv", &format!("bin/{name}"))
}

/// A program below the directory that `variable` names, or below `usual`.
pub fn program(variable: &str, usual: &str, path: &str) -> PathBuf {
    let root =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(usual), PathBuf::from);
    let program = root.join(path);
    assert!(program.exists(), "{} is missing: run ./scripts/setup (or ./scripts/test, which does)", program.display());
    program
}
