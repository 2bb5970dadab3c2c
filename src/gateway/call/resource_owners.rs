//! The backend of each resource at `/mcp`, by the principal and the resource's URI.
//!
//! `/mcp` merges the resources of all backends, so that a read must find the backend that listed the resource. A
//! backend may list other resources for another caller, so that what is listed for one principal never decides where
//! another reads. The owner grants no access: the policy decides on the owner's resource. The map is bounded; an
//! evicted owner is looked up again.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::upstream::Owner as Principal;

/// Most resources in the map. *Chosen*: a few hundred bytes each.
const OWNERS_MAX: usize = 4096;

/// The known owners of resources. Each operation takes one short lock.
#[derive(Debug)]
pub(crate) struct ResourceOwners(Cache<(Arc<Principal>, String), String>);

impl Default for ResourceOwners {
    fn default() -> Self {
        Self(Cache::new(OWNERS_MAX)) // I6: bounded; one entry is evicted for each that is added.
    }
}

impl ResourceOwners {
    /// Remembers `backend` as the owner of `uris` for this principal.
    pub(crate) fn remember<'a>(&self, principal: Principal, uris: impl Iterator<Item = &'a str>, backend: &str) {
        let principal = Arc::new(principal);
        for uri in uris {
            self.0.insert((Arc::clone(&principal), uri.to_owned()), backend.to_owned());
        }
    }

    /// The backend that listed `uri` last for this principal, if it is still known.
    pub(crate) fn of(&self, principal: Principal, uri: &str) -> Option<String> {
        self.0.get(&(Arc::new(principal), uri.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Principal {
        Principal { issuer: "i".to_owned(), subject: "ann".to_owned(), roles: Vec::new() }
    }

    #[test]
    fn what_is_listed_for_one_principal_decides_nothing_for_another() {
        let owners = ResourceOwners::default();
        owners.remember(ann(), ["a:1"].into_iter(), "b");
        for other in [Principal { subject: "bob".to_owned(), ..ann() }, Principal { issuer: "j".to_owned(), ..ann() }] {
            assert_eq!(owners.of(other, "a:1"), None);
        }
        assert_eq!(owners.of(ann(), "a:1").as_deref(), Some("b"));
    }

    #[test]
    fn i6_owners_are_bounded_and_adding_one_does_not_evict_all() {
        let owners = ResourceOwners::default();
        for number in 0..2 * OWNERS_MAX {
            owners.remember(ann(), std::iter::once(format!("a:{number}").as_str()), "b");
        }
        let known = (0..2 * OWNERS_MAX).filter(|number| owners.of(ann(), &format!("a:{number}")).is_some()).count();
        assert!((OWNERS_MAX / 2..=OWNERS_MAX).contains(&known), "{known}");
    }
}
