//! JSON text that stays as it came: an object's members as they are written, and members added without touching the
//! rest.
//!
//! Nothing here builds a tree. What is relayed keeps every byte that the gateway has no reason to change.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One member of an object, in the order of the text.
#[derive(Debug)]
pub struct Member<'a> {
    /// The key, unescaped; a lone surrogate becomes U+FFFD.
    pub key: String,
    /// Whether that is the whole key: it has no lone surrogate.
    pub is_text: bool,
    /// The value's text.
    pub value: &'a RawValue,
}

/// The members of the object `json`, repeated keys included; `None` where `json` is no object.
#[must_use]
pub fn members(json: &str) -> Option<Vec<Member<'_>>> {
    if !json.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str::<Members<'_>>(json).ok().map(|Members(members)| members)
}

/// The string that `value` is, if it is one.
#[must_use]
pub fn string(value: &RawValue) -> Option<String> {
    value.get().starts_with('"').then(|| serde_json::from_str(value.get()).ok()).flatten()
}

/// `object` with the given members: those that it has get the value where they stand, the others come first. All other
/// bytes stay.
///
/// `added` is keys and their values as JSON text. Text that is no object is returned as it is.
#[must_use]
pub fn with_members(object: &str, added: &[(&str, &str)]) -> String {
    let object = object.trim_start();
    let Some(old) = members(object) else {
        return object.to_owned();
    };
    let mut out = String::with_capacity(object.len() + 64);
    out.push('{');
    for (key, value) in added.iter().filter(|(key, _)| old.iter().all(|member| member.key != *key)) {
        if out.len() > 1 {
            out.push(',');
        }
        push_member(&mut out, key, value);
    }
    if out.len() > 1 && !old.is_empty() {
        out.push(',');
    }
    let value = |name: &str| added.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    splice(&mut out, object, 1, &old, value);
    out
}

/// The member `key` of `object` with another value, in its place; all other bytes stay.
#[must_use]
pub fn replaced(object: &str, key: &str, value: &str) -> String {
    let old = members(object).unwrap_or_default();
    let mut out = String::with_capacity(object.len() + value.len());
    splice(&mut out, object, 0, &old, |name| (name == key).then_some(value));
    out
}

/// Appends `object` from byte `at` on, with other values of the `members` that `value_of` knows.
fn splice<'a>(
    out: &mut String,
    object: &str,
    mut at: usize,
    members: &[Member<'_>],
    value_of: impl Fn(&str) -> Option<&'a str>,
) {
    for member in members {
        let Some(value) = value_of(&member.key) else { continue };
        // A member's value is a part of the object's own text.
        let old = member.value.get();
        let begin = old.as_ptr().addr() - object.as_ptr().addr();
        out.push_str(object.get(at..begin).unwrap_or_default());
        out.push_str(value);
        at = begin + old.len();
    }
    out.push_str(object.get(at..).unwrap_or_default());
}

/// The text of an object with these members; values are JSON text already.
#[must_use]
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (key, value) in members {
        if out.len() > 1 {
            out.push(',');
        }
        push_member(&mut out, key, value);
    }
    out.push('}');
    out
}

/// `text` as a JSON string, with its quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Valid JSON text without line ends, as a line-delimited transport needs it. They stand between tokens only, never in a
/// string, so that a space in their place changes nothing that a parser sees.
#[must_use]
pub fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

fn push_member(out: &mut String, key: &str, value: &str) {
    out.push_str(&quoted(key));
    out.push(':');
    out.push_str(value);
}

/// Compares the keys as bytes, so that a lone surrogate in a key is no error.
pub(crate) struct Key(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Key, E> {
                Ok(Key(bytes.to_vec()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key, E> {
                Ok(Key(text.as_bytes().to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

struct Members<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key, &'de RawValue>()? {
                    let key = String::from_utf8(key);
                    let is_text = key.is_ok();
                    let key = key.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
                    members.push(Member { key, is_text, value });
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The value of the top-level member `id` in `head`, the beginning of an object that is too long to be read whole.
#[must_use]
pub fn id_in_head(head: &[u8]) -> Option<u64> {
    struct Id<'a>(&'a mut Option<u64>);
    impl<'de> Visitor<'de> for Id<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(Key(key)) = map.next_key()? {
                if key == b"id" {
                    *self.0 = map.next_value().ok();
                    return Ok(());
                }
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }
    let mut id = None;
    // The head ends in the middle of a value: the error that this gives is expected, and the id may have been seen.
    match serde_json::Deserializer::from_slice(head).deserialize_map(Id(&mut id)) {
        Ok(()) | Err(_) => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_members_leave_every_other_byte() {
        let json = "{ \"b\" : 1.0e3,\n \"\\u0061\":\"\\ud800\" }";
        assert_eq!(with_members(json, &[("x", "1")]), "{\"x\":1, \"b\" : 1.0e3,\n \"\\u0061\":\"\\ud800\" }");
        assert_eq!(with_members("{}", &[("x", "1"), ("y", "2")]), r#"{"x":1,"y":2}"#);
        assert_eq!(with_members("[1]", &[("x", "1")]), "[1]");
        assert_eq!(with_members("{ }", &[]), "{ }");
    }

    #[test]
    fn a_member_of_the_same_name_is_replaced_where_it_stands() {
        let json = r#"{ "\ud800" :null, "a": 1.0,"\u0078" : "old" ,"b":[ 2 ] }"#;
        let want = r#"{"y":3, "\ud800" :null, "a": 1.0,"\u0078" : 1 ,"b":[ 2 ] }"#;
        assert_eq!(with_members(json, &[("x", "1"), ("y", "3")]), want);
        assert_eq!(replaced(json, "b", "7"), r#"{ "\ud800" :null, "a": 1.0,"\u0078" : "old" ,"b":7 }"#);
        assert_eq!(replaced(json, "c", "7"), json);
    }

    #[test]
    fn members_keep_repeated_keys_and_take_lone_surrogates() {
        let keys: Vec<String> =
            members(r#"{"a":1,"a":2,"\ud800":3}"#).unwrap().into_iter().map(|member| member.key).collect();
        assert_eq!(keys, ["a", "a", "\u{fffd}\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn the_id_is_found_in_a_head_that_is_cut() {
        assert_eq!(id_in_head(br#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"te"#), Some(7));
        assert_eq!(id_in_head(br#"{"result":{"id":9,"x":"aaaa"#), None);
    }

    mod relay {
        use proptest::prelude::*;
        use serde_json::{Map, Value};

        use super::super::*;

        fn value() -> impl Strategy<Value = Value> {
            let leaf = prop_oneof![
                Just(Value::Null),
                any::<bool>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                ".{0,8}".prop_map(Value::from),
            ];
            leaf.prop_recursive(3, 24, 4, |inner| {
                prop_oneof![
                    proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                    proptest::collection::btree_map(".{0,4}", inner, 0..4)
                        .prop_map(|map| map.into_iter().collect::<Map<_, _>>().into()),
                ]
            })
        }

        proptest! {
            #[test]
            fn added_members_are_the_only_difference(
                map in proptest::collection::btree_map("[a-c\"\\\\{}]{0,3}", value(), 0..5),
                is_pretty: bool,
            ) {
                let object: Map<String, Value> = map.into_iter().collect();
                let text = if is_pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
                let got: Map<String, Value> = serde_json::from_str(&with_members(&text.unwrap(), &[("a", "7")])).unwrap();
                let mut want = object;
                want.insert("a".to_owned(), 7.into());
                prop_assert_eq!(got, want);
            }
        }
    }
}
