//! What an audit record is: the columns of `audit_log`, made deliverable when they are set.
//!
//! A [`Call`] says who asked for what and when; it is all that an intent holds. An [`Outcome`] says what happened.
//! Both together are an [`Entry`]. The scribe gives an entry its [`Place`] in the stream; entry and place together
//! are an [`AuditRecord`], one row.
//!
//! Values are made deliverable here, once, at construction: whatever a field holds afterwards, Postgres takes it.
//! NUL becomes U+FFFD, text and arguments are cut to their limits, nesting is bounded, times and numbers are clamped.
//! What was changed is named in `error_message` (`normalised: tool_name`), so that the trail says so itself. The
//! normalised value is what is hashed, stored and delivered.
//!
//! This module knows nothing of queues, files or SQL.

mod ids;
mod placed;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use smol_str::{SmolStr, ToSmolStr};

use super::redact::Redaction;
pub use ids::{Digest, Epoch, GatewayId, RequestId, Seq, Timestamp};
pub use placed::{AuditRecord, PendingRecord, StreamPosition};

/// Longest text of an identity or name field, in bytes.
///
/// *Derived*: a btree row of Postgres holds at most 2,704 bytes (a third of a page), and `client_subject` and
/// `tool_name` are indexed together with a timestamp; 1,024 leaves room for both and for alignment.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Longest `error_message`, in bytes. *Chosen*: enough for a backend's message, small enough to reserve a record's
/// room before its outcome is known.
pub const ERROR_BYTES_MAX: usize = 2048;

/// Deepest nesting of recorded arguments. *Derived*: Postgres parses `json` recursively and refuses about 6,000
/// levels at its default `max_stack_depth` (54001); 512 is far below it and above any real call.
pub const ARGS_DEPTH_MAX: usize = 512;

/// Default for the longest recorded arguments, in bytes. *Spec*: DESIGN section 4.
pub const ARGS_BYTES_MAX_DEFAULT: usize = 64 * 1024;

/// The longest recorded arguments that can be configured, in bytes. *Chosen*: sixteen times the default; a frame, a
/// segment and a batch hold one of them with room to spare.
pub const ARGS_BYTES_MAX: usize = 1024 * 1024;

/// The fields that can be changed to make them deliverable, in the order of their bits in an intent's frame.
/// New ones go to the end.
pub(super) const NORMALISABLE: [&str; 13] = [
    "method",
    "client_subject",
    "client_role",
    "client_issuer",
    "token_id",
    "client_addr",
    "session_id",
    "rpc_id",
    "tool_name",
    "backend_name",
    "request_args",
    "args_digest",
    "error_message",
];

/// How a call ended. The words stand in `response_status`, held there by a CHECK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The backend answered, and the answer is no error.
    Ok,
    /// The tool answered with `isError: true`.
    ToolError,
    /// The backend answered with a JSON-RPC error, or could not be reached.
    Error,
    /// The backend did not answer in time.
    Timeout,
    /// The client cancelled the call.
    Cancelled,
    /// The backend asks the client for input and the client will call again.
    InputRequired,
    /// The gateway died while the call was open; written when it starts again.
    Interrupted,
    /// The caller's role may not call this tool.
    Denied,
    /// No valid token.
    Unauthenticated,
    /// The message broke a rule of the protocol or a limit.
    Malformed,
    /// The caller asked too often.
    RateLimited,
    /// The call could not be audited and was refused for that.
    AuditUnavailable,
}

impl Status {
    /// All statuses, in the order of their codes in a frame.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::ToolError,
        Self::Error,
        Self::Timeout,
        Self::Cancelled,
        Self::InputRequired,
        Self::Interrupted,
        Self::Denied,
        Self::Unauthenticated,
        Self::Malformed,
        Self::RateLimited,
        Self::AuditUnavailable,
    ];

    /// The word in `response_status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::InputRequired => "input_required",
            Self::Interrupted => "interrupted",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Malformed => "malformed",
            Self::RateLimited => "rate_limited",
            Self::AuditUnavailable => "audit_unavailable",
        }
    }

    /// The status that a word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who called, from the verified token. Nothing here comes from what the client says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The token's subject, or `anonymous`.
    pub subject: String,
    /// The role by which the decision was made, if any.
    pub role: Option<String>,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// The token's `jti`. Never the token.
    pub token_id: Option<String>,
}

impl Caller {
    /// A caller without a verified token.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { subject: "anonymous".to_owned(), role: None, issuer: None, token_id: None }
    }
}

/// What helps to find related records. Never identity: a client can choose all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correlation {
    /// The client's address, as the listener saw it.
    pub addr: Option<SocketAddr>,
    /// The MCP session, where there is one.
    pub session_id: Option<String>,
    /// The JSON-RPC id, as text.
    pub rpc_id: Option<String>,
}

/// A name or an identity in a record: up to 23 bytes stand in the record itself, longer ones are shared by its copies.
///
/// Most are that short. A record is made by one core and hashed, framed and freed by others: as a dozen strings of the
/// heap it cost each of them as many misses of its cache. *Measured*: `benches/store.rs`.
pub type Text = SmolStr;

/// Who asked for what, and when: the half of a record that is known before the call is forwarded.
///
/// Built with [`Call::new`] and the `with_` methods, each of which makes its value deliverable. The fields can be read
/// by all and set by nobody else.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Call {
    /// The call's id.
    pub request_id: RequestId,
    /// When the call arrived.
    pub timestamp: Timestamp,
    /// The MCP method, or `gateway/...` for events of the gateway itself.
    pub method: Text,
    /// The token's subject, or `anonymous`.
    pub client_subject: Text,
    /// The role by which the decision was made.
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
    /// Where it went.
    pub backend_name: Option<Text>,
    /// The arguments after redaction: JSON text, or a marker where they are too long or too deep to keep.
    pub request_args: Option<String>,
    /// SHA-256 of the arguments before redaction and truncation.
    pub args_digest: Option<Digest>,
    /// Which fields were changed to make them deliverable.
    #[serde(skip)]
    pub(super) normalised: Vec<&'static str>,
}

/// How a call ended: the half of a record that is known last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The status.
    pub status: Status,
    /// What went wrong; `None` where all went well.
    pub error_message: Option<String>,
    /// SHA-256 of the result or error that the client got.
    pub response_digest: Option<Digest>,
    /// Its size in bytes.
    pub response_bytes: Option<u64>,
}

/// A finished call without a place in a stream yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// The first half.
    #[serde(flatten)]
    pub call: Call,
    /// The status.
    pub response_status: Status,
    /// What went wrong.
    pub error_message: Option<String>,
    /// SHA-256 of what the client got.
    pub response_digest: Option<Digest>,
    /// Its size in bytes.
    pub response_bytes: Option<u64>,
    /// How long the call took, in milliseconds, by the monotonic clock; 0 for a refused one. Never NaN or negative.
    pub latency_ms: f64,
}

impl Call {
    /// A call that arrived now.
    #[must_use]
    pub fn new(request_id: RequestId, method: &str) -> Self {
        let mut call = Self {
            request_id,
            timestamp: Timestamp::now(),
            method: Text::default(),
            client_subject: Text::new_static("anonymous"),
            client_role: None,
            client_issuer: None,
            token_id: None,
            client_addr: None,
            session_id: None,
            rpc_id: None,
            tool_name: None,
            backend_name: None,
            request_args: None,
            args_digest: None,
            normalised: Vec::new(),
        };
        call.method = call.text("method", method);
        call
    }

    /// An event of the gateway itself: `gateway/<event>` with `details` as its arguments.
    #[must_use]
    pub fn gateway_event(event: &str, details: &serde_json::Value) -> Self {
        let mut call = Self::new(RequestId::new(), &format!("gateway/{event}"));
        call.client_subject = Text::new_static("gatepost");
        call.with_arguments(&details.to_string(), &Redaction::none(), ARGS_BYTES_MAX_DEFAULT)
    }

    /// Sets who called.
    #[must_use]
    pub fn with_caller(mut self, caller: &Caller) -> Self {
        self.client_subject = self.text("client_subject", &caller.subject);
        self.client_role = self.optional("client_role", caller.role.as_deref());
        self.client_issuer = self.optional("client_issuer", caller.issuer.as_deref());
        self.token_id = self.optional("token_id", caller.token_id.as_deref());
        self
    }

    /// Sets what helps to find related records.
    #[must_use]
    pub fn with_correlation(mut self, correlation: &Correlation) -> Self {
        self.client_addr = correlation.addr.map(|addr| addr.to_smolstr());
        self.session_id = self.optional("session_id", correlation.session_id.as_deref());
        self.rpc_id = self.optional("rpc_id", correlation.rpc_id.as_deref());
        self
    }

    /// Sets the backend and the tool.
    #[must_use]
    pub fn with_target(mut self, backend: Option<&str>, tool: Option<&str>) -> Self {
        self.backend_name = self.optional("backend_name", backend);
        self.tool_name = self.optional("tool_name", tool);
        self
    }

    /// Sets the arguments: `json` is valid JSON text, recorded exactly as it stands after redaction.
    ///
    /// Arguments longer than `bytes_max` or [`ARGS_BYTES_MAX`], or deeper than [`ARGS_DEPTH_MAX`], are replaced by a marker object that says
    /// which and how long they were. The digest is always that of `json`.
    #[must_use]
    pub fn with_arguments(mut self, json: &str, redaction: &Redaction, bytes_max: usize) -> Self {
        self.args_digest = Some(Digest::of(json.as_bytes()));
        self.request_args = Some(if depth(json) > ARGS_DEPTH_MAX {
            self.normalised.push("request_args");
            format!(r#"{{"_gatepost":"too_deep","bytes":{}}}"#, json.len())
        } else {
            // I8: what the operator redacts is gone before the record exists.
            let redacted = redaction.apply(json);
            // I6: whatever the caller allows, a record fits its frame.
            if redacted.len() > bytes_max.min(ARGS_BYTES_MAX) {
                self.normalised.push("request_args");
                format!(r#"{{"_gatepost":"truncated","bytes":{}}}"#, json.len())
            } else {
                redacted.into_owned()
            }
        });
        self
    }

    /// The room that the call takes in memory, in bytes: its text and a fixed part.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let optional = |text: &Option<Text>| text.as_ref().map_or(0, Text::len);
        size_of::<Entry>()
            + self.method.len()
            + self.client_subject.len()
            + optional(&self.client_role)
            + optional(&self.client_issuer)
            + optional(&self.token_id)
            + optional(&self.client_addr)
            + optional(&self.session_id)
            + optional(&self.rpc_id)
            + optional(&self.tool_name)
            + optional(&self.backend_name)
            + self.request_args.as_ref().map_or(0, String::len)
    }

    fn optional(&mut self, column: &'static str, value: Option<&str>) -> Option<Text> {
        value.map(|text| self.text(column, text))
    }

    fn text(&mut self, column: &'static str, value: &str) -> Text {
        let (text, changed) = deliverable(value, TEXT_BYTES_MAX);
        if changed {
            self.normalised.push(column);
        }
        text.into()
    }
}

impl Outcome {
    /// An outcome without a response, as refusals and failures have it.
    #[must_use]
    pub fn failed(status: Status, error_message: impl Into<String>) -> Self {
        Self { status, error_message: Some(error_message.into()), response_digest: None, response_bytes: None }
    }

    /// An outcome with the result or error that the client gets.
    #[must_use]
    pub fn answered(status: Status, error_message: Option<String>, response: &[u8]) -> Self {
        Self {
            status,
            error_message,
            response_digest: Some(Digest::of(response)),
            response_bytes: Some(response.len() as u64),
        }
    }
}

impl Entry {
    /// Joins the two halves. `latency` is zero for a refused call.
    #[must_use]
    pub fn new(mut call: Call, outcome: Outcome, latency: Duration) -> Self {
        let mut error_message = outcome.error_message.map(|message| {
            let (text, changed) = deliverable(&message, ERROR_BYTES_MAX);
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
            latency_ms: latency.as_secs_f64() * 1000.0,
        }
    }

    /// The room that the entry takes in memory, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.call.size_bytes() + self.error_message.as_ref().map_or(0, String::len)
    }
}

/// Cuts `text` to `bytes_max` at a character's edge and replaces NUL; says whether anything changed.
fn deliverable(text: &str, bytes_max: usize) -> (Cow<'_, str>, bool) {
    let cut = &text[..text.floor_char_boundary(bytes_max)];
    if !cut.contains('\0') {
        return (Cow::Borrowed(cut), cut.len() < text.len());
    }
    let mut out = cut.replace('\0', "\u{fffd}");
    // I6: what stands for NUL is longer.
    out.truncate(out.floor_char_boundary(bytes_max));
    (Cow::Owned(out), true)
}

/// The deepest nesting of arrays and objects in valid JSON text.
fn depth(json: &str) -> usize {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call::new(RequestId::new(), "tools/call")
    }

    fn arguments(json: &str, bytes_max: usize) -> Call {
        call().with_arguments(json, &Redaction::none(), bytes_max)
    }

    #[test]
    fn nul_becomes_the_replacement_character_and_the_record_says_so() {
        let call = call().with_target(Some("a"), Some("to\0ol"));
        let entry = Entry::new(call, Outcome::answered(Status::Ok, None, b"{}"), Duration::ZERO);
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
    fn long_text_is_cut_at_a_character_and_the_record_says_so() {
        let subject = "é".repeat(TEXT_BYTES_MAX);
        let call = call().with_caller(&Caller { subject, ..Caller::anonymous() });
        assert_eq!(call.client_subject.len(), TEXT_BYTES_MAX);
        let entry = Entry::new(call, Outcome::failed(Status::Denied, "no"), Duration::ZERO);
        assert_eq!(entry.error_message.as_deref(), Some("no (normalised: client_subject)"));
    }

    #[test]
    fn arguments_keep_every_byte_up_to_the_limit() {
        let json = r#"{ "b":  1.0, "b2":"\ud800\u0000" }"#;
        assert_eq!(arguments(json, json.len()).request_args.as_deref(), Some(json));
    }

    #[test]
    fn oversize_arguments_become_a_marker_and_keep_their_digest() {
        let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
        let call = arguments(&json, 64);
        assert_eq!(call.request_args.as_deref(), Some(r#"{"_gatepost":"truncated","bytes":108}"#));
        assert_eq!(call.args_digest, Some(Digest::of(json.as_bytes())));
    }

    #[test]
    fn arguments_too_deep_for_postgres_become_a_marker() {
        let json = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let marker = r#"{"_gatepost":"too_deep","bytes":40000}"#;
        assert_eq!(arguments(&json, ARGS_BYTES_MAX_DEFAULT).request_args.as_deref(), Some(marker));
        assert_eq!(depth(r#"{"a":"[[[[\"[[","b":[1]}"#), 2);
    }

    #[test]
    fn times_are_clamped_to_what_postgres_and_chrono_hold() {
        for micros in [i64::MIN, i64::MAX, 0] {
            let clamped = Timestamp::from_micros(micros);
            assert_eq!(clamped.to_datetime().timestamp_micros(), clamped.micros());
        }
    }

    #[test]
    fn every_status_has_its_own_word() {
        for status in Status::ALL {
            assert_eq!(Status::from_word(status.as_str()), Some(status));
        }
    }
}
