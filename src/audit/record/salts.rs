//! The salts of a record's commitments.

use serde::{Deserialize, Serialize};

use super::ids::Salt;

/// One salt for each group of columns with a commitment. They make it impossible to guess the values of a group from
/// its commitment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salts {
    /// The salt of who called.
    #[serde(rename = "salt_who")]
    pub who: Salt,
    /// The salt of the circumstances.
    #[serde(rename = "salt_circumstances")]
    pub circumstances: Salt,
    /// The salt of the content.
    #[serde(rename = "salt_content")]
    pub content: Salt,
}

impl Salts {
    /// Fresh salts for one record.
    #[must_use]
    pub fn random() -> Self {
        Self { who: Salt::random(), circumstances: Salt::random(), content: Salt::random() }
    }
}
