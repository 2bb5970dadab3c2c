//! Places in a trail.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::audit::record::{Epoch, GatewayId, Seq, StreamPosition};

/// A stream's gateway and epoch.
pub type StreamId = (GatewayId, Epoch);

/// The part of the trail that a finding is about. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The gateway.
    pub gateway_id: Option<GatewayId>,
    /// The epoch.
    pub epoch: Option<Epoch>,
    /// The first seq.
    pub first: Option<Seq>,
    /// The last seq.
    pub last: Option<Seq>,
}

impl Place {
    /// All of the trail.
    pub const ALL: Self = Self { gateway_id: None, epoch: None, first: None, last: None };

    /// All of a gateway's streams.
    #[must_use]
    pub fn gateway(gateway_id: GatewayId) -> Self {
        Self { gateway_id: Some(gateway_id), ..Self::ALL }
    }

    /// A whole stream.
    #[must_use]
    pub fn stream((gateway_id, epoch): StreamId) -> Self {
        Self { gateway_id: Some(gateway_id), epoch: Some(epoch), ..Self::ALL }
    }

    /// Positions of a stream.
    #[must_use]
    pub fn seqs(stream: StreamId, first: Seq, last: Seq) -> Self {
        Self { first: Some(first), last: Some(last), ..Self::stream(stream) }
    }

    /// One position.
    #[must_use]
    pub fn at(position: &StreamPosition) -> Self {
        Self::seqs((position.gateway_id, position.epoch), position.seq, position.seq)
    }

    /// Returns true if `other` begins where this one ends, in the same stream.
    pub(super) fn is_continued_by(&self, other: &Self) -> bool {
        let same = self.gateway_id == other.gateway_id && self.epoch == other.epoch && self.epoch.is_some();
        same && self.last.zip(other.first).is_some_and(|(last, first)| last.0.checked_add(1) == Some(first.0))
    }
}

impl fmt::Display for Place {
    /// `gateway G epoch 3 seq 4 to 6`; nothing for the whole trail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(gateway_id) = self.gateway_id else { return f.write_str("the trail") };
        write!(f, "gateway {gateway_id}")?;
        if let Some(epoch) = self.epoch {
            write!(f, " epoch {epoch}")?;
        }
        match (self.first, self.last) {
            (Some(first), Some(last)) if first < last => write!(f, " seq {first} to {last}"),
            (Some(first), _) => write!(f, " seq {first}"),
            _ => Ok(()),
        }
    }
}
