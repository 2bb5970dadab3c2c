//! The anchors of the configuration, one kind a variant.

use std::time::Duration;

use super::anchor::{AnchorClient, AnchorError, History, Largest};
use super::bucket::BucketAnchor;
use super::command::CommandAnchor;
use super::memory::Signed;
use super::time_stamp::TimeStampAnchor;
use super::witness::WitnessAnchor;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore};

/// An anchor of any kind.
#[derive(Clone, Debug)]
pub enum Client {
    /// A C2SP witness.
    Witness(WitnessAnchor),
    /// A time-stamp authority.
    TimeStamp(TimeStampAnchor),
    /// A bucket.
    Bucket(BucketAnchor),
    /// A program.
    Command(CommandAnchor),
}

impl AnchorClient for Client {
    fn kind(&self) -> AnchorKind {
        match self {
            Self::Witness(anchor) => anchor.kind(),
            Self::TimeStamp(anchor) => anchor.kind(),
            Self::Bucket(anchor) => anchor.kind(),
            Self::Command(anchor) => anchor.kind(),
        }
    }

    fn interval(&self) -> Duration {
        match self {
            Self::Witness(anchor) => anchor.interval(),
            Self::TimeStamp(anchor) => anchor.interval(),
            Self::Bucket(anchor) => anchor.interval(),
            Self::Command(anchor) => anchor.interval(),
        }
    }

    async fn largest(&self, log: &str) -> Result<Largest, AnchorError> {
        match self {
            Self::Witness(anchor) => anchor.largest(log).await,
            Self::TimeStamp(anchor) => anchor.largest(log).await,
            Self::Bucket(anchor) => anchor.largest(log).await,
            Self::Command(anchor) => anchor.largest(log).await,
        }
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        records: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        match self {
            Self::Witness(anchor) => anchor.confirm(signed, records).await,
            Self::TimeStamp(anchor) => anchor.confirm(signed, records).await,
            Self::Bucket(anchor) => anchor.confirm(signed, records).await,
            Self::Command(anchor) => anchor.confirm(signed, records).await,
        }
    }
}
