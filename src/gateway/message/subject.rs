//! The tool, resource or prompt that a request names, and its parameters.

use crate::mcp::envelope::{Malformed, NAME_BYTES_MAX};
use crate::mcp::json;
use crate::mcp::methods::TargetMember;
use crate::mcp::params::Params;
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
    /// Reads the subject of a request from the `member` of its parameters.
    ///
    /// # Errors
    /// The rule that the parameters break.
    pub(crate) fn read(params: &Params, member: TargetMember) -> Result<Self, Malformed> {
        let state = params.get("requestState");
        let state = state.map(|state| json::string(state).ok_or(Malformed::State)).transpose()?;
        let (kind, name, path): (_, _, &[&str]) = match member {
            TargetMember::ToolName => {
                // A control character in a name would mislead an operator who reads or compares names, and no tool
                // needs one.
                let name = name(params.string("name"), NAME_BYTES_MAX).filter(|name| !name.contains(char::is_control));
                (TargetKind::Tool, name.ok_or(Malformed::ToolName)?, &["name"])
            }
            TargetMember::PromptName => (TargetKind::Prompt, prompt(params.string("name"))?, &["name"]),
            TargetMember::ResourceUri => (TargetKind::Resource, uri(params.string("uri"))?, &["uri"]),
            TargetMember::Reference => {
                let reference = params.object("ref").unwrap_or_default();
                match reference.string("type").as_deref() {
                    Some("ref/prompt") => (TargetKind::Prompt, prompt(reference.string("name"))?, &["ref", "name"]),
                    Some("ref/resource") => (TargetKind::Resource, uri(reference.string("uri"))?, &["ref", "uri"]),
                    _ => return Err(Malformed::Subject),
                }
            }
        };
        Ok(Self { kind, name, arguments: params.arguments(kind == TargetKind::Tool), state, path })
    }

    /// Sets the backend's own name of the target and the backend's own `state` in `params`. Without a state of the
    /// backend's, the gateway's own is removed.
    pub(crate) fn set_in(&self, params: &mut Params, target: Target<'_>, state: Option<&str>) {
        if target.name != self.name {
            let name = json::quoted(target.name);
            match self.path {
                [first, second, ..] => {
                    let inner = params.object(first).unwrap_or_default().replaced(second, &name);
                    params.set(first, &inner);
                }
                path => path.iter().for_each(|key| params.set(key, &name)),
            }
        }
        match state {
            Some(state) => params.set("requestState", &json::quoted(state)),
            None => params.remove("requestState"),
        }
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

/// The name, if it has 1 to `bytes_max` bytes.
fn name(name: Option<String>, bytes_max: usize) -> Option<String> {
    name.filter(|name| (1..=bytes_max).contains(&name.len()))
}

fn prompt(text: Option<String>) -> Result<String, Malformed> {
    name(text, NAME_BYTES_MAX).ok_or(Malformed::Subject)
}

fn uri(text: Option<String>) -> Result<String, Malformed> {
    name(text, URI_BYTES_MAX).ok_or(Malformed::Subject)
}

#[cfg(test)]
mod tests {
    use crate::mcp::envelope;
    use crate::mcp::methods::{self, MethodKind};
    use crate::mcp::params::ParamRules;
    use crate::mcp::protocol::Era;

    use super::*;

    fn read(method: &str, params: &str) -> Result<(Subject, SharedText), Malformed> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let body = SharedText::new(body);
        let message = envelope::parse_text(&body).unwrap().message().unwrap();
        let spec = methods::find(method).unwrap();
        let MethodKind::Targeted(member) = spec.kind else { panic!() };
        let mut params = Params::read(&message, &body, &ParamRules::of_request(Some(spec), Era::Modern, method, &[]))?;
        let subject = Subject::read(&params, member)?;
        subject.set_in(&mut params, Target { kind: subject.kind, backend: "b", name: "new" }, Some("s"));
        Ok((subject, params.text(&[]).unwrap()))
    }

    #[test]
    fn forwarded_parameters_differ_only_in_the_name_and_the_state() {
        let (call, params) =
            read("tools/call", r#"{ "name":"b__old", "arguments":{ "a" : 1.0 },"requestState":"t","_meta":{"y":[ ]}}"#)
                .unwrap();
        assert_eq!((call.kind, call.name.as_str(), call.state.as_deref()), (TargetKind::Tool, "b__old", Some("t")));
        assert_eq!(call.arguments.as_deref(), Some(r#"{ "a" : 1.0 }"#));
        assert_eq!(&*params, r#"{"name":"new","arguments":{ "a" : 1.0 },"requestState":"s","_meta":{"y":[ ]}}"#);
        let (complete, params) = read(
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt", "name":"b__p"},"argument":{"name":"n", "value":""}}"#,
        )
        .unwrap();
        assert_eq!((complete.kind, complete.kind_name()), (TargetKind::Prompt, "prompt"));
        assert_eq!(&*params, r#"{"ref":{"type":"ref/prompt", "name":"new"},"argument":{"name":"n", "value":""}}"#);
    }

    #[test]
    fn name_of_a_tool_is_a_plain_text() {
        for params in ["{}", r#"{"name":""}"#, r#"{"name":null}"#, r#"{"name":"a\n"}"#, r#"{"name":"\ud800"}"#] {
            assert_eq!(read("tools/call", params).err(), Some(Malformed::ToolName), "{params}");
        }
        let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(NAME_BYTES_MAX + 1));
        assert_eq!(read("tools/call", &long).err(), Some(Malformed::ToolName));
    }

    #[test]
    fn request_without_a_subject_is_malformed() {
        for (method, params) in [
            ("prompts/get", r#"{"name":""}"#),
            ("prompts/get", "{}"),
            ("resources/read", r#"{"uri":7}"#),
            ("resources/read", r#"{"uri":null}"#),
            ("resources/read", r#"{"uri":"a:b","URI":"c:d"}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/other","name":"x"}}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/resource","Uri":"x"}}"#),
            ("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"x","url":"y"}}"#),
            ("completion/complete", r#"{"Ref":{"type":"ref/resource","uri":"x"}}"#),
            ("tools/call", r#"{"name":"x","requestState":7}"#),
            ("tools/call", r#"{"name":"x","RequestState":"s"}"#),
            ("prompts/get", r#"{"name":"x","request_state":"s"}"#),
        ] {
            assert!(read(method, params).is_err(), "{method} {params}");
        }
    }
}
