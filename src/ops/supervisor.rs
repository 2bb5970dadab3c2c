//! Notifications to systemd: the gateway is ready, is stopping, is alive.
//!
//! Notifications are datagrams to `$NOTIFY_SOCKET`; without that variable none are sent. *Ready* means that the
//! listeners are open. *Alive* is sent three times in the unit's `WatchdogSec` by a task of the runtime that serves
//! calls, and only while the scribe makes progress: since the last notification it took work or retried a failing
//! outbox, or it has nothing to do. A restart would not fix a failing outbox and would lose the records in the ring. A
//! scribe that hangs or panicked needs a restart.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::audit::pipeline::Probe;
use crate::audit::ring::Heartbeat;

/// Pings within the unit's `WatchdogSec`. *Chosen*: systemd recommends 2; with 3 a single late ping does no harm.
const PINGS: u32 = 3;

/// Notifies systemd that the gateway listens at `address`, then that it is alive, until `ended`; and of `stop`.
///
/// # Cancel safety
/// May be dropped at any await; no notification is sent after that.
pub async fn notify_systemd(address: String, probe: Option<Probe>, stop: CancellationToken, ended: CancellationToken) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {address}"))]);
    let alive = ping_watchdog(probe);
    let stopping = async {
        stop.cancelled().await;
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping: waiting for open calls")]);
        std::future::pending::<()>().await;
    };
    tokio::select! { () = ended.cancelled() => {}, () = alive => {}, () = stopping => {} }
}

/// Pings the watchdog and never returns.
async fn ping_watchdog(probe: Option<Probe>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval((timeout / PINGS).max(Duration::from_millis(1)));
    let mut last: Option<Heartbeat> = None;
    loop {
        ticks.tick().await;
        let beat = probe.as_ref().map(Probe::heartbeat);
        if last.zip(beat).is_none_or(|(last, beat)| beat.has_progressed_since(last)) {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("scribe is stalled; withholding the systemd watchdog ping");
        }
        last = beat;
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd ($NOTIFY_SOCKET)");
    }
}
