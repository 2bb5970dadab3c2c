//! The lists of a backend: tools, resources, resource templates and prompts.

use serde_json::value::RawValue;

use crate::mcp::json::Object;

use super::error::CallError;

/// The fault of a list that the backend does not offer.
pub const NOT_OFFERED: &str = "it is an error response";

/// One of the lists that a backend may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Tools.
    Tools,
    /// Resources.
    Resources,
    /// Resource templates.
    Templates,
    /// Prompts.
    Prompts,
}

/// A tool, resource, resource template or prompt, from its backend's list.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name, or the URI.
    pub name: String,
    /// The whole object, as the backend sent it.
    pub json: String,
}

impl List {
    /// All lists.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Resources, Self::Templates, Self::Prompts];

    /// The method that returns the list.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
            Self::Prompts => "prompts/list",
        }
    }

    /// The list that `method` returns.
    #[must_use]
    pub fn of_method(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.method() == method)
    }

    /// The member of the result that contains the items.
    #[must_use]
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of an item that contains its name.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

/// Reads the items of one page of a list, and its `nextCursor`.
///
/// # Errors
/// [`CallError::List`], or [`CallError::Garbled`] if the page is not an object.
pub fn read_page(page: &str, list: List) -> Result<(Vec<Item>, Option<String>), CallError> {
    let page = Object::parse(page).ok_or(CallError::Garbled)?;
    let found = page.get(list.member()).ok_or(CallError::List { fault: "the member with the items is missing" })?;
    let found: Vec<&RawValue> =
        serde_json::from_str(found).map_err(|_| CallError::List { fault: "the items are not an array" })?;
    let mut items = Vec::with_capacity(found.len());
    for item in found {
        let name = Object::parse(item.get()).and_then(|item| item.string(list.key()));
        let name = name.ok_or(CallError::List { fault: "an item has no name" })?;
        items.push(Item { name, json: item.get().to_owned() });
    }
    Ok((items, page.string("nextCursor")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_items_with_their_bytes() {
        let page = r#"{"resources":[{"uri":"a:b", "x": 1.0}],"nextCursor":"n"}"#;
        let (items, next) = read_page(page, List::Resources).unwrap();
        assert_eq!((items[0].name.as_str(), items[0].json.as_str()), ("a:b", r#"{"uri":"a:b", "x": 1.0}"#));
        assert_eq!(next.as_deref(), Some("n"));
        assert!(read_page(page, List::Tools).is_err() && read_page(r#"{"tools":[{}]}"#, List::Tools).is_err());
    }
}
