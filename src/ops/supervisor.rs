//! What systemd is told of a running gateway: that it is ready, that it stops, and that it is alive.
//!
//! It is told by datagrams to `$NOTIFY_SOCKET`; where that is not set, nothing is told. *Ready* means that the listeners
//! are open. *Alive* is told three times in the unit's `WatchdogSec`, from a task of the runtime that serves calls, and only
//! while the scribe goes on: it took work since the last time, tries a failing outbox again, or has nothing to do. An outbox
//! that fails is no reason for a restart, which would lose what the ring holds; a scribe that hangs or panicked is.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::audit::pipeline::Probe;
use crate::audit::ring::Heartbeat;

/// How often a watchdog's time is divided. *Chosen*: systemd asks for 2; with 3 one late ping does no harm.
const PINGS: u32 = 3;

/// Tells that the gateway listens at `address`, then that it lives, until `ended`; and, when it comes, that it stops.
///
/// # Cancel safety
/// It can be given up at any await; systemd then hears nothing more.
pub async fn tell(address: String, probe: Option<Probe>, stop: CancellationToken, ended: CancellationToken) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {address}"))]);
    let alive = ping(probe);
    let stopping = async {
        stop.cancelled().await;
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping: open calls finish")]);
        std::future::pending::<()>().await;
    };
    tokio::select! { () = ended.cancelled() => {}, () = alive => {}, () = stopping => {} }
}

/// Pings for ever.
async fn ping(probe: Option<Probe>) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval((patience / PINGS).max(Duration::from_millis(1)));
    let mut last: Option<Heartbeat> = None;
    loop {
        ticks.tick().await;
        let beat = probe.as_ref().map(Probe::heartbeat);
        if last.zip(beat).is_none_or(|(last, beat)| beat.has_progressed_since(last)) {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the scribe does not go on: systemd is not told that the gateway lives");
        }
        last = beat;
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd ($NOTIFY_SOCKET)");
    }
}
