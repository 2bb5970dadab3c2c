//! The interface between the notary and a database.

use std::future::Future;

use super::interface::SinkError;
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::tree::Tree;
use crate::evidence::tree::{Edge, TreeHead};

/// A kind of anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorKind {
    /// A C2SP witness.
    Witness,
    /// A time-stamp authority (RFC 3161).
    Tsa,
    /// A bucket that keeps what is in it.
    S3,
    /// A program.
    Command,
}

impl AnchorKind {
    /// Its name in the table and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Witness => "witness",
            Self::Tsa => "tsa",
            Self::S3 => "s3",
            Self::Command => "command",
        }
    }
}

/// The confirmation of a checkpoint by an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The log, named by its first epoch.
    pub log: Epoch,
    /// The tree of the checkpoint.
    pub head: TreeHead,
    /// The anchor's name in the configuration.
    pub anchor: String,
    /// Its kind.
    pub kind: AnchorKind,
    /// The signature line of a witness, the token of a time-stamp authority, or the name of what was stored.
    pub proof: Vec<u8>,
}

/// The place in a log where hashes are wanted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashesAfter {
    /// The largest stored checkpoint of at most so many records.
    Checkpoint(u64),
    /// A record.
    Record((Epoch, Seq)),
}

/// Some hashes of records, one after another.
#[derive(Clone, Debug)]
pub struct HashPage {
    /// The tree before them, if they begin after a checkpoint.
    pub before: Option<Edge>,
    /// The hashes; none after the last delivered record.
    pub hashes: Vec<[u8; 32]>,
    /// The place of the last one.
    pub last: (Epoch, Seq),
}

/// A database that keeps signed checkpoints.
pub trait CheckpointStore: Send + 'static {
    /// The largest checkpoint of the log.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn last_checkpoint(
        &mut self,
        gateway_id: GatewayId,
        log: Epoch,
    ) -> impl Future<Output = Result<Option<TreeHead>, SinkError>> + Send;

    /// The hashes of delivered records of the log after a place, in order. What the database says proves nothing; a
    /// proof that is made from it is verified.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn hashes(
        &mut self,
        gateway_id: GatewayId,
        log: Epoch,
        after: HashesAfter,
    ) -> impl Future<Output = Result<HashPage, SinkError>> + Send;

    /// Stores the checkpoint of `tree`, which has the signed text `note`, if it is larger than the last one of the log,
    /// and that is the `known` one. Returns the last one afterwards: another one if this one was not stored.
    ///
    /// # Errors
    /// See [`SinkError`]; the checkpoint may be stored.
    fn store_checkpoint(
        &mut self,
        gateway_id: GatewayId,
        tree: &Tree,
        note: &str,
        known: Option<TreeHead>,
    ) -> impl Future<Output = Result<Option<TreeHead>, SinkError>> + Send;

    /// Stores what an anchor said. Returns false if the database does not have the checkpoint.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn confirm(
        &mut self,
        gateway_id: GatewayId,
        confirmation: &Confirmation,
    ) -> impl Future<Output = Result<bool, SinkError>> + Send;
}
