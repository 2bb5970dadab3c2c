//! The anchors of the configuration, one kind a variant.

use std::time::Duration;

use super::anchor::{AnchorClient, AnchorError, History, Largest};
use super::bucket::{BucketAnchor, BucketError};
use super::command::CommandAnchor;
use super::memory::Signed;
use super::time_stamp::TimeStampAnchor;
use super::witness::WitnessAnchor;
use crate::audit::record::Timestamp;
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

impl AnchorClient for TimeStampAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Tsa
    }

    fn interval(&self) -> Duration {
        self.interval()
    }

    /// It keeps nothing.
    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        Ok(Largest::Unknown)
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        _: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        let now = u64::try_from(Timestamp::now().micros() / 1_000_000).unwrap_or_default();
        Ok(self.stamp(&signed.note, now).await?.der)
    }
}

impl AnchorClient for BucketAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::S3
    }

    fn interval(&self) -> Duration {
        self.interval()
    }

    async fn largest(&self, log: &str) -> Result<Largest, AnchorError> {
        Ok(self.largest_head(log).await?.map_or(Largest::Nothing, Largest::Checkpoint))
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        _: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        self.keep(&signed.note).await.map_err(|error| match error {
            BucketError::Other { size, .. } => AnchorError::Contradiction { size, cause: error.to_string() },
            _ => error.into(),
        })
    }
}
