//! The part of a trail that is checked.

use serde::{Deserialize, Serialize};

use super::place::StreamId;
use crate::audit::record::{Epoch, GatewayId, Timestamp};

/// The part of a trail that is checked. A field that is not set limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Only this gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayId>,
    /// Only this epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// From the first record of this time on, in each stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Up to the last record before this time, in each stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Selection {
    /// True if it selects the whole trail.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// True if it is limited by time.
    #[must_use]
    pub fn has_times(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    /// True if the gateway and the epoch are selected.
    #[must_use]
    pub fn contains(&self, (gateway_id, epoch): StreamId) -> bool {
        self.gateway.is_none_or(|gateway| gateway == gateway_id) && self.epoch.is_none_or(|selected| selected == epoch)
    }
}
