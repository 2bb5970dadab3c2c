//! Parameters of any method: what is forwarded consists of members that the method has, with the bytes that arrived,
//! and everything that is forwarded has a place in the record.
//!
//! The first byte of an input chooses the method, the second the era; the rest is the text of `params`.

use std::collections::{HashMap, HashSet};

use gatepost::mcp::envelope::{self, Incoming};
use gatepost::mcp::json::Object;
use gatepost::mcp::methods::{META_KEYS, METHODS, MemberRole, MetaRole, MethodSpec};
use gatepost::mcp::params::{ParamRules, Params};
use gatepost::mcp::protocol::Era;
use gatepost::mcp::shared_text::SharedText;
use serde_json::value::RawValue;

/// A member that the operator passes, at every method.
pub const PASSED: &str = "hint";

type Members<'a> = HashMap<String, &'a RawValue>;

pub fn run(data: &[u8]) {
    let [method, era, params @ ..] = data else { return };
    // One more than there are: a method that the gateway does not know.
    let spec = METHODS.get(usize::from(*method) % (METHODS.len() + 1));
    let era = if era % 2 == 0 { Era::Legacy } else { Era::Modern };
    if let Ok(params) = std::str::from_utf8(params) {
        check(spec, era, params);
    }
}

fn check(spec: Option<&'static MethodSpec>, era: Era, params: &str) {
    let method = spec.map_or("example/any", |spec| spec.name);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    let body = SharedText::new(body);
    let Ok(message) = envelope::parse_text(&body).and_then(Incoming::message) else { return };
    let given = message.params_text().expect("parameters").to_owned();
    let passed = [format!("{method}/{PASSED}")];
    let read = match Params::read(&message, &body, &ParamRules::of_request(spec, era, method, &passed)) {
        Ok(read) => read,
        Err(error) => {
            assert!(error.code() < 0 && (1..1024).contains(&error.to_string().len()), "{error}");
            return;
        }
    };
    let given: Members<'_> = serde_json::from_str(&given).expect("an object");
    let added = [("io.gatepost/request_id", "\"id\"")];
    let text = read.text(&added).expect("parameters");
    let members: Members<'_> = serde_json::from_str(&text).expect("what is forwarded is an object");
    let in_order = Object::parse(&text).expect("an object");
    assert_eq!(in_order.len(), members.len(), "no member twice");
    assert_eq!(in_order.len(), members.keys().map(|key| plain(key)).collect::<HashSet<_>>().len().max(members.len()));

    // Only what the method has, as it arrived.
    for (key, value) in members.iter().filter(|(key, _)| *key != "_meta") {
        let known = spec.map(|spec| spec.members.iter().find(|known| known.name == key && known.eras.contains(&era)));
        assert!(known.is_none_or(|known| known.is_some() || key == PASSED), "{key}");
        let is_changed =
            known.flatten().is_some_and(|known| !known.inner.is_empty() || known.role == MemberRole::Capabilities);
        if is_changed {
            within(value.get(), given[key].get());
        } else {
            assert_eq!(value.get(), given[key].get(), "{key}");
        }
    }
    // A spelling that a decoder may confuse with a known member's is not there.
    for known in spec.map_or(&[][..], |spec| spec.members) {
        assert!(members.keys().filter(|key| plain(key) == plain(known.name)).count() <= 1, "{}", known.name);
    }

    // Nothing is lost without a trace.
    let drops = spec.is_some_and(MethodSpec::drops_unknown_members);
    for (key, value) in &given {
        let is_there = members.contains_key(key) || value.get() == "null";
        assert!(is_there || !read.removed().is_empty() || key == "_meta", "{key}");
    }
    let given_meta: Members<'_> =
        given.get("_meta").and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
    let meta: Members<'_> = serde_json::from_str(members["_meta"].get()).expect("an object");
    for (key, value) in &given_meta {
        let role = META_KEYS.iter().find(|known| known.name == key).map(|known| known.role);
        match role {
            Some(MetaRole::Written | MetaRole::WrittenModern | MetaRole::Task) => assert!(!meta.contains_key(key)),
            _ if read.removed().iter().any(|removed| key.starts_with(removed))
                || value.get() == "null" && role.is_some()
                || drops => {}
            _ => assert_eq!(meta.get(key).map(|value| value.get()), Some(value.get()), "{key}"),
        }
    }
    assert_eq!(meta["io.gatepost/request_id"].get(), added[0].1);
    assert!(meta.keys().all(|key| key == added[0].0 || given_meta.contains_key(key)));

    // Everything that is forwarded is recorded: in the arguments, or besides them.
    let arguments = read.arguments(false).expect("parameters");
    let arguments: Members<'_> = serde_json::from_str(&arguments).expect("an object");
    for member in read.members() {
        let is_argument = matches!(member.role, MemberRole::Argument | MemberRole::Capabilities);
        assert_eq!(
            arguments.get(member.key.as_ref()).map(|value| value.get()),
            is_argument.then(|| member.value.as_str())
        );
        assert_ne!(member.role, MemberRole::Task);
    }
    // The digest covers the same text without what the gateway adds.
    let mut parts = String::new();
    read.write(&[], |part| parts.push_str(part));
    assert_eq!(read.text(&[]).expect("parameters").as_str(), parts);
    let before = text.strip_suffix(r#""io.gatepost/request_id":"id"}}"#).expect("what the gateway adds is last");
    let expected = match before.strip_suffix(',') {
        Some(before) => format!("{before}}}}}"),
        // Without other keys, `_meta` is there only if the client sent one.
        None if parts.ends_with(r#""_meta":{}}"#) => format!("{before}}}}}"),
        None => {
            let before = before.strip_suffix(r#""_meta":{"#).expect("the key is in _meta");
            format!("{}}}", before.strip_suffix(',').unwrap_or(before))
        }
    };
    assert_eq!(parts, expected, "{text:?}");
}

/// A key without what lenient decoders ignore; ASCII is enough here.
fn plain(key: &str) -> String {
    key.replace(['_', '-'], "").to_ascii_lowercase()
}

/// Asserts that the members of the object `inner` are members of `outer`, as they arrived. A key may have a lone
/// surrogate, which `serde_json` does not take for text.
fn within(inner: &str, outer: &str) {
    let (inner, outer) = (Object::parse(inner).expect("an object"), Object::parse(outer).expect("an object"));
    for member in inner.members() {
        let is_there = outer.members().any(|of_outer| of_outer == member);
        assert!(is_there || member.key == "extensions", "{}", member.key);
    }
}
