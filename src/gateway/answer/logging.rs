//! `logging/setLevel`: the level of the log messages that backends send to a session.

use std::sync::Arc;

use crate::gateway::answer::lists::BACKEND_TIMEOUT;
use crate::gateway::answer::relay::{self, Sourced};
use crate::gateway::call::context::RequestContext;
use crate::upstream::{Backend, Response};

/// Sets the level at the endpoint's backend, or at every backend.
pub(crate) async fn set_level(ctx: &RequestContext<'_>) -> Sourced {
    if let Some(backend) = ctx.only_backend() {
        return relay::relay(ctx, backend).await;
    }
    let set = |backend: Arc<Backend>| async move {
        // A backend that has no log, is down or is too slow does not keep the others from setting theirs.
        match tokio::time::timeout(BACKEND_TIMEOUT, relay::ask(ctx, &backend, ctx.message.params_text(), None)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(backend = backend.alias(), %error, "log level not set"),
            Err(_) => {
                tracing::debug!(backend = backend.alias(), timeout = ?BACKEND_TIMEOUT, "log level not set in time");
            }
        }
    };
    let all: Vec<_> = ctx.visible_backends().cloned().map(set).collect();
    futures_util::future::join_all(all).await;
    Sourced::Gateway(Response::result("{}"))
}
