//! The room in the outbox for calls, refusals and the gateway's own records.

use crate::audit::outbox::Space;
use crate::audit::ring::OutboxCapacity;

/// Events and the records of open calls may exceed the quota by the quota divided by this. *Chosen*: as much as one
/// generation file of a small quota, see [`outbox`](crate::audit::outbox).
const EVENTS_SHARE: u64 = 8;

/// The last part of the quota that refusals may not use: the quota divided by this. *Chosen*: with the default quota,
/// room for two million calls after refusals have used up the rest.
const CALLS_SHARE: u64 = 4;

/// Percentages of the quota at which an error is logged. *Spec*: `docs/design.md`, "Outbox".
const ALARM_PERCENTS: [u64; 3] = [75, 90, 100];

/// Logs that the fill level crossed a limit.
pub(super) fn log_change(before: Space, now: Space) {
    for percent in ALARM_PERCENTS {
        if before.percent() < percent && now.percent() >= percent {
            tracing::error!(used_bytes = now.used_bytes, max_bytes = now.max_bytes, "outbox is {percent} % full");
        }
    }
    // That the disk is full is logged where it is found.
    if now.has_room() && !before.has_room() {
        tracing::info!(used_bytes = now.used_bytes, max_bytes = now.max_bytes, "outbox has room again");
    }
}

/// The capacity of an outbox with this fill level.
pub(super) fn of(space: Space) -> OutboxCapacity {
    OutboxCapacity {
        used_bytes: space.used_bytes,
        kept_bytes: space.kept_bytes,
        max_bytes: space.max_bytes,
        full: !space.has_room(),
        disk_full: space.disk_full,
        calls_only: space.disk_full || space.used_bytes >= space.max_bytes - space.max_bytes / CALLS_SHARE,
        over: space.used_bytes >= space.max_bytes.saturating_add(space.max_bytes / EVENTS_SHARE),
    }
}
