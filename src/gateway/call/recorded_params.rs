//! The parameters of a request as its record has them, besides the arguments.

use crate::audit::record::{Digest, META_CONTEXT_BYTES_MAX, RecordKey};
use crate::config::RecordAnswers;
use crate::mcp::json::{self, Object};
use crate::mcp::methods::{META_KEYS, MemberRole};
use crate::mcp::params::Params;
use crate::mcp::protocol::{META_CAPABILITIES, META_CLIENT, META_VERSION};

/// The longest value of a protocol's key of `_meta` that is recorded in `context`, in bytes. *Spec*: docs/trail.md.
const META_VALUE_BYTES_MAX: usize = 256;

/// The member that has a person's answers to questions of the backend.
const ANSWERS: &str = "inputResponses";

/// The parameters of a request as its record has them.
#[derive(Debug)]
pub(crate) struct RecordedParams {
    /// The column `request_extra`: every other member that is forwarded, as the text of a JSON object.
    pub(crate) extra: Option<String>,
    /// The column `params_digest`. `None`: the request has no parameters.
    pub(crate) digest: Option<Digest>,
    /// The protocol's own keys of `_meta` for the column `context`, as the text of a JSON object.
    pub(crate) meta: Option<String>,
    /// Those of them that are in `request_extra` instead.
    pub(crate) meta_in_extra: Vec<&'static str>,
    /// The names of what is not forwarded.
    pub(crate) removed: Vec<String>,
}

/// Returns `true` if `context` need not repeat the key: it has the protocol revision and a client's name and version
/// elsewhere, and every modern request has capabilities, which are usually empty.
fn is_in_context(name: &str, value: &str) -> bool {
    let is_name_and_version =
        |info: Object<'_>| info.len() == 2 && info.string("name").is_some() && info.string("version").is_some();
    name == META_VERSION
        || name == META_CAPABILITIES && value == "{}"
        || name == META_CLIENT
            && value.len() <= META_VALUE_BYTES_MAX
            && Object::parse(value).is_some_and(is_name_and_version)
}

impl RecordedParams {
    /// The recorded parts of `params`, which are as they are forwarded. `key` is that of the request's record,
    /// `answers` the form in which a person's answers are recorded.
    pub(crate) fn new(params: &Params, key: &RecordKey, answers: RecordAnswers) -> Self {
        let (mut context, mut extra_meta, mut meta_in_extra) = (Vec::new(), Vec::new(), Vec::new());
        let mut room = META_CONTEXT_BYTES_MAX;
        let written = params.written_keys().map(|(name, value)| -> (&str, &str) { (name, value) });
        for (name, value) in written.chain(params.meta_keys()) {
            if is_in_context(name, value) {
                continue;
            }
            let known = META_KEYS.iter().map(|known| known.name).find(|known| *known == name);
            let bytes = name.len() + value.len() + 4;
            match known {
                Some(_) if value.len() <= META_VALUE_BYTES_MAX && bytes <= room => {
                    room -= bytes;
                    context.push((name, value));
                }
                known => {
                    meta_in_extra.extend(known);
                    extra_meta.push((name, value));
                }
            }
        }
        let object = |members: Vec<(&str, &str)>| (!members.is_empty()).then(|| json::object(members));
        let digested = |member: &str| {
            let value = params.get(member)?;
            Some(format!(r#"{{"bytes":{},"digest":"{}"}}"#, value.len(), key.digest(value.as_bytes())))
        };
        let state = digested("requestState");
        let digested_answers = digested(ANSWERS).filter(|_| answers == RecordAnswers::Digest);
        let extra_meta = object(extra_meta);
        let mut extra: Vec<(&str, &str)> = Vec::new();
        for member in params.members() {
            match member.role {
                MemberRole::Extra => {
                    let digested = digested_answers.as_deref().filter(|_| member.key == ANSWERS);
                    extra.push((member.key.as_ref(), digested.unwrap_or(&member.value)));
                }
                MemberRole::State => extra.extend(state.as_deref().map(|state| ("requestState", state))),
                MemberRole::Argument | MemberRole::Capabilities | MemberRole::Task => {}
            }
        }
        extra.extend(extra_meta.as_deref().map(|meta| ("_meta", meta)));
        Self {
            extra: object(extra),
            digest: params.is_given().then(|| key.digest_parts(|sink| params.write(&[], sink))),
            meta: object(context),
            meta_in_extra,
            removed: params.removed().to_vec(),
        }
    }
}
