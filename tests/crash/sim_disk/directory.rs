//! A simulated directory: the names that processes see, and the names that survive a power failure.
//!
//! POSIX promises nothing about the order in which entries reach the disk before the directory's fsync; only a rename
//! is atomic. So a power failure keeps, at random, one of two things: a prefix of the changes since the last fsync, as
//! a journal does; or any subset in which the changes to one name are kept in their order, because names are
//! independent of each other.

use std::collections::{BTreeMap, BTreeSet};

use super::percent;
use crate::common::rng::Rng;

/// What a name leads to: a file's or a directory's number.
pub type Inode = u64;

#[derive(Clone, Debug)]
enum Entry {
    Put(String, Inode),
    Remove(String),
    Rename(String, String),
}

/// The names in one directory.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub inode: Inode,
    pub names: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    pending: Vec<Entry>,
}

impl Entry {
    fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        match self {
            Self::Put(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn names(&self) -> [&str; 2] {
        match self {
            Self::Put(name, _) | Self::Remove(name) => [name, name],
            Self::Rename(from, to) => [from, to],
        }
    }
}

impl Directory {
    pub fn new(inode: Inode) -> Self {
        Self { inode, ..Self::default() }
    }

    pub fn put(&mut self, name: &str, inode: Inode) {
        self.change(Entry::Put(name.to_owned(), inode));
    }

    pub fn remove(&mut self, name: &str) {
        self.change(Entry::Remove(name.to_owned()));
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        self.change(Entry::Rename(from.to_owned(), to.to_owned()));
    }

    pub fn sync(&mut self) {
        self.durable.clone_from(&self.names);
        self.pending.clear();
    }

    /// All that a name leads to, or leads to after a power loss.
    pub fn inodes(&self) -> impl Iterator<Item = Inode> {
        let pending = self.pending.iter().filter_map(|entry| match entry {
            Entry::Put(_, inode) => Some(*inode),
            Entry::Remove(_) | Entry::Rename(..) => None,
        });
        self.names.values().chain(self.durable.values()).copied().chain(pending)
    }

    /// The directory when the power has failed.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let mut names = self.durable.clone();
        if percent(rng, 50) {
            let kept = rng.index(self.pending.len() + 1);
            self.pending[..kept].iter().for_each(|entry| entry.apply(&mut names));
        } else {
            let mut lost = BTreeSet::new();
            for entry in &self.pending {
                let of_entry = entry.names();
                if of_entry.iter().any(|name| lost.contains(name)) || percent(rng, 50) {
                    lost.extend(of_entry);
                } else {
                    entry.apply(&mut names);
                }
            }
        }
        Self { inode: self.inode, durable: names.clone(), names, pending: Vec::new() }
    }

    fn change(&mut self, entry: Entry) {
        entry.apply(&mut self.names);
        self.pending.push(entry);
    }
}
