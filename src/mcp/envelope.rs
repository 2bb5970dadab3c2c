//! The strict JSON-RPC envelope: what one POST may hold.
//!
//! One message of JSON-RPC 2.0, no batch, within a size and a depth, no key twice in any object of it. Parameters stay
//! text: what was evaluated here is what is forwarded, byte for byte, so that no parser behind the gateway can read
//! another call out of it (CVE-2026-27896). Each broken rule has its own [`Malformed`] and its JSON-RPC code.
//!
//! All functions here are pure functions of bytes. They know nothing of HTTP, callers or backends.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::mcp::json::{self, RawMember};

/// Deepest nesting of a message. *Chosen*: the limit of the most common parsers behind the gateway (`serde_json`: 128),
/// so that what passes here can be read there.
pub const DEPTH_MAX: usize = 128;

/// Longest id, in bytes of its text. *Chosen*: a UUID has 38; the id is echoed and recorded.
pub const ID_BYTES_MAX: usize = 256;

/// Longest method, in bytes. *Chosen*: the longest of the protocol has 40.
pub const METHOD_BYTES_MAX: usize = 128;

/// Longest tool name as called, in bytes. *Derived*: the protocol's 128, and an alias with `__` before it.
pub const NAME_BYTES_MAX: usize = 256;

/// A rule of the envelope that a message broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Larger than the configured limit.
    #[error("the message is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// No UTF-8.
    #[error("the message is not UTF-8: byte {at}")]
    NotUtf8 {
        /// The first byte that is none.
        at: usize,
    },
    /// No JSON.
    #[error("the message is not JSON: line {line} column {column}")]
    NotJson {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// A batch.
    #[error("batches are not supported: one message a request")]
    Batch,
    /// JSON, but no object.
    #[error("the message is not a JSON object")]
    NotObject,
    /// Nested too deep.
    #[error("the message is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A key stands twice in one object.
    #[error("duplicate key {key:?}")]
    DuplicateKey {
        /// The key, bounded.
        key: String,
    },
    /// A key that differs from one of the protocol's by its case or underscores only: some parsers take it for that one.
    #[error("key {key:?} differs from {known:?} by its case or underscores only")]
    CaseVariant {
        /// The key, bounded.
        key: String,
        /// The protocol's.
        known: &'static str,
    },
    /// A key of the message or its parameters that is no text: most parsers refuse the whole message for it.
    #[error("key {key:?} holds a lone surrogate")]
    KeyNotText {
        /// The key, with U+FFFD for what is no character, bounded.
        key: String,
    },
    /// `jsonrpc` is missing or not `"2.0"`.
    #[error("jsonrpc must be \"2.0\"")]
    Version,
    /// The id is no string and no integer.
    #[error("id must be a string or an integer of at most {ID_BYTES_MAX} bytes")]
    Id,
    /// No method.
    #[error("method must be a string of 1 to {METHOD_BYTES_MAX} bytes")]
    Method,
    /// A response where nothing was asked.
    #[error("a response to no request of the gateway's")]
    Response,
    /// An id that is the id of another open request of the session.
    #[error("the id is that of another open request of this session")]
    IdInUse,
    /// `params` is no object.
    #[error("params must be an object")]
    Params,
    /// `params.name` of a call is missing or no string.
    #[error("params.name must be a string of 1 to {NAME_BYTES_MAX} bytes without controls")]
    ToolName,
    /// `params.arguments` of a call is no object.
    #[error("params.arguments must be an object")]
    Arguments,
    /// A request names no prompt, resource or completion, or not as text.
    #[error("params must name what they are about: name, uri, or ref with its type")]
    Subject,
    /// `params.requestState` is no string.
    #[error("params.requestState must be a string")]
    State,
    /// `params._meta` is no object.
    #[error("params._meta must be an object")]
    Meta,
}

impl Malformed {
    /// The JSON-RPC error code.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::NotUtf8 { .. } | Self::NotJson { .. } => crate::mcp::protocol::PARSE_ERROR,
            Self::Params | Self::ToolName | Self::Arguments | Self::Meta | Self::Subject | Self::State => {
                crate::mcp::protocol::INVALID_PARAMS
            }
            _ => crate::mcp::protocol::INVALID_REQUEST,
        }
    }
}

/// A request's id, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    fn new(value: &RawValue) -> Result<Self, Malformed> {
        let text = value.get();
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_id = text.len() <= ID_BYTES_MAX && (is_integer || json::raw_string(value).is_some());
        if is_id { Ok(Self(text.to_owned())) } else { Err(Malformed::Id) }
    }

    /// The id as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The id as it is recorded: a string without its quotes.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::from_str(&self.0).unwrap_or_else(|_| self.0.clone())
    }
}

/// One message that kept all rules.
#[derive(Debug)]
pub struct Message<'a> {
    /// The id; `None` for a notification.
    pub id: Option<Id>,
    /// The method.
    pub method: String,
    /// The parameters' text, an object.
    pub params: Option<&'a RawValue>,
}

/// The parameters of a `tools/call`.
#[derive(Debug)]
pub struct ToolCall<'a> {
    /// The tool as called.
    pub name: String,
    /// The arguments' text, an object.
    pub arguments: Option<&'a str>,
    /// The text of `_meta`, an object.
    pub meta: Option<&'a str>,
}

/// What could be read of a message that broke a rule: for its record and for the reply's id.
#[derive(Debug, Default)]
pub struct Hint {
    /// The id, where it is a valid one.
    pub id: Option<Id>,
    /// The method.
    pub method: Option<String>,
    /// `params.name`.
    pub name: Option<String>,
}

/// Reads one message.
///
/// # Errors
/// The first rule that the message broke.
pub fn parse(body: &[u8], bytes_max: usize) -> Result<Message<'_>, Malformed> {
    if body.len() > bytes_max {
        return Err(Malformed::TooLarge { limit: bytes_max }); // I6: the body is bounded.
    }
    let text = std::str::from_utf8(body).map_err(|err| Malformed::NotUtf8 { at: err.valid_up_to() })?;
    // Grammar first, without recursion; the checks below may then take it for granted.
    let whole: &RawValue =
        serde_json::from_str(text).map_err(|err| Malformed::NotJson { line: err.line(), column: err.column() })?;
    match whole.get().as_bytes().first() {
        Some(b'{') => {}
        Some(b'[') => return Err(Malformed::Batch),
        _ => return Err(Malformed::NotObject),
    }
    check_depth_and_keys(whole.get())?;
    let members = json::members(whole.get()).ok_or(Malformed::NotObject)?;
    let [jsonrpc, id, method, params, result, error] =
        known(&members, ["jsonrpc", "id", "method", "params", "result", "error"])?;
    if jsonrpc.and_then(json::raw_string).as_deref() != Some("2.0") {
        return Err(Malformed::Version);
    }
    let id = id.map(Id::new).transpose()?;
    if method.is_none() && (result.is_some() || error.is_some()) {
        return Err(Malformed::Response);
    }
    let method = method.and_then(json::raw_string).filter(|method| (1..=METHOD_BYTES_MAX).contains(&method.len()));
    let method = method.ok_or(Malformed::Method)?;
    if params.is_some_and(|params| !params.get().starts_with('{')) {
        return Err(Malformed::Params);
    }
    Ok(Message { id, method, params })
}

/// Reads the parameters of a `tools/call`.
///
/// # Errors
/// The first rule that they broke.
pub fn tool_call(params: Option<&RawValue>) -> Result<ToolCall<'_>, Malformed> {
    let members = params.and_then(|params| json::members(params.get())).ok_or(Malformed::ToolName)?;
    let [name, arguments, meta] = known(&members, ["name", "arguments", "_meta"])?;
    // No tool can have a control character in its name; whoever shows or compares it could be misled.
    let is_name = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control);
    let name = name.and_then(json::raw_string).filter(is_name).ok_or(Malformed::ToolName)?;
    let object = |value: Option<&'_ RawValue>| value.is_none_or(|value| value.get().starts_with('{'));
    if !object(arguments) {
        return Err(Malformed::Arguments);
    }
    if !object(meta) {
        return Err(Malformed::Meta);
    }
    Ok(ToolCall { name, arguments: arguments.map(RawValue::get), meta: meta.map(RawValue::get) })
}

/// The id that `value` is, if it is a valid one.
#[must_use]
pub fn id(value: &RawValue) -> Option<Id> {
    Id::new(value).ok()
}

/// The id of a response, where `body` keeps all rules and is one.
#[must_use]
pub fn response_id(body: &[u8], bytes_max: usize) -> Option<Id> {
    if parse(body, bytes_max).err()? != Malformed::Response {
        return None;
    }
    let members = json::members(std::str::from_utf8(body).ok()?)?;
    members.iter().find(|member| member.key == "id").and_then(|id| Id::new(id.value).ok())
}

/// Reads what can be read of any bytes. Of a key that stands twice the first one counts.
#[must_use]
pub fn hint(body: &[u8], bytes_max: usize) -> Hint {
    let text = if body.len() <= bytes_max { std::str::from_utf8(body).unwrap_or_default() } else { "" };
    let Some(members) = json::members(text) else {
        return Hint::default();
    };
    let first = |members: &[RawMember<'_>], key: &str, bytes: usize| {
        let found = members.iter().find(|member| member.key == key)?;
        json::raw_string(found.value).map(|text| text[..text.floor_char_boundary(bytes)].to_owned())
    };
    let params = members.iter().find(|member| member.key == "params");
    let params = params.and_then(|params| json::members(params.value.get())).unwrap_or_default();
    Hint {
        id: members.iter().find(|member| member.key == "id").and_then(|id| Id::new(id.value).ok()),
        method: first(&members, "method", METHOD_BYTES_MAX),
        name: first(&params, "name", NAME_BYTES_MAX),
    }
}

/// The values of the keys that the protocol knows; a variant of one in another spelling is refused.
pub(crate) fn known<'a, const N: usize>(
    members: &[RawMember<'a>],
    keys: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Malformed> {
    for member in members {
        if !member.is_text {
            return Err(Malformed::KeyNotText { key: bounded(&member.key) });
        }
        if let Some(known) = keys.iter().find(|key| member.key != **key && spelled_alike(&member.key, key)) {
            return Err(Malformed::CaseVariant { key: member.key.clone(), known });
        }
    }
    Ok(keys.map(|key| members.iter().find(|member| member.key == key).map(|member| member.value)))
}

/// Whether a lenient parser may take `a` for `b`: Go's takes any case, a pydantic model `request_state`.
fn spelled_alike(a: &str, b: &str) -> bool {
    let folded = |key: &str| key.replace('_', "").to_ascii_lowercase();
    a.len() <= 2 * b.len() && folded(a) == folded(b)
}

/// A key as an error shows it.
fn bounded(key: &str) -> String {
    key[..key.floor_char_boundary(64)].to_owned()
}

/// Checks the nesting, and every object for a key that it has twice. `json` is valid JSON.
fn check_depth_and_keys(json: &str) -> Result<(), Malformed> {
    /// One open array or object; of an object its keys so far.
    struct Open<'a> {
        keys: Option<Vec<Cow<'a, [u8]>>>,
        expects_key: bool,
    }
    let bytes = json.as_bytes();
    let mut stack: Vec<Open<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                if stack.len() == DEPTH_MAX {
                    return Err(Malformed::TooDeep { limit: DEPTH_MAX });
                }
                let is_object = byte == b'{';
                stack.push(Open { keys: is_object.then(Vec::new), expects_key: is_object });
            }
            b'}' | b']' => {
                if let Some(Open { keys: Some(keys), .. }) = stack.pop() {
                    check_keys(keys)?;
                }
            }
            b',' => {
                if let Some(open) = stack.last_mut() {
                    open.expects_key = open.keys.is_some();
                }
            }
            b'"' => {
                let end = string_end(bytes, at);
                if let Some(open) = stack.last_mut().filter(|open| open.expects_key) {
                    open.expects_key = false;
                    if let (Some(keys), Some(quoted)) = (open.keys.as_mut(), bytes.get(at..end)) {
                        keys.push(json::unescaped(quoted));
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Where the string that begins at `start` ends: the place after its closing quote.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'\\') => at += 2,
            Some(b'"') | None => return at + 1,
            Some(_) => at += 1,
        }
    }
}

fn check_keys(mut keys: Vec<Cow<'_, [u8]>>) -> Result<(), Malformed> {
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first()) {
        Some(key) => Err(Malformed::DuplicateKey { key: bounded(&String::from_utf8_lossy(key)) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 4096;

    fn rule(body: &str) -> Malformed {
        match parse(body.as_bytes(), MAX) {
            Err(rule) => rule,
            Ok(message) => tool_call(message.params).unwrap_err(),
        }
    }

    fn call(params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
    }

    #[test]
    fn a_call_keeps_its_arguments_byte_for_byte() {
        let arguments = "{ \"b\":  1.0, \"a\":\"\\ud800\\u0000\" }";
        let body = call(&format!(r#"{{"name":"echo","arguments":{arguments},"_meta":{{"progressToken":1}}}}"#));
        let message = parse(body.as_bytes(), MAX).unwrap();
        let call = tool_call(message.params).unwrap();
        assert_eq!((call.name.as_str(), call.arguments), ("echo", Some(arguments)));
        assert_eq!(call.meta, Some(r#"{"progressToken":1}"#));
    }

    #[test]
    fn every_broken_rule_is_named() {
        let deep = call(&format!(r#"{{"name":"a","arguments":{{"x":{}{}}}}}"#, "[".repeat(200), "]".repeat(200)));
        let cases: Vec<(String, Malformed)> = vec![
            ("{".into(), Malformed::NotJson { line: 1, column: 1 }),
            ("{} {}".into(), Malformed::NotJson { line: 1, column: 4 }),
            (format!("[{}]", call("{}")), Malformed::Batch),
            ("7".into(), Malformed::NotObject),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.into(), Malformed::Version),
            (r#"{"id":1,"method":"ping"}"#.into(), Malformed::Version),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.into(), Malformed::Id),
            (r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#.into(), Malformed::Id),
            (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#.into(), Malformed::Id),
            (r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#.into(), Malformed::Id),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#.into(), Malformed::Id),
            (r#"{"jsonrpc":"2.0","id":1}"#.into(), Malformed::Method),
            (r#"{"jsonrpc":"2.0","id":1,"method":""}"#.into(), Malformed::Method),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#.into(), Malformed::Method),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into(), Malformed::Response),
            (call("[]"), Malformed::Params),
            (call("null"), Malformed::Params),
            (call("{}"), Malformed::ToolName),
            (call(r#"{"name":""}"#), Malformed::ToolName),
            (call(r#"{"name":7}"#), Malformed::ToolName),
            (call(r#"{"name":"a","arguments":[]}"#), Malformed::Arguments),
            (call(r#"{"name":"a","arguments":null}"#), Malformed::Arguments),
            (call(r#"{"name":"a","arguments":"{}"}"#), Malformed::Arguments),
            (call(r#"{"name":"a","_meta":1}"#), Malformed::Meta),
            (deep, Malformed::TooDeep { limit: DEPTH_MAX }),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","\ud800":1}"#.into(),
                Malformed::KeyNotText { key: "\u{fffd}\u{fffd}\u{fffd}".into() },
            ),
            (call(r#"{"name":"a","x\udfff":1}"#), Malformed::KeyNotText { key: "x\u{fffd}\u{fffd}\u{fffd}".into() }),
        ];
        for (body, want) in cases {
            assert_eq!(rule(&body), want, "{body}");
        }
        assert_eq!(parse(b"{}", 1).unwrap_err(), Malformed::TooLarge { limit: 1 });
        assert_eq!(parse(b"{\"\xff\":1}", MAX).unwrap_err(), Malformed::NotUtf8 { at: 2 });
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_every_depth_and_in_every_spelling() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#.to_owned(),
            call(r#"{"name":"echo","name":"delete"}"#),
            call(r#"{"name":"echo","n\u0061me":"delete"}"#),
            call(r#"{"name":"echo","arguments":{"path":1,"path":2}}"#),
            call(r#"{"name":"echo","arguments":{"x":[{"y":{"a":1,"b":2,"a":3}}]}}"#),
            call(r#"{"name":"echo","arguments":{"\ud800":1,"\uD800":2}}"#),
        ] {
            assert!(matches!(rule(&body), Malformed::DuplicateKey { .. }), "{body}");
        }
        for body in [
            call(r#"{"name":"a","arguments":{"a":{"a":{"a":1}},"b":["a","a"],"c":"a\",\"a"}}"#),
            call(r#"{"name":"a","arguments":{"\ud800":1,"\ud801":2}}"#),
        ] {
            assert!(parse(body.as_bytes(), MAX).is_ok(), "{body}");
        }
    }

    #[test]
    fn a_known_key_in_another_spelling_is_refused() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#.to_owned(),
            call(r#"{"name":"echo","Name":"delete"}"#),
            call(r#"{"name":"echo","ARGUMENTS":{}}"#),
            call(r#"{"name":"echo","argu_ments":{}}"#),
        ] {
            assert!(matches!(rule(&body), Malformed::CaseVariant { .. }), "{body}");
        }
    }

    #[test]
    fn a_malformed_message_still_tells_what_it_asked_for() {
        let hint = hint(call(r#"{"name":"echo","name":"x","arguments":[]}"#).as_bytes(), MAX);
        assert_eq!(hint.id.unwrap().as_json(), "1");
        assert_eq!((hint.method.as_deref(), hint.name.as_deref()), (Some("tools/call"), Some("echo")));
        assert!(super::hint(b"[1", MAX).method.is_none());
    }

    #[test]
    fn ids_are_echoed_as_written() {
        for id in ["-1", "0", "99999999999999999999", r#""a\u0062""#] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            assert_eq!(parse(body.as_bytes(), MAX).unwrap().id.unwrap().as_json(), id);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&body, MAX));
            drop(hint(&body, MAX));
        }

        #[test]
        fn arbitrary_json_like_text_never_panics(body in r#"[\[\]{}:,"\\a0u d]{0,60}"#) {
            if let Ok(message) = parse(body.as_bytes(), MAX) {
                drop(tool_call(message.params));
            }
        }
    }
}
