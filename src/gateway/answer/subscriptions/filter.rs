//! The filter of a subscription, and the messages by which a client and backends subscribe.

use std::sync::Arc;

use serde::Deserialize;

use crate::gateway::call::context::RequestContext;
use crate::mcp::envelope::Id;
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{META_SUBSCRIPTION, METHOD_NOT_FOUND};
use crate::rbac::LIST_CHANGED_METHODS;
use crate::upstream::{self, Backend, CallError, Response, ServerMessageHandler};

/// The member of a filter with the URIs of resources.
pub(super) const RESOURCES: &str = "resourceSubscriptions";

pub(super) const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// The client's filter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Filter {
    pub(super) tools_list_changed: bool,
    pub(super) prompts_list_changed: bool,
    pub(super) resources_list_changed: bool,
    pub(super) resource_subscriptions: Vec<String>,
}

impl Filter {
    pub(super) fn includes(&self, method: &str) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools_list_changed,
            "notifications/prompts/list_changed" => self.prompts_list_changed,
            "notifications/resources/list_changed" => self.resources_list_changed,
            _ => false,
        }
    }

    /// The methods of the list notifications in the filter.
    pub(super) fn lists(&self) -> impl Iterator<Item = &'static str> {
        LIST_CHANGED_METHODS.into_iter().map(|(_, method)| method).filter(|method| self.includes(method))
    }
}

/// Sends the client's request to a backend of the stateless era, with `filter` instead of the client's own, and waits
/// for the response, which ends the subscription.
pub(super) async fn listen_at(
    ctx: &RequestContext<'_>,
    backend: &Arc<Backend>,
    listener: Arc<dyn ServerMessageHandler>,
    filter: Option<&str>,
) -> Result<Response, CallError> {
    let mut route = ctx.route(backend, None).await?;
    route.events = Some(listener);
    let mut params = ctx.params.clone();
    if let Some(filter) = filter {
        params.set("notifications", filter);
    }
    ctx.core.upstreams.relay(&ctx.message.method, &params, &route, &ctx.interrupt).await
}

/// Returns true if the response of a backend of the stateless era means that it has no subscriptions.
pub(super) fn is_unknown_method(response: &Response) -> bool {
    matches!(response, Response::Error { error, .. } if upstream::error_code(error) == Some(METHOD_NOT_FOUND))
}

/// A notification without parameters.
pub(super) fn notification(method: &str) -> String {
    json::object([("jsonrpc", "\"2.0\""), ("method", &json::quoted(method))])
}

/// The notification `json` with the subscription's id, which is that of the client's request.
pub(super) fn tagged(json: &str, id: &Id) -> String {
    let message = Object::parse_path(json, &["params", "_meta"]).unwrap_or_default();
    let params = with_id(&message.object("params").unwrap_or_default(), id);
    message.with(&[("params", &params)])
}

/// The object with the subscription's id in its `_meta`.
pub(super) fn with_id(object: &Object<'_>, id: &Id) -> String {
    let meta = object.object("_meta").unwrap_or_default();
    object.with(&[("_meta", &meta.with(&[(META_SUBSCRIPTION, id.as_json())]))])
}
