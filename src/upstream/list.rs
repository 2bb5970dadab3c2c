//! The lists of a backend: tools, resources, resource templates and prompts.

use serde_json::value::RawValue;

use crate::mcp::json::Object;
use crate::mcp::methods::List;

use super::error::CallError;

/// The fault of a list that the backend does not offer.
pub const NOT_OFFERED: &str = "it is an error response";

/// A tool, resource, resource template or prompt, from its backend's list.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name, or the URI.
    pub name: String,
    /// The whole object, as the backend sent it.
    pub json: String,
}

/// Reads the items of one page of a list, and its `nextCursor`.
///
/// # Errors
/// [`CallError::List`].
pub fn read_page(page: &Object<'_>, list: List) -> Result<(Vec<Item>, Option<String>), CallError> {
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
        let (items, next) = read_page(&Object::parse(page).unwrap(), List::Resources).unwrap();
        assert_eq!((items[0].name.as_str(), items[0].json.as_str()), ("a:b", r#"{"uri":"a:b", "x": 1.0}"#));
        assert_eq!(next.as_deref(), Some("n"));
        assert!(
            read_page(&Object::parse(page).unwrap(), List::Tools).is_err()
                && read_page(&Object::parse(r#"{"tools":[{}]}"#).unwrap(), List::Tools).is_err()
        );
    }
}
