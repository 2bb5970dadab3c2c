//! `[roles.NAME]`: the rules of a role.

use serde::{Deserialize, Serialize};

/// `[roles.NAME]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Role {
    /// Patterns over `backend/tool`; `*` matches any characters but `/`.
    pub allow: Vec<String>,
    /// Patterns over `backend/tool` that are denied, even if another role allows them.
    pub deny: Vec<String>,
    /// Patterns over `backend/URI`; in the URI `*` matches any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<String>>,
    /// Patterns over `backend/URI` that are denied.
    pub deny_resources: Vec<String>,
    /// Patterns over `backend/prompt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<String>>,
    /// Patterns over `backend/prompt` that are denied.
    pub deny_prompts: Vec<String>,
    /// Conditions on the arguments of calls.
    pub when: Vec<Condition>,
}

/// `[[roles.NAME.when]]`: a call of a tool that `tool` matches is allowed only if the value at `pointer` passes the one
/// test that is set.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Condition {
    /// A pattern over `backend/tool`.
    pub tool: String,
    /// The text that the pointer points into.
    #[serde(default)]
    pub from: ConditionFrom,
    /// A JSON pointer into the arguments, or into each answer.
    pub pointer: String,
    /// The value equals this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
    /// The value is a string, and this regular expression matches the whole of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// The value is the path of this directory or of something below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<String>,
}

/// The text that a condition tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ConditionFrom {
    /// The arguments of a call.
    #[default]
    #[serde(rename = "arguments")]
    Arguments,
    /// Each answer that a person gives to a question of the backend.
    #[serde(rename = "inputResponses")]
    InputResponses,
}

/// A value to which an argument is compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A string.
    Text(String),
    /// An integer.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
}
