//! The user of a backend, if it is not the gateway's.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User};

/// A user that exists.
#[derive(Clone, Debug)]
pub(super) struct BackendUser {
    name: CString,
    uid: Uid,
    gid: Gid,
    /// The user's home directory.
    pub(super) home: PathBuf,
}

impl BackendUser {
    /// Finds a user by name or number.
    ///
    /// # Errors
    /// There is none; the message says so.
    pub(super) fn find(name: &str) -> Result<Self, String> {
        let found = match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        };
        let user = found.map_err(|error| format!("cannot look up the user {name:?} ({error})"))?;
        let user = user.ok_or_else(|| format!("there is no user {name:?}: create it"))?;
        let name = CString::new(user.name).map_err(|_| format!("the user {name:?} has a name with a NUL"))?;
        Ok(Self { name, uid: user.uid, gid: user.gid, home: user.dir })
    }

    /// Makes this process one of the user, with the user's groups.
    ///
    /// # Errors
    /// The process may not; the message says what it needs.
    pub(super) fn become_user(&self) -> Result<(), String> {
        if Uid::effective() == self.uid && Uid::current() == self.uid {
            return Ok(());
        }
        let changed = nix::unistd::initgroups(&self.name, self.gid)
            .and_then(|()| nix::unistd::setgid(self.gid))
            .and_then(|()| nix::unistd::setuid(self.uid));
        changed.map_err(|error| {
            let name = self.name.to_string_lossy();
            format!("cannot become the user {name} ({error}): the gateway needs CAP_SETUID, CAP_SETGID and CAP_KILL")
        })
    }
}
