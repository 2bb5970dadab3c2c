//! The end of sessions that their clients did not close, recorded as `session/close` with the reason.
//!
//! The record of a session that its client closed has no reason. If a record cannot be made, the session ends
//! nevertheless and the error is logged.

use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::audit::record::{Call, Context, Correlation, RequestId};
use crate::gateway::call::core::Core;
use crate::gateway::session::Session;
use crate::gateway::session::ending::EndReason;
use crate::gateway::sessions::EndedSessions;

/// The method in the record of a session's end.
pub(crate) const SESSION_CLOSE: &str = "session/close";

/// Longest time between two searches for expired sessions. *Chosen*: short compared with the usual idle time.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// Most records that are made concurrently. *Chosen*: enough to share a commit, and few compared with the ring's
/// capacity.
const RECORDS_AT_ONCE: usize = 64;

/// Ends the sessions at once. The future records the end of each.
pub(crate) fn end(core: &Core, ended: EndedSessions) -> impl Future<Output = ()> {
    for (session, _) in &ended {
        session.end();
    }
    let record = async |(session, reason): (std::sync::Arc<Session>, EndReason)| match core
        .audit
        .record_event(call(core, &session, reason))
        .await
    {
        Ok(()) => {
            let (subject, reason) = (&session.caller.subject, reason_text(core, reason));
            tracing::info!(session = session.id, subject, reason, "session ended");
        }
        Err(error) => {
            let session = &session.id;
            tracing::error!(%error, session, "cannot record the end of a session; ending it nevertheless");
        }
    };
    futures_util::stream::iter(ended).for_each_concurrent(RECORDS_AT_ONCE, record)
}

/// Ends expired sessions until the gateway stops.
pub(crate) async fn sweep(core: Weak<Core>, stopping: CancellationToken) {
    let Some(interval) = core.upgrade().map(|core| SWEEP_INTERVAL.min(core.sessions.idle_timeout)) else { return };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(core) = core.upgrade() else { return };
        end(&core, core.sessions.remove_expired()).await;
        core.upstreams.end_idle_conversations(core.sessions.idle_timeout);
    }
}

fn call(core: &Core, session: &Session, reason: EndReason) -> Call {
    let correlation = Correlation { addr: None, session_id: Some(session.id.clone()), rpc_id: None };
    Call::new(RequestId::new(), SESSION_CLOSE)
        .with_caller(&session.caller)
        .with_correlation(&correlation)
        .with_context(&Context {
            identity: Some(&session.caller.identity),
            client_info: session.client_info.as_deref().map(|(name, version)| (name.as_str(), version.as_str())),
            ..Context::default()
        })
        .with_target(session.scope.backend(), None)
        .with_details(&json!({ "reason": reason_text(core, reason) }).to_string())
}

/// The reason as it is recorded.
fn reason_text(core: &Core, reason: EndReason) -> String {
    match reason {
        EndReason::Idle => format!("idle for more than {}", humantime::format_duration(core.sessions.idle_timeout)),
        EndReason::OwnLimit => "its principal opened more than limits.sessions_per_principal".to_owned(),
        EndReason::NoRoom => "server.sessions_max are open, and it was idle longest".to_owned(),
        EndReason::Unreachable => "the roles of its principal do not reach its backend any more".to_owned(),
        EndReason::Withdrawn(withdrawal) => {
            format!("a reload does not accept the token or certificate of its principal any more: {withdrawal}")
        }
        EndReason::Removed => "a reload removed its backend".to_owned(),
        EndReason::Stopped => "the gateway stopped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::audit::Audit;
    use crate::auth::Principal;
    use crate::auth::credential::Credential;
    use crate::config::Config;
    use crate::gateway::Gateway;
    use crate::gateway::message::scope::Scope;
    use crate::gateway::session::stream::Next;

    use futures_util::FutureExt as _;

    use super::*;

    /// Advances the paused time, and lets other tasks run.
    async fn pass(time: Duration) {
        tokio::time::timeout(time, std::future::pending::<()>()).await.ok();
    }

    fn ann() -> Principal {
        Principal {
            subject: "ann".to_owned(),
            issuer: "a".to_owned(),
            token_id: None,
            roles: Vec::new(),
            no_role: None,
            identity: Arc::default(),
            credential: Credential::default(),
        }
    }

    #[tokio::test]
    async fn i10_sessions_end_before_their_ends_are_recorded() {
        let core =
            Gateway::build(&Config::default(), Audit::disabled(), &crate::walls::Launcher::direct()).unwrap().core;
        let session = core.sessions.open(&ann(), &Scope::All, "{}", 8).0;
        let mut reader = session.general().read_from(0).unwrap();
        let recorded = end(&core, core.sessions.remove_all());
        assert!(matches!(reader.next().now_or_never(), Some(Next::Done)));
        recorded.await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweep_ends_idle_sessions_and_keeps_used_ones() {
        let core =
            Gateway::build(&Config::default(), Audit::disabled(), &crate::walls::Launcher::direct()).unwrap().core;
        let ann = ann();
        let idle = core.sessions.open(&ann, &Scope::All, "{}", 8).0;
        let used = core.sessions.open(&ann, &Scope::All, "{}", 8).0;
        pass(core.sessions.idle_timeout / 2).await;
        assert!(core.sessions.touch(&used.id, &ann, &Scope::All).is_ok());
        pass(core.sessions.idle_timeout / 2 + 2 * SWEEP_INTERVAL).await;
        assert_eq!(core.sessions.count(), 1);
        assert_eq!(Arc::strong_count(&idle), 1, "nothing else refers to the session");
        assert!(core.sessions.touch(&used.id, &ann, &Scope::All).is_ok());
        // The sweep ends with the gateway, and does not keep it alive.
        let weak = Arc::downgrade(&core);
        core.stopping.cancel();
        drop(core);
        pass(2 * SWEEP_INTERVAL).await;
        assert!(weak.upgrade().is_none());
    }
}
