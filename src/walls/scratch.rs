//! Directories for what programs write without being told where, made before the walls are built.
//!
//! If the home directory or the directory for temporary files contains one of the gateway's own files, a backend can
//! make nothing new in it. Then it gets, beforehand, the directories in which programs keep caches, and a directory for
//! temporary files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::plan::{Granted, Plan};

/// Directories in the home directory. *Chosen*: where the XDG Base Directory Specification, npm and uv keep caches and
/// programs; `npx` and `uvx` start nothing without them.
const HOME_DIRS: [&str; 5] = [".cache", ".config", ".local/share", ".local/state", ".npm"];

/// Makes the directories, as far as they are needed. Returns the value of `TMPDIR` for the backend, if it needs
/// another.
pub(super) fn make(plan: &Plan, env: &BTreeMap<OsString, OsString>) -> Option<PathBuf> {
    let variable = |name: &str| env.get(OsStr::new(name)).map(PathBuf::from);
    let takes_nothing_new = |path: &Path| {
        let of_path = plan.write.iter().find(|root| root.path == path);
        of_path.is_some_and(|root| matches!(root.granted, Granted::Entries { .. }))
    };
    if let Some(home) = variable("HOME").filter(|home| takes_nothing_new(home)) {
        for dir in HOME_DIRS {
            // A program that needs it reports that it is missing.
            private_dir(&home.join(dir));
        }
    }
    let temporary = variable("TMPDIR").unwrap_or_else(|| PathBuf::from(super::launcher::TEMPORARY_DIR));
    if !takes_nothing_new(&temporary) {
        return None;
    }
    let dir = temporary.join(format!("gatepost-{}", nix::unistd::geteuid()));
    private_dir(&dir).then_some(dir)
}

/// Makes a directory that only its owner can enter. Returns whether it is there, and this user's.
fn private_dir(path: &Path) -> bool {
    // An error shows below.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).ok();
    let found = std::fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walls::own_files::OwnFiles;

    #[test]
    fn a_home_that_takes_nothing_new_gets_its_caches_and_the_program_a_place_for_temporary_files() {
        let root = tempfile::tempdir().unwrap();
        let (home, data) = (root.path().join("home"), root.path().join("home/data"));
        std::fs::create_dir_all(&data).unwrap();
        let env = BTreeMap::from([("HOME".into(), home.clone().into()), ("TMPDIR".into(), home.clone().into())]);
        let plan = |dir: &Path| {
            let own = OwnFiles { dir: dir.to_owned(), files: Vec::new() };
            Plan::new(&own, std::slice::from_ref(&home), &[], &BTreeMap::new())
        };
        assert_eq!(make(&plan(&root.path().join("elsewhere")), &env), None);
        assert!(!home.join(".npm").exists());
        let temporary = make(&plan(&data), &env).unwrap();
        assert!(temporary.is_dir() && temporary.starts_with(&home) && home.join(".local/share").is_dir());
        // A link in its place is not followed.
        std::fs::remove_dir(&temporary).unwrap();
        std::os::unix::fs::symlink(&data, &temporary).unwrap();
        assert_eq!(make(&plan(&data), &env), None);
    }
}
