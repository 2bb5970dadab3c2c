//! The parts of a row in the table of settings.

use std::borrow::Cow;
use std::time::Duration;

use crate::config::value_type::ValueType;

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingSpec {
    /// Its path; `*` stands for a name that the operator chooses, `[]` for an index in a list of tables.
    pub path: &'static str,
    /// Its type, unit and range.
    pub value_type: ValueType,
    /// The value that applies if the operator does not set it.
    pub default: Fallback,
    /// Its effect, and the reasons for its default and range.
    pub description: &'static str,
}

/// The value that applies if a setting is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value, written in TOML.
    Value(&'static str),
    /// A list of these words.
    Words(&'static [&'static str]),
    /// No value, which the description explains.
    Unset,
    /// Nothing: it must be set.
    Required,
}

pub(super) const MINUTES_10: Duration = Duration::from_mins(10);
pub(super) const HOURS_24: Duration = Duration::from_hours(24);

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn duration(min: Duration, max: Duration) -> ValueType {
    ValueType::Duration { min, max }
}

pub(super) const fn count(unit: &'static str, min: u64, max: u64) -> ValueType {
    ValueType::Count { unit, min, max }
}

pub(super) const fn setting(
    path: &'static str,
    value_type: ValueType,
    default: Fallback,
    description: &'static str,
) -> SettingSpec {
    SettingSpec { path, value_type, default, description }
}

impl SettingSpec {
    /// The environment variable that overrides this setting; `None` below a chosen name or in a list.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        let is_fixed = !self.path.contains(['*', '[']);
        is_fixed.then(|| format!("GATEPOST_{}", self.path.replace('.', "_").to_uppercase()))
    }

    /// The path of its section.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }
}

impl Fallback {
    /// The default value in TOML, if there is one.
    #[must_use]
    pub fn to_toml(self) -> Option<Cow<'static, str>> {
        match self {
            Self::Value(text) => Some(text.into()),
            Self::Words(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                Some(format!("[{}]", words.join(", ")).into())
            }
            Self::Unset | Self::Required => None,
        }
    }
}
