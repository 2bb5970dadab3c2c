//! The interface between the notary and a database.

use std::future::Future;

use super::interface::SinkError;
use crate::audit::record::{Epoch, GatewayId};
use crate::audit::tree::Tree;
use crate::evidence::tree::{KnownNodes, TreeHead};

/// The SQLSTATE of a checkpoint that contradicts a stored one. *Spec*: `migrations/0001_audit.sql`.
const CONTRADICTION: &str = "GP004";

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

    /// The nodes of the log's tree, as far as records are delivered: from the largest stored checkpoint of at most
    /// `size` records on. What the database says proves nothing; a proof that is made from it is verified.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn known_nodes(
        &mut self,
        gateway_id: GatewayId,
        log: Epoch,
        size: u64,
    ) -> impl Future<Output = Result<KnownNodes, SinkError>> + Send;

    /// Stores the checkpoint of `tree`, which has the signed text `note`. Storing it again changes nothing.
    ///
    /// # Errors
    /// See [`SinkError`]. [`SinkError::is_contradiction`] if the database has another checkpoint of this size, or a
    /// larger one and not this one; nothing was stored.
    fn store_checkpoint(
        &mut self,
        gateway_id: GatewayId,
        tree: &Tree,
        note: &str,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

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

impl SinkError {
    /// Returns true if a stored checkpoint contradicts the one that was to be stored.
    #[must_use]
    pub fn is_contradiction(&self) -> bool {
        self.sqlstate.as_deref() == Some(CONTRADICTION)
    }
}
