//! The program of a stdio backend, before it is started.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::Backend;

/// Returns true if the program of a backend can be started: by its path, or found in `PATH`.
pub(super) fn is_found(program: &str, backend: &Backend) -> bool {
    let is_program =
        |path: &Path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let cwd = backend.cwd.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_default();
        return is_program(&cwd.join(program));
    }
    let path = backend.env.get("PATH").map(Into::into).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    std::env::split_paths(&path).any(|dir| is_program(&dir.join(program)))
}
