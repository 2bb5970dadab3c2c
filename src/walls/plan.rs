//! The plan of the walls: the paths that are closed to a backend, and the directories in which it may write.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::own_files::OwnFiles;

/// Directories that programs need, so that one that contains them is never closed as a whole. *Chosen*: what the
/// dynamic linker, name resolution and TLS read. Every directory directly below the root is treated alike.
const SYSTEM_DIRS: [&str; 5] = ["/usr/bin", "/usr/lib", "/usr/share", "/etc/ssl/certs", "/etc/pki/tls"];

/// The plan of one backend's walls. All paths are real: they contain no symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Directories and files that are closed: they and what is below them cannot be opened.
    pub closed: BTreeSet<PathBuf>,
    /// The directories and files in which the backend may write.
    pub write: Vec<WriteRoot>,
}

/// A directory or file in which a backend may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRoot {
    /// As it was configured.
    pub path: PathBuf,
    /// The form in which it is granted.
    pub granted: Granted,
}

/// The form in which a write root is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    /// With everything below it.
    Whole(PathBuf),
    /// Entry by entry, because closed paths are below it. Nothing new can be made directly in `directories`, of which
    /// the root is the first.
    Entries {
        /// The root, and the directories on the way to the closed paths.
        directories: Vec<PathBuf>,
        /// The closed paths.
        closed: Vec<PathBuf>,
    },
    /// Not at all, because it is closed or in this closed directory.
    Closed(PathBuf),
    /// Not at all, because it does not exist.
    Missing,
}

impl Plan {
    /// Plans the walls of a backend with this command and environment, which may write in `write`.
    #[must_use]
    pub fn new(own: &OwnFiles, write: &[PathBuf], command: &[OsString], env: &BTreeMap<OsString, OsString>) -> Self {
        let needed = needed_paths(write, command, env);
        let mut closed = BTreeSet::from([real(&own.dir)]);
        for file in &own.files {
            // A symbolic link is replaced in its own directory; its target is what contains the secret.
            let target = real(file);
            let directories = [target.parent().map(Path::to_owned), file.parent().map(real)];
            closed.extend(directories.into_iter().flatten().filter(|dir| !is_shared(dir, &needed)));
            closed.insert(target);
        }
        let is_below_another = |path: &Path| path.ancestors().skip(1).any(|dir| closed.contains(dir));
        let closed: BTreeSet<PathBuf> = closed.iter().filter(|path| !is_below_another(path)).cloned().collect();
        let write =
            write.iter().map(|path| WriteRoot { path: path.clone(), granted: granted(path, &closed) }).collect();
        Self { closed, write }
    }

    /// The directories that contain closed paths, from the root on.
    #[must_use]
    pub fn ancestors(&self) -> BTreeSet<PathBuf> {
        self.closed.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect()
    }
}

/// The paths that a program needs to read: where it may write, and every absolute path in its command and environment.
fn needed_paths(write: &[PathBuf], command: &[OsString], env: &BTreeMap<OsString, OsString>) -> BTreeSet<PathBuf> {
    let texts = command.iter().chain(env.values());
    let named = texts.flat_map(|text| text.as_bytes().split(|byte| matches!(byte, b':' | b'=' | b',')));
    let named = named.map(|text| PathBuf::from(OsStr::from_bytes(text))).filter(|path| path.is_absolute());
    let cwd = std::env::current_dir().ok();
    let named = named.chain(cwd).chain(write.iter().cloned()).filter(|path| path.exists());
    named.map(|path| real(&path)).chain(SYSTEM_DIRS.map(PathBuf::from)).collect()
}

/// Returns whether a directory is used for more than the gateway's own files: it contains a path that is needed, or is
/// the root or directly below it.
fn is_shared(dir: &Path, needed: &BTreeSet<PathBuf>) -> bool {
    dir.ancestors().count() <= 2 || needed.iter().any(|path| path.starts_with(dir))
}

fn granted(path: &Path, closed: &BTreeSet<PathBuf>) -> Granted {
    if !path.exists() {
        return Granted::Missing;
    }
    let root = real(path);
    if let Some(by) = root.ancestors().find(|dir| closed.contains(*dir)) {
        return Granted::Closed(by.to_owned());
    }
    let below: Vec<PathBuf> = closed.iter().filter(|path| path.starts_with(&root)).cloned().collect();
    if below.is_empty() {
        return Granted::Whole(root);
    }
    let ancestors = below.iter().flat_map(|path| path.ancestors().skip(1));
    let directories: BTreeSet<PathBuf> = ancestors.filter(|dir| dir.starts_with(&root)).map(Path::to_owned).collect();
    Granted::Entries { directories: directories.into_iter().collect(), closed: below }
}

/// The path without symbolic links. If it does not exist, that of its nearest directory that does, and the rest.
fn real(path: &Path) -> PathBuf {
    for dir in path.ancestors() {
        if let Ok(real) = dir.canonicalize() {
            let rest = path.strip_prefix(dir).unwrap_or(Path::new(""));
            // Joining an empty rest would add a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

impl fmt::Display for WriteRoot {
    /// The consequence of a root that is not granted as a whole, for an operator. Empty if it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| match paths {
            [first, second, third, _, ..] => {
                let more = paths.len() - 3;
                format!("{}, {}, {} and {more} more", first.display(), second.display(), third.display())
            }
            few => few.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        let path = self.path.display();
        match &self.granted {
            Granted::Whole(_) => Ok(()),
            Granted::Entries { directories, closed } => write!(
                f,
                "{path} contains {}, closed to backends: its other entries are granted as they are when the \
                 backend starts, and the backend cannot make new ones in {}",
                list(closed),
                list(directories)
            ),
            Granted::Closed(by) => {
                write!(f, "{path} is not granted: it is in {}, which is closed to backends", by.display())
            }
            Granted::Missing => write!(f, "{path} is not granted: it does not exist"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these directories and files in it; its real path.
    fn tree(dirs: &[&str], files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for dir in dirs {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in files {
            std::fs::write(root.join(file), "").unwrap();
        }
        (temp, root)
    }

    fn plan(root: &Path, files: &[&str], write: &[&str], command: &[&str]) -> Plan {
        let below = |paths: &[&str]| paths.iter().map(|path| root.join(path)).collect::<Vec<_>>();
        let own = OwnFiles { dir: root.join("data"), files: below(files) };
        let command: Vec<OsString> = below(command).into_iter().map(PathBuf::into_os_string).collect();
        Plan::new(&own, &below(write), &command, &BTreeMap::new())
    }

    fn closed(root: &Path, plan: &Plan) -> Vec<String> {
        plan.closed.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn the_directory_of_a_secret_is_closed_unless_it_is_used_for_other_things() {
        let (_temp, root) = tree(&["data", "keys", "app/lib", "home"], &["keys/hs256", "app/gatepost.toml", "app/run"]);
        let plan = plan(&root, &["keys/hs256", "app/gatepost.toml", "home/.pgpass"], &["home"], &["app/run"]);
        assert_eq!(closed(&root, &plan), ["app/gatepost.toml", "data", "home/.pgpass", "keys"]);
        let unused = self::plan(&root, &["app/gatepost.toml"], &[], &[]);
        assert_eq!(closed(&root, &unused), ["app", "data"]);
        for dir in ["/", "/etc"] {
            assert!(is_shared(Path::new(dir), &BTreeSet::new()), "{dir}");
        }
        assert!(is_shared(Path::new("/etc/ssl"), &needed_paths(&[], &[], &BTreeMap::new())));
        assert!(!is_shared(Path::new("/etc/gatepost"), &needed_paths(&[], &[], &BTreeMap::new())));
    }

    #[test]
    fn a_path_in_the_environment_keeps_its_directory_open() {
        let (_temp, root) = tree(&["keys", "app"], &["keys/hs256", "keys/api", "app/run"]);
        let own = OwnFiles { dir: root.join("data"), files: vec![root.join("keys/hs256")] };
        let env = BTreeMap::from([("API_KEY_FILE".into(), root.join("keys/api").into_os_string())]);
        let plan = Plan::new(&own, &[], &[], &env);
        assert_eq!(closed(&root, &plan), ["data", "keys/hs256"]);
    }

    #[test]
    fn a_secret_behind_a_symbolic_link_is_closed_with_the_directory_of_the_link() {
        let (_temp, root) = tree(&["volume/..2026", "app"], &["volume/..2026/key"]);
        std::os::unix::fs::symlink("..2026", root.join("volume/..data")).unwrap();
        std::os::unix::fs::symlink("..data/key", root.join("volume/key")).unwrap();
        assert_eq!(closed(&root, &plan(&root, &["volume/key"], &[], &[])), ["data", "volume"]);
        std::os::unix::fs::symlink("../volume/..2026/key", root.join("app/key")).unwrap();
        let plan = plan(&root, &["app/key"], &["app"], &[]);
        assert_eq!(closed(&root, &plan), ["data", "volume/..2026"]);
    }

    #[test]
    fn a_root_that_contains_closed_paths_is_granted_entry_by_entry_and_says_so() {
        let (_temp, root) = tree(&["data", "home/a/keys", "home/b"], &["home/a/keys/k"]);
        let plan = plan(&root, &["home/a/keys/k"], &["home", "home/b", "data/x", "data", "none"], &[]);
        let at = |path: &str| root.join(path);
        let want = [
            Granted::Entries { directories: vec![at("home"), at("home/a")], closed: vec![at("home/a/keys")] },
            Granted::Whole(at("home/b")),
            Granted::Missing,
            Granted::Closed(at("data")),
            Granted::Missing,
        ];
        assert_eq!(plan.write.iter().map(|root| root.granted.clone()).collect::<Vec<_>>(), want);
        let said: Vec<String> = plan.write.iter().map(ToString::to_string).collect();
        assert!(said[0].contains("contains") && said[0].contains("cannot make new ones in"), "{}", said[0]);
        assert_eq!(said[1], "");
        assert!(said[3].contains("closed to backends") && said[4].contains("does not exist"), "{said:?}");
        assert!(plan.ancestors().contains(&at("home/a")) && plan.ancestors().contains(Path::new("/")));
        assert!(!plan.ancestors().contains(&at("home/b")));
    }
}
