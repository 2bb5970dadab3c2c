//! Slots: numbered outboxes below one directory, `dir/1`, `dir/2`, ..., for `gatepost stdio`.
//!
//! Desktop clients start a server once for each window, or twice at a launch. Each process takes the first slot whose
//! lock is free. A slot is a complete outbox with its own lock, gateway id, stream and admin socket; only the key of
//! the digests is shared. A directory is an outbox itself, as for `gatepost serve`, or it has slots.

use std::io;
use std::path::{Path, PathBuf};

use super::gateway_error::GatewayError;
use crate::audit::outbox::lock;
use crate::config::Config;

/// Most slots of a directory. *Chosen*: four clients with four windows each, and as many slots again that other
/// processes hold while they deliver what is in them.
pub(super) const SLOTS_MAX: u16 = 32;

/// The outboxes of `dir`: `dir` itself if it is one, and its slots in the order of their numbers.
///
/// # Errors
/// The directory cannot be listed.
pub(super) fn outboxes(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut is_itself, mut numbers) = (false, Vec::new());
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        is_itself |= is_outbox_file(&path);
        numbers.extend(number(&path).filter(|_| has_outbox(&path)));
    }
    numbers.sort_unstable();
    let slots = numbers.into_iter().map(|number| slot(dir, number));
    Ok(is_itself.then(|| dir.to_owned()).into_iter().chain(slots).collect())
}

/// The outboxes of `dir` that a live gateway has. A directory that cannot be entered belongs to another user's
/// gateway.
pub(super) fn live(dir: &Path) -> Vec<PathBuf> {
    let mut outboxes = outboxes(dir).unwrap_or_default();
    outboxes.retain(|outbox| is_held(outbox));
    outboxes
}

/// The directory whose slot `dir` is, if its name is that of a slot.
pub(super) fn parent(dir: &Path) -> Option<&Path> {
    number(dir).and_then(|_| dir.parent())
}

/// The configuration of a command for `outbox`, one of the outboxes of `audit.dir`. A slot has its own gateway id.
pub(super) fn config_of(config: &Config, outbox: &Path) -> Config {
    let mut of_outbox = config.clone();
    if outbox != config.audit.dir {
        of_outbox.audit.gateway_id = None;
        outbox.clone_into(&mut of_outbox.audit.dir);
    }
    of_outbox
}

/// Refuses a directory with slots, for `gatepost serve`.
///
/// # Errors
/// [`GatewayError::Slots`].
pub(super) fn refuse(dir: &Path) -> Result<(), GatewayError> {
    let slots = outboxes(dir).unwrap_or_default().into_iter().find(|outbox| outbox != dir);
    slots.map_or(Ok(()), |slot| {
        Err(GatewayError::Slots(format!(
            "outbox directory {} has slots of gatepost stdio ({}); give gatepost serve a directory of its own (audit.dir)",
            dir.display(),
            slot.display()
        )))
    })
}

/// The slot of `dir` with this number.
pub(super) fn slot(dir: &Path, number: u16) -> PathBuf {
    dir.join(number.to_string())
}

/// The number of a slot, if the name is one.
fn number(path: &Path) -> Option<u16> {
    let name = path.file_name()?.to_str()?;
    name.parse().ok().filter(|number: &u16| *number > 0 && number.to_string() == name)
}

/// True if a process holds the lock of `outbox`.
pub(super) fn is_held(outbox: &Path) -> bool {
    lock::holder(outbox).is_ok_and(|holder| holder.is_some())
}

fn has_outbox(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|entry| is_outbox_file(&entry.path())))
}

/// True for a generation file, and for the lock, which an outbox without records has too.
fn is_outbox_file(path: &Path) -> bool {
    let is_ours = |name: &str| name == lock::LOCK_NAME || name.starts_with("outbox-");
    path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn outboxes_are_the_directory_and_its_slots_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10", "2", "1", "01", "0", "x", "70000", "quarantine"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join(lock::LOCK_NAME), "").unwrap();
        }
        fs::create_dir(dir.path().join("3")).unwrap();
        let names = |dir: &Path| {
            let outboxes = outboxes(dir).unwrap();
            outboxes.iter().map(|path| path.strip_prefix(dir).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(dir.path()), ["1", "2", "10"]);
        fs::write(dir.path().join("outbox-000001.redb"), "").unwrap();
        assert_eq!(names(dir.path()), ["", "1", "2", "10"]);
        assert!(outboxes(&dir.path().join("absent")).is_err());
    }
}
