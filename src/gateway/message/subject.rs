//! The tool, resource or prompt that a request names, and its parameters.

use std::borrow::Cow;

use crate::mcp::envelope::{self, Malformed, Message, NAME_BYTES_MAX};
use crate::mcp::json::{self, Object};
use crate::mcp::methods::TargetMember;
use crate::mcp::shared_text::SharedText;
use crate::rbac::{Target, TargetKind};

/// The longest URI, in bytes. *Chosen*: the limit of common HTTP servers.
const URI_BYTES_MAX: usize = 8 * 1024;

/// The tool, resource or prompt that a request names.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: TargetKind,
    /// The name or URI as the client wrote it.
    pub(crate) name: String,
    /// The arguments, for the decision and the record, as JSON text.
    pub(crate) arguments: Option<SharedText>,
    /// `requestState`, as the client sent it back.
    pub(crate) state: Option<String>,
    /// The path of the member of `params` that has the name or URI.
    path: &'static [&'static str],
}

impl Subject {
    /// Reads the subject of `message`, whose text is `body`, from the `member` of its parameters.
    ///
    /// # Errors
    /// The rule that the parameters break.
    pub(crate) fn read(message: &Message<'_>, body: &SharedText, member: TargetMember) -> Result<Self, Malformed> {
        let params = message.params().unwrap_or_default();
        // With another spelling of the key, the state would reach the backend without the check of its caller.
        let [state] = envelope::known(&params, ["requestState"])?;
        let state = state.map(|state| json::string(state).ok_or(Malformed::State)).transpose()?;
        let (kind, name, path): (_, _, &[&str]) = match member {
            TargetMember::ToolName => {
                let call = envelope::tool_call(Some(&params))?;
                let arguments = call.arguments.map(|arguments| body.part(arguments));
                return Ok(Self { kind: TargetKind::Tool, name: call.name, arguments, state, path: &["name"] });
            }
            TargetMember::PromptName => (TargetKind::Prompt, name(&params, "name", NAME_BYTES_MAX)?, &["name"]),
            TargetMember::ResourceUri => (TargetKind::Resource, name(&params, "uri", URI_BYTES_MAX)?, &["uri"]),
            TargetMember::Reference => {
                envelope::known(&params, ["ref"])?;
                let reference = params.object("ref").unwrap_or_default();
                envelope::known(&reference, ["type", "name", "uri"])?;
                match reference.string("type").as_deref() {
                    Some("ref/prompt") => {
                        (TargetKind::Prompt, name(&reference, "name", NAME_BYTES_MAX)?, &["ref", "name"])
                    }
                    Some("ref/resource") => {
                        (TargetKind::Resource, name(&reference, "uri", URI_BYTES_MAX)?, &["ref", "uri"])
                    }
                    _ => return Err(Malformed::Subject),
                }
            }
        };
        let arguments = message.params().map(|params| match params.without(|key| key == "_meta") {
            Cow::Borrowed(text) => body.part(text),
            Cow::Owned(text) => body.derived(text),
        });
        Ok(Self { kind, name, arguments, state, path })
    }

    /// The parameters to forward, as JSON text: those of `message`, with the backend's own name of the target, the
    /// backend's own `state`, and `traceparent` in `_meta`.
    pub(crate) fn params(
        &self,
        message: &Message<'_>,
        body: &SharedText,
        target: Target<'_>,
        state: Option<&str>,
        traceparent: Option<String>,
    ) -> SharedText {
        let params = message.params().unwrap_or_default();
        // The gateway's own state, without one of the backend, is not for the backend.
        let kept = params.without(|key| key == "requestState" && state.is_none());
        let is_whole = kept.len() == params.text().len();
        let params = Object::parse(&kept).unwrap_or_default();
        let mut changed: Vec<(&str, Cow<'_, str>)> = Vec::new();
        if target.name != self.name {
            let name = json::quoted(target.name);
            match self.path {
                [first, second, ..] => {
                    let inner = params.object(first).unwrap_or_default();
                    changed.push((first, inner.replaced(second, &name).into()));
                }
                path => changed.extend(path.first().map(|key| (*key, name.into()))),
            }
        }
        changed.extend(state.map(|state| ("requestState", json::quoted(state).into())));
        changed.extend(traceparent.map(|parent| {
            let meta = params.object("_meta").unwrap_or_default();
            ("_meta", meta.with(&[(super::trace_headers::TRACEPARENT, &json::quoted(&parent))]).into())
        }));
        if changed.is_empty() && is_whole {
            return message.params_text().map_or_else(|| "{}".to_owned().into(), |params| body.part(params));
        }
        let changed: Vec<(&str, &str)> = changed.iter().map(|(key, value)| (*key, value.as_ref())).collect();
        body.derived(params.with(&changed))
    }

    /// The name of the subject's kind, for messages.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            TargetKind::Tool => "tool",
            TargetKind::Resource => "resource",
            TargetKind::Prompt => "prompt",
        }
    }
}

/// The string of 1 to `max` bytes that is the member `key`.
fn name(object: &Object<'_>, key: &'static str, max: usize) -> Result<String, Malformed> {
    let [name] = envelope::known(object, [key])?;
    name.and_then(json::string).filter(|name| (1..=max).contains(&name.len())).ok_or(Malformed::Subject)
}

#[cfg(test)]
mod tests {
    use crate::mcp::methods::{self, MethodKind};

    use super::*;

    fn read(method: &str, params: &str) -> Result<(Subject, SharedText), Malformed> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let body = SharedText::new(body);
        let message = envelope::parse_text(&body).unwrap().message().unwrap();
        let MethodKind::Targeted(member) = methods::find(method).unwrap().kind else { panic!() };
        let subject = Subject::read(&message, &body, member)?;
        let target = Target { kind: subject.kind, backend: "b", name: "new" };
        let params = subject.params(&message, &body, target, Some("s"), None);
        Ok((subject, params))
    }

    #[test]
    fn forwarded_parameters_differ_only_in_the_name_and_the_state() {
        let (call, params) = read(
            "tools/call",
            r#"{ "x": 1.0, "name":"b__old", "arguments":{ "a" : 1 },"requestState":"t","_meta":{"y":[ ]}}"#,
        )
        .unwrap();
        assert_eq!((call.kind, call.name.as_str(), call.state.as_deref()), (TargetKind::Tool, "b__old", Some("t")));
        assert_eq!(
            &*params,
            r#"{ "x": 1.0, "name":"new", "arguments":{ "a" : 1 },"requestState":"s","_meta":{"y":[ ]}}"#
        );
        let (complete, params) = read(
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"b__p"},"argument":{"n":1},"requestState":"t"}"#,
        )
        .unwrap();
        assert_eq!((complete.kind, complete.kind_name()), (TargetKind::Prompt, "prompt"));
        assert_eq!(&*params, r#"{"ref":{"type":"ref/prompt","name":"new"},"argument":{"n":1},"requestState":"s"}"#);
    }

    #[test]
    fn span_of_the_call_is_added_to_meta() {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"a": 1}}}"#;
        let body = SharedText::new(body.to_owned());
        let message = envelope::parse_text(&body).unwrap().message().unwrap();
        let subject = Subject::read(&message, &body, TargetMember::ToolName).unwrap();
        let params = subject.params(&message, &body, Target::tool("b", "t"), None, Some("00-x".to_owned()));
        assert_eq!(&*params, r#"{"name":"t","_meta":{"traceparent":"00-x","a": 1}}"#);
    }

    #[test]
    fn request_without_a_subject_is_malformed() {
        for (method, params) in [
            ("prompts/get", r#"{"name":""}"#),
            ("prompts/get", r#"{"Name":"x"}"#),
            ("resources/read", r#"{"uri":7}"#),
            ("resources/read", r#"{"uri":"a:b","URI":"c:d"}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/other","name":"x"}}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/resource","Uri":"x"}}"#),
            ("completion/complete", r#"{"Ref":{"type":"ref/resource","uri":"x"}}"#),
            ("tools/call", r#"{"name":"x","requestState":7}"#),
            ("tools/call", r#"{"name":"x","RequestState":"s"}"#),
            ("prompts/get", r#"{"name":"x","request_state":"s"}"#),
        ] {
            assert!(read(method, params).is_err(), "{method} {params}");
        }
    }
}
