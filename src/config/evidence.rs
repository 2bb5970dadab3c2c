//! `[evidence]`: signed checkpoints of the gateway's log, and who else gets them.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// A program that signs, and its arguments.
    pub sign_command: Vec<String>,
    /// The public half of the program's key.
    pub verifier_key: Option<String>,
    /// The treatment of calls while evidence is missing.
    pub on_failure: OnMissing,
    /// The time after which a checkpoint is published although no records came.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// The age of an anchor's last confirmation at which an alarm is raised.
    #[serde(deserialize_with = "duration")]
    pub anchor_max_age: Duration,
    /// The witnesses that get each checkpoint.
    pub witnesses: Vec<Witness>,
    /// The time-stamp authorities that stamp checkpoints.
    pub time_stamps: Vec<TimeStamps>,
    /// The buckets that keep checkpoints.
    pub buckets: Vec<Bucket>,
    /// The programs that get checkpoints.
    pub commands: Vec<AnchorCommand>,
}

/// The treatment of calls while no checkpoint can be signed, or one is not confirmed for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// They continue, with an alarm.
    #[default]
    Continue,
    /// They are refused.
    Refuse,
}

/// `[[evidence.witnesses]]`
#[derive(Clone, Debug, Deserialize)]
pub struct Witness {
    /// The URL below which it answers.
    pub url: String,
    /// Its verifier key, whose name is its own.
    pub key: String,
}

/// `[[evidence.time_stamps]]`
#[derive(Clone, Debug, Deserialize)]
pub struct TimeStamps {
    /// Its name among the anchors.
    pub name: String,
    /// The URL that answers requests.
    pub url: String,
    /// File with the certificates of the authorities that are trusted.
    pub root_file: Option<PathBuf>,
    /// The shortest time between two time stamps.
    #[serde(default = "one_hour", deserialize_with = "duration")]
    pub interval: Duration,
}

/// `[[evidence.buckets]]`
#[derive(Clone, Debug, Deserialize)]
pub struct Bucket {
    /// Its name among the anchors.
    pub name: String,
    /// The URL of the bucket.
    pub url: String,
    /// Its region.
    pub region: String,
    /// The id of the access key.
    pub access_key_id: String,
    /// File with the access key.
    pub secret_key_file: PathBuf,
    /// True if an object counts only under a lock.
    #[serde(default = "always")]
    pub require_lock: bool,
    /// The shortest time between two objects.
    #[serde(default = "one_minute", deserialize_with = "duration")]
    pub interval: Duration,
}

fn always() -> bool {
    true
}

/// `[[evidence.commands]]`
#[derive(Clone, Debug, Deserialize)]
pub struct AnchorCommand {
    /// Its name among the anchors.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The shortest time between two runs.
    #[serde(default = "one_minute", deserialize_with = "duration")]
    pub interval: Duration,
}

fn one_hour() -> Duration {
    Duration::from_hours(1)
}

fn one_minute() -> Duration {
    Duration::from_mins(1)
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            files: FileAccess::default(),
            origin: None,
            key_file: None,
            second_key_file: None,
            sign_command: Vec::new(),
            verifier_key: None,
            on_failure: OnMissing::Continue,
            interval: Duration::from_mins(1),
            anchor_max_age: Duration::from_hours(1),
            witnesses: Vec::new(),
            time_stamps: Vec::new(),
            buckets: Vec::new(),
            commands: Vec::new(),
        }
    }
}
