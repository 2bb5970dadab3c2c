//! Conditions on the arguments of a call: a value at a JSON pointer, and what it must be.
//!
//! A condition holds or it does not; whatever cannot be decided does not hold (I10): a pointer that leads nowhere, a
//! member that stands twice or beside one that differs by its case only (some backends take either), a text that is no
//! text, a value that is too long to match.

use regex::Regex;
use serde_json::value::RawValue;

use crate::config::{self, Scalar, anchored};
use crate::mcp::json;
use crate::rbac::pattern::{Effect, PatternError, Patterns, escapes};
use crate::rbac::{Kind, Target};

/// Longest text that is matched against a regular expression, in bytes. *Chosen*: paths, names and queries are shorter;
/// together with the limit of the expression's size it bounds what one call costs.
const MATCHED_BYTES_MAX: usize = 4096;

/// One condition, compiled.
#[derive(Debug)]
pub(super) struct Condition {
    tools: Patterns,
    pointer: String,
    segments: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    OneOf { word: &'static str, values: Vec<Scalar> },
    Matches(Regex),
    Below(Vec<String>),
}

impl Condition {
    /// Compiles the condition that stands at `key` of the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn new(key: &str, condition: &config::Condition) -> Result<Self, Vec<PatternError>> {
        let config::Condition { tool, pointer, equals, one_of, matches, below } = condition;
        let fault = |message: String| vec![PatternError { key: key.to_owned(), message }];
        let tools = Patterns::new(&format!("{key}.tool"), std::slice::from_ref(tool))?;
        let segments = pointer.strip_prefix('/').ok_or_else(|| fault("pointer does not begin with /".to_owned()))?;
        let segments = segments.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect();
        let test = match (equals, one_of, matches, below) {
            (Some(value), None, None, None) => Test::OneOf { word: "equals", values: vec![value.clone()] },
            (None, Some(values), None, None) => Test::OneOf { word: "one_of", values: values.clone() },
            (None, None, Some(expression), None) => Test::Matches(anchored(expression).map_err(fault)?),
            (None, None, None, Some(path)) => {
                let prefix = segments_of(path).filter(|segments| !segments.contains(&".."));
                let prefix = prefix.ok_or_else(|| fault(format!("below {path:?} is no plain absolute path")))?;
                Test::Below(prefix.into_iter().map(str::to_owned).collect())
            }
            _ => return Err(fault("has not exactly one of equals, one_of, matches and below".to_owned())),
        };
        Ok(Self { tools, pointer: pointer.clone(), segments, test })
    }

    /// Whether it is asked of calls of `target`. It takes away from what is allowed, and so matches as what denies.
    pub(super) fn is_on(&self, target: Target<'_>) -> bool {
        target.kind == Kind::Tool && self.tools.match_name(target, Effect::Deny)
    }

    /// Whether it is asked of any calls of `backend`.
    pub(super) fn is_on_any_of(&self, backend: &str) -> bool {
        self.tools.reach(backend)
    }

    /// What it is called in a refusal: the pointer and the kind of test, never a value.
    pub(super) fn name(&self) -> String {
        let word = match &self.test {
            Test::OneOf { word, .. } => word,
            Test::Matches(_) => "matches",
            Test::Below(_) => "below",
        };
        format!("{} ({word})", self.pointer)
    }

    /// Whether `arguments`, JSON text, fulfil it.
    pub(super) fn holds(&self, arguments: Option<&str>) -> bool {
        let Some(value) = arguments.and_then(|arguments| find(arguments, &self.segments)) else { return false };
        match &self.test {
            Test::OneOf { values, .. } => values.iter().any(|want| is(&value, want)),
            Test::Matches(expression) => {
                text(&value).is_some_and(|text| text.len() <= MATCHED_BYTES_MAX && expression.is_match(&text))
            }
            Test::Below(prefix) => text(&value).is_some_and(|path| is_below(&path, prefix)),
        }
    }
}

/// The text of the one value at `segments` of `json`.
fn find(json: &str, segments: &[String]) -> Option<String> {
    let Some((segment, rest)) = segments.split_first() else { return Some(json.trim().to_owned()) };
    if let Some(members) = json::members(json) {
        let folded = fold(segment);
        let mut alike = members.iter().filter(|member| fold(&member.key) == folded);
        let member = alike.next().filter(|member| member.is_text && member.key == *segment)?;
        return if alike.next().is_none() { find(member.value.get(), rest) } else { None };
    }
    let elements: Vec<&RawValue> = json.trim_start().starts_with('[').then(|| serde_json::from_str(json).ok())??;
    let idx: usize = segment.parse().ok().filter(|idx: &usize| idx.to_string() == *segment)?;
    find(elements.get(idx)?.get(), rest)
}

/// The same for all that differ by their case only, however a backend folds it: the Kelvin sign and the long s too.
fn fold(key: &str) -> String {
    key.to_uppercase().to_lowercase()
}

fn text(json: &str) -> Option<String> {
    json.starts_with('"').then(|| serde_json::from_str(json).ok()).flatten()
}

/// Texts compare as texts; numbers as they are written, so that `1`, `1.0` and `1e0` are three.
fn is(json: &str, want: &Scalar) -> bool {
    match want {
        Scalar::Text(want) => text(json).as_ref() == Some(want),
        Scalar::Number(want) => json == want.to_string(),
        Scalar::Flag(want) => json == want.to_string(),
    }
}

/// Whether `path` is `prefix` or below it, by its text alone. It must begin with the prefix as it is: `..` may not lead
/// into it, nor out of it and back, since what `..` leads to behind a symbolic link no text tells.
fn is_below(path: &str, prefix: &[String]) -> bool {
    let Some(segments) = segments_of(path) else { return false };
    let begins = segments.len() >= prefix.len() && prefix.iter().zip(&segments).all(|(want, segment)| want == segment);
    let mut depth = 0_usize;
    begins
        && segments.iter().skip(prefix.len()).all(|segment| {
            let next = if *segment == ".." { depth.checked_sub(1) } else { depth.checked_add(1) };
            depth = next.unwrap_or_default();
            next.is_some()
        })
}

/// The segments of an absolute path, without empty ones and `.`; `None` where the path is relative, is a network's
/// (`//host`), or holds what some program takes for something else: a control character, a backslash, or an escape of
/// one of these or of a dot, a slash or a percent sign.
fn segments_of(path: &str) -> Option<Vec<&str>> {
    let is_hidden = |byte: u8| byte.is_ascii_control() || b"./\\%".contains(&byte);
    let is_odd = path.chars().any(|c| c.is_control() || c == '\\') || escapes(path).flatten().any(is_hidden);
    if !path.starts_with('/') || path.starts_with("//") || is_odd {
        return None;
    }
    Some(path.split('/').filter(|segment| !segment.is_empty() && *segment != ".").collect())
}
