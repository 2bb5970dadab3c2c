//! Conditions on the arguments of a call: a JSON pointer, and a test of the value there.
//!
//! A condition that cannot be decided does not hold (I10). That is so if the pointer finds no value; if a member on its
//! path is repeated, or another one folds alike, because some backends accept either; if the value has the
//! wrong type or is too long to match.

use regex::Regex;
use serde_json::value::RawValue;
use unicode_normalization::UnicodeNormalization as _;

use crate::config::{self, ConditionFrom, Scalar, anchored};
use crate::mcp::fold::folded;
use crate::mcp::json::{self, Object};
use crate::rbac::pattern::{Effect, PatternError, Patterns, escapes};
use crate::rbac::target::{Target, TargetKind};

/// Longest string that is matched against a regular expression, in bytes. *Chosen*: paths, names and queries are
/// shorter; together with the limit of the expression's size it bounds the cost of a call.
const MATCHED_BYTES_MAX: usize = 4096;

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Condition {
    tools: Patterns,
    is_on_answers: bool,
    pointer: String,
    segments: Vec<String>,
    test: Test,
}

/// The texts of a call that conditions test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tested<'a> {
    /// False if only the answers are tested.
    pub(super) is_call: bool,
    /// The arguments.
    pub(super) arguments: Option<&'a str>,
    /// An object of answers to the backend's questions, by name.
    pub(super) answers: Option<&'a str>,
}

#[derive(Debug)]
enum Test {
    OneOf { keyword: &'static str, values: Vec<Scalar> },
    Matches(Regex),
    Below(Vec<String>),
}

impl Condition {
    /// Compiles the condition at `key` of the configuration.
    ///
    /// # Errors
    /// Every error in the condition.
    pub(super) fn new(key: &str, condition: &config::Condition) -> Result<Self, Vec<PatternError>> {
        let config::Condition { tool, from, pointer, equals, one_of, matches, below } = condition;
        let error = |message: String| vec![PatternError { key: key.to_owned(), message }];
        let tools = Patterns::new(&format!("{key}.tool"), std::slice::from_ref(tool))?;
        let segments = pointer.strip_prefix('/').ok_or_else(|| error("pointer does not begin with /".to_owned()))?;
        let segments = segments.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect();
        let test = match (equals, one_of, matches, below) {
            (Some(value), None, None, None) => Test::OneOf { keyword: "equals", values: vec![value.clone()] },
            (None, Some(values), None, None) => Test::OneOf { keyword: "one_of", values: values.clone() },
            (None, None, Some(expression), None) => Test::Matches(anchored(expression).map_err(error)?),
            (None, None, None, Some(path)) => {
                let prefix = path_segments(path).filter(|segments| !segments.contains(&".."));
                let prefix = prefix.ok_or_else(|| error(format!("below {path:?} is not a plain absolute path")))?;
                Test::Below(prefix.into_iter().map(str::to_owned).collect())
            }
            _ => return Err(error("set exactly one of equals, one_of, matches and below".to_owned())),
        };
        let is_on_answers = *from == ConditionFrom::InputResponses;
        Ok(Self { tools, is_on_answers, pointer: pointer.clone(), segments, test })
    }

    /// Returns true if calls of `target` must meet the condition. A condition restricts what is allowed, so that its
    /// pattern matches like one that denies.
    pub(super) fn applies_to(&self, target: Target<'_>) -> bool {
        target.kind == TargetKind::Tool && self.tools.match_name(target, Effect::Deny).is_some()
    }

    /// Returns true if any calls of `backend` must meet the condition.
    pub(super) fn applies_to_any_of(&self, backend: &str) -> bool {
        self.tools.reach(backend)
    }

    /// The condition's name in a denial: the pointer and the keyword of the test, never a value.
    pub(super) fn name(&self) -> String {
        let keyword = match &self.test {
            Test::OneOf { keyword, .. } => keyword,
            Test::Matches(_) => "matches",
            Test::Below(_) => "below",
        };
        let from = if self.is_on_answers { "inputResponses " } else { "" };
        format!("{from}{} ({keyword})", self.pointer)
    }

    /// Returns true if the call meets the condition. Answers that accept nothing need not meet it, because they carry
    /// no value.
    pub(super) fn is_met(&self, tested: Tested<'_>) -> bool {
        if !self.is_on_answers {
            return !tested.is_call || self.holds(tested.arguments);
        }
        let Some(answers) = tested.answers else { return true };
        // I10: answers that cannot be read do not meet it.
        let Some(answers) = Object::parse(answers) else { return false };
        let is_refusal = |answer: &str| {
            let action = Object::parse(answer).filter(|answer| answer.len() == 1);
            action
                .and_then(|answer| answer.string("action"))
                .is_some_and(|action| action == "decline" || action == "cancel")
        };
        answers.members().all(|answer| is_refusal(answer.value) || self.holds(Some(answer.value)))
    }

    /// Returns true if `arguments`, JSON text, meet the condition.
    fn holds(&self, arguments: Option<&str>) -> bool {
        let Some(value) = arguments.and_then(|arguments| find(arguments, &self.segments)) else { return false };
        match &self.test {
            Test::OneOf { values, .. } => values.iter().any(|expected| equals(&value, expected)),
            Test::Matches(expression) => {
                json::string(&value).is_some_and(|text| text.len() <= MATCHED_BYTES_MAX && expression.is_match(&text))
            }
            Test::Below(prefix) => json::string(&value).is_some_and(|path| is_below(&path, prefix)),
        }
    }
}

/// The text of the only value at `segments` of `json`.
fn find(json: &str, segments: &[String]) -> Option<String> {
    let Some((segment, rest)) = segments.split_first() else { return Some(json.trim().to_owned()) };
    if let Some(object) = Object::parse(json) {
        let wanted = folded(segment);
        let mut similar = object.members().filter(|member| folded(&member.key) == wanted);
        let member = similar.next().filter(|member| member.is_text && member.key == *segment)?;
        return if similar.next().is_none() { find(member.value, rest) } else { None };
    }
    let elements: Vec<&RawValue> = json.trim_start().starts_with('[').then(|| serde_json::from_str(json).ok())??;
    let idx: usize = segment.parse().ok().filter(|idx: &usize| idx.to_string() == *segment)?;
    find(elements.get(idx)?.get(), rest)
}

/// Returns true if the value `json` is `expected`. Strings are compared unescaped, numbers as they are written: `1`,
/// `1.0` and `1e0` are three values.
fn equals(json: &str, expected: &Scalar) -> bool {
    match expected {
        Scalar::Text(expected) => json::string(json).as_ref() == Some(expected),
        Scalar::Number(expected) => json == expected.to_string(),
        Scalar::Flag(expected) => json == expected.to_string(),
    }
}

/// Returns true if `path` is `prefix` or below it, judged by its text alone.
///
/// The path must begin with the prefix itself: `..` may neither lead into the prefix nor out of it and back, because
/// the text does not show where `..` leads after a symbolic link.
fn is_below(path: &str, prefix: &[String]) -> bool {
    let Some(segments) = path_segments(path) else { return false };
    let begins = segments.len() >= prefix.len() && prefix.iter().zip(&segments).all(|(want, segment)| want == segment);
    let mut depth = 0_usize;
    begins
        && segments.iter().skip(prefix.len()).all(|segment| {
            let next = if *segment == ".." { depth.checked_sub(1) } else { depth.checked_add(1) };
            depth = next.unwrap_or_default();
            next.is_some()
        })
}

/// The segments of an absolute path, without `.` and empty ones.
///
/// `None`: the path is relative, names a network host (`//host`), or contains characters that programs read in
/// different ways: a control character, a backslash, a compatible form of a dot or a slash (fullwidth), or an escape of
/// one of these or of a dot, a slash or a percent sign.
fn path_segments(path: &str) -> Option<Vec<&str>> {
    let is_special = |byte: u8| byte.is_ascii_control() || b"./\\%".contains(&byte);
    // A program that normalizes Unicode reads a fullwidth dot as a dot.
    let is_compatible = |c: char| !c.is_ascii() && c.nfkc().any(|c| matches!(c, '.' | '/' | '\\' | '%'));
    let is_unclear = path.chars().any(|c| c.is_control() || c == '\\' || is_compatible(c))
        || escapes(path).flatten().any(is_special);
    if !path.starts_with('/') || path.starts_with("//") || is_unclear {
        return None;
    }
    Some(path.split('/').filter(|segment| !segment.is_empty() && *segment != ".").collect())
}
