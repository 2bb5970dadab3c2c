//! The tools of a backend as all callers see them: those that are hidden, and those that are listed under another name.
//!
//! Rules, records and the backend itself know a tool by the backend's own name.

use std::collections::BTreeMap;

use crate::config::Backend;

use super::pattern::{Effect, PatternError, Patterns};
use super::target::Target;

/// The hidden and the renamed tools of one backend.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ToolRules {
    hide: Patterns,
    /// Listed names, by the backend's own.
    listed: BTreeMap<String, String>,
    /// The backend's own names, by the listed ones.
    own: BTreeMap<String, String>,
}

impl ToolRules {
    /// Compiles those of the backend `alias`.
    ///
    /// # Errors
    /// Every invalid pattern.
    pub(super) fn new(alias: &str, backend: &Backend) -> Result<Self, Vec<PatternError>> {
        let hide: Vec<String> = backend.hide.iter().map(|tool| format!("{alias}/{tool}")).collect();
        Ok(Self {
            hide: Patterns::new(&format!("backends.{alias}.hide"), &hide)?,
            listed: backend.rename.clone(),
            own: backend.rename.iter().map(|(own, listed)| (listed.clone(), own.clone())).collect(),
        })
    }

    /// Returns true if nothing is hidden or renamed.
    pub(super) fn is_empty(&self) -> bool {
        self.hides_none() && self.listed.is_empty()
    }

    /// Returns true if nothing is hidden.
    pub(super) fn hides_none(&self) -> bool {
        self.hide.is_empty()
    }

    /// The index of the first pattern that hides the tool `target`.
    pub(super) fn hidden_by(&self, target: Target<'_>) -> Option<usize> {
        self.hide.match_name(target, Effect::Deny)
    }

    /// The name under which the backend's tool `own` is listed. `None`: another tool is listed under its name.
    pub(super) fn listed_name<'a>(&'a self, own: &'a str) -> Option<&'a str> {
        match self.listed.get(own) {
            Some(listed) => Some(listed),
            None if self.own.contains_key(own) => None,
            None => Some(own),
        }
    }

    /// The backend's own name of the tool that is listed as `listed`. `None`: the tool of this name is listed under
    /// another.
    pub(super) fn own_name<'a>(&'a self, listed: &'a str) -> Option<&'a str> {
        match self.own.get(listed) {
            Some(own) => Some(own),
            None if self.listed.contains_key(listed) => None,
            None => Some(listed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listed_name_is_of_one_tool_and_leads_back_to_it() {
        let rename = [("a", "b"), ("x", "y"), ("y", "x")];
        let rename = rename.map(|(own, listed)| (own.to_owned(), listed.to_owned())).into();
        let rules = ToolRules::new("z", &Backend { rename, ..Backend::default() }).unwrap();
        let listed = ["a", "b", "c", "x", "y"].map(|own| rules.listed_name(own));
        assert_eq!(listed, [Some("b"), None, Some("c"), Some("y"), Some("x")]);
        for own in ["a", "c", "x", "y"] {
            assert_eq!(rules.own_name(rules.listed_name(own).unwrap()), Some(own));
        }
        assert_eq!(rules.own_name("a"), None, "it is called by its listed name only");
    }
}
