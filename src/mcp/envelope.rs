//! The strict JSON-RPC envelope: one message per POST or line.
//!
//! A message is one JSON-RPC 2.0 object, not a batch, within a size and a depth limit, without repeated keys in any of
//! its objects. Parameters stay text: the bytes that were authorized are the bytes that are forwarded, so that a more
//! lenient parser in a backend cannot read a different call from them (CVE-2026-27896). Each rule has its own variant
//! of [`Malformed`], with a JSON-RPC code.
//!
//! The functions of this module are pure: they do not depend on HTTP, callers or backends.

use std::borrow::Cow;

use crate::mcp::fold::folded;
use crate::mcp::json::{self, Object};

/// The deepest nesting of a message. *Chosen*: the limit of common parsers in backends (`serde_json`: 128), so that
/// they can read every message that passes.
pub const DEPTH_MAX: usize = 128;

/// The longest id, in bytes of JSON text. *Chosen*: a quoted UUID has 38; the id is echoed and recorded.
pub const ID_BYTES_MAX: usize = 256;

/// The longest method, in bytes. *Chosen*: the protocol's longest has 40.
pub const METHOD_BYTES_MAX: usize = 128;

/// The longest tool name in a call, in bytes. *Derived*: the protocol's 128, plus an alias and `__`, rounded
/// up.
pub const NAME_BYTES_MAX: usize = 256;

/// Most members of a message, of `params` and of `params._meta`. *Chosen*: the protocol has at most ten in each. Their
/// positions are kept for as long as the message, and take more memory than short members themselves.
pub const MEMBERS_MAX: usize = 256;

/// The longest value of a key of the protocol in `_meta`, in bytes. *Chosen*: real values are below 1 KiB; the
/// capabilities of a client may have a few extensions.
pub const META_BYTES_MAX: usize = 16 * 1024;

/// The rule of the envelope that a message breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Larger than the configured limit.
    #[error("the message is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the message is not UTF-8: byte {at}")]
    NotUtf8 {
        /// The position of the first invalid byte.
        at: usize,
    },
    /// Not JSON.
    #[error("the message is not JSON: line {line} column {column}")]
    NotJson {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// A batch.
    #[error("batches are not supported; send one message per request")]
    Batch,
    /// JSON, but not an object.
    #[error("the message is not a JSON object")]
    NotObject,
    /// Nested too deeply.
    #[error("the message is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The message, `params` or `params._meta` has too many members.
    #[error("the message, params or params._meta has more than {limit} members")]
    TooManyMembers {
        /// The limit.
        limit: usize,
    },
    /// A key is repeated in an object.
    #[error("duplicate key {key:?}")]
    DuplicateKey {
        /// The key, at most 64 bytes of it.
        key: String,
    },
    /// A key that a lenient decoder may take for a key of the protocol: both fold to the same text.
    #[error("key \"{}\" is spelled almost like {known:?}, and some decoders take one for the other", key.escape_default())]
    CaseVariant {
        /// The key, at most 64 bytes of it.
        key: String,
        /// The protocol's key.
        known: &'static str,
    },
    /// A key of the message or of its parameters has a lone surrogate. Most parsers refuse such a message.
    #[error("key {key:?} has a lone surrogate")]
    KeyNotText {
        /// The key, at most 64 bytes of it, with U+FFFD for the surrogate.
        key: String,
    },
    /// `jsonrpc` is missing or not `"2.0"`.
    #[error("jsonrpc must be \"2.0\"")]
    Version,
    /// The id is neither a string nor an integer, or it is too long.
    #[error("id must be a string or an integer of at most {ID_BYTES_MAX} bytes")]
    Id,
    /// The method is missing, empty, too long or not a string.
    #[error("method must be a string of 1 to {METHOD_BYTES_MAX} bytes")]
    Method,
    /// A response without a session. Only in a session can a backend have sent a request.
    #[error("the response does not match a request of the gateway")]
    Response,
    /// A response with both a result and an error.
    #[error("a response has either a result or an error")]
    Result,
    /// The id of another open request of the session.
    #[error("another open request of this session has this id")]
    IdInUse,
    /// `params` is not an object.
    #[error("params must be an object")]
    Params,
    /// `params.name` of a call is missing or not a tool's name.
    #[error("params.name must be a string of 1 to {NAME_BYTES_MAX} bytes without control characters")]
    ToolName,
    /// `params.arguments` of a call is not an object.
    #[error("params.arguments must be an object")]
    Arguments,
    /// A member of the parameters that the method does not have.
    #[error("{place} has an unknown member \"{}\"{}", key.escape_default(), likeness(*known))]
    UnknownMember {
        /// The object: `params`, or a member of it.
        place: &'static str,
        /// The key, at most 64 bytes of it.
        key: String,
        /// The protocol's key that a lenient decoder may take it for.
        known: Option<&'static str>,
    },
    /// A member of the parameters has a value of another type.
    #[error("{place}.{key} must be {expected}")]
    MemberType {
        /// The object: `params`, or `params._meta`.
        place: &'static str,
        /// The protocol's key.
        key: &'static str,
        /// The type, with its article.
        expected: &'static str,
    },
    /// A key of the protocol in `params._meta` has a value that is too long.
    #[error("params._meta.{key} is longer than {META_BYTES_MAX} bytes")]
    MetaTooLong {
        /// The key.
        key: &'static str,
    },
    /// A request does not name its prompt or resource with a string.
    #[error("params must name a prompt or resource: name, uri, or ref with its type")]
    Subject,
    /// `params.requestState` is not a string.
    #[error("params.requestState must be a string")]
    State,
    /// `params._meta` is not an object.
    #[error("params._meta must be an object")]
    Meta,
}

impl Malformed {
    /// The JSON-RPC error code.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::NotUtf8 { .. } | Self::NotJson { .. } => crate::mcp::protocol::PARSE_ERROR,
            Self::Params
            | Self::ToolName
            | Self::Arguments
            | Self::Meta
            | Self::Subject
            | Self::State
            | Self::UnknownMember { .. }
            | Self::MemberType { .. }
            | Self::MetaTooLong { .. } => crate::mcp::protocol::INVALID_PARAMS,
            _ => crate::mcp::protocol::INVALID_REQUEST,
        }
    }
}

/// The remark about an unknown key that resembles a known one.
fn likeness(known: Option<&str>) -> String {
    known.map_or_else(String::new, |known| {
        format!(", which is spelled almost like \"{known}\": some decoders take one for the other")
    })
}

/// A request's id, as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    /// Makes an id from its JSON text.
    ///
    /// # Errors
    /// [`Malformed::Id`]: it is neither a string nor an integer, or it is too long.
    pub fn new(json: &str) -> Result<Self, Malformed> {
        let digits = json.strip_prefix('-').unwrap_or(json);
        let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_id = json.len() <= ID_BYTES_MAX && (is_integer || json::string(json).is_some());
        if is_id { Ok(Self(json.to_owned())) } else { Err(Malformed::Id) }
    }

    /// The id as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The id as it is recorded: a string without its quotes.
    #[must_use]
    pub fn to_text(&self) -> String {
        json::string(&self.0).unwrap_or_else(|| self.0.clone())
    }
}

/// One valid message of a client.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A request or a notification.
    Message(Message<'a>),
    /// A response to a request of a backend.
    Response(ClientResponse<'a>),
}

/// A valid request or notification. Its members, those of `params` and those of `params._meta` were read in one pass.
#[derive(Debug)]
pub struct Message<'a> {
    /// The id; `None` for a notification.
    pub id: Option<Id>,
    /// The method, 1 to [`METHOD_BYTES_MAX`] bytes.
    pub method: String,
    whole: Object<'a>,
}

/// A valid response.
#[derive(Debug)]
pub struct ClientResponse<'a> {
    /// The id of the answered request, if the response has one.
    pub id: Option<Id>,
    /// The whole message.
    pub object: Object<'a>,
}

/// The parts that can be read of a message that breaks a rule, for its record and for the id of its reply.
#[derive(Debug, Default)]
pub struct Hint {
    /// The id, if it is valid.
    pub id: Option<Id>,
    /// The method, at most [`METHOD_BYTES_MAX`] bytes of it.
    pub method: Option<String>,
    /// `params.name`, at most [`NAME_BYTES_MAX`] bytes of it.
    pub name: Option<String>,
}

impl Message<'_> {
    /// The parameters.
    #[must_use]
    pub fn params(&self) -> Option<Object<'_>> {
        self.whole.object("params")
    }

    /// The parameters' JSON text. `null` stands for none, as for every optional member.
    #[must_use]
    pub fn params_text(&self) -> Option<&str> {
        self.whole.get("params").filter(|params| *params != "null")
    }
}

impl<'a> Incoming<'a> {
    /// The request or notification.
    ///
    /// # Errors
    /// [`Malformed::Response`]: it is a response.
    pub fn message(self) -> Result<Message<'a>, Malformed> {
        match self {
            Self::Message(message) => Ok(message),
            Self::Response(_) => Err(Malformed::Response),
        }
    }
}

/// Reads one message of at most `bytes_max` bytes.
///
/// # Errors
/// The first rule that the message breaks.
pub fn parse(body: &[u8], bytes_max: usize) -> Result<Incoming<'_>, Malformed> {
    if body.len() > bytes_max {
        return Err(Malformed::TooLarge { limit: bytes_max }); // I6: the body is bounded.
    }
    parse_text(std::str::from_utf8(body).map_err(|err| Malformed::NotUtf8 { at: err.valid_up_to() })?)
}

/// Reads one message.
///
/// # Errors
/// The first rule that the message breaks.
pub fn parse_text(text: &str) -> Result<Incoming<'_>, Malformed> {
    // The grammar is checked first, without recursion: the check of depth and keys depends on it.
    let whole = Object::parse_path(text, &["params", "_meta"]).ok_or_else(|| not_an_object(text))?;
    check_member_counts(&whole)?;
    check_depth_and_keys(whole.text())?;
    let [jsonrpc, id, method, params, result, error] =
        known(&whole, ["jsonrpc", "id", "method", "params", "result", "error"])?;
    if jsonrpc.and_then(json::string).as_deref() != Some("2.0") {
        return Err(Malformed::Version);
    }
    let id = id.map(Id::new).transpose()?;
    if method.is_none() && (result.is_some() || error.is_some()) {
        return Ok(Incoming::Response(ClientResponse { id, object: whole }));
    }
    let method = method.and_then(json::string).filter(|method| (1..=METHOD_BYTES_MAX).contains(&method.len()));
    let method = method.ok_or(Malformed::Method)?;
    if params.is_some_and(|params| params != "null" && !json::is_object(params)) {
        return Err(Malformed::Params);
    }
    Ok(Incoming::Message(Message { id, method, whole }))
}

/// The reason why `text` is not a JSON object.
fn not_an_object(text: &str) -> Malformed {
    if let Err(err) = serde_json::from_str::<&serde_json::value::RawValue>(text) {
        return Malformed::NotJson { line: err.line(), column: err.column() };
    }
    if text.trim_start().starts_with('[') { Malformed::Batch } else { Malformed::NotObject }
}

/// Reads the parts that can be read of any bytes: of a whole body, or of the beginning of one. Of repeated keys, the
/// first counts.
#[must_use]
pub fn hint(body: &[u8], is_whole: bool) -> Hint {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) if !is_whole && error.error_len().is_none() => {
            // The beginning ends within a character.
            body.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or_default()
        }
        Err(_) => "",
    };
    let closed = if is_whole { Cow::Borrowed(text) } else { Cow::Owned(closed(text)) };
    let Some(whole) = Object::parse_path(&closed, &["params"]) else { return Hint::default() };
    let cut = |text: String, bytes: usize| text[..text.floor_char_boundary(bytes)].to_owned();
    Hint {
        id: whole.get("id").and_then(|id| Id::new(id).ok()),
        method: whole.string("method").map(|method| cut(method, METHOD_BYTES_MAX)),
        name: whole.object("params").and_then(|params| params.string("name")).map(|name| cut(name, NAME_BYTES_MAX)),
    }
}

/// The members that are whole in `beginning`, the beginning of a JSON text: without the last, unfinished member of each
/// open array or object, and with the brackets that close them.
fn closed(beginning: &str) -> String {
    let bytes = beginning.as_bytes();
    // The brackets that close what is open at `end`, which is the end of the last whole member.
    let (mut open, mut end, mut at) = (Vec::new(), 0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                open.push(if byte == b'{' { '}' } else { ']' });
                end = at + 1;
            }
            b'}' | b']' => {
                open.pop();
                end = at + 1;
            }
            b',' => end = at,
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    let mut closed = beginning.get(..end).unwrap_or_default().to_owned();
    closed.extend(open.into_iter().rev());
    closed
}

/// The values of the protocol's `keys` in `object`, as JSON text.
///
/// # Errors
/// [`Malformed::CaseVariant`] for another spelling of one of `keys`, [`Malformed::KeyNotText`] for a key with a lone
/// surrogate.
fn known<'a, const N: usize>(
    object: &'a Object<'_>,
    keys: [&'static str; N],
) -> Result<[Option<&'a str>; N], Malformed> {
    for member in object.members() {
        if !member.is_text {
            return Err(Malformed::KeyNotText { key: bounded(&member.key) });
        }
        if let Some(known) = keys.iter().find(|key| member.key != **key && folded(&member.key) == folded(key)) {
            return Err(Malformed::CaseVariant { key: member.key.into_owned(), known });
        }
    }
    Ok(keys.map(|key| object.get(key)))
}

/// The part of a key that an error shows.
pub(crate) fn bounded(key: &str) -> String {
    key[..key.floor_char_boundary(64)].to_owned()
}

/// Checks that the objects whose members are kept have few of them.
fn check_member_counts(whole: &Object<'_>) -> Result<(), Malformed> {
    let params = whole.object("params");
    let meta = params.as_ref().and_then(|params| params.object("_meta"));
    let counts = [Some(whole), params.as_ref(), meta.as_ref()].into_iter().flatten().map(Object::len);
    // I6: the members that are kept in memory are bounded.
    match counts.max() {
        Some(count) if count > MEMBERS_MAX => Err(Malformed::TooManyMembers { limit: MEMBERS_MAX }),
        _ => Ok(()),
    }
}

/// Checks the depth of the nesting and that no object repeats a key. `json` is valid JSON.
fn check_depth_and_keys(json: &str) -> Result<(), Malformed> {
    /// An array or object that has not ended; for an object, its keys so far.
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

/// The position after the closing quote of the string that begins at `start`.
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
    use crate::mcp::methods;
    use crate::mcp::params::{ParamRules, Params};
    use crate::mcp::protocol::Era;
    use crate::mcp::shared_text::SharedText;

    const MAX: usize = 4096;

    fn rule(body: &str) -> Malformed {
        match parse(body.as_bytes(), MAX) {
            Err(rule) => rule,
            Ok(incoming) => match incoming.message() {
                Err(rule) => rule,
                Ok(message) => {
                    let rules = ParamRules::of_request(methods::find("tools/call"), Era::Modern, "tools/call", &[]);
                    Params::read(&message, &SharedText::default(), &rules).unwrap_err()
                }
            },
        }
    }

    fn call(params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
    }

    #[test]
    fn a_call_keeps_its_arguments_byte_for_byte() {
        let arguments = "{ \"b\":  1.0, \"a\":\"\\ud800\\u0000\" }";
        let body = call(&format!(r#"{{"name":"echo","arguments":{arguments},"_meta":{{"progressToken":1}}}}"#));
        let message = parse(body.as_bytes(), MAX).unwrap().message().unwrap();
        let params = message.params().unwrap();
        assert_eq!((params.string("name").as_deref(), params.get("arguments")), (Some("echo"), Some(arguments)));
        assert_eq!(params.get("_meta"), Some(r#"{"progressToken":1}"#));
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
            (call("7"), Malformed::Params),
            (call(r#"{"name":7}"#), Malformed::MemberType { place: "params", key: "name", expected: "a string" }),
            (call(r#"{"name":"a","arguments":[]}"#), Malformed::Arguments),
            (call(r#"{"name":"a","requestState":7}"#), Malformed::State),
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
    fn beginning_of_a_message_shows_its_whole_members() {
        let body = "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"arguments\":{\"x\":[\"\u{e9}]},";
        let found = |end: usize| {
            let hint = hint(&body.as_bytes()[..end], false);
            (hint.id.is_some(), hint.method.is_some(), hint.name.is_some())
        };
        let after = |text: &str| body.find(text).unwrap() + text.len();
        assert_eq!(found(after("\"id\":7")), (false, false, false));
        assert_eq!(found(after("\"id\":7,")), (true, false, false));
        assert_eq!(found(after("tools/call\",")), (true, true, false));
        assert_eq!(found(after("\"params\":{\"name\":\"a\"")), (true, true, false));
        for end in after("\"name\":\"a\",")..body.len() {
            assert_eq!(found(end), (true, true, true), "{}", String::from_utf8_lossy(&body.as_bytes()[..end]));
        }
        assert!(hint(body.as_bytes(), true).method.is_none(), "a whole body must be valid");
    }

    #[test]
    fn i6_members_that_are_kept_are_bounded() {
        let many = |count: usize| (0..count).map(|idx| format!(",\"k{idx}\":1")).collect::<Vec<_>>().concat();
        for (body, is_refused) in [
            (call(&format!(r#"{{"name":"a"{}}}"#, many(MEMBERS_MAX - 1))), false),
            (call(&format!(r#"{{"name":"a"{}}}"#, many(MEMBERS_MAX))), true),
            (call(&format!(r#"{{"name":"a","_meta":{{"k":1{}}}}}"#, many(MEMBERS_MAX))), true),
            (format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"{}}}"#, many(MEMBERS_MAX)), true),
            (call(&format!(r#"{{"name":"a","arguments":{{"k":1{}}}}}"#, many(2 * MEMBERS_MAX))), false),
        ] {
            let refused = parse(body.as_bytes(), 1 << 20).err();
            assert_eq!(refused, is_refused.then_some(Malformed::TooManyMembers { limit: MEMBERS_MAX }), "{body}");
        }
    }

    #[test]
    fn repeated_keys_are_refused_at_every_depth_and_in_every_spelling() {
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
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","param\u017f":{}}"#.to_owned(),
        ] {
            assert!(matches!(rule(&body), Malformed::CaseVariant { .. }), "{body}");
        }
        for body in [
            call(r#"{"name":"echo","Name":"delete"}"#),
            call(r#"{"name":"echo","ARGUMENTS":{}}"#),
            call(r#"{"name":"echo","argu_ments":{}}"#),
            call(r#"{"name":"echo","argument\u017f":{}}"#),
            call("{\"name\":\"echo\",\"argument\u{17f}\":{}}"),
            call("{\"name\":\"echo\",\"\u{ff4e}ame\":\"delete\"}"),
            call(r#"{"name":"echo","meta":{}}"#),
        ] {
            assert!(matches!(rule(&body), Malformed::UnknownMember { known: Some(_), .. }), "{body}");
        }
    }

    #[test]
    fn malformed_message_still_has_a_hint() {
        let hint = hint(call(r#"{"name":"echo","name":"x","arguments":[]}"#).as_bytes(), true);
        assert_eq!(hint.id.unwrap().as_json(), "1");
        assert_eq!((hint.method.as_deref(), hint.name.as_deref()), (Some("tools/call"), Some("echo")));
        assert!(super::hint(b"[1", true).method.is_none());
    }

    #[test]
    fn ids_are_echoed_as_written() {
        for id in ["-1", "0", "99999999999999999999", r#""a\u0062""#] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            assert_eq!(parse(body.as_bytes(), MAX).unwrap().message().unwrap().id.unwrap().as_json(), id);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&body, MAX));
            drop((hint(&body, true), hint(&body, false)));
        }

        #[test]
        fn arbitrary_json_like_text_never_panics(body in r#"[\[\]{}:,"\\a0u d]{0,60}"#) {
            if let Ok(message) = parse(body.as_bytes(), MAX).and_then(Incoming::message) {
                drop(message.params());
            }
        }
    }
}
