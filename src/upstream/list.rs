//! The lists of a backend: tools, resources, resource templates and prompts.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::mcp::json::{self, Object};
use crate::mcp::methods::List;

use super::error::CallError;

/// The fault of a list that the backend does not offer.
pub const NOT_OFFERED: &str = "it is an error response";

/// A tool, resource, resource template or prompt, from its backend's list.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name, or the URI.
    pub name: String,
    /// The whole object, as the backend sent it; a tool, without its support of tasks.
    pub json: String,
}

/// A backend's list, as far as it could be read.
#[derive(Clone, Debug)]
pub struct Items {
    /// The items, each name once.
    pub items: Arc<[Item]>,
    /// False if there may be more: a page could not be read, or the pages do not end.
    pub is_whole: bool,
}

impl Items {
    /// The answer to whether an item exists that is not here: unknown, unless the list is whole.
    pub(super) fn lacks_item(&self) -> Option<bool> {
        self.is_whole.then_some(false)
    }
}

/// Collects the pages of a list.
#[derive(Debug, Default)]
pub(super) struct Collector {
    items: Vec<Item>,
    names: HashSet<String>,
    cursors: HashSet<String>,
}

impl Collector {
    /// Adds the items of `page` that are not there yet, and returns the cursor of the page after it. `Err`: the pages
    /// lead in a circle.
    pub(super) fn add(&mut self, page: Page) -> Result<Option<String>, &'static str> {
        let (before, count) = (self.items.len(), page.items.len());
        for item in page.items {
            if self.names.insert(item.name.clone()) {
                self.items.push(item);
            }
        }
        let Some(cursor) = page.next_cursor else { return Ok(None) };
        if !self.cursors.insert(cursor.clone()) {
            return Err("a page leads back to an earlier page");
        }
        // A server that does not know cursors answers each with its first page, and may invent a new one every time.
        if self.items.len() == before && count > 0 {
            return Err("a page has nothing that was not on an earlier one");
        }
        Ok(Some(cursor))
    }

    /// Returns true if there is nothing yet.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.cursors.is_empty()
    }

    /// The items so far.
    pub(super) fn finish(self, is_whole: bool) -> Items {
        Items { items: self.items.into(), is_whole }
    }
}

/// One page of a backend's list.
#[derive(Debug, Default)]
pub struct Page {
    /// The items that can be used.
    pub items: Vec<Item>,
    /// The cursor of the next page, JSON text. *Spec*: a string; some servers have numbers. `null` and an empty text
    /// are the end of the list for the SDKs.
    pub next_cursor: Option<String>,
    /// The number of items that were left out.
    pub omitted: usize,
    /// The reason for the first of these.
    pub reason: Option<&'static str>,
    /// The items are those of the page, byte for byte.
    pub is_exact: bool,
}

/// Reads one page of a list. An item that cannot be read, and a tool that can only be called as a task, is left out.
///
/// # Errors
/// [`CallError::List`]: the page has no array of items.
pub fn read_page(page: &Object<'_>, list: List) -> Result<Page, CallError> {
    let found = page.get(list.member()).ok_or(CallError::List { fault: "the member with the items is missing" })?;
    let found: Vec<&RawValue> =
        serde_json::from_str(found).map_err(|_| CallError::List { fault: "the items are not an array" })?;
    let next_cursor = page.get("nextCursor").filter(|cursor| !matches!(*cursor, "null" | "\"\"" | "false"));
    let mut read = Page { next_cursor: next_cursor.map(str::to_owned), is_exact: true, ..Page::default() };
    for item in found {
        match read_item(item.get(), list) {
            Ok((item, is_exact)) => {
                read.is_exact &= is_exact;
                read.items.push(item);
            }
            Err(reason) => {
                read.omitted += 1;
                read.is_exact = false;
                read.reason.get_or_insert(reason);
            }
        }
    }
    Ok(read)
}

/// Reads an item, and returns whether it is as the backend sent it.
///
/// # Errors
/// The reason why the item is left out.
fn read_item(json: &str, list: List) -> Result<(Item, bool), &'static str> {
    let object = Object::parse(json).ok_or("an item is not an object")?;
    // With a repeated name a client might call another tool than the one that was decided on.
    if object.members().filter(|member| member.key == list.key()).count() > 1 {
        return Err("an item has two names");
    }
    let name = object.string(list.key()).ok_or("an item has no name")?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("the name of an item is empty or has control characters");
    }
    if list != List::Tools {
        return Ok((Item { name, json: json.to_owned() }, true));
    }
    // *Measured*: clients refuse the whole list for one such tool.
    if !object.object("inputSchema").is_some_and(|schema| schema.has("type", "\"object\"")) {
        return Err("the inputSchema of a tool is not an object of type \"object\"");
    }
    if object.get("outputSchema").is_some_and(|schema| schema != "null" && !json::is_object(schema)) {
        return Err("the outputSchema of a tool is not an object");
    }
    let execution = object.object("execution").unwrap_or_default();
    match execution.string(TASK_SUPPORT).as_deref() {
        Some("required") => Err("a tool can only be called as a task, which the gateway does not relay"),
        Some(_) => {
            let rest = execution.without(|key| key == TASK_SUPPORT);
            let json = match rest.as_ref() {
                "{}" => object.without(|key| key == "execution").into_owned(),
                rest => object.replaced("execution", rest),
            };
            Ok((Item { name, json }, false))
        }
        None => Ok((Item { name, json: json.to_owned() }, true)),
    }
}

/// The member of a tool's `execution` that says whether it can be called as a task.
const TASK_SUPPORT: &str = "taskSupport";

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#""inputSchema":{"type":"object"}"#;

    fn read(page: &str, list: List) -> Result<Page, CallError> {
        read_page(&Object::parse(page).unwrap(), list)
    }

    #[test]
    fn page_has_items_with_their_bytes() {
        let page = r#"{"resources":[{"uri":"a:b", "x": 1.0}],"nextCursor":"n"}"#;
        let found = read(page, List::Resources).unwrap();
        let item = &found.items[0];
        assert_eq!((item.name.as_str(), item.json.as_str()), ("a:b", r#"{"uri":"a:b", "x": 1.0}"#));
        assert_eq!((found.next_cursor.as_deref(), found.omitted, found.is_exact), (Some("\"n\""), 0, true));
        for end in ["null", "\"\""] {
            let page = format!(r#"{{"tools":[],"nextCursor":{end}}}"#);
            assert_eq!(read(&page, List::Tools).unwrap().next_cursor, None, "{end}");
        }
        assert!(read(page, List::Tools).is_err() && read(r#"{"tools":7}"#, List::Tools).is_err());
    }

    #[test]
    fn pages_are_collected_until_they_end_or_lead_in_a_circle() {
        let page = |names: &str, cursor: &str| {
            let items: Vec<_> = names.chars().map(|name| format!(r#"{{"name":"{name}",{SCHEMA}}}"#)).collect();
            read(&format!(r#"{{"tools":[{}],"nextCursor":{cursor}}}"#, items.join(",")), List::Tools).unwrap()
        };
        // The pages, what is found, and the number of pages that are asked for.
        for (pages, names, is_whole, asked) in [
            (vec![("ab", "1"), ("c", "null")], "abc", true, 2),
            (vec![("ab", "\"x\""), ("bc", "\"\"")], "abc", true, 2),
            (vec![("a", "1"), ("", "2"), ("b", "null")], "ab", true, 3),
            (vec![("a", "1"), ("b", "1"), ("c", "null")], "ab", false, 2),
            // No cursor is known to this server.
            (vec![("a", "1"), ("a", "2"), ("a", "3")], "a", false, 2),
        ] {
            let mut collector = Collector::default();
            let (mut is_over, mut count) = (false, 0);
            for (names, cursor) in &pages {
                count += 1;
                match collector.add(page(names, cursor)) {
                    Ok(Some(_)) => {}
                    Ok(None) => is_over = true,
                    Err(_) => break,
                }
            }
            let found = collector.finish(is_over);
            let found_names: String = found.items.iter().map(|item| item.name.as_str()).collect();
            assert_eq!((found_names.as_str(), found.is_whole, count), (names, is_whole, asked), "{pages:?}");
        }
    }

    #[test]
    fn items_that_cannot_be_read_are_left_out() {
        for item in [
            "{}",
            "7",
            "null",
            "[]",
            r#"{"name":7,"inputSchema":{"type":"object"}}"#,
            r#"{"Name":"x","inputSchema":{"type":"object"}}"#,
            r#"{"name":"x","name":"y","inputSchema":{"type":"object"}}"#,
            r#"{"name":"","inputSchema":{"type":"object"}}"#,
            r#"{"name":"a\tb","inputSchema":{"type":"object"}}"#,
            r#"{"name":"x"}"#,
            r#"{"name":"x","inputSchema":{"type":"int"}}"#,
            r#"{"name":"x","inputSchema":[]}"#,
            r#"{"name":"x","inputSchema":{"type":"object"},"outputSchema":7}"#,
        ] {
            let page = format!(r#"{{"tools":[{{"name":"a",{SCHEMA}}},{item},{{"name":"b",{SCHEMA}}}]}}"#);
            let found = read(&page, List::Tools).unwrap();
            let names: Vec<_> = found.items.iter().map(|item| item.name.as_str()).collect();
            assert_eq!((names, found.omitted, found.is_exact), (vec!["a", "b"], 1, false), "{item}");
            assert!(found.reason.is_some());
        }
    }

    #[test]
    fn tools_are_listed_without_tasks() {
        let page = format!(
            r#"{{"tools":[{{"name":"a",{SCHEMA},"execution":{{"taskSupport":"required"}}}},
            {{"name":"b",{SCHEMA},"execution":{{"taskSupport":"optional"}}, "x":1}},
            {{"name":"c",{SCHEMA},"execution":{{"taskSupport":"forbidden","y":1}}}}, {{"name":"d",{SCHEMA}, "execution":{{}}}}]}}"#
        );
        let found = read(&page, List::Tools).unwrap();
        let items: Vec<_> = found.items.iter().map(|item| item.json.as_str()).collect();
        let want = [
            format!(r#"{{"name":"b",{SCHEMA},"x":1}}"#),
            format!(r#"{{"name":"c",{SCHEMA},"execution":{{"y":1}}}}"#),
            format!(r#"{{"name":"d",{SCHEMA}, "execution":{{}}}}"#),
        ];
        assert_eq!((items, found.omitted), (want.iter().map(String::as_str).collect(), 1));
    }
}
