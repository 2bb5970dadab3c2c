//! The definitions of a backend's tools as they were last listed, by their digests, and what has changed in them.
//!
//! What a backend lists on a connection of one caller may be for that caller only. Such lists are kept apart for each
//! principal, and say nothing about the tools of others.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::audit::record::{Digest, TEXT_BYTES_MAX};
use crate::mcp::canonical::canonical;

use super::conversations::Owner;
use super::list::Item;

/// Most tools of one list whose definitions are kept. *Chosen*: far more than a model can choose from.
const TOOLS_MAX: usize = 4096;

/// Most principals whose own lists are kept; one more takes the place of the one that listed longest ago. *Chosen*: as
/// many sessions as a backend usually has. Without a list of its own, a principal has that of everyone.
const OWNERS_MAX: usize = 256;

/// Most changes that are named; further ones are counted. *Chosen*: a person reads no more, and a record stays small.
const CHANGES_MAX: usize = 64;

/// The digest of a tool's definition: SHA-256 of its canonical form (RFC 8785), or of its text if it has none.
#[must_use]
pub fn definition_digest(json: &str) -> Digest {
    match canonical(json) {
        Some(canonical) => Digest::of(canonical.as_bytes()),
        // A repeated key, for example: readers disagree about what it says, so that each byte counts.
        None => Digest::of(json.as_bytes()),
    }
}

/// A change of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionChange {
    /// The tool.
    pub tool: String,
    /// The principal, if the definition is in a list of its own.
    pub subject: Option<String>,
    /// The definition before; `None`: the tool is new.
    pub old: Option<Digest>,
    /// The definition now; `None`: the tool is not listed any more.
    pub new: Option<Digest>,
}

/// The changes of a backend's definitions since they were last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefinitionChanges {
    /// The number of changes.
    pub count: u64,
    /// The first of them, by tool.
    pub named: Vec<DefinitionChange>,
}

/// The definitions of one backend's tools.
#[derive(Debug, Default)]
pub(super) struct Definitions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    shared: Listing,
    own: HashMap<Owner, Listing>,
    changes: BTreeMap<(String, Option<String>), DefinitionChange>,
    change_count: u64,
}

#[derive(Debug, Default)]
struct Listing {
    tools: HashMap<String, Digest>,
    /// The time at which it was read, the whole or a part.
    read_at: Option<Instant>,
    /// The whole of it was read once: a tool that appears now is new.
    is_whole: bool,
}

impl Definitions {
    /// Takes up tools that were listed: to everyone, or on a connection of the `owner`. `is_whole`: they are all tools.
    pub(super) fn listed(&self, owner: Option<&Owner>, items: &[Item], is_whole: bool) {
        // I6: what is kept is bounded.
        let fits = |item: &&Item| item.name.len() <= TEXT_BYTES_MAX;
        let listed = items.iter().filter(fits).take(TOOLS_MAX);
        let listed: HashMap<String, Digest> =
            listed.map(|item| (item.name.clone(), definition_digest(&item.json))).collect();
        let mut known = self.0.lock();
        let Known { shared, own, changes, change_count } = &mut *known;
        let listing = match owner {
            None => shared,
            Some(owner) => {
                if own.len() >= OWNERS_MAX && !own.contains_key(owner) {
                    let oldest = own.iter().min_by_key(|(_, listing)| listing.read_at).map(|(owner, _)| owner.clone());
                    oldest.map(|oldest| own.remove(&oldest));
                }
                own.entry(owner.clone()).or_default()
            }
        };
        let mut changed = |tool: &str, old: Option<Digest>, new: Option<Digest>| {
            *change_count += 1;
            let subject = owner.map(|owner| owner.subject.clone());
            let key = (tool.to_owned(), subject.clone());
            if let Some(change) = changes.get_mut(&key) {
                change.new = new;
            } else if changes.len() < CHANGES_MAX {
                changes.insert(key, DefinitionChange { tool: tool.to_owned(), subject, old, new });
            }
        };
        for (tool, new) in &listed {
            match listing.tools.get(tool) {
                Some(old) if old == new => {}
                None if !listing.is_whole => {}
                old => changed(tool, old.copied(), Some(*new)),
            }
        }
        if is_whole {
            for (tool, old) in listing.tools.iter().filter(|(tool, _)| !listed.contains_key(*tool)) {
                changed(tool, Some(*old), None);
            }
            listing.tools = listed;
            listing.is_whole = true;
        } else if listing.tools.len() < TOOLS_MAX {
            listing.tools.extend(listed);
        }
        listing.read_at = Some(Instant::now());
    }

    /// The definition of `tool` as it was last listed to `owner`, otherwise to everyone.
    pub(super) fn digest(&self, owner: &Owner, tool: &str) -> Option<Digest> {
        let known = self.0.lock();
        let own = known.own.get(owner).and_then(|listing| listing.tools.get(tool));
        own.or_else(|| known.shared.tools.get(tool)).copied()
    }

    /// The definitions that were last listed to everyone, by tool.
    pub(super) fn shared(&self) -> BTreeMap<String, Digest> {
        self.0.lock().shared.tools.iter().map(|(tool, digest)| (tool.clone(), *digest)).collect()
    }

    /// Takes the changes since the last time, if there are any.
    pub(super) fn take_changes(&self) -> Option<DefinitionChanges> {
        let mut known = self.0.lock();
        let count = std::mem::take(&mut known.change_count);
        let named = std::mem::take(&mut known.changes).into_values().collect();
        (count > 0).then_some(DefinitionChanges { count, named })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(tools: &[(&str, u32)]) -> Vec<Item> {
        let item = |(name, version): &(&str, u32)| Item {
            name: (*name).to_owned(),
            json: format!(r#"{{"name":"{name}","v":{version}}}"#),
        };
        tools.iter().map(item).collect()
    }

    fn owner(subject: &str) -> Owner {
        Owner { issuer: "i".to_owned(), subject: subject.to_owned(), roles: Vec::new() }
    }

    fn changes(definitions: &Definitions) -> Vec<(String, Option<String>, bool, bool)> {
        let changes = definitions.take_changes().unwrap_or_default();
        let change =
            |change: DefinitionChange| (change.tool, change.subject, change.old.is_some(), change.new.is_some());
        changes.named.into_iter().map(change).collect()
    }

    #[test]
    fn a_digest_is_that_of_the_content() {
        let digest = definition_digest(r#"{"name":"a", "x":1.0}"#);
        assert_eq!(digest, Digest::of(br#"{"name":"a","x":1}"#));
        assert_eq!(digest, definition_digest(r#"{ "x":1, "name":"\u0061" }"#));
        // Whoever reads the first description sees a change too.
        let twice = |first| definition_digest(&format!(r#"{{"name":"a","description":"{first}","description":"b"}}"#));
        assert_ne!(twice("one"), twice("two"));
    }

    #[test]
    fn changes_are_those_after_the_first_list() {
        let definitions = Definitions::default();
        definitions.listed(None, &tools(&[("a", 1)]), false);
        definitions.listed(None, &tools(&[("a", 1), ("b", 1), ("c", 1)]), true);
        assert_eq!(changes(&definitions), []);
        definitions.listed(None, &tools(&[("a", 2), ("b", 1)]), true);
        definitions.listed(None, &tools(&[("d", 1)]), false);
        let name = str::to_owned;
        let want = [(name("a"), None, true, true), (name("c"), None, true, false), (name("d"), None, false, true)];
        assert_eq!(changes(&definitions), want);
        assert_eq!(changes(&definitions), []);
        let many: Vec<String> = (0..CHANGES_MAX + 9).map(|idx| format!("t{idx}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), 1)).collect();
        definitions.listed(None, &tools(&many), false);
        let all = definitions.take_changes().unwrap();
        assert_eq!((all.count, all.named.len()), (many.len() as u64, CHANGES_MAX));
    }

    #[test]
    fn a_list_of_one_principal_concerns_nobody_else() {
        let definitions = Definitions::default();
        let digest = |subject, tool| definitions.digest(&owner(subject), tool);
        definitions.listed(None, &tools(&[("a", 1)]), true);
        definitions.listed(Some(&owner("x")), &tools(&[("a", 2)]), true);
        assert_ne!(digest("x", "a"), digest("y", "a"));
        assert_eq!(digest("y", "a"), Some(definition_digest(r#"{"name":"a","v":1}"#)));
        assert_eq!((changes(&definitions), definitions.shared().len()), (vec![], 1));
        definitions.listed(Some(&owner("x")), &tools(&[("a", 3)]), true);
        assert_eq!(changes(&definitions), [("a".to_owned(), Some("x".to_owned()), true, true)]);
        for idx in 0..OWNERS_MAX {
            definitions.listed(Some(&owner(&idx.to_string())), &tools(&[("a", 4)]), true);
        }
        assert_eq!(digest("x", "a"), digest("y", "a"));
        assert_eq!(definitions.0.lock().own.len(), OWNERS_MAX);
    }
}
