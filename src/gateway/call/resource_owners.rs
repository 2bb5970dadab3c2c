//! The backend that listed a resource last, by the resource's URI.
//!
//! `/mcp` merges the resources of all backends, so a read must find the backend again. Knowing the owner grants nothing: the
//! policy decides with it. The map is bounded; what was evicted is looked up again.

use quick_cache::sync::Cache;

/// Most resources whose backend is remembered. *Chosen*: a few hundred bytes each.
const OWNERS_MAX: usize = 4096;

/// The owners of resources, as far as they are known. Cheap to share; each operation takes one short lock.
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
    fn i6_owners_are_bounded_and_one_more_does_not_forget_all() {
        let owners = ResourceOwners::default();
        for number in 0..2 * OWNERS_MAX {
            owners.remember(std::iter::once(format!("a:{number}").as_str()), "b");
        }
        let known = (0..2 * OWNERS_MAX).filter(|number| owners.of(&format!("a:{number}")).is_some()).count();
        assert!((OWNERS_MAX / 2..=OWNERS_MAX).contains(&known), "{known}");
    }
}
