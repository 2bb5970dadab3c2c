//! The token of the admin socket: a file in the outbox directory that only the gateway's user can read.
//!
//! Landlock keeps a stdio backend from reading the directory, but before its ABI 9 not from connecting to a socket in
//! it. A client therefore shows that it can read the directory.

use std::fmt;
use std::io::{self, Read as _};
use std::path::Path;

use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::audit::outbox::fs::{DiskFs, replace_file};

/// The token's file in the outbox directory.
pub(super) const TOKEN_NAME: &str = "admin.token";

/// Longest token that is read, in bytes. *Derived*: twice the length of one.
const TOKEN_BYTES_MAX: u64 = 128;

/// A token: 64 hexadecimal digits, 244 random bits. Its `Debug` output does not contain it.
#[derive(Clone)]
pub(super) struct AdminToken(String);

impl AdminToken {
    /// Makes a new token and stores it in `dir`, in place of an earlier one.
    ///
    /// # Errors
    /// The file cannot be written; the earlier token stays in the file.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        replace_file(&DiskFs, &dir.join(TOKEN_NAME), token.as_bytes())?;
        Ok(Self(token))
    }

    /// Reads the token of the live gateway of `dir`.
    ///
    /// # Errors
    /// The file cannot be read; the error names it.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join(TOKEN_NAME);
        let mut token = String::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut token))
            .map_err(|error| io::Error::new(error.kind(), format!("cannot read {} ({error})", path.display())))?;
        Ok(Self(token))
    }

    /// The token as a client sends it.
    pub(super) fn as_text(&self) -> &str {
        &self.0
    }

    /// Returns whether `shown` is this token, in a time that does not depend on how much of it is right.
    pub(super) fn matches(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the token is a secret.
        f.write_str("AdminToken")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn each_start_has_a_token_of_its_own_that_only_the_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("admin.new")).unwrap();
        let first = AdminToken::create(dir.path()).unwrap();
        assert!(!dir.path().join("elsewhere").exists(), "a symbolic link was followed");
        let mode = std::fs::metadata(dir.path().join(TOKEN_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(first.matches(AdminToken::read(dir.path()).unwrap().as_text()));
        let second = AdminToken::create(dir.path()).unwrap();
        assert!(second.matches(AdminToken::read(dir.path()).unwrap().as_text()));
        assert!(!second.matches(first.as_text()) && !second.matches("") && second.as_text().len() == 64);
        assert_eq!(format!("{second:?}"), "AdminToken");
    }
}
