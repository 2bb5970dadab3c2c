//! Lists of tools, resources and prompts, of one backend or of all, filtered by the same policy that decides on their
//! use.
//!
//! At `/mcp/{backend}` the names and pages are the backend's own, but for tools that the operator renamed. At `/mcp`
//! every tool and prompt is named `backend__name`, so that no name changes when a backend is added; resources keep
//! their URIs. An alias does not contain `__`, so that the first `__` in a name ends the alias. Items are in the order
//! of the aliases, then in the backend's order. A backend that is down or too slow lists nothing, and does not affect
//! the others.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::audit::record::Digest;
use crate::auth::Principal;
use crate::mcp::json::{self, Object};
use crate::mcp::methods::List;
use crate::mcp::names::{DIGEST_CHARS, NAME_CHARS_MAX, SEPARATOR, is_name_byte, is_plain};
use crate::rbac::{Policy, Target, TargetKind};
use crate::upstream::{Item, Page};

/// Items of a page at `/mcp`. *Chosen*: the lists of most gateways fit on one page.
pub(crate) const PAGE_ITEMS: usize = 500;

/// The policy's kind of the items of a list.
#[must_use]
pub fn kind(list: List) -> TargetKind {
    match list {
        List::Tools => TargetKind::Tool,
        List::Resources | List::Templates => TargetKind::Resource,
        List::Prompts => TargetKind::Prompt,
    }
}

/// Returns true if `principal` may use this item of `backend`.
fn is_allowed(policy: &Policy, principal: &Principal, backend: &str, list: List, item: &Item) -> bool {
    policy.shows(&principal.roles, Target { kind: kind(list), backend, name: &item.name })
}

/// The name under which an item is listed at the endpoint of its backend. `None`: a tool whose name the operator gave
/// to another tool.
fn listed_name<'a>(policy: &'a Policy, backend: &str, list: List, item: &'a Item) -> Option<&'a str> {
    if list != List::Tools {
        return Some(&item.name);
    }
    let name = policy.listed_tool(backend, &item.name);
    if name.is_none() {
        tracing::warn!(backend, tool = item.name, "tool omitted: backends.NAME.rename gives its name to another tool");
    }
    name
}

/// The result `text`, whose items were read as `page`, without the items that `principal` may not use, and with the
/// names that the operator chose. A page that loses nothing keeps its bytes.
#[must_use]
pub fn filtered(
    policy: &Policy,
    principal: &Principal,
    backend: &str,
    list: List,
    text: Object<'static>,
    page: &Page,
) -> Object<'static> {
    let allowed = |item: &&Item| is_allowed(policy, principal, backend, list, item);
    let listed = |item| match listed_name(policy, backend, list, item)? {
        name if name == item.name => Some(Cow::Borrowed(item.json.as_str())),
        name => Some(Cow::Owned(renamed(&item.json, name))),
    };
    let kept: Vec<Cow<'_, str>> = page.items.iter().filter(allowed).filter_map(listed).collect();
    let is_exact = kept.iter().all(|item| matches!(item, Cow::Borrowed(_)));
    if page.is_exact && is_exact && kept.len() == page.items.len() {
        return text;
    }
    Object::owned(&text.replaced(list.member(), &format!("[{}]", kept.join(","))))
}

/// A backend's items as they are listed at `/mcp`, without those that `principal` may not use.
///
/// URIs in `taken` are omitted too, because an earlier backend lists them: a URI is read from the first one that does.
#[must_use]
pub fn federated(
    policy: &Policy,
    principal: &Principal,
    backend: &str,
    list: List,
    items: &[Item],
    taken: &mut BTreeSet<String>,
) -> Vec<String> {
    let allowed = items.iter().filter(|item| is_allowed(policy, principal, backend, list, item));
    let named = |item: &Item| {
        if list == List::Resources || list == List::Templates {
            let is_first = taken.insert(item.name.clone());
            if !is_first {
                tracing::debug!(
                    backend,
                    uri = item.name,
                    "resource omitted at /mcp: an earlier backend lists the same URI"
                );
            }
            return is_first.then(|| item.json.clone());
        }
        let name = listed_name(policy, backend, list, item)?;
        Some(renamed(&item.json, &exposed(backend, name)))
    };
    allowed.filter_map(named).collect()
}

/// The name at `/mcp` of the tool or prompt `name`: with the alias before it. A name that clients refuse is shortened,
/// other characters in it become `_`, and `__` and a digest of the name follow.
#[must_use]
pub fn exposed(backend: &str, name: &str) -> String {
    let plain = format!("{backend}{SEPARATOR}{name}");
    if is_plain(&plain) {
        return plain;
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let kept = plain.chars().map(|c| if c.is_ascii() && is_name_byte(c as u8) { c } else { '_' });
    let kept: String = kept.take(NAME_CHARS_MAX - DIGEST_CHARS - SEPARATOR.len()).collect();
    format!("{kept}{SEPARATOR}{digest:.DIGEST_CHARS$}")
}

/// The page of `items` at `cursor`, and the cursor of the next page. `None`: the cursor belongs to another list.
#[must_use]
pub fn page<'a>(items: &'a [String], cursor: Option<&str>) -> Option<(&'a [String], Option<String>)> {
    let begin = match cursor {
        None => 0,
        Some(cursor) => {
            let begin = cursor.split('.').next()?.parse().ok()?;
            (cursor_at(items, begin)? == cursor).then_some(begin)?
        }
    };
    let end = items.len().min(begin + PAGE_ITEMS);
    let next = if end < items.len() { cursor_at(items, end) } else { None };
    Some((items.get(begin..end)?, next))
}

/// The cursor of position `at`: the position, and a digest of the items before it, which detects a changed list.
fn cursor_at(items: &[String], at: usize) -> Option<String> {
    let before = Digest::of(items.get(..at)?.concat().as_bytes());
    Some(format!("{at}.{:.16}", before.to_string()))
}

/// The object `json` with another name; all other members keep their bytes.
fn renamed(json: &str, name: &str) -> String {
    Object::parse(json).map_or_else(|| json.to_owned(), |item| item.replaced("name", &json::quoted(name)))
}

#[cfg(test)]
mod tests {
    use crate::auth::credential::Credential;
    use crate::mcp::names::is_replaced;
    use crate::upstream::read_page;

    use super::*;

    #[test]
    fn a_renamed_tool_keeps_all_other_bytes() {
        let json = r#"{"inputSchema": {"x":1.0} ,"name":"echo","_x":"\u0041"}"#;
        let want = r#"{"inputSchema": {"x":1.0} ,"name":"e__echo","_x":"\u0041"}"#;
        assert_eq!(renamed(json, "e__echo"), want);
    }

    fn principal() -> Principal {
        let roles = vec!["r".to_owned()];
        Principal {
            subject: "s".to_owned(),
            issuer: "i".to_owned(),
            token_id: None,
            roles,
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        }
    }

    fn policy(allow: &str) -> Policy {
        let role = crate::config::Role { allow: vec![allow.to_owned()], ..Default::default() };
        Policy::new(&std::collections::BTreeMap::from([("r".to_owned(), role)])).unwrap()
    }

    #[test]
    fn a_page_that_loses_nothing_keeps_its_bytes() {
        let schema = r#""inputSchema":{"type":"object"}"#;
        let page = &format!(r#"{{ "tools":[ {{"name":"a",{schema}}}, {{"name":"b",{schema}}} ],"nextCursor":"n" }}"#);
        let text = |allow: &str, page: &str| {
            let text = Object::owned(page);
            let read = read_page(&text, List::Tools).unwrap();
            filtered(&policy(allow), &principal(), "x", List::Tools, text, &read).text().to_owned()
        };
        assert_eq!(&text("*/*", page), page);
        let one = format!(r#"{{"name":"b",{schema}}}"#);
        assert_eq!(text("x/b", page), format!(r#"{{ "tools":[{one}],"nextCursor":"n" }}"#));
        let page = &format!(r#"{{"tools":[{{"name":"a",{schema}}},{{"title":"no name"}},{one}]}}"#);
        assert_eq!(text("x/b", page), format!(r#"{{"tools":[{one}]}}"#));
        assert_eq!(text("*/*", page), format!(r#"{{"tools":[{{"name":"a",{schema}}},{one}]}}"#));
    }

    #[test]
    fn names_that_clients_refuse_are_replaced() {
        for name in ["a", "get-x_1", &"b".repeat(61)] {
            assert_eq!(exposed("x", name), format!("x__{name}"));
        }
        let odd = [
            "a/b",
            "a b",
            "a:b",
            "a.b",
            "caf\u{e9}",
            &"b".repeat(62),
            &"b".repeat(63),
            "x__0123abcd",
            "x_0123abcd",
            "0123abcd",
        ];
        let found: BTreeSet<String> = odd.iter().map(|name| exposed("x", name)).collect();
        assert_eq!(found.len(), odd.len(), "no two names are alike: {found:?}");
        for (name, shown) in odd.iter().zip(odd.iter().map(|name| exposed("x", name))) {
            let is_plain = ["x_0123abcd", "0123abcd"].contains(name);
            assert!(shown.len() <= NAME_CHARS_MAX && shown.bytes().all(is_name_byte), "{shown}");
            assert_eq!(is_replaced(&shown), !is_plain, "{shown}");
        }
    }

    #[test]
    fn a_uri_is_listed_for_the_first_backend_only() {
        let (items, mut taken) = ([Item { name: "a:b".to_owned(), json: "{}".to_owned() }], BTreeSet::new());
        let mut listed =
            |backend| federated(&policy("*/*"), &principal(), backend, List::Resources, &items, &mut taken);
        assert_eq!((listed("x").len(), listed("y").len()), (1, 0));
    }

    #[test]
    fn cursors_lead_through_the_list_and_are_refused_for_another_list() {
        let items: Vec<String> = (0..=PAGE_ITEMS * 2).map(|item| item.to_string()).collect();
        let (mut seen, mut cursor) = (0, None);
        loop {
            let (part, next) = page(&items, cursor.as_deref()).unwrap();
            seen += part.len();
            let Some(next) = next else { break };
            cursor = Some(next);
        }
        assert_eq!(seen, items.len());
        let (other, cursor) = (items[1..].to_vec(), cursor.unwrap());
        assert_eq!(page(&other, Some(&cursor)), None);
        assert_eq!((page(&items, Some("x")), page(&items, Some("999999.0"))), (None, None));
    }
}
