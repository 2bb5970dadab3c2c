//! The decisions of a policy, and the reasons for them.

use crate::audit::record::Caller;

/// The access to a target that the policy decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// Seeing the target in a list. Conditions do not apply: a list has no arguments.
    List,
    /// Using the target.
    Call {
        /// The arguments, JSON text.
        arguments: Option<&'a str>,
        /// Answers of a person to questions of the target, JSON text: an object of answers by name.
        answers: Option<&'a str>,
    },
    /// Handing such answers to the target, without a call.
    Answer(&'a str),
}

/// The call during which a backend asks the client something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking<'a> {
    /// A call of this tool.
    Tool(&'a str),
    /// A request for a resource or a prompt.
    Other,
    /// One of several calls that are open, or none.
    Unknown,
}

/// The policy's decision on one target for one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The role allows the access.
    Allowed {
        /// The first of the caller's roles that allows the access.
        role: &'a str,
        /// The role's rule that allows it.
        rule: Rule,
    },
    /// No role allows the access, or one denies it.
    Denied(DenialReason<'a>),
}

/// The reason why the policy denies access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenialReason<'a> {
    /// None of the caller's roles allows the access.
    NoRule,
    /// The operator hides the tool from everyone.
    Hidden {
        /// The backend's alias.
        backend: String,
        /// The position of the pattern in its setting `hide`.
        idx: usize,
    },
    /// A role denies the access.
    Rule {
        /// The first of the caller's roles that denies the access.
        role: &'a str,
        /// The role's rule that denies it.
        rule: Rule,
    },
    /// A role allows the access, but only with other arguments.
    Condition {
        /// The first of the caller's roles that would allow the access.
        role: &'a str,
        /// The role's first condition that does not hold.
        condition: String,
        /// The same condition, as a rule.
        rule: Rule,
    },
}

/// A rule of a role: a pattern or a condition in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The setting of the role that has the rule.
    pub(super) list: &'static str,
    /// The position in it, from 0.
    pub(super) idx: usize,
}

/// The recorded rule of a decision that no rule made.
pub const DEFAULT_RULE: &str = "default";

impl Rule {
    /// The rule's place in the configuration, for example `roles.reader.allow[2]`.
    #[must_use]
    pub fn of_role(self, role: &str) -> String {
        let Self { list, idx } = self;
        format!("roles.{role}.{list}[{idx}]")
    }
}

impl Decision<'_> {
    /// The rule that decided, as it is recorded: its place in the configuration, or [`DEFAULT_RULE`].
    #[must_use]
    pub fn decided_by(&self) -> String {
        match self {
            Self::Denied(DenialReason::NoRule) => DEFAULT_RULE.to_owned(),
            Self::Denied(DenialReason::Hidden { backend, idx }) => format!("backends.{backend}.hide[{idx}]"),
            Self::Allowed { role, rule }
            | Self::Denied(DenialReason::Rule { role, rule } | DenialReason::Condition { role, rule, .. }) => {
                rule.of_role(role)
            }
        }
    }
}

/// The denial of a call.
#[derive(Debug)]
pub struct Denial {
    /// The caller, with all of its roles, because no single role decided.
    pub caller: Caller,
    /// The reason, for the caller and for the record.
    pub reason: String,
    /// The rule that decided, for the record.
    pub decided_by: String,
}

/// The denial of an answer to a backend's question.
#[derive(Debug, PartialEq, Eq)]
pub struct DeniedAnswer {
    /// The reason, for the backend and for the record.
    pub reason: String,
    /// The rule that decided, for the record.
    pub decided_by: String,
}
