//! What a request asks, and of which backend: the plan of every method that the gateway knows.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use crate::gateway::message::scope::Scope;
use crate::mcp::envelope::{self, Malformed, Message, NAME_BYTES_MAX};
use crate::mcp::json;
use crate::mcp::protocol::{Era, TOOLS_CALL};
use crate::rbac::{Target, TargetKind};
use crate::upstream::{Backend, List};

/// Longest URI, in bytes. *Chosen*: as common HTTP servers.
const URI_BYTES_MAX: usize = 8 * 1024;

/// Where a request stands in a trace, and what tracing systems add to that. *Spec*: W3C Trace Context.
pub(crate) const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Longest `tracestate` that passes, in bytes. *Spec*: W3C Trace Context 3.3.1.5, what one should pass at least.
const TRACESTATE_BYTES_MAX: usize = 512;

/// What is done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The gateway answers it by itself.
    Local,
    /// It opens a session.
    Initialize,
    /// It asks who serves here.
    Discover,
    /// It asks for a list.
    List(List),
    /// It is about one tool, resource or prompt.
    Targeted,
    /// It concerns all backends here.
    SetLevel,
    /// It asks to be told of changes.
    ServerMessageHandler,
    /// A method that the gateway does not know.
    Extension,
}

/// What one request is about.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: TargetKind,
    /// Its name or URI as the client wrote it.
    pub(crate) name: String,
    /// The member of the parameters that names it, by its path.
    at: &'static [&'static str],
    /// What is decided on and recorded, as JSON text.
    pub(crate) arguments: Option<String>,
    /// `requestState`, as the client sent it back.
    pub(crate) state: Option<String>,
}

/// What is done with a request of `method`.
pub(crate) fn plan(method: &str, era: Era) -> Plan {
    if let Some(list) = List::of_method(method) {
        return Plan::List(list);
    }
    match (method, era) {
        ("ping", Era::Legacy) => Plan::Local,
        ("initialize", Era::Legacy) => Plan::Initialize,
        ("server/discover", Era::Modern) => Plan::Discover,
        (TOOLS_CALL | "prompts/get" | "resources/read" | "completion/complete", _)
        | ("resources/subscribe" | "resources/unsubscribe", Era::Legacy) => Plan::Targeted,
        ("logging/setLevel", Era::Legacy) => Plan::SetLevel,
        ("subscriptions/listen", Era::Modern) => Plan::ServerMessageHandler,
        _ => Plan::Extension,
    }
}

/// Reads what a targeted request is about.
///
/// # Errors
/// The rule that its parameters broke.
pub(crate) fn subject(message: &Message<'_>) -> Result<Subject, Malformed> {
    let params = message.params;
    let members = params.and_then(|params| json::members(params.get())).unwrap_or_default();
    // In any other spelling it would reach the backend without having been bound.
    let [state] = envelope::known(&members, ["requestState"])?;
    let state = state.map(|state| json::raw_string(state).ok_or(Malformed::State)).transpose()?;
    if message.method == TOOLS_CALL {
        let call = envelope::tool_call(params)?;
        let arguments = call.arguments.map(str::to_owned);
        return Ok(Subject { kind: TargetKind::Tool, name: call.name, at: &["name"], arguments, state });
    }
    let arguments = without_meta(params);
    let name = |value: Option<&RawValue>, max: usize| {
        value.and_then(json::raw_string).filter(|name| (1..=max).contains(&name.len())).ok_or(Malformed::Subject)
    };
    let subject = |kind, name, at| Subject { kind, name, at, arguments, state };
    match message.method.as_str() {
        "prompts/get" => {
            let [value] = envelope::known(&members, ["name"])?;
            Ok(subject(TargetKind::Prompt, name(value, NAME_BYTES_MAX)?, &["name"]))
        }
        "completion/complete" => {
            let [reference] = envelope::known(&members, ["ref"])?;
            let reference = reference.and_then(|reference| json::members(reference.get())).unwrap_or_default();
            let [kind, title, uri] = envelope::known(&reference, ["type", "name", "uri"])?;
            match kind.and_then(json::raw_string).as_deref() {
                Some("ref/prompt") => Ok(subject(TargetKind::Prompt, name(title, NAME_BYTES_MAX)?, &["ref", "name"])),
                Some("ref/resource") => Ok(subject(TargetKind::Resource, name(uri, URI_BYTES_MAX)?, &["ref", "uri"])),
                _ => Err(Malformed::Subject),
            }
        }
        _ => {
            let [uri] = envelope::known(&members, ["uri"])?;
            Ok(subject(TargetKind::Resource, name(uri, URI_BYTES_MAX)?, &["uri"]))
        }
    }
}

impl Subject {
    /// The parameters as they are forwarded: as they came, but for a name that the gateway had given, and the state
    /// that it had bound.
    pub(crate) fn params(&self, message: &Message<'_>, target: Target<'_>, state: Option<&str>) -> String {
        let mut params = message.params.map_or("{}", RawValue::get).to_owned();
        if target.name != self.name {
            params = renamed(&params, self.at, &json::quoted(target.name));
        }
        if let Some(state) = state {
            params = json::replaced(&params, "requestState", &json::quoted(state));
        }
        params
    }

    /// What the record and the caller call it.
    pub(crate) fn what(&self) -> &'static str {
        match self.kind {
            TargetKind::Tool => "tool",
            TargetKind::Resource => "resource",
            TargetKind::Prompt => "prompt",
        }
    }
}

fn renamed(object: &str, at: &[&str], value: &str) -> String {
    let Some((first, rest)) = at.split_first() else { return value.to_owned() };
    let members = json::members(object).unwrap_or_default();
    let inner = members.iter().find(|member| member.key == *first).map_or("{}", |member| member.value.get());
    json::replaced(object, first, &renamed(inner, rest, value))
}

fn without_meta(params: Option<&RawValue>) -> Option<String> {
    let members = json::members(params?.get())?;
    let kept = members.iter().filter(|member| member.key != "_meta");
    Some(json::object(kept.map(|member| (member.key.as_str(), member.value.get()))))
}

/// The client's headers that go on to an HTTP backend: those that a modern one compares with the body, and where the
/// request stands in a trace.
pub(crate) fn passed_headers(headers: &HeaderMap) -> HeaderMap {
    let of_params = headers.iter().filter(|(name, _)| name.as_str().starts_with("mcp-param-"));
    let mut passed: HeaderMap = of_params.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(parent) = traceparent(headers) {
        passed.insert(TRACEPARENT, parent.clone());
        let state = only_one(headers, TRACESTATE).filter(|state| state.len() <= TRACESTATE_BYTES_MAX);
        passed.extend(state.map(|state| (HeaderName::from_static(TRACESTATE), state.clone())));
    }
    passed
}

/// The client's `traceparent`, where it is one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<&HeaderValue> {
    only_one(headers, TRACEPARENT).filter(|parent| is_traceparent(parent.as_bytes()))
}

fn only_one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// Whether this is a `traceparent` of version 00: version, trace id, span id and flags in lower-case hexadecimal digits,
/// the ids not zero. Those of later versions are not passed, since what they mean is not known.
pub(crate) fn is_traceparent(text: &[u8]) -> bool {
    let parts: Vec<&[u8]> = text.split(|byte| *byte == b'-').collect();
    let hex = |part: &[u8], length: usize| {
        part.len() == length && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &[u8], length| hex(part, length) && part.iter().any(|byte| *byte != b'0');
    matches!(parts[..], [version, trace, span, flags] if version == b"00" && id(trace, 32) && id(span, 16) && hex(flags, 2))
}

/// Whether `template`, as a backend lists it, can stand for `uri`: an expression in braces stands for anything.
pub(crate) fn template_fits(template: &str, uri: &str) -> bool {
    let mut rest = uri;
    let mut parts = template.split('{');
    let Some(literal) = parts.next() else { return false };
    let Some(tail) = rest.strip_prefix(literal) else { return false };
    rest = tail;
    let literals: Vec<&str> = parts.map(|part| part.split_once('}').map_or("", |(_, literal)| literal)).collect();
    let Some((last, inner)) = literals.split_last() else { return rest.is_empty() };
    for literal in inner {
        let Some(at) = rest.find(literal) else { return false };
        rest = rest.get(at + literal.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// The backend at a place whose tools, prompts or resources are named as they are.
pub(crate) fn only<'a>(
    scope: &Scope,
    backends: impl Iterator<Item = &'a std::sync::Arc<Backend>>,
) -> Option<&'a std::sync::Arc<Backend>> {
    let alias = scope.backend()?;
    backends.into_iter().find(|backend| backend.alias() == alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, params: &str) -> Result<(Subject, String), Malformed> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let message = envelope::parse(body.as_bytes(), 4096).unwrap();
        let subject = subject(&message)?;
        let target = Target { kind: subject.kind, backend: "b", name: "new" };
        let params = subject.params(&message, target, Some("s"));
        Ok((subject, params))
    }

    #[test]
    fn what_is_forwarded_differs_in_the_name_and_the_state_only() {
        let (call, params) = read(
            "tools/call",
            r#"{ "x": 1.0, "name":"b__old", "arguments":{ "a" : 1 },"requestState":"t","_meta":{"y":[ ]}}"#,
        )
        .unwrap();
        assert_eq!((call.kind, call.name.as_str(), call.state.as_deref()), (TargetKind::Tool, "b__old", Some("t")));
        assert_eq!(
            params,
            r#"{ "x": 1.0, "name":"new", "arguments":{ "a" : 1 },"requestState":"s","_meta":{"y":[ ]}}"#
        );
        let (complete, params) =
            read("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"b__p"},"argument":{"n":1}}"#).unwrap();
        assert_eq!((complete.kind, complete.what()), (TargetKind::Prompt, "prompt"));
        assert_eq!(params, r#"{"ref":{"type":"ref/prompt","name":"new"},"argument":{"n":1}}"#);
    }

    #[test]
    fn a_request_that_names_nothing_is_malformed() {
        for (method, params) in [
            ("prompts/get", r#"{"name":""}"#),
            ("prompts/get", r#"{"Name":"x"}"#),
            ("resources/read", r#"{"uri":7}"#),
            ("resources/read", r#"{"uri":"a:b","URI":"c:d"}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/other","name":"x"}}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/resource","Uri":"x"}}"#),
            ("tools/call", r#"{"name":"x","requestState":7}"#),
            ("tools/call", r#"{"name":"x","RequestState":"s"}"#),
            ("prompts/get", r#"{"name":"x","request_state":"s"}"#),
        ] {
            assert!(read(method, params).is_err(), "{method} {params}");
        }
    }

    #[test]
    fn templates_stand_for_what_they_can_become() {
        for (template, uri, fits) in [
            ("test://t/{id}/data", "test://t/7/data", true),
            ("test://t/{id}/data", "test://t/7/date", false),
            ("a:{x}/{y}", "a:1/2", true),
            ("a:{x}/{y}", "a:12", false),
            ("a:b", "a:b", true),
            ("a:b", "a:bc", false),
            ("file:///{+path}", "file:///x/y", true),
        ] {
            assert_eq!(template_fits(template, uri), fits, "{template} {uri}");
        }
    }
}
