//! `logging/setLevel`: the level of the log messages that backends send to a session.

use std::sync::Arc;

use crate::gateway::answer::relay::{self, Sourced};
use crate::gateway::call::context::RequestContext;
use crate::upstream::{Backend, CallError, LOGGING, Response};

/// Sets the level at the endpoint's backend, or at every backend.
pub(crate) async fn set_level(ctx: &RequestContext<'_>) -> Sourced {
    if let Some(backend) = ctx.only_backend() {
        return relay::relay(ctx, &backend).await;
    }
    let set = |backend: Arc<Backend>| async move {
        // The level is set at the other backends even if this one has no log, is down or is too slow.
        let set = async {
            let connection = ctx.route(&backend, None).await?.connection;
            if connection.greeting().offer.has(LOGGING) {
                relay::request(ctx, &backend, &ctx.params, None).await?;
            }
            Ok::<_, CallError>(())
        };
        let timeout = backend.patience();
        match tokio::time::timeout(timeout, set).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(backend = backend.alias(), %error, "log level not set at a backend"),
            Err(_) => {
                let backend = backend.alias();
                tracing::debug!(backend, ?timeout, "setting the log level at a backend timed out");
            }
        }
    };
    let all: Vec<_> = ctx.visible_backends().map(set).collect();
    futures_util::future::join_all(all).await;
    Sourced::Gateway(Response::result("{}"))
}
