//! `[evidence]`: signed checkpoints of the gateway's log, and who else gets them.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::deserialize::duration;
use crate::file_access::FileAccess;

/// `[evidence]`. Without an origin nothing is signed.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// The owners and permissions that the files may have.
    #[serde(skip)]
    pub files: FileAccess,
    /// The beginning of the logs' names.
    pub origin: Option<String>,
    /// File with the key that signs.
    pub key_file: Option<PathBuf>,
    /// File with a key that signs too, while keys change.
    pub second_key_file: Option<PathBuf>,
    /// The time after which a checkpoint is published although no records came.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// The age of an anchor's last confirmation at which an alarm is raised.
    #[serde(deserialize_with = "duration")]
    pub anchor_max_age: Duration,
    /// The witnesses that get each checkpoint.
    pub witnesses: Vec<Witness>,
}

/// `[[evidence.witnesses]]`
#[derive(Clone, Debug, Deserialize)]
pub struct Witness {
    /// The URL below which it answers.
    pub url: String,
    /// Its verifier key, whose name is its own.
    pub key: String,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            files: FileAccess::default(),
            origin: None,
            key_file: None,
            second_key_file: None,
            interval: Duration::from_mins(1),
            anchor_max_age: Duration::from_hours(1),
            witnesses: Vec::new(),
        }
    }
}
