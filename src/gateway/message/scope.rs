//! The endpoint at which a request arrived: `/mcp` for all backends, or `/mcp/{backend}` for one.

use crate::mcp::names::SEPARATOR;
use crate::rbac::Target;

/// The endpoint at which a request arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `/mcp`.
    All,
    /// `/mcp/{backend}`.
    One(String),
}

impl Scope {
    /// The backend and tool that `name` means at this endpoint; `None` if it cannot be a tool of any backend.
    #[must_use]
    pub fn target<'a>(&'a self, name: &'a str) -> Option<Target<'a>> {
        match self {
            Self::One(backend) => Some(Target::tool(backend, name)),
            Self::All => name
                .split_once(SEPARATOR)
                .filter(|(backend, tool)| !backend.is_empty() && !tool.is_empty())
                .map(|(backend, tool)| Target::tool(backend, tool)),
        }
    }

    /// The backend of the endpoint; `None` at the endpoint of all backends.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::One(backend) => Some(backend),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_endpoint_of_all_backends_have_the_alias() {
        let target = |name| Scope::All.target(name).map(|target| (target.backend.to_owned(), target.name.to_owned()));
        assert_eq!(target("time__get__x"), Some(("time".to_owned(), "get__x".to_owned())));
        for name in ["time", "__x", "time__", "time_x"] {
            assert_eq!(target(name), None, "{name}");
        }
        let one = Scope::One("time".to_owned());
        assert_eq!(one.target("a__b").unwrap(), Target::tool("time", "a__b"));
    }
}
