//! The content of a request and of its answer as they are recorded: after redaction and shortening.

use crate::audit::record::{META_CONTEXT_BYTES_MAX, Omitted, Outcome, RecordKey, Status};
use crate::audit::redact::{REDACTED, RedactedValues, Redaction, ShortenedPath, ShortenedValue, shortened};
use crate::gateway::call::rules::Rules;
use crate::mcp::protocol::TOOLS_CALL;
use crate::upstream::{Answer, AnswerKind};

const PROMPTS_GET: &str = "prompts/get";

/// A request whose content is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestContent<'a> {
    pub(crate) method: &'a str,
    pub(crate) backend: Option<&'a str>,
    /// The tool or prompt.
    pub(crate) name: Option<&'a str>,
    /// The arguments, JSON text.
    pub(crate) arguments: Option<&'a str>,
    /// The other parameters, JSON text.
    pub(crate) extra: Option<&'a str>,
    /// The protocol's own keys of `_meta`, JSON text.
    pub(crate) meta: Option<&'a str>,
}

/// The content of a request as it is recorded.
#[derive(Debug, Default)]
pub(crate) struct RecordedContent {
    pub(crate) arguments: Option<String>,
    pub(crate) extra: Option<String>,
    pub(crate) meta: Option<String>,
    pub(crate) shortened: Vec<ShortenedValue>,
    pub(crate) omitted: Omitted,
    /// The values that were redacted.
    pub(crate) redacted: RedactedValues,
}

impl RequestContent<'_> {
    /// The content after redaction and shortening. `key` is that of the record.
    pub(crate) fn recorded(&self, rules: &Rules, key: &RecordKey) -> RecordedContent {
        let mut redacted = RedactedValues::default();
        // I8: redaction happens before the record exists, and before anything is cut.
        let arguments =
            self.arguments.map(|json| rules.redaction.request_args(self.method, json, &mut redacted).into_owned());
        let extra = self.extra.map(|json| rules.redaction.anywhere(json, &mut redacted).into_owned());
        let meta = self.meta.map(|json| {
            let meta = rules.redaction.anywhere(json, &mut redacted);
            // I6: a redacted text may be longer, and `context` has its limit.
            let fits = meta.len() <= META_CONTEXT_BYTES_MAX;
            if fits { meta.into_owned() } else { REDACTED.to_owned() }
        });
        let mut content = RecordedContent { arguments, extra, meta, redacted, ..RecordedContent::default() };
        let paths = self.shortened_paths(rules);
        if let Some(arguments) = content.arguments.as_deref().filter(|_| !paths.is_empty()) {
            let (short, values) = shortened(&paths, arguments, key);
            (content.arguments, content.shortened) = (Some(short.into_owned()), values);
        }
        content
    }

    /// The paths of the values that are shortened.
    fn shortened_paths(&self, rules: &Rules) -> Vec<ShortenedPath> {
        let (Some(backend), Some(name)) = (self.backend, self.name) else { return Vec::new() };
        let of_request = rules.shortened.iter().filter(|(tools, _)| tools.name(backend, name)).map(|(_, path)| path);
        match self.method {
            TOOLS_CALL => of_request.cloned().collect(),
            PROMPTS_GET => of_request.map(|path| path.below("arguments")).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns true if the answer to the request is recorded.
    pub(crate) fn records_response(&self, rules: &Rules) -> bool {
        let (Some(backend), Some(name)) = (self.backend, self.name) else { return false };
        [TOOLS_CALL, PROMPTS_GET].contains(&self.method) && rules.recorded_responses.name(backend, name)
    }
}

impl RecordedContent {
    /// The lengths of the arguments and of the other parameters, in bytes.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        (length(&self.arguments), length(&self.extra))
    }

    /// Omits what exceeds `bytes_max`. For a request that is not forwarded: its record stays short.
    pub(crate) fn omit_beyond(&mut self, bytes_max: usize) {
        let (arguments, extra) = self.lengths();
        let omits_arguments = arguments > bytes_max;
        if omits_arguments {
            (self.arguments, self.omitted.request_args) = (None, Some(arguments));
            self.shortened = Vec::new();
        }
        let used = if omits_arguments { 0 } else { arguments };
        if used.saturating_add(extra) > bytes_max {
            (self.extra, self.omitted.request_extra) = (None, Some(extra));
        }
    }
}

/// The recorded status of a call with this `answer`.
pub(crate) fn status(answer: &Answer) -> Status {
    match answer.kind() {
        AnswerKind::Result => Status::Ok,
        AnswerKind::ToolError => Status::ToolError,
        AnswerKind::InputRequired => Status::InputRequired,
        AnswerKind::Error => Status::Error,
        AnswerKind::TimedOut => Status::Timeout,
        AnswerKind::Cancelled => Status::Cancelled,
    }
}

/// The recorded outcome of a call with this `answer`. `redacted` are the values that were redacted in the request,
/// `key` is that of the record.
pub(crate) fn outcome(
    answer: &Answer,
    redaction: &Redaction,
    redacted: &RedactedValues,
    records_response: bool,
    key: &RecordKey,
) -> Outcome {
    let (message, text) = (answer.message(), answer.text());
    let (message, response) = if redaction.is_empty() {
        (message.map(str::to_owned), records_response.then(|| text.to_owned()))
    } else if message.is_some() || records_response {
        let mut values = redacted.clone();
        let response = redaction.response(text, &mut values).into_owned();
        // I8: the message is redacted before it is cut to its limit.
        (message.map(|message| redaction.text(message, &mut values)), records_response.then_some(response))
    } else {
        (None, None)
    };
    Outcome::answered(status(answer), message, text.as_bytes(), key).with_response(response)
}
