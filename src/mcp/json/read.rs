//! One pass over the text of an object, which finds its members, and those of the objects on a path in it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One member of an object.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) key: Key,
    pub(super) value: Range<usize>,
    /// The members of the value, if it is an object on the path that was read.
    pub(super) members: Option<Vec<Member>>,
}

/// The key of a member.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// A key without escapes: a range of the text.
    Plain(Range<usize>),
    /// An unescaped key, as bytes: a lone surrogate is kept in its three-byte form.
    Escaped(Vec<u8>),
}

/// The members of the object `text`, and of the objects on `path`. `None`: `text`, which begins with `{`, is not valid
/// JSON.
pub(super) fn members(text: &str, path: &[&str]) -> Option<Vec<Member>> {
    let read = |path| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let level = Level { text, begin: 0, path };
        level.deserialize(&mut deserializer).ok().filter(|_| deserializer.end().is_ok())
    };
    // A value on the path that is not an object ends the pass with an error: then the text is read again without the
    // path.
    let found = read(path).or_else(|| if path.is_empty() { None } else { read(&[]) })?;
    match found {
        Found::Object { members, .. } => Some(members),
        Found::Other => None,
    }
}

/// Returns true if JSON allows `c` between tokens. *Spec*: RFC 8259 section 2.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// The bytes that a quoted JSON string stands for; a lone surrogate is kept in its three-byte form, so that two
/// different ones differ.
pub(crate) fn unescaped(quoted: &[u8]) -> Cow<'_, [u8]> {
    if quoted.contains(&b'\\') {
        let key = serde_json::from_slice::<KeyBytes<'_>>(quoted);
        return key.map_or(Cow::Borrowed(quoted), |KeyBytes(key)| Cow::Owned(key.into_owned()));
    }
    Cow::Borrowed(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default())
}

/// A key read as bytes, so that a lone surrogate in it is not an error.
struct KeyBytes<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for KeyBytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = KeyBytes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<KeyBytes<'de>, E> {
                Ok(KeyBytes(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<KeyBytes<'de>, E> {
                Ok(KeyBytes(Cow::Owned(bytes.to_vec())))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<KeyBytes<'de>, E> {
                Ok(KeyBytes(Cow::Borrowed(text.as_bytes())))
            }

            fn visit_str<E>(self, text: &str) -> Result<KeyBytes<'de>, E> {
                Ok(KeyBytes(Cow::Owned(text.as_bytes().to_vec())))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// One object on the path: `begin` is the place of its `{` in `text`.
struct Level<'t, 'p> {
    text: &'t str,
    begin: usize,
    path: &'p [&'p str],
}

/// The value of a [`Level`].
enum Found {
    Object {
        members: Vec<Member>,
        end: usize,
    },
    /// Another value; the reader starts again without the path.
    Other,
}

impl Level<'_, '_> {
    /// The place after the white space that begins at `at`.
    fn skip_space(&self, at: usize) -> usize {
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        at + rest.iter().take_while(|byte| is_space(char::from(**byte))).count()
    }

    /// The place after the byte `want`, which is the first one from `at` on that is not white space.
    fn after<E: serde::de::Error>(&self, at: usize, want: u8) -> Result<usize, E> {
        let at = self.skip_space(at);
        if self.text.as_bytes().get(at) == Some(&want) { Ok(at + 1) } else { Err(E::custom("unexpected byte")) }
    }

    /// Returns true if a control character stands unescaped in the first quoted string from `at` on.
    fn has_control_in_key(&self, at: usize) -> bool {
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        let mut is_escaped = false;
        let inside = rest.iter().skip_while(|byte| **byte != b'"').skip(1).take_while(|byte| {
            let is_end = **byte == b'"' && !is_escaped;
            is_escaped = **byte == b'\\' && !is_escaped;
            !is_end
        });
        inside.into_iter().any(|byte| *byte < b' ')
    }

    /// The range of `part`, a slice of the text.
    fn range_of(&self, part: &[u8]) -> Range<usize> {
        let begin = part.as_ptr().addr() - self.text.as_ptr().addr();
        begin..begin + part.len()
    }
}

impl<'de> DeserializeSeed<'de> for Level<'de, '_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'de, '_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut members = Vec::new();
        let mut end = self.begin + 1;
        while let Some(KeyBytes(key)) = map.next_key()? {
            // A key that is read as bytes may have control characters for serde_json, but not for JSON.
            let has_control = match &key {
                Cow::Borrowed(bytes) => bytes.iter().any(|byte| *byte < b' '),
                Cow::Owned(_) => self.has_control_in_key(end),
            };
            if has_control {
                return Err(A::Error::custom("control character in a key"));
            }
            // The place of a value that is looked into follows from its key, which must be a slice of the text.
            let key = match key {
                Cow::Borrowed(bytes) => Key::Plain(self.range_of(bytes)),
                Cow::Owned(bytes) => Key::Escaped(bytes),
            };
            let inner = match (&key, self.path) {
                (Key::Plain(range), [first, rest @ ..]) if self.text.get(range.clone()) == Some(*first) => {
                    Some((range.end, rest))
                }
                _ => None,
            };
            let member = if let Some((key_end, path)) = inner {
                let colon = self.after(key_end + 1, b':')?;
                let begin = self.skip_space(colon);
                match map.next_value_seed(Level { text: self.text, begin, path })? {
                    Found::Object { members, end } => Member { key, value: begin..end, members: Some(members) },
                    Found::Other => return Err(A::Error::custom("not an object")),
                }
            } else {
                let value: &'de RawValue = map.next_value()?;
                Member { key, value: self.range_of(value.get().as_bytes()), members: None }
            };
            end = member.value.end;
            members.push(member);
        }
        let end = self.after(end, b'}')?;
        Ok(Found::Object { members, end })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Other)
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
            while let Some(KeyBytes(key)) = map.next_key()? {
                if *key == *b"id" {
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
