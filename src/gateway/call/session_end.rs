//! Sessions that end without their client's asking: ended, and recorded as `session/close` with the reason.
//!
//! A `session/close` that a client asked for has no reason. Where a record cannot be made the session is ended all the
//! same, and the log says so.

use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::audit::record::{Call, Correlation, RequestId};
use crate::audit::redact::Redaction;
use crate::gateway::call::core::Core;
use crate::gateway::session::{EndReason, EndedSessions, IDLE_MAX, Session};

/// The method by which the end of a session is recorded.
pub(crate) const SESSION_CLOSE: &str = "session/close";

/// How often idle sessions are looked for. *Chosen*: a small part of the time after which one is idle too long.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Records of one sweep, or of a stop, that are made at once. *Chosen*: enough to share a commit, and few beside the ring.
const RECORDS_AT_ONCE: usize = 64;

/// Ends the sessions and records that.
pub(crate) async fn end(core: &Core, gone: EndedSessions) {
    for (session, _) in &gone {
        session.end();
    }
    let record = async |(session, why): (std::sync::Arc<Session>, EndReason)| {
        tracing::info!(session = session.id, subject = session.caller.subject, reason = reason(why), "session ended");
        if let Err(error) = core.audit.record_event(call(&session, why, core.args_bytes_max)).await {
            tracing::error!(%error, session = session.id, "the end of a session is not recorded yet");
        }
    };
    futures_util::stream::iter(gone).for_each_concurrent(RECORDS_AT_ONCE, record).await;
}

/// Ends idle sessions as their time comes, until the gateway stops.
pub(crate) async fn sweep(core: Weak<Core>, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(core) = core.upgrade() else { return };
        end(&core, core.sessions.remove_expired()).await;
    }
}

fn call(session: &Session, why: EndReason, args_bytes_max: usize) -> Call {
    let correlation = Correlation { addr: None, session_id: Some(session.id.clone()), rpc_id: None };
    Call::new(RequestId::new(), SESSION_CLOSE)
        .with_caller(&session.caller)
        .with_correlation(&correlation)
        .with_target(session.scope.backend(), None)
        .with_arguments(&json!({ "reason": reason(why) }).to_string(), &Redaction::none(), args_bytes_max)
}

fn reason(why: EndReason) -> String {
    match why {
        EndReason::Idle => format!("idle for more than {} h", IDLE_MAX.as_secs() / 3600),
        EndReason::OwnLimit => "its principal opened more than limits.sessions_per_principal".to_owned(),
        EndReason::NoRoom => "server.sessions_max are open, and it was idle longest".to_owned(),
        EndReason::Stopped => "the gateway stopped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::audit::Audit;
    use crate::auth::Principal;
    use crate::config::Config;
    use crate::gateway::Gateway;
    use crate::gateway::message::scope::Scope;

    use super::*;

    /// Lets paused time pass, and whoever waits for it go on.
    async fn pass(time: Duration) {
        tokio::time::timeout(time, std::future::pending::<()>()).await.ok();
    }

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_are_swept_though_nobody_asks_and_used_ones_are_not() {
        let core = Gateway::build(&Config::default(), Audit::disabled()).unwrap().core;
        let (subject, issuer) = ("ann".to_owned(), "a".to_owned());
        let ann = Principal { subject, issuer, token_id: None, roles: Vec::new() };
        let idle = core.sessions.open(&ann, &Scope::All, "{}", 8).0;
        let used = core.sessions.open(&ann, &Scope::All, "{}", 8).0;
        pass(IDLE_MAX / 2).await;
        assert!(core.sessions.touch(&used.id, &ann, &Scope::All).is_ok());
        pass(IDLE_MAX / 2 + 2 * SWEEP_EVERY).await;
        assert_eq!(core.sessions.count(), 1);
        assert_eq!(Arc::strong_count(&idle), 1, "nothing holds it, nor its conversations");
        assert!(core.sessions.touch(&used.id, &ann, &Scope::All).is_ok());
        // The sweep ends with the gateway, and holds nothing of it.
        let gone = Arc::downgrade(&core);
        core.stopping.cancel();
        drop(core);
        pass(2 * SWEEP_EVERY).await;
        assert!(gone.upgrade().is_none());
    }
}
