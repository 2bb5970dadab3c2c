//! The backend of each resource at `/mcp`, by the resource's URI.
//!
//! `/mcp` merges the resources of all backends, so that a read must find the backend that listed the resource. The
//! owner grants no access: the policy decides on the owner's resource. The map is bounded; an evicted owner is looked
//! up again.

use quick_cache::sync::Cache;

/// Most resources in the map. *Chosen*: a few hundred bytes each.
const OWNERS_MAX: usize = 4096;

/// The known owners of resources. Each operation takes one short lock.
#[derive(Debug)]
pub(crate) struct ResourceOwners(Cache<String, String>);

impl Default for ResourceOwners {
    fn default() -> Self {
        Self(Cache::new(OWNERS_MAX)) // I6: bounded; one entry is evicted for each that is added.
    }
}

impl ResourceOwners {
    /// Remembers `backend` as the owner of `uris`.
    pub(crate) fn remember<'a>(&self, uris: impl Iterator<Item = &'a str>, backend: &str) {
        for uri in uris {
            self.0.insert(uri.to_owned(), backend.to_owned());
        }
    }

    /// The backend that listed `uri` last, if it is still known.
    pub(crate) fn of(&self, uri: &str) -> Option<String> {
        self.0.get(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i6_owners_are_bounded_and_adding_one_does_not_evict_all() {
        let owners = ResourceOwners::default();
        for number in 0..2 * OWNERS_MAX {
            owners.remember(std::iter::once(format!("a:{number}").as_str()), "b");
        }
        let known = (0..2 * OWNERS_MAX).filter(|number| owners.of(&format!("a:{number}")).is_some()).count();
        assert!((OWNERS_MAX / 2..=OWNERS_MAX).contains(&known), "{known}");
    }
}
