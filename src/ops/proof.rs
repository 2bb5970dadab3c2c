//! The proof that a record is in its gateway's log, for `gatepost audit prove` and the console.

use super::trail::{TrailError, failed};
use crate::audit::chain;
use crate::audit::query::{self, LogReading, StoredCheckpoint};
use crate::audit::record::{AuditRecord, Digest, Epoch, Seq};
use crate::audit::sink::checkpoints::AnchorKind;
use crate::audit::sink::postgres::Connection;
use crate::evidence::checkpoint::{Checkpoint, CheckpointError};
use crate::evidence::cosignature::{UnixTime, stated_time};
use crate::evidence::note::{Note, NoteError};
use crate::evidence::proof::LogProof;
use crate::evidence::signature::Signature;
use crate::evidence::tree::{Hash, leaf_hash, prove, verify_inclusion};

/// The signatures that a proof needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// That of a witness too.
    Witnessed,
    /// That of the gateway suffices.
    Own,
}

/// A record cannot be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The database cannot be read.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// The record was changed.
    #[error("the record's hash is not that of its contents: it was changed, or lost; see gatepost audit verify")]
    Changed,
    /// No checkpoint covers it.
    #[error("no checkpoint covers the record: it is younger than the last one, or its gateway signs none")]
    Unsigned,
    /// No witness has signed a checkpoint that covers it.
    #[error(
        "the checkpoints that cover the record are signed by its gateway only: wait for a witness, or prove it against \
         the gateway's own signature with gatepost audit prove --unwitnessed"
    )]
    Unwitnessed,
    /// Other records, which the proof needs, are not there.
    #[error(
        "records between the checkpoints around it are missing, so nothing can be proved: see gatepost audit verify"
    )]
    Missing,
    /// Another record was changed.
    #[error("the records in the database do not give the signed root: one was changed; see gatepost audit verify")]
    OtherRoot,
    /// The record is not the one that was signed.
    #[error("the signed tree has another record in this place: this one was added; see gatepost audit verify")]
    OtherRecord,
    /// The checkpoint was changed.
    #[error("the note in audit_checkpoint is of another tree than its row: it was changed")]
    OtherTree,
    /// The note of the checkpoint cannot be read.
    #[error("the note in audit_checkpoint")]
    Note(#[from] NoteError),
    /// The text of the checkpoint cannot be read.
    #[error("the note in audit_checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// The signature of a witness cannot be read.
    #[error("the signature of {anchor} in audit_anchor cannot be read: it was changed")]
    Anchor {
        /// The name of the witness.
        anchor: String,
    },
}

/// The proof of `record`, and the checkpoint that it leads to: the first one that has these signatures. It reads the
/// hashes of all records between two checkpoints, and keeps those that the proof needs.
///
/// # Errors
/// [`ProofError`].
pub async fn proof(
    connection: &mut Connection,
    record: &AuditRecord,
    signatures: Signatures,
) -> Result<(LogProof, StoredCheckpoint), ProofError> {
    let position = record.position;
    if !chain::hash_matches(&position, &record.entry) {
        return Err(ProofError::Changed);
    }
    let place = (position.epoch, position.seq);
    let error = |error| failed("read the checkpoints", error);
    let mut log = LogReading::begin(connection, position.gateway_id).await.map_err(error)?;
    let kind = (signatures == Signatures::Witnessed).then_some(AnchorKind::Witness.name());
    let Some(to) = log.covering(place, kind).await.map_err(error)? else {
        let is_signed = kind.is_some() && log.covering(place, None).await.map_err(error)?.is_some();
        return Err(if is_signed { ProofError::Unwitnessed } else { ProofError::Unsigned });
    };
    let (index, hashes) = inclusion(&mut log, &to, place, position.hash).await?;
    log.end().await.map_err(error)?;
    let (note, _) = signed_note(&to, |_| true)?;
    Ok((LogProof { index, hashes, note, extra: None }, to))
}

/// The index of the record at `place` with this hash in the tree of `to`, and the inclusion proof.
///
/// # Errors
/// [`ProofError`].
pub async fn inclusion(
    log: &mut LogReading<'_>,
    to: &StoredCheckpoint,
    place: (Epoch, Seq),
    hash: Digest,
) -> Result<(u64, Vec<Hash>), ProofError> {
    let error = |error| failed("read the checkpoints", error);
    let from = log.before(to.log, place).await.map_err(error)?;
    let nodes = log.nodes(from.as_ref(), to, place).await;
    let (index, mut nodes) = match nodes {
        Err(query::Error::RowNotFound) => return Err(ProofError::Missing),
        nodes => nodes.map_err(error)?,
    };
    if nodes.root() != to.head.root {
        return Err(ProofError::OtherRoot);
    }
    // The index is one of the tree's, and all records passed by.
    let hashes = prove::inclusion(index, to.head.size, &mut nodes).map_err(|_| ProofError::Missing)?;
    verify_inclusion(index, leaf_hash(&hash.0), to.head, &hashes).map_err(|_| ProofError::OtherRecord)?;
    Ok((index, hashes))
}

/// The note with the signatures of its log, and of each witness the first one whose time is wanted; and these times.
///
/// # Errors
/// [`ProofError`] if a row was changed.
pub fn signed_note(
    checkpoint: &StoredCheckpoint,
    is_wanted: impl Fn(UnixTime) -> bool,
) -> Result<(Note, Vec<(String, UnixTime)>), ProofError> {
    let note = Note::parse(checkpoint.note.as_bytes())?;
    if Checkpoint::parse(note.text())?.head() != checkpoint.head {
        return Err(ProofError::OtherTree);
    }
    let (mut signatures, mut times) = (note.signatures().to_vec(), Vec::new());
    for anchor in checkpoint.anchors.iter().filter(|anchor| is_witness(&anchor.kind)) {
        for proof in [&anchor.first.0, &anchor.last.0] {
            let text = str::from_utf8(proof).unwrap_or_default();
            let parsed: Option<Vec<_>> = text.lines().map(Signature::parse).collect();
            let parsed = parsed.ok_or_else(|| ProofError::Anchor { anchor: anchor.name.clone() })?;
            // A witness with several keys signs with all at one time.
            if let Some(time) = parsed.first().and_then(stated_time).filter(|time| is_wanted(*time)) {
                signatures.extend(parsed);
                times.push((anchor.name.clone(), time));
                break;
            }
        }
    }
    Ok((Note::new(note.text().to_owned(), signatures)?, times))
}

/// True if this kind of anchor is a witness.
#[must_use]
pub fn is_witness(kind: &str) -> bool {
    kind == AnchorKind::Witness.name()
}
