//! What a caller sees: the tools, resources and prompts of one backend, or of all, filtered by the decision that also
//! guards their use.
//!
//! At `/mcp/{backend}` names are the backend's own, and pages too. At `/mcp` every tool and prompt is named
//! `backend__name`, always, so that no name changes when a backend joins; resources keep their URIs. An alias holds no
//! `__`, so that the first one in a name ends the alias. The order is that of the aliases, then the backend's own. A
//! backend that is down, or too slow, has nothing; the others are listed.

use std::collections::BTreeSet;

use crate::audit::record::Digest;
use crate::auth::Principal;
use crate::gateway::message::scope::SEPARATOR;
use crate::mcp::json::{self, Object};
use crate::mcp::methods::List;
use crate::rbac::{Policy, Target, TargetKind};
use crate::upstream::{Item, read_page};

/// Longest name at `/mcp`, in characters. *Measured*: docs/measurements.md, "MCP", common clients refuse longer ones, and with one of
/// them all others.
const NAME_CHARS_MAX: usize = 64;

/// Items of a page at `/mcp`. *Chosen*: most gateways have one page; a client that asks for the next gets it.
pub(crate) const PAGE_ITEMS: usize = 500;

/// What the items of a list are to the policy.
#[must_use]
pub fn kind(list: List) -> TargetKind {
    match list {
        List::Tools => TargetKind::Tool,
        List::Resources | List::Templates => TargetKind::Resource,
        List::Prompts => TargetKind::Prompt,
    }
}

/// Whether `principal` may use this item of `backend`.
fn is_allowed(policy: &Policy, principal: &Principal, backend: &str, list: List, item: &Item) -> bool {
    policy.shows(&principal.roles, Target { kind: kind(list), backend, name: &item.name })
}

/// A backend's page without what `principal` may not use; a page that loses nothing stays as it came.
#[must_use]
pub fn filtered(
    policy: &Policy,
    principal: &Principal,
    backend: &str,
    list: List,
    page: Object<'static>,
) -> Object<'static> {
    let Ok((items, _)) = read_page(&page, list) else { return page };
    let allowed = |item: &&Item| is_allowed(policy, principal, backend, list, item);
    let kept: Vec<&str> = items.iter().filter(allowed).map(|item| item.json.as_str()).collect();
    if kept.len() == items.len() {
        return page;
    }
    Object::owned(&page.replaced(list.member(), &format!("[{}]", kept.join(","))))
}

/// A backend's items as they are listed at `/mcp`, without what `principal` may not use, and without URIs that are
/// `taken`, since an earlier backend has them: a URI is read from the first that lists it.
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
                tracing::debug!(backend, uri = item.name, "left out at /mcp: an earlier backend has it");
            }
            return is_first.then(|| item.json.clone());
        }
        let name = format!("{backend}{SEPARATOR}{}", item.name);
        if name.chars().count() > NAME_CHARS_MAX {
            tracing::warn!(
                backend,
                name,
                "left out at /mcp: clients take names of {NAME_CHARS_MAX} characters at most"
            );
            return None;
        }
        Some(renamed(&item.json, &name))
    };
    allowed.filter_map(named).collect()
}

/// The page of `items` that `cursor` asks for, and the cursor of the next. `None`: the cursor is of another list.
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

/// Opaque to clients: the place, and a digest of what is before it, so that a list that changed is noticed.
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
    use super::*;

    #[test]
    fn a_renamed_tool_keeps_all_other_bytes() {
        let json = r#"{"inputSchema": {"x":1.0} ,"name":"echo","_x":"\u0041"}"#;
        let want = r#"{"inputSchema": {"x":1.0} ,"name":"e__echo","_x":"\u0041"}"#;
        assert_eq!(renamed(json, "e__echo"), want);
    }

    fn principal() -> Principal {
        let roles = vec!["r".to_owned()];
        Principal { subject: "s".to_owned(), issuer: "i".to_owned(), token_id: None, roles }
    }

    fn policy(allow: &str) -> Policy {
        let role = crate::config::Role { allow: vec![allow.to_owned()], ..Default::default() };
        Policy::new(&std::collections::BTreeMap::from([("r".to_owned(), role)])).unwrap()
    }

    #[test]
    fn a_page_that_loses_nothing_keeps_its_bytes() {
        let page = r#"{ "tools":[ {"name":"a"}, {"name":"b"} ],"nextCursor":"n" }"#;
        assert_eq!(filtered(&policy("*/*"), &principal(), "x", List::Tools, Object::owned(page)).text(), page);
        let want = r#"{ "tools":[{"name":"b"}],"nextCursor":"n" }"#;
        assert_eq!(filtered(&policy("x/b"), &principal(), "x", List::Tools, Object::owned(page)).text(), want);
    }

    #[test]
    fn names_that_clients_refuse_are_left_out_where_they_are_prefixed() {
        let item =
            |name: &str| Item { name: name.to_owned(), json: json::object([("name", json::quoted(name).as_str())]) };
        let items = [item("a"), item(&"b".repeat(62))];
        let listed = federated(&policy("*/*"), &principal(), "x", List::Tools, &items, &mut BTreeSet::new());
        assert_eq!(listed, [r#"{"name":"x__a"}"#]);
    }

    #[test]
    fn a_uri_is_listed_once() {
        let (items, mut taken) = ([Item { name: "a:b".to_owned(), json: "{}".to_owned() }], BTreeSet::new());
        let mut listed =
            |backend| federated(&policy("*/*"), &principal(), backend, List::Resources, &items, &mut taken);
        assert_eq!((listed("x").len(), listed("y").len()), (1, 0));
    }

    #[test]
    fn cursors_lead_through_the_list_and_notice_another() {
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
