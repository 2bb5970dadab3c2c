//! JSON text that keeps its bytes: an object's members as ranges of its text, and edits that leave all other bytes as
//! they are.
//!
//! [`Object::parse`] reads a text once and builds no tree. [`Object::parse_path`] also reads the members of the objects
//! on one path (such as `params`, then `_meta`) in the same pass, so that a message is read once however deep its
//! reader looks. Everything that is relayed is cut out of the text that arrived, byte for byte.

mod read;

use std::borrow::Cow;
use std::ops::Range;

pub use read::id_in_head;
pub(crate) use read::unescaped;
use read::{Key, Member, is_space};

/// An object and its members, in the order of the text.
///
/// Keys may repeat: [`Object::get`] returns the first member of a key. The text is the object's own, from `{` to `}`.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    text: Cow<'a, str>,
    /// The place of `text` in the text that the members' ranges refer to, in bytes.
    offset: usize,
    members: Cow<'a, [Member]>,
}

/// A key and a value of [`Object::members`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key, unescaped; a lone surrogate becomes U+FFFD.
    pub key: Cow<'a, str>,
    /// True if `key` is the exact key: it has no lone surrogate.
    pub is_text: bool,
    /// The value, as JSON text.
    pub value: &'a str,
}

impl PartialEq for Object<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Object<'_> {}

impl Default for Object<'_> {
    /// `{}`.
    fn default() -> Self {
        Self { text: Cow::Borrowed("{}"), offset: 0, members: Cow::Borrowed(&[]) }
    }
}

impl<'a> Object<'a> {
    /// Reads the members of the object `text`, in one pass. `None`: the text is not an object.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::parse_path(text, &[])
    }

    /// Reads the members of the object `text`, of the object that is its member `path[0]`, and so on, in one pass. A
    /// member on the path that is missing or is not an object ends the path. `None`: the text is not an object.
    #[must_use]
    pub fn parse_path(text: &'a str, path: &[&str]) -> Option<Self> {
        let text = text.trim_matches(is_space);
        if !is_object(text) {
            return None;
        }
        let members = read::members(text, path)?;
        Some(Self { text: Cow::Borrowed(text), offset: 0, members: Cow::Owned(members) })
    }

    /// The object's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns true if it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of the first member `key`, as JSON text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.find(key).and_then(|member| self.slice(&member.value))
    }

    /// The string that is the first member `key`, unescaped. `None` also for a string with a lone surrogate.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<String> {
        string(self.get(key)?)
    }

    /// Returns true if a member `key` has the value `json`, byte for byte.
    #[must_use]
    pub fn has(&self, key: &str, json: &str) -> bool {
        self.members.iter().any(|member| self.is_key(member, key) && self.slice(&member.value) == Some(json))
    }

    /// The object that is the first member `key`. Reads nothing again if the member is on the path that was read.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Object<'_>> {
        let member = self.find(key)?;
        let text = self.slice(&member.value)?;
        match &member.members {
            Some(members) => Some(Object {
                text: Cow::Borrowed(text),
                offset: member.value.start,
                members: Cow::Borrowed(members.as_slice()),
            }),
            None => Object::parse(text),
        }
    }

    /// The members, repeated keys included.
    pub fn members(&self) -> impl Iterator<Item = Entry<'_>> {
        self.members.iter().map(|member| {
            let (key, is_text) = match &member.key {
                Key::Plain(range) => (Cow::Borrowed(self.slice(range).unwrap_or_default()), true),
                Key::Escaped(bytes) => (String::from_utf8_lossy(bytes), std::str::from_utf8(bytes).is_ok()),
            };
            Entry { key, is_text, value: self.slice(&member.value).unwrap_or_default() }
        })
    }

    /// The text with the given members: a member that is there gets its value in place, the others are put first. All
    /// other bytes stay. `added` is keys and their values as JSON text.
    #[must_use]
    pub fn with(&self, added: &[(&str, &str)]) -> String {
        let mut out =
            String::with_capacity(self.text.len() + added.iter().map(|(k, v)| k.len() + v.len() + 4).sum::<usize>());
        out.push('{');
        for (key, value) in added.iter().filter(|(key, _)| self.find(key).is_none()) {
            push_member(&mut out, key, value);
        }
        if out.len() > 1 && !self.is_empty() {
            out.push(',');
        }
        let value = |member: &Member| added.iter().find(|(key, _)| self.is_key(member, key)).map(|(_, value)| *value);
        self.splice(&mut out, 1, value);
        out
    }

    /// The text with another value for each member `key`, in its place; all other bytes stay.
    #[must_use]
    pub fn replaced(&self, key: &str, value: &str) -> String {
        let mut out = String::with_capacity(self.text.len() + value.len());
        self.splice(&mut out, 0, |member| self.is_key(member, key).then_some(value));
        out
    }

    /// The text without the members that `is_removed` names. If there are none, all bytes stay; otherwise those of the
    /// other keys and values do.
    #[must_use]
    pub fn without(&self, is_removed: impl Fn(&str) -> bool) -> Cow<'_, str> {
        if self.members().all(|entry| !is_removed(&entry.key)) {
            return Cow::Borrowed(&self.text);
        }
        let (mut out, mut at) = (String::from("{"), 1);
        for (member, entry) in self.members.iter().zip(self.members()) {
            let end = member.value.end - self.offset;
            // The key as it is written: one with a lone surrogate could not be written again.
            let written = self.text.get(at..end).unwrap_or_default();
            at = end;
            if !is_removed(&entry.key) {
                out.push_str(if out.len() > 1 { "," } else { "" });
                out.push_str(written.trim_start_matches(|c| c == ',' || is_space(c)));
            }
        }
        out.push('}');
        Cow::Owned(out)
    }

    /// The object `text`, with the members of its `_meta`. Text that is not an object stands for `{}`.
    #[must_use]
    pub fn owned(text: &str) -> Object<'static> {
        Object::parse_path(text, &["_meta"]).map(Object::into_owned).unwrap_or_default()
    }

    /// The object with a text of its own.
    #[must_use]
    pub fn into_owned(self) -> Object<'static> {
        let Self { text, offset, members } = self;
        Object { text: Cow::Owned(text.into_owned()), offset, members: Cow::Owned(members.into_owned()) }
    }

    fn find(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|member| self.is_key(member, key))
    }

    fn is_key(&self, member: &Member, key: &str) -> bool {
        match &member.key {
            Key::Plain(range) => self.slice(range) == Some(key),
            Key::Escaped(bytes) => bytes == key.as_bytes(),
        }
    }

    fn slice(&self, range: &Range<usize>) -> Option<&str> {
        self.text.get(range.start.checked_sub(self.offset)?..range.end.checked_sub(self.offset)?)
    }

    /// Appends the text from byte `at` on, with other values of the members that `value_of` knows.
    fn splice<'v>(&self, out: &mut String, mut at: usize, value_of: impl Fn(&Member) -> Option<&'v str>) {
        for member in self.members.iter() {
            let Some(value) = value_of(member) else { continue };
            let (begin, end) = (member.value.start - self.offset, member.value.end - self.offset);
            out.push_str(self.text.get(at..begin).unwrap_or_default());
            out.push_str(value);
            at = end;
        }
        out.push_str(self.text.get(at..).unwrap_or_default());
    }
}

/// The string that `json` is, if it is one.
#[must_use]
pub fn string(json: &str) -> Option<String> {
    json.starts_with('"').then(|| serde_json::from_str(json).ok()).flatten()
}

/// Returns true if `json`, a valid JSON text, is an object.
#[must_use]
pub fn is_object(json: &str) -> bool {
    json.starts_with('{')
}

/// The text of an object with these members; values are JSON text already.
#[must_use]
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (key, value) in members {
        push_member(&mut out, key, value);
    }
    out.push('}');
    out
}

/// `text` as a JSON string, with its quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// Valid JSON text without line ends, as a line-delimited transport needs it. Line ends are only between tokens, never
/// in a string, so that a space in their place changes nothing that a parser sees.
#[must_use]
pub fn one_line(json: &str) -> Cow<'_, str> {
    if json.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
        Cow::Owned(json.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(json)
    }
}

/// Appends a member to an object's text, with a comma unless it is the first.
fn push_member(out: &mut String, key: &str, value: &str) {
    if out.len() > 1 {
        out.push(',');
    }
    push_quoted(out, key);
    out.push(':');
    out.push_str(value);
}

fn push_quoted(out: &mut String, text: &str) {
    // The usual text needs no escape; the rest is left to serde_json.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_members_leave_every_other_byte() {
        let json = "{ \"b\" : 1.0e3,\n \"\\u0061\":\"\\ud800\" }";
        let with = |json, added: &[(&str, &str)]| Object::parse(json).unwrap().with(added);
        assert_eq!(with(json, &[("x", "1")]), "{\"x\":1, \"b\" : 1.0e3,\n \"\\u0061\":\"\\ud800\" }");
        assert_eq!(with("{}", &[("x", "1"), ("y", "2")]), r#"{"x":1,"y":2}"#);
        assert_eq!(with("{ }", &[]), "{ }");
    }

    #[test]
    fn without_some_members_the_others_keep_their_bytes() {
        let json = r#"{ "\ud800" : [1.0] , "a":{},"\u0062": 2,"\udfff":3 }"#;
        let without = |json, removed: &[&str]| {
            let object = Object::parse(json).unwrap();
            object.without(|key| removed.contains(&key)).into_owned()
        };
        assert_eq!(without(json, &["a"]), r#"{"\ud800" : [1.0],"\u0062": 2,"\udfff":3}"#);
        assert_eq!(without(json, &["b", "\u{fffd}\u{fffd}\u{fffd}"]), r#"{"a":{}}"#);
        assert_eq!(without(r#"{"a":1}"#, &["a"]), "{}");
        assert_eq!(without(json, &["c"]), json);
    }

    #[test]
    fn a_member_of_the_same_name_is_replaced_where_it_stands() {
        let json = r#"{ "\ud800" :null, "a": 1.0,"\u0078" : "old" ,"b":[ 2 ] }"#;
        let want = r#"{"y":3, "\ud800" :null, "a": 1.0,"\u0078" : 1 ,"b":[ 2 ] }"#;
        let object = Object::parse(json).unwrap();
        assert_eq!(object.with(&[("x", "1"), ("y", "3")]), want);
        assert_eq!(object.replaced("b", "7"), r#"{ "\ud800" :null, "a": 1.0,"\u0078" : "old" ,"b":7 }"#);
        assert_eq!(object.replaced("c", "7"), json);
    }

    #[test]
    fn a_path_is_read_in_the_same_pass_and_gives_what_separate_reads_give() {
        let text =
            " { \"a\":1, \"params\" : { \"name\":\"x\",\"_meta\"\n:\t{ \"k\": [ 1 ] , \"l\":{} } }, \"z\":null }\n";
        let whole = Object::parse_path(text, &["params", "_meta"]).unwrap();
        assert_eq!(whole.text(), text.trim());
        let params = whole.object("params").unwrap();
        assert_eq!(params.text(), "{ \"name\":\"x\",\"_meta\"\n:\t{ \"k\": [ 1 ] , \"l\":{} } }");
        let meta = params.object("_meta").unwrap();
        assert_eq!(
            (meta.text(), meta.get("k"), meta.get("l")),
            ("{ \"k\": [ 1 ] , \"l\":{} }", Some("[ 1 ]"), Some("{}"))
        );
        assert_eq!(meta.with(&[("m", "2"), ("l", "3")]), "{\"m\":2, \"k\": [ 1 ] , \"l\":3 }");
        assert_eq!(whole.replaced("z", "7"), text.trim().replace("null", "7"));
        let owned = params.clone().into_owned();
        assert_eq!((owned.object("_meta").unwrap().get("l"), owned.string("name").as_deref()), (Some("{}"), Some("x")));
        assert_eq!(owned, params);
    }

    #[test]
    fn a_path_that_leads_to_no_object_ends_there() {
        for value in ["[1,{}]", "null", "true", "-1", "1.5", "1e999", "\"{}\"", "18446744073709551616"] {
            let text = format!("{{\"params\":{value},\"b\":2}}");
            let whole = Object::parse_path(&text, &["params", "_meta"]).unwrap();
            assert_eq!((whole.get("params"), whole.get("b")), (Some(value), Some("2")));
            assert!(whole.object("params").is_none(), "{value}");
        }
        let escaped = Object::parse_path(r#"{"p\u0061rams":{"a":1}}"#, &["params"]).unwrap();
        assert_eq!(escaped.object("params").unwrap().get("a"), Some("1"));
        for text in ["", "[1]", "{", "{\"a\":}", "{}x", "{\"params\":{\"a\":1}", "\u{a0}{}", "{\"params\":{}}}"] {
            assert!(Object::parse_path(text, &["params"]).is_none(), "{text}");
        }
    }

    #[test]
    fn a_control_character_in_a_key_is_not_json() {
        for key in ["a\u{1}", "\n", "\\u0061\u{1f}", "\\\"\u{0}", "\\\\\t"] {
            for text in [
                format!("{{\"{key}\":1}}"),
                format!("{{\"x\":\"\",\"{key}\":{{}}}}"),
                format!("{{\"params\":{{\"_meta\":{{\"{key}\":1}}}}}}"),
                format!("{{\"params\":{{\"b\":{{\"{key}\":1}}}}}}"),
            ] {
                assert!(Object::parse_path(&text, &["params", "_meta"]).is_none(), "{text:?}");
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_err(), "{text:?}");
            }
        }
        for key in ["a\u{7f}\u{80}", "\\u0001", "\\\"", "\\\\", "\\n"] {
            let text = format!("{{\"{key}\":1}}");
            assert!(Object::parse(&text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn members_are_removed_and_the_rest_keeps_its_values() {
        let object = Object::parse(r#"{ "a":1, "_meta":{} , "b" : 2.0 }"#).unwrap();
        assert_eq!(object.without(|key| key == "_meta"), r#"{"a":1,"b" : 2.0}"#);
        assert_eq!(object.without(|key| key == "x"), object.text());
        assert!(object.has("b", "2.0") && !object.has("b", "2"));
    }

    #[test]
    fn members_keep_repeated_keys_and_take_lone_surrogates() {
        let object = Object::parse(r#"{"a":1,"a":2,"\ud800":3}"#).unwrap();
        let keys: Vec<String> = object.members().map(|member| member.key.into_owned()).collect();
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
            fn one_pass_over_a_path_gives_what_a_pass_for_each_object_gives(
                map in proptest::collection::btree_map("[ab\"\\\\]{0,2}", value(), 0..5),
                is_pretty: bool,
            ) {
                let object: Map<String, Value> = map.into_iter().collect();
                let text = if is_pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
                let text = text.unwrap();
                let (one, each) = (Object::parse_path(&text, &["a", "b"]).unwrap(), Object::parse(&text).unwrap());
                prop_assert_eq!(one.members().collect::<Vec<_>>(), each.members().collect::<Vec<_>>());
                let (a, each_a) = (one.object("a"), each.object("a"));
                prop_assert_eq!(a.as_ref().map(Object::text), each_a.as_ref().map(Object::text));
                let b = a.as_ref().and_then(|a| a.object("b"));
                let each_b = each_a.as_ref().and_then(|a| a.object("b"));
                prop_assert_eq!(b.as_ref().map(Object::text), each_b.as_ref().map(Object::text));
            }

            #[test]
            fn added_members_are_the_only_difference(
                map in proptest::collection::btree_map("[a-c\"\\\\{}]{0,3}", value(), 0..5),
                is_pretty: bool,
            ) {
                let object: Map<String, Value> = map.into_iter().collect();
                let text = if is_pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
                let got: Map<String, Value> = serde_json::from_str(&Object::parse(&text.unwrap()).unwrap().with(&[("a", "7")])).unwrap();
                let mut want = object;
                want.insert("a".to_owned(), 7.into());
                prop_assert_eq!(got, want);
            }
        }
    }
}
