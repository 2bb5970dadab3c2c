//! The alarms: conditions that an operator must know about at once. `docs/runbook.md` has a section for each.
//!
//! A [`Board`] has the active ones. An alarm is raised once, when its condition begins, and cleared when it ends. Its
//! message is always that of the last check.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::audit::meter::Counter;
use crate::audit::record::Timestamp;

/// Defines [`Alarm`] from the one table of all alarms.
macro_rules! alarms {
    ($($(#[doc = $doc:literal])+ $alarm:ident = $name:literal;)+) => {
        /// An alarm.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Alarm {
            $($(#[doc = $doc])+ $alarm,)+
        }

        impl Alarm {
            /// All alarms, in the order of the runbook.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$alarm),+];

            /// The alarm's name in logs, metrics, notifications and the runbook.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$alarm => $name,)+
                }
            }
        }
    };
}

// To add an alarm: a row here, its condition in `ops/watch.rs`, its section in `docs/runbook.md`. The compiler and
// `tests/cli/metrics.rs` demand the other two.
alarms! {
    /// The outbox is more than three quarters full.
    Capacity75 = "capacity_75";
    /// The outbox is nearly full, or its disk is.
    Capacity90 = "capacity_90";
    /// The outbox cannot store.
    OutboxFailed = "outbox_failed";
    /// A damaged file of the outbox was set aside.
    GenerationSetAside = "generation_set_aside";
    /// A stream is forked.
    Fork = "fork";
    /// Postgres had less than was delivered, and kept records are delivered again.
    DatabaseRestored = "database_restored";
    /// Postgres refused a record, which is in `audit_quarantine`.
    Quarantine = "quarantine";
    /// The oldest undelivered record is older than `alarms.delivery_behind_after`.
    DeliveryBehind = "delivery_behind";
    /// Delivery is blocked by an error that an operator has to fix.
    OperatorError = "operator_error";
    /// The wall clock was set.
    ClockStepped = "clock_stepped";
    /// Log lines are dropped, because they cannot be written.
    LogDropped = "log_dropped";
    /// Connections cannot be accepted, usually because the process has too many open files.
    OpenFiles = "open_files";
    /// A backend has changed the definitions of tools, or has tools that were not accepted.
    ToolsChanged = "tools_changed";
    /// Another gateway has not renewed its lease although its stream is open.
    GatewaySilent = "gateway_silent";
    /// A certificate ends within two weeks, or within the last third of its lifetime.
    CertificateExpires = "certificate_expires";
    /// A certificate has expired.
    CertificateExpired = "certificate_expired";
    /// Something contradicts a signed checkpoint.
    EvidenceFork = "evidence_fork";
    /// No checkpoint can be signed.
    EvidenceUnsigned = "evidence_unsigned";
    /// Postgres or a witness has not confirmed a checkpoint for longer than `evidence.anchor_max_age`.
    EvidenceUnanchored = "evidence_unanchored";
}

impl Serialize for Alarm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Alarm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let alarm = Self::ALL.into_iter().find(|alarm| alarm.name() == name);
        alarm.ok_or_else(|| serde::de::Error::custom(format!("unknown alarm {name:?}")))
    }
}

impl Alarm {
    /// True if its message names the things that it is about, so that a change of the message is news.
    pub(super) fn names_things(self) -> bool {
        matches!(self, Self::GatewaySilent | Self::CertificateExpires | Self::CertificateExpired)
    }
}

/// An active alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveAlarm {
    /// The alarm.
    pub alarm: Alarm,
    /// When it was raised.
    pub since: Timestamp,
    /// The finding at the last check.
    #[serde(rename = "words")]
    pub message: String,
}

/// The active alarms. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    active: Mutex<BTreeMap<Alarm, ActiveAlarm>>,
    raised: [Counter; Alarm::ALL.len()],
    notifications_failed: Counter,
}

impl Board {
    /// The active alarms.
    #[must_use]
    pub fn active(&self) -> Vec<ActiveAlarm> {
        self.0.active.lock().values().cloned().collect()
    }

    /// True if `alarm` is active.
    #[must_use]
    pub fn is_active(&self, alarm: Alarm) -> bool {
        self.0.active.lock().contains_key(&alarm)
    }

    /// Raises `alarm` if it is not active; returns whether it did.
    pub(super) fn raise(&self, alarm: Alarm, message: &str) -> bool {
        let raised = ActiveAlarm { alarm, since: Timestamp::now(), message: message.to_owned() };
        let mut active = self.0.active.lock();
        let is_new = !active.contains_key(&alarm);
        active.entry(alarm).or_insert(raised);
        if let Some((_, counter)) = self.raised().find(|(known, _)| is_new && *known == alarm) {
            counter.add(1);
        }
        is_new
    }

    /// Sets the message of `alarm`, if it is active; returns whether the message is another one than before.
    pub(super) fn set_message(&self, alarm: Alarm, message: &str) -> bool {
        let mut active = self.0.active.lock();
        let known = active.get_mut(&alarm).filter(|known| known.message != message);
        known.map(|known| message.clone_into(&mut known.message)).is_some()
    }

    /// Clears `alarm`; returns whether it was active.
    pub(super) fn clear(&self, alarm: Alarm) -> bool {
        self.0.active.lock().remove(&alarm).is_some()
    }

    /// The number of times that each alarm was raised.
    pub fn raised(&self) -> impl Iterator<Item = (Alarm, &Counter)> {
        Alarm::ALL.into_iter().zip(&self.0.raised)
    }

    /// Notifications that neither the command nor the webhook accepted, and those that did not fit the queue.
    #[must_use]
    pub fn notifications_failed(&self) -> &Counter {
        &self.0.notifications_failed
    }
}
