//! The environment of a stdio backend: its own variables, those of a file, and those that it gets from the gateway.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::user::BackendUser;
use crate::config;
use crate::file_access::FileKind;

/// Largest file of variables, in bytes. *Chosen*: the kernel's own limit of one variable is 128 KiB.
const ENV_FILE_BYTES_MAX: usize = 256 * 1024;

/// The part of a backend's settings from which its environment is made, anew for each process.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    // I8: it contains credentials; its `Debug` output is that of the backend's settings.
    config: Box<config::Backend>,
}

impl Environment {
    pub(super) fn of(config: &config::Backend) -> Self {
        Self { config: Box::new(config.clone()) }
    }

    /// The variables: `PATH`, and `HOME` of its user if it has one; those of `env_from`, of `env_file` and of `env`.
    /// Later ones replace earlier ones.
    ///
    /// # Errors
    /// The setting below the backend's, and the reason why its variables cannot be read. No value is in it.
    pub(super) fn variables(&self) -> Result<BTreeMap<OsString, OsString>, (String, String)> {
        let config = &self.config;
        let mut env: BTreeMap<OsString, OsString> =
            ["PATH", "HOME"].iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
        if let Some(Ok(user)) = config.user.as_deref().map(BackendUser::find) {
            env.insert("HOME".into(), user.home.into());
        }
        for name in &config.env_from {
            let value = std::env::var_os(name).ok_or_else(|| {
                (
                    "env_from".to_owned(),
                    format!("the environment variable {name} is not set: set it, or remove it here"),
                )
            })?;
            env.insert(name.into(), value);
        }
        if let Some(path) = &config.env_file {
            let at = |reason: String| ("env_file".to_owned(), reason);
            let bytes = config.files.read(path, FileKind::Secret, ENV_FILE_BYTES_MAX);
            let bytes = bytes.map_err(|error| at(error.to_string()))?;
            let text = String::from_utf8(bytes).map_err(|_| at(format!("{} is not UTF-8 text", path.display())))?;
            for (number, line) in text.lines().enumerate() {
                let found = assignment(line)
                    .map_err(|reason| at(format!("{}:{}: {reason}: write NAME=value", path.display(), number + 1)))?;
                env.extend(found.map(|(name, value)| (name.into(), value.into())));
            }
        }
        env.extend(config.env.iter().map(|(name, value)| (name.into(), value.into())));
        Ok(env)
    }
}

/// The setting below a backend's, and the reason why its environment cannot be made. `None`: it can.
#[must_use]
pub fn environment_error(config: &config::Backend) -> Option<(String, String)> {
    Environment::of(config).variables().err()
}

/// The variable that a line of an environment file sets: `NAME=value`, with `export ` before it or not, and the value
/// in quotes or not. Nothing in the value is replaced. `None`: the line is empty or a comment.
fn assignment(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=').ok_or("the line has no =")?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty();
    if !is_name {
        return Err("the name is not one of a variable");
    }
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let value = unquoted.unwrap_or(value);
    if value.contains('\0') {
        return Err("the value has a NUL");
    }
    Ok(Some((name, value)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn lines_of_an_environment_file_are_read() {
        for (line, want) in [
            ("A=b", Some(("A", "b"))),
            ("  export A_1 = b c  ", Some(("A_1", "b c"))),
            ("A=\"b # c\"", Some(("A", "b # c"))),
            ("A='$B'", Some(("A", "$B"))),
            ("A=b=c", Some(("A", "b=c"))),
            ("A=", Some(("A", ""))),
            ("# A=b", None),
            ("", None),
        ] {
            assert_eq!(assignment(line), Ok(want), "{line:?}");
        }
        for line in ["A", "=b", "1A=b", "A-B=c", "A=\0"] {
            assert!(assignment(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn variables_of_settings_come_last_and_errors_show_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        let write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("A=file\nB=file\n");
        let env = BTreeMap::from([("A".to_owned(), "own".to_owned())]);
        let config = config::Backend {
            env,
            env_file: Some(file.clone()),
            env_from: vec!["PATH".to_owned()],
            ..config::Backend::default()
        };
        let found = Environment::of(&config).variables().unwrap();
        let of = |name: &str| found.get(&OsString::from(name)).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((of("A").as_deref(), of("B").as_deref()), (Some("own"), Some("file")));
        assert_eq!(of("PATH"), std::env::var("PATH").ok());
        write("A=1\nTOKEN secret\n");
        let (key, reason) = Environment::of(&config).variables().unwrap_err();
        assert!(key == "env_file" && reason.contains(":2:") && !reason.contains("secret"), "{reason}");
        let missing = config::Backend { env_file: Some(PathBuf::from("/nowhere/env")), ..config };
        assert_eq!(Environment::of(&missing).variables().unwrap_err().0, "env_file");
        let unset = config::Backend { env_from: vec!["GATEPOST_NO_SUCH".to_owned()], ..config::Backend::default() };
        assert!(Environment::of(&unset).variables().unwrap_err().1.contains("GATEPOST_NO_SUCH"));
    }
}
