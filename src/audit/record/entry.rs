//! The contents of a record: the call, its outcome, and both together.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, ToSmolStr};

use super::caller::{Caller, Correlation};
use super::context::Context;
use super::digest_key::RecordKey;
use super::ids::{Digest, RequestId, Timestamp};
use super::normalise::{
    ERROR_BYTES_MAX, JSON_DEPTH_MAX, PARAMS_BYTES_MAX, RESOURCE_BYTES_MAX, RESPONSE_BYTES_MAX, TEXT_BYTES_MAX,
    beginning, json_depth, normalise,
};
use super::salts::Salts;
use super::status::Status;

/// A name or an identity in a record. Up to 23 bytes are stored inline; copies of a record share longer text.
///
/// Most values are that short. One core makes a record and others hash, encode and free it: with a dozen heap strings,
/// each of these steps took as many cache misses. *Measured*: `benches/store.rs`.
pub type Text = SmolStr;

/// Prefixes of the methods of the gateway's own records. A client's record never has such a method. Otherwise it could
/// be taken for an event of the gateway, for example for the `gateway/closed` that shows that an epoch ended cleanly.
const OWN_METHODS: [&str; 4] = ["gateway/", "session/", "console/", "trail/"];

/// Returns `true` if `text` is, or looks like, the method of a record of the gateway's own.
pub(crate) fn is_own_method(text: &str) -> bool {
    OWN_METHODS.iter().any(|own| text.starts_with(own))
}

/// The half of a record that is known before the call is forwarded: who asked for what, and when.
///
/// Built with [`Call::new`] and the `with_` methods, each of which normalises its value. A
/// deserialized call was normalised when it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Call {
    /// The call's id.
    pub request_id: RequestId,
    /// The request to which this one belongs.
    pub parent_id: Option<RequestId>,
    /// Arrival, by the wall clock.
    pub timestamp: Timestamp,
    /// The MCP method, or `gateway/...` for events of the gateway itself.
    pub method: Text,
    /// The token's subject, or `anonymous`.
    pub client_subject: Text,
    /// The readable name of the subject.
    pub client_name: Option<Text>,
    /// The application.
    pub client_id: Option<Text>,
    /// The subject that acts on behalf of `client_subject`.
    pub actor_subject: Option<Text>,
    /// The role that decided.
    pub client_role: Option<Text>,
    /// The token's issuer.
    pub client_issuer: Option<Text>,
    /// The token's `jti`.
    pub token_id: Option<Text>,
    /// The client's address.
    pub client_addr: Option<Text>,
    /// The MCP session.
    pub session_id: Option<Text>,
    /// The JSON-RPC id.
    pub rpc_id: Option<Text>,
    /// The tool as called, without the backend's prefix.
    pub tool_name: Option<Text>,
    /// The backend that the call went to.
    pub backend_name: Option<Text>,
    /// The resource as the backend names it.
    pub resource_uri: Option<Text>,
    /// The other circumstances, JSON text: see [`Context`].
    pub context: Option<String>,
    /// The arguments after redaction, as JSON text.
    pub request_args: Option<String>,
    /// The other members of the parameters after redaction, as JSON text.
    pub request_extra: Option<String>,
    /// Keyed digest of the parameters as forwarded.
    pub params_digest: Option<Digest>,
    /// Keyed digest of the arguments before redaction.
    pub args_digest: Option<Digest>,
    /// The rule that allowed or denied the request: its place in the configuration, or `default`.
    pub decided_by: Option<Text>,
    /// SHA-256 of the policy in force.
    pub policy_digest: Option<Digest>,
    /// SHA-256 of the tool's definition as last listed.
    pub tool_digest: Option<Digest>,
    /// The fields that normalisation changed.
    #[serde(skip)]
    pub(in crate::audit) normalised: Vec<&'static str>,
    /// The longest `response` for which the call reserves room, in bytes. It is not part of the record.
    #[serde(skip)]
    pub(in crate::audit) response_room: usize,
}

/// The half of a record that is known last: how the call ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The status.
    pub status: Status,
    /// The error; `None` if the call succeeded.
    pub error_message: Option<String>,
    /// Keyed digest of the result or error that the client received.
    pub response_digest: Option<Digest>,
    /// Size of that result or error, in bytes.
    pub response_bytes: Option<u64>,
    /// The recorded answer after redaction, as JSON text.
    pub response: Option<String>,
    /// The rule that decided at the end, and the digest of its policy, in place of what was known before.
    pub decision: Option<(String, Digest)>,
}

/// A finished call, not yet positioned in a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// The half that was known when the call arrived.
    #[serde(flatten)]
    pub call: Call,
    /// The status.
    pub response_status: Status,
    /// The error, and the names of the normalised fields.
    pub error_message: Option<String>,
    /// Keyed digest of the result or error that the client received.
    pub response_digest: Option<Digest>,
    /// Size of that result or error, in bytes.
    pub response_bytes: Option<u64>,
    /// The recorded answer after redaction, as JSON text.
    pub response: Option<String>,
    /// Duration of the call in milliseconds, by the monotonic clock; 0 for a refused call. Never NaN or negative.
    pub latency_ms: f64,
    /// The salts of the record's commitments, random for each record.
    #[serde(flatten)]
    pub salts: Salts,
}

impl Call {
    /// A call that arrived now.
    #[must_use]
    pub fn new(request_id: RequestId, method: &str) -> Self {
        let mut call = Self {
            request_id,
            parent_id: None,
            timestamp: Timestamp::now(),
            method: Text::default(),
            client_subject: Text::new_static("anonymous"),
            client_name: None,
            client_id: None,
            actor_subject: None,
            client_role: None,
            client_issuer: None,
            token_id: None,
            client_addr: None,
            session_id: None,
            rpc_id: None,
            tool_name: None,
            backend_name: None,
            resource_uri: None,
            context: None,
            request_args: None,
            request_extra: None,
            params_digest: None,
            args_digest: None,
            decided_by: None,
            policy_digest: None,
            tool_digest: None,
            normalised: Vec::new(),
            response_room: 0,
        };
        call.method = call.text("method", method);
        call
    }

    /// An event of the gateway itself: method `gateway/<event>`, with `details` as the arguments.
    #[must_use]
    pub fn gateway_event(event: &str, details: &serde_json::Value) -> Self {
        let mut call = Self::new(RequestId::new(), &format!("gateway/{event}"));
        call.client_subject = Text::new_static("gatepost");
        call.with_details(&details.to_string())
    }

    /// Sets the caller.
    #[must_use]
    pub fn with_caller(mut self, caller: &Caller) -> Self {
        self.client_subject = self.text("client_subject", &caller.subject);
        self.client_role = self.optional("client_role", caller.role.as_deref());
        self.client_issuer = self.optional("client_issuer", caller.issuer.as_deref());
        self.token_id = self.optional("token_id", caller.token_id.as_deref());
        self.client_name = self.optional("client_name", caller.identity.name.as_deref());
        self.client_id = self.optional("client_id", caller.identity.client_id.as_deref());
        self.actor_subject = self.optional("actor_subject", caller.identity.actors.first().map(String::as_str));
        self
    }

    /// Sets the values that help to find related records.
    #[must_use]
    pub fn with_correlation(mut self, correlation: &Correlation) -> Self {
        self.client_addr = correlation.addr.map(|addr| addr.to_smolstr());
        self.session_id = self.optional("session_id", correlation.session_id.as_deref());
        self.rpc_id = self.optional("rpc_id", correlation.rpc_id.as_deref());
        self
    }

    /// Sets the circumstances.
    #[must_use]
    pub fn with_context(mut self, context: &Context<'_>) -> Self {
        self.context = Some(context.to_json());
        self
    }

    /// Sets the backend and the tool.
    #[must_use]
    pub fn with_target(mut self, backend: Option<&str>, tool: Option<&str>) -> Self {
        self.backend_name = self.optional("backend_name", backend);
        self.tool_name = self.optional("tool_name", tool);
        self
    }

    /// Sets the request to which the call belongs.
    #[must_use]
    pub fn with_parent(mut self, parent: Option<RequestId>) -> Self {
        self.parent_id = parent;
        self
    }

    /// Sets the resource.
    #[must_use]
    pub fn with_resource(mut self, uri: Option<&str>) -> Self {
        self.resource_uri = uri.map(|uri| self.text_up_to("resource_uri", uri, RESOURCE_BYTES_MAX));
        self
    }

    /// Sets the digests of the policy in force and of the tool's definition.
    #[must_use]
    pub fn with_definitions(mut self, policy: Option<Digest>, tool: Option<Digest>) -> Self {
        (self.policy_digest, self.tool_digest) = (policy, tool);
        self
    }

    /// Sets the members of the parameters besides the arguments, JSON text after redaction, and the digest of all
    /// parameters as forwarded. The arguments are set before them.
    #[must_use]
    pub fn with_extra(mut self, extra: Option<String>, params: Option<Digest>) -> Self {
        let room = PARAMS_BYTES_MAX.saturating_sub(self.request_args.as_ref().map_or(0, String::len));
        self.request_extra = extra.and_then(|json| self.json("request_extra", json, room));
        self.params_digest = params;
        self
    }

    /// Reserves room for a `response` of up to `bytes` when the call begins. A call that does not has none.
    #[must_use]
    pub fn with_response_room(mut self, bytes: usize) -> Self {
        self.response_room = bytes.min(RESPONSE_BYTES_MAX);
        self
    }

    /// Notes that room for a `response` of `bytes` more is reserved.
    pub(in crate::audit) fn add_response_room(&mut self, bytes: usize) {
        self.response_room = self.response_room.saturating_add(bytes).min(RESPONSE_BYTES_MAX);
    }

    /// The longest `response` for which the call reserves room, in bytes.
    #[must_use]
    pub fn response_room(&self) -> usize {
        self.response_room
    }

    /// Sets the rule that decided.
    #[must_use]
    pub fn with_decision(mut self, rule: Option<&str>) -> Self {
        self.decided_by = self.optional("decided_by", rule);
        self
    }

    /// Sets the arguments, JSON text after redaction, and the digest of the arguments as they were sent. They are
    /// recorded byte for byte. `None`: only the digest is recorded.
    #[must_use]
    pub fn with_arguments(mut self, arguments: Option<String>, digest: Option<Digest>) -> Self {
        self.request_args = arguments.and_then(|json| self.json("request_args", json, PARAMS_BYTES_MAX));
        self.args_digest = digest;
        self
    }

    /// Sets the details of an event of the gateway, JSON text, as the arguments. They have no digest: they are recorded
    /// as they are.
    #[must_use]
    pub fn with_details(self, json: &str) -> Self {
        self.with_arguments(Some(json.to_owned()), None)
    }

    /// `json` if it fits; otherwise notes that `column` does not have it. Requests that do not fit are refused before
    /// they are recorded, so that this only protects the pipeline.
    fn json(&mut self, column: &'static str, json: String, bytes_max: usize) -> Option<String> {
        // I6: a record fits its frame. I9: Postgres takes every record.
        let fits = json.len() <= bytes_max && json_depth(&json) <= JSON_DEPTH_MAX;
        if !fits {
            self.normalised.push(column);
        }
        fits.then_some(json)
    }

    /// Memory that the call occupies, in bytes: its text and a fixed part.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let Self {
            request_id: _,
            parent_id: _,
            timestamp: _,
            method,
            client_subject,
            client_name,
            client_id,
            actor_subject,
            client_role,
            client_issuer,
            token_id,
            client_addr,
            session_id,
            rpc_id,
            tool_name,
            backend_name,
            resource_uri,
            context,
            request_args,
            request_extra,
            params_digest: _,
            args_digest: _,
            decided_by,
            policy_digest: _,
            tool_digest: _,
            normalised: _,
            response_room: _,
        } = self;
        let identity = [client_name, client_id, actor_subject, client_role, client_issuer, token_id];
        let optional = identity.into_iter().chain([
            client_addr,
            session_id,
            rpc_id,
            tool_name,
            backend_name,
            resource_uri,
            decided_by,
        ]);
        let optional: usize = optional.flatten().map(Text::len).sum();
        let arguments: usize = [context, request_args, request_extra].into_iter().flatten().map(String::len).sum();
        size_of::<Entry>() + method.len() + client_subject.len() + optional + arguments
    }

    fn optional(&mut self, column: &'static str, value: Option<&str>) -> Option<Text> {
        value.map(|text| self.text(column, text))
    }

    fn text(&mut self, column: &'static str, value: &str) -> Text {
        self.text_up_to(column, value, TEXT_BYTES_MAX)
    }

    fn text_up_to(&mut self, column: &'static str, value: &str, bytes_max: usize) -> Text {
        let (text, changed) = normalise(value, bytes_max);
        if changed {
            self.normalised.push(column);
        }
        text.into()
    }
}

impl Outcome {
    /// An outcome without a response, for refusals and failures.
    #[must_use]
    pub fn failed(status: Status, error_message: impl Into<String>) -> Self {
        Self { status, error_message: Some(error_message.into()), ..Self::of(status) }
    }

    /// An outcome with the result or error that the client receives. `key` is that of the call's record.
    #[must_use]
    pub fn answered(status: Status, error_message: Option<String>, response: &[u8], key: &RecordKey) -> Self {
        Self {
            error_message,
            response_digest: Some(key.digest(response)),
            response_bytes: Some(response.len() as u64),
            ..Self::of(status)
        }
    }

    /// An outcome with a status only.
    #[must_use]
    pub fn of(status: Status) -> Self {
        Self {
            status,
            error_message: None,
            response_digest: None,
            response_bytes: None,
            response: None,
            decision: None,
        }
    }

    /// Sets the rule that decided at the end, and the digest of its policy.
    #[must_use]
    pub fn with_decision(mut self, rule: String, policy: Digest) -> Self {
        self.decision = Some((rule, policy));
        self
    }

    /// Sets the recorded answer, JSON text after redaction. A call whose answer is longer than the room that it
    /// reserved ([`Call::with_response_room`]) has the beginning of it, as a JSON string.
    #[must_use]
    pub fn with_response(mut self, response: Option<String>) -> Self {
        self.response = response;
        self
    }
}

impl Entry {
    /// Joins the two halves. `latency` is zero for a refused call.
    #[must_use]
    pub fn new(mut call: Call, outcome: Outcome, latency: Duration) -> Self {
        if let Some((rule, policy)) = &outcome.decision {
            call.decided_by = Some(call.text("decided_by", rule));
            call.policy_digest = Some(*policy);
        }
        let response = outcome.response.map(|json| {
            // I6: a record fits its frame. I9: Postgres takes every record.
            if json.len() <= RESPONSE_BYTES_MAX && json_depth(&json) <= JSON_DEPTH_MAX {
                return json;
            }
            call.normalised.push("response");
            beginning(&json, RESPONSE_BYTES_MAX)
        });
        let mut error_message = outcome.error_message.map(|message| {
            let (text, changed) = normalise(&message, ERROR_BYTES_MAX);
            if changed {
                call.normalised.push("error_message");
            }
            text.into_owned()
        });
        if !call.normalised.is_empty() {
            let note = format!("normalised: {}", call.normalised.join(", "));
            error_message = Some(match error_message {
                Some(message) => format!("{message} ({note})"),
                None => note,
            });
        }
        Self {
            call,
            response_status: outcome.status,
            error_message,
            response_digest: outcome.response_digest,
            response_bytes: outcome.response_bytes.map(|bytes| bytes.min(i64::MAX.unsigned_abs())),
            response,
            latency_ms: latency.as_secs_f64() * 1000.0,
            salts: Salts::random(),
        }
    }

    /// Joins the two halves of a call that reserved room for its answer.
    #[must_use]
    pub fn of_call(mut call: Call, mut outcome: Outcome, latency: Duration) -> Self {
        if let Some(json) = outcome.response.as_mut().filter(|json| json.len() > call.response_room) {
            // I6: the record of an open call always has room.
            *json = beginning(json, call.response_room);
            call.normalised.push("response");
        }
        Self::new(call, outcome, latency)
    }

    /// Memory that the entry occupies, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let outcome: usize = [&self.error_message, &self.response].into_iter().flatten().map(String::len).sum();
        self.call.size_bytes() + outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call::new(RequestId::new(), "tools/call")
    }

    fn arguments(json: &str) -> Call {
        call().with_arguments(Some(json.to_owned()), None)
    }

    #[test]
    fn nul_becomes_the_replacement_character_and_is_noted() {
        let call = call().with_target(Some("a"), Some("to\0ol"));
        let entry = Entry::new(
            call,
            Outcome::answered(Status::Ok, None, b"{}", &RecordKey::from_bytes([0; 32])),
            Duration::ZERO,
        );
        assert_eq!(entry.call.tool_name.as_deref(), Some("to\u{fffd}ol"));
        assert_eq!(entry.error_message.as_deref(), Some("normalised: tool_name"));
    }

    #[test]
    fn i6_text_of_nuls_stays_within_its_limit() {
        let call = call().with_target(Some("a"), Some(&"\0".repeat(TEXT_BYTES_MAX)));
        assert!(call.tool_name.as_deref().is_some_and(|name| name.len() <= TEXT_BYTES_MAX));
        let outcome = Outcome::failed(Status::Error, "\0".repeat(ERROR_BYTES_MAX));
        let entry = Entry::new(call, outcome, Duration::ZERO);
        assert!(entry.error_message.is_some_and(|message| message.len() <= ERROR_BYTES_MAX + 256));
    }

    #[test]
    fn long_text_is_cut_at_a_character_boundary_and_noted() {
        let subject = "é".repeat(TEXT_BYTES_MAX);
        let call = call().with_caller(&Caller { subject, ..Caller::anonymous() });
        assert_eq!(call.client_subject.len(), TEXT_BYTES_MAX);
        let entry = Entry::new(call, Outcome::failed(Status::Denied, "no"), Duration::ZERO);
        assert_eq!(entry.error_message.as_deref(), Some("no (normalised: client_subject)"));
    }

    #[test]
    fn arguments_keep_every_byte() {
        let json = r#"{ "b":  1.0, "b2":"\ud800\u0000" }"#;
        assert_eq!(arguments(json).request_args.as_deref(), Some(json));
    }

    #[test]
    fn i6_json_that_does_not_fit_is_not_recorded_and_that_is_noted() {
        let half = format!("\"{}\"", "x".repeat(PARAMS_BYTES_MAX / 2 - 2));
        let call = arguments(&half).with_extra(Some(half.clone()), None);
        assert!(call.request_args.is_some() && call.request_extra.is_some() && call.normalised.is_empty());
        let call = arguments(&format!(" {half}")).with_extra(Some(half), None);
        assert!(call.request_args.is_some() && call.request_extra.is_none());
        assert_eq!(call.normalised, ["request_extra"]);
        let deep = format!("{}{}", "[".repeat(JSON_DEPTH_MAX + 1), "]".repeat(JSON_DEPTH_MAX + 1));
        for json in [deep, format!("\"{}\"", "x".repeat(PARAMS_BYTES_MAX))] {
            let call = arguments(&json);
            assert_eq!((call.request_args, call.normalised), (None, vec!["request_args"]));
        }
    }

    #[test]
    fn i6_an_answer_that_does_not_fit_has_its_beginning() {
        let entry = |json: &str, room: usize| {
            let outcome = Outcome::of(Status::Ok).with_response(Some(json.to_owned()));
            Entry::of_call(call().with_response_room(room), outcome, Duration::ZERO)
        };
        let json = r#"{"a":"0123456789"}"#;
        assert_eq!(entry(json, json.len()).response.as_deref(), Some(json));
        let cut = entry(json, json.len() - 1);
        assert_eq!(cut.response.as_deref(), Some(r#""{\"a\":\"012345""#));
        assert_eq!(cut.error_message.as_deref(), Some("normalised: response"));
        assert!(entry(json, 0).response.is_some_and(|json| json == "\"\""), "no room was reserved");
        let deep = format!("{}{}", "[".repeat(JSON_DEPTH_MAX + 1), "]".repeat(JSON_DEPTH_MAX + 1));
        assert_eq!(entry(&deep, 9999).response, Some(format!("\"{deep}\"")));
        let long = format!("{{\"a\":\"{}\"}}", "\\u0001\\\"".repeat(RESPONSE_BYTES_MAX / 4));
        assert!(entry(&long, usize::MAX).response.is_some_and(|json| json.len() <= RESPONSE_BYTES_MAX));
    }
}
