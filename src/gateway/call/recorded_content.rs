//! The content of a request and of its answer as they are recorded: after redaction and shortening.

use std::borrow::Cow;

use crate::audit::record::{META_CONTEXT_BYTES_MAX, Omitted, Outcome, RecordKey, Status};
use crate::audit::redact::{self, REDACTED, RedactedValues, Redaction, ShortenedPath, ShortenedValue, shortened};
use crate::gateway::call::rules::Rules;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{TOOLS_CALL, UPSTREAM_FAILED};
use crate::upstream::{Answer, AnswerKind, SentCredentials};

/// The longest question and the longest answer to one, in bytes. *Chosen*: a message for sampling with an image fits. A
/// longer one could not be recorded as a whole and is refused to the backend.
pub(crate) const QUESTION_BYTES_MAX: usize = 1024 * 1024;

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
    /// The schemas of the questions that `extra` answers, if they ask for secrets: an object by name, JSON text.
    pub(crate) answer_schemas: Option<&'a str>,
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
        let extra = self.extra.map(|json| {
            let answers = self.answer_schemas.and_then(|schemas| without_secrets(json, schemas, rules, &mut redacted));
            rules.redaction.anywhere(answers.as_deref().unwrap_or(json), &mut redacted).into_owned()
        });
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

/// The parts of an answer that are not recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerRedaction<'a> {
    pub(crate) redaction: &'a Redaction,
    /// The values that were redacted in the request.
    pub(crate) redacted: &'a RedactedValues,
    /// The credentials that were sent to the backend.
    pub(crate) sent: Option<&'a SentCredentials>,
}

impl AnswerRedaction<'_> {
    /// The message `text` without credentials.
    fn message<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.sent.map_or(Cow::Borrowed(text), |sent| sent.redacted(text))
    }

    /// The same for the JSON text of a result or error.
    fn content<'t>(&self, json: &'t str) -> Cow<'t, str> {
        self.sent.map_or(Cow::Borrowed(json), |sent| sent.redacted_json(json))
    }
}

/// The recorded outcome of a call with this `answer`. `key` is that of the record.
pub(crate) fn outcome(
    answer: &Answer,
    values: AnswerRedaction<'_>,
    records_response: bool,
    key: &RecordKey,
) -> Outcome {
    let AnswerRedaction { redaction, redacted, .. } = values;
    // I8: the message is redacted before it is cut to its limit.
    let message = answer.message().map(|message| values.message(message));
    let content = records_response.then(|| values.content(answer.text()));
    let (message, response) = if redaction.is_empty() {
        (message.map(Cow::into_owned), content.map(Cow::into_owned))
    } else if message.is_some() || records_response {
        let mut redacted = redacted.clone();
        let content = content.unwrap_or(Cow::Borrowed(answer.text()));
        let response = redaction.response(&content, &mut redacted).into_owned();
        (message.map(|message| redaction.text(&message, &mut redacted)), records_response.then_some(response))
    } else {
        (None, None)
    };
    Outcome::answered(status(answer), message, answer.text().as_bytes(), key).with_response(response)
}

/// The schemas of those questions in the result `asks` that ask for a secret: an object by name, JSON text.
pub(crate) fn secret_schemas(asks: &Object<'_>) -> Option<String> {
    let requests = asks.object("inputRequests")?;
    let schema = |request: &str| Object::parse(request)?.object("params")?.get("requestedSchema").map(str::to_owned);
    let schemas = requests.members().filter_map(|request| Some((request.key.into_owned(), schema(request.value)?)));
    let secret: Vec<_> = schemas.filter(|(_, schema)| redact::asks_for_secret(schema)).collect();
    let members = secret.iter().map(|(name, schema)| (name.as_str(), schema.as_str()));
    (!secret.is_empty()).then(|| json::object(members))
}

/// `extra`, JSON text, without the secrets in its `inputResponses` that `schemas` declare. `None`: it has none.
fn without_secrets(extra: &str, schemas: &str, rules: &Rules, redacted: &mut RedactedValues) -> Option<String> {
    let (extra, schemas) = (Object::parse(extra)?, Object::parse(schemas)?);
    let answers = extra.object("inputResponses")?;
    let mut recorded = answers.text().to_owned();
    for schema in schemas.members() {
        let Some(answer) = answers.get(&schema.key) else { continue };
        let answer = rules.redaction.answer(Some(schema.value), answer, redacted);
        recorded = Object::parse(&recorded)?.replaced(&schema.key, &answer);
    }
    Some(extra.replaced("inputResponses", &recorded))
}

/// The questions in an `answer` that asks for input, as they are recorded: JSON text, without the state. `None`: it
/// asks for none.
pub(crate) fn questions(answer: &Answer, values: AnswerRedaction<'_>) -> Option<String> {
    let result = Object::parse(answer.text()).filter(|_| answer.kind() == AnswerKind::InputRequired)?;
    let state = json::object([("bytes", result.get("requestState").map_or(0, str::len).to_string().as_str())]);
    let result = result.replaced("requestState", &state);
    Some(values.redaction.response(&values.content(&result), &mut values.redacted.clone()).into_owned())
}

/// `answer`, or an error in its place if it asks for more than can be recorded.
pub(crate) fn within_bounds(answer: Answer) -> Answer {
    let bytes = answer.text().len();
    if answer.kind() != AnswerKind::InputRequired || bytes <= QUESTION_BYTES_MAX {
        return answer;
    }
    let message = format!("the backend asks for input in {bytes} bytes; at most {QUESTION_BYTES_MAX} can be recorded");
    Answer::refusal(UPSTREAM_FAILED, &message, None)
}
