//! Requests that are relayed without a permit, and their responses.
//!
//! Nothing here calls a tool: that needs a permit and a receipt.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::gateway::call::context::RequestContext;
use crate::gateway::message::reply::Reply;
use crate::mcp::params::Params;
use crate::mcp::protocol::{Era, UPSTREAM_FAILED};
use crate::upstream::{Answer, Backend, CallError, Response, public_message};

/// A response and its source, which decides how it is adapted to the client.
#[derive(Debug)]
pub(crate) enum Sourced {
    /// A response of the gateway. A result gets the members that every result of the client's era has.
    Gateway(Response),
    /// A response of the gateway whose members the protocol fixes.
    Exact(Response),
    /// A response of a backend that speaks this era.
    Backend(Response, Era),
    /// The backend with this alias failed.
    Failed(String, CallError),
}

impl Sourced {
    pub(crate) fn failed(backend: &str, error: CallError) -> Self {
        Self::Failed(backend.to_owned(), error)
    }

    /// The response of `backend`, or its failure.
    pub(crate) fn from_backend(backend: &Backend, result: Result<(Response, Era), CallError>) -> Self {
        match result {
            Ok((response, era)) => Self::Backend(response, era),
            Err(error) => Self::failed(backend.alias(), error),
        }
    }

    /// The answer to a request that is recorded.
    pub(crate) fn into_answer(self, ctx: &RequestContext<'_>) -> Answer {
        let (response, era) = match self {
            Self::Gateway(response) | Self::Exact(response) => (response, ctx.era),
            Self::Backend(response, era) => (response, era),
            Self::Failed(backend, error) => return Answer::failure(&backend, &error),
        };
        Answer::from_response(response, ctx.inbound.request_id, ctx.era, era)
    }

    /// The reply to a request that is not recorded.
    pub(crate) fn into_unrecorded_reply(self, ctx: &RequestContext<'_>) -> Reply {
        let response = match self {
            Self::Gateway(Response::Result(result)) => {
                return Reply::local_unaudited(&ctx.id, &result, ctx.inbound.request_id, ctx.era);
            }
            Self::Backend(Response::Result(result), Era::Legacy) if ctx.era == Era::Modern => {
                Response::result(&result.with(&[("resultType", "\"complete\"")]))
            }
            // An HTTP status of one era has no meaning in the other.
            Self::Backend(Response::Error { error, .. }, era) if era != ctx.era => {
                Response::Error { error, http: None }
            }
            Self::Gateway(response) | Self::Exact(response) | Self::Backend(response, _) => response,
            Self::Failed(backend, error) => {
                tracing::warn!(backend, %error, "backend request failed; replying with an error");
                let message = public_message(&backend, &error);
                return Reply::local_unaudited_error(StatusCode::OK, Some(&ctx.id), UPSTREAM_FAILED, &message);
            }
        };
        Reply::relayed_unaudited(&ctx.id, response)
    }
}

/// Sends the request to `backend` with the parameters `params`, and returns the response and the
/// era that the backend speaks. `name` is the tool, resource or prompt that the request names, if any.
///
/// # Errors
/// [`CallError`].
pub(crate) async fn request(
    ctx: &RequestContext<'_>,
    backend: &Arc<Backend>,
    params: &Params,
    name: Option<String>,
) -> Result<(Response, Era), CallError> {
    let route = ctx.route(backend, name).await?;
    let response = ctx.core.upstreams.relay(&ctx.message.method, params, &route, &ctx.interrupt).await?;
    Ok((response, route.connection.era()))
}

/// Sends the request for a page of a list to `backend` with unchanged parameters, as [`request`] does, without opening
/// a conversation for the caller.
///
/// # Errors
/// [`CallError`].
pub(crate) async fn list_page(ctx: &RequestContext<'_>, backend: &Arc<Backend>) -> Result<(Response, Era), CallError> {
    let route = ctx.list_route(backend).await?;
    let response = ctx.core.upstreams.relay(&ctx.message.method, &ctx.params, &route, &ctx.interrupt).await?;
    Ok((response, route.connection.era()))
}

/// Relays the request to `backend` with unchanged parameters.
pub(crate) async fn relay(ctx: &RequestContext<'_>, backend: &Arc<Backend>) -> Sourced {
    Sourced::from_backend(backend, request(ctx, backend, &ctx.params, None).await)
}

/// The error for a backend that is not configured.
pub(crate) fn not_configured() -> CallError {
    CallError::Down { reason: "not configured".to_owned() }
}
