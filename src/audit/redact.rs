//! Redaction: keeps the values that the operator names out of every record.
//!
//! A path is a JSON pointer (RFC 6901) into the arguments of a request. The segment `*` matches every member or
//! element, `**` any number of members and elements, also none. Names are compared with the one fold
//! ([`crate::mcp::fold`]), so that `Pass_Word` is redacted where `/password` is. The value at a path is replaced by
//! `"[redacted]"`; every other byte of the text is unchanged.
//!
//! In texts that are not arguments (further parameters, responses, answers of people) a path begins at every value:
//! they have no root that the operator could know. The values that were redacted are then also removed from what the
//! backend says ([`RedactedValues`]), but not from the caller's other arguments: a caller could choose to hide those.

mod answer;
mod path;
mod reader;
mod shorten;
#[cfg(test)]
mod tests;
mod values;
mod view;
mod walk;

use std::borrow::Cow;

use answer::SecretMembers;
use path::Path;
use walk::Walk;

pub use path::PathError;
pub use shorten::{SHORTENED_MAX, ShortenedPath, ShortenedValue, shortened};
pub use values::{REDACTED, RedactedValues};

use crate::mcp::json::{self, Object};
use crate::mcp::protocol::TOOLS_CALL;

/// The operator's redaction paths, compiled.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    paths: Vec<Path>,
    /// The same paths, below each place at which a request other than `tools/call` has its arguments.
    below_arguments: Vec<Path>,
    below_context: Vec<Path>,
}

impl Redaction {
    /// Redacts nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Compiles `paths`.
    ///
    /// # Errors
    /// The first path that cannot be used.
    pub fn new(paths: &[String]) -> Result<Self, PathError> {
        let paths = paths.iter().map(|path| Path::new(path)).collect::<Result<Vec<_>, _>>()?;
        let below = |members: &[&str]| paths.iter().map(|path| path.below(members)).collect();
        Ok(Self { below_arguments: below(&["arguments"]), below_context: below(&["context", "arguments"]), paths })
    }

    /// True if there are no paths.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns `arguments`, JSON text, with the value at every path replaced. The replaced values are added to `found`.
    /// Text in which paths cannot be followed is replaced as a whole.
    #[must_use]
    pub fn arguments<'a>(&self, arguments: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
        redacted(Walk { paths: &self.paths, is_anywhere: false }, arguments, found)
    }

    /// Returns `recorded`, the JSON text that is recorded as the arguments of a request of `method`, with the value at
    /// every path replaced. For a call of a tool this is its member `arguments`, for others an object of the members
    /// of `params`.
    #[must_use]
    pub fn request_args<'a>(&self, method: &str, recorded: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
        if self.is_empty() {
            return Cow::Borrowed(recorded);
        }
        match method {
            TOOLS_CALL => self.arguments(recorded, found),
            "prompts/get" => redacted(Walk { paths: &self.below_arguments, is_anywhere: false }, recorded, found),
            "completion/complete" => self.completion(recorded, found),
            _ => self.anywhere(recorded, found),
        }
    }

    /// The arguments of a completion are one pair of name and value, and those that were completed before.
    fn completion<'a>(&self, params: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
        let name = Object::parse(params).and_then(|params| params.object("argument")?.string("name"));
        let pair = json::object([(name.as_deref().unwrap_or_default(), "0")]);
        let is_redacted = self.arguments(&pair, &mut RedactedValues::default()) != pair;
        let value = is_redacted.then(|| Path::member("value").below(&["argument"]));
        let paths: Vec<Path> = self.below_context.iter().cloned().chain(value).collect();
        redacted(Walk { paths: &paths, is_anywhere: false }, params, found)
    }

    /// Returns `json`, JSON text that is not the arguments of a request, with the value at every path replaced, at
    /// whatever depth the path begins.
    #[must_use]
    pub fn anywhere<'a>(&self, json: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
        redacted(Walk { paths: &self.paths, is_anywhere: true }, json, found)
    }

    /// Returns `response`, the JSON text of a result or error, without the values at the paths and without each
    /// occurrence of a value in `found`. The values at the paths are added to `found` first.
    #[must_use]
    pub fn response<'a>(&self, response: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
        let by_path = self.anywhere(response, found);
        let replaced = changed(found.replaced_in_json(&by_path));
        replaced.map_or(by_path, Cow::Owned)
    }

    /// Returns `text`, a message of a backend, without each occurrence of a value in `found`. If it is itself JSON
    /// text, the values at the paths are redacted too.
    #[must_use]
    pub fn text(&self, text: &str, found: &mut RedactedValues) -> String {
        let walk = Walk { paths: &self.paths, is_anywhere: true };
        let by_path = text.trim_start().starts_with(['{', '[']).then(|| {
            let edited = walk.edited(text, |_, value| {
                found.add(value);
                Some(REDACTED.to_owned())
            });
            edited.ok().and_then(changed)
        });
        let by_path = by_path.flatten();
        found.replaced_in_text(by_path.as_deref().unwrap_or(text)).into_owned()
    }

    /// Returns `answer`, the JSON text of a person's answer to a question with the schema `schema`, without the values
    /// that the schema marks as secret (`format: password`, `writeOnly`) and without those at the paths. The replaced
    /// values are added to `found`.
    ///
    /// `answer` is the content of the answer or an object that contains it, for example the result of an
    /// `elicitation/create`.
    #[must_use]
    pub fn answer<'a>(&self, schema: Option<&str>, answer: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
        let by_path = self.anywhere(answer, found);
        let by_schema = match schema.map(SecretMembers::of_schema) {
            None => None,
            Some(SecretMembers::Named(paths)) => {
                changed(redacted(Walk { paths: &paths, is_anywhere: true }, &by_path, found))
            }
            Some(SecretMembers::All) => {
                let content = [Path::member("content")];
                match changed(redacted(Walk { paths: &content, is_anywhere: false }, &by_path, found)) {
                    None => Some(REDACTED.to_owned()),
                    redacted => redacted,
                }
            }
        };
        by_schema.map_or(by_path, Cow::Owned)
    }
}

/// True if a question with the schema `schema`, JSON text, asks for a secret.
#[must_use]
pub fn asks_for_secret(schema: &str) -> bool {
    !matches!(SecretMembers::of_schema(schema), SecretMembers::Named(paths) if paths.is_empty())
}

/// The text if it was changed.
fn changed(text: Cow<'_, str>) -> Option<String> {
    if let Cow::Owned(text) = text { Some(text) } else { None }
}

fn redacted<'a>(walk: Walk<'_>, json: &'a str, found: &mut RedactedValues) -> Cow<'a, str> {
    if walk.paths.is_empty() {
        return Cow::Borrowed(json);
    }
    let edited = walk.edited(json, |_, value| {
        found.add(value);
        Some(REDACTED.to_owned())
    });
    // I8: what cannot be read for redaction is not recorded.
    edited.unwrap_or_else(|_| Cow::Owned(REDACTED.to_owned()))
}
