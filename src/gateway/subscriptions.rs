//! `subscriptions/listen` of the stateless era: one stream on which a client hears of changes.
//!
//! A backend's messages bear the id of the gateway's request to it; on the client's stream they bear that of the client's
//! own. Where several backends are listened to, or the only one has no subscriptions, the gateway acknowledges. Of backends
//! that speak the older era, the changes of their lists are told.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use crate::audit::record::Status;
use crate::upstream::{self, Backend, CallError, Change, Event, Listen, Response};

use super::ask::Ask;
use super::envelope::{Id, Malformed};
use super::local;
use super::protocol::{DENIED, INVALID_REQUEST, META_SUBSCRIPTION, METHOD_NOT_FOUND};
use super::raw;
use super::rbac::{Kind, LISTS_CHANGED, Target};
use super::reply::Reply;
use super::stream::Stream;
use super::target;
use super::trail::{Refusal, Trail};

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Most resources of one subscription. *Chosen*: each is looked up and decided on.
const RESOURCES_MAX: usize = 256;

/// What a caller may hear of every backend that it reaches. *Spec*: the filters of `subscriptions/listen` that tell of lists,
/// and the one whose resources are decided on one by one; all others, known or not, may tell of anything.
const HEARD_BY_ALL: [&str; 4] =
    ["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"];

/// What a client asks to hear of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// Puts a backend's messages on the client's stream.
#[derive(Debug)]
struct Subscribed {
    stream: Arc<Stream>,
    id: Id,
    /// The gateway acknowledges by itself.
    is_one_of_many: bool,
}

impl Listen for Subscribed {
    fn event(&self, event: Event) -> bool {
        if event.id.is_some() {
            return false;
        }
        let is_ours = self.is_one_of_many && event.method == ACKNOWLEDGED;
        is_ours || self.stream.push(&tagged(&event.json, &self.id))
    }

    fn streams(&self) {
        self.stream.open();
    }
}

impl Filter {
    fn wants(&self, change: &Change) -> bool {
        match change.method.as_str() {
            "notifications/tools/list_changed" => self.tools_list_changed,
            "notifications/prompts/list_changed" => self.prompts_list_changed,
            "notifications/resources/list_changed" => self.resources_list_changed,
            _ => false,
        }
    }
}

/// Relays changes until the client hangs up or the gateway stops.
pub(super) async fn listen(ask: &Ask<'_>, id: &Id, trail: &mut Trail<'_>) -> Reply {
    let (filter, text) = match filter(ask) {
        Ok(filter) => filter,
        Err(rule) => return trail.refuse(ask.core, rule.into()).await,
    };
    if let Err(refusal) = allowed(ask, &filter, &text, trail).await {
        return trail.refuse(ask.core, refusal).await;
    }
    let Some(stream) = &ask.stream else {
        let message = "subscriptions/listen is answered by a stream: accept text/event-stream";
        return trail.refuse(ask.core, Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message)).await;
    };
    let only = target::only(&ask.arrival.scope, ask.core.upstreams.all());
    if let Some(backend) = only
        && backend.speaks_modern().await.unwrap_or(false)
    {
        let answer = tokio::select! {
            answer = backends(ask, id, backend, stream, false) => answer,
            () = views(ask, id, stream, &filter) => Ok(complete(id)),
        };
        match answer {
            // What the gateway itself knows of is told below.
            Ok(response) if is_unknown_method(&response) => {}
            Ok(response) => return Reply::relayed_unaudited(id, response),
            Err(err) => return local::failed(id, backend, &err),
        }
    }
    let meta = raw::object([(META_SUBSCRIPTION, id.as_json())]);
    let params = raw::object([("_meta", meta.as_str()), ("notifications", &text)]);
    let method = raw::quoted(ACKNOWLEDGED);
    stream.push(&raw::object([("jsonrpc", "\"2.0\""), ("method", &method), ("params", &params)]));
    let visible = |backend: &&Arc<Backend>| ask.live.policy.reaches(&ask.principal.roles, backend.alias());
    let heard: Vec<_> = ask.backends().filter(visible).cloned().collect();
    let of_one = async |backend: &Arc<Backend>| {
        if backend.speaks_modern().await.unwrap_or(false)
            && let Err(err) = backends(ask, id, backend, stream, true).await
        {
            tracing::debug!(backend = backend.alias(), error = %err, "no longer listening to the backend");
        }
    };
    let all = async {
        let changes = changes(ask, id, stream, &filter, &heard);
        tokio::join!(futures_util::future::join_all(heard.iter().map(of_one)), changes);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all => {}
        () = views(ask, id, stream, &filter) => {}
        () = ask.interrupt.client.cancelled() => {}
        () = ask.core.stopping.cancelled() => {}
    }
    Reply::relayed_unaudited(id, complete(id))
}

/// What the client asks for, and its text.
fn filter(ask: &Ask<'_>) -> Result<(Filter, String), Malformed> {
    let params = ask.message.params.and_then(|params| raw::members(params.get())).unwrap_or_default();
    let filter = params.iter().find(|member| member.key == "notifications").ok_or(Malformed::Subject)?;
    let text = filter.value.get();
    let filter: Filter = serde_json::from_str(text).map_err(|_| Malformed::Subject)?;
    // I6: what is decided on is bounded.
    if filter.resource_subscriptions.len() > RESOURCES_MAX {
        Err(Malformed::Subject)
    } else {
        Ok((filter, text.to_owned()))
    }
}

/// Who may not read a resource does not hear of its changes either, and only who may read all of a backend may ask for
/// what the gateway does not know.
async fn allowed(ask: &Ask<'_>, filter: &Filter, text: &str, trail: &mut Trail<'_>) -> Result<(), Refusal> {
    let members = |json| raw::members(json).unwrap_or_default();
    let params = ask.message.params.map_or("{}", serde_json::value::RawValue::get);
    let is_known = members(text).iter().all(|filter| HEARD_BY_ALL.contains(&filter.key.as_str()))
        && members(params).iter().all(|member| member.key == "notifications" || member.key == "_meta");
    let may_all = |backend: &Arc<Backend>| ask.live.policy.has_all(&ask.principal.roles, backend.alias());
    if !is_known && !ask.backends().all(may_all) {
        let message = format!("role {} may hear of nothing but lists here", ask.principal.roles.join(","));
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, message);
        return Err(Refusal { status: Status::Denied, ..refusal });
    }
    for uri in &filter.resource_subscriptions {
        let backend = match ask.arrival.scope.backend() {
            Some(backend) => Some(backend.to_owned()),
            None => local::owner(ask, uri).await,
        };
        let may = |backend| ask.live.policy.shows(&ask.principal.roles, Target::resource(backend, uri));
        if !backend.as_deref().is_some_and(may) {
            (trail.backend, trail.tool) = (backend, Some(uri.clone()));
            let message = format!("role {} may not read {uri}", ask.principal.roles.join(","));
            let refusal = Refusal::malformed(StatusCode::OK, DENIED, message);
            return Err(Refusal { status: Status::Denied, ..refusal });
        }
    }
    Ok(())
}

/// Listens to a backend of the stateless era, for as long as it tells.
async fn backends(
    ask: &Ask<'_>,
    id: &Id,
    backend: &Arc<Backend>,
    stream: &Arc<Stream>,
    is_one_of_many: bool,
) -> Result<Response, CallError> {
    let subscribed = Subscribed { stream: Arc::clone(stream), id: id.clone(), is_one_of_many };
    let mut route = ask.route(backend, None).await?;
    route.events = Some(Arc::new(subscribed));
    let params = ask.message.params.map(serde_json::value::RawValue::get);
    match ask.core.upstreams.relay(&ask.message.method, params, &route, &ask.interrupt).await? {
        Response::Result(result) => Ok(Response::Result(with_id(&result, id))),
        error @ Response::Error { .. } => Ok(error),
    }
}

/// Tells of the lists of backends of the older era.
async fn changes(ask: &Ask<'_>, id: &Id, stream: &Arc<Stream>, filter: &Filter, heard: &[Arc<Backend>]) {
    let mut changes = ask.core.upstreams.changes();
    loop {
        let change = match changes.recv().await {
            Ok(change) => change,
            // What was missed were changes too; the next one tells the client to look.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let is_heard = heard.iter().any(|backend| backend.alias() == change.alias && backend.modern() != Some(true))
            && ask.core.live().policy.reaches(&ask.principal.roles, &change.alias);
        if is_heard && filter.wants(&change) {
            let method = raw::quoted(&change.method);
            stream.push(&tagged(&raw::object([("jsonrpc", "\"2.0\""), ("method", &method)]), id));
        }
    }
}

/// Tells that lists may differ, since the policy does. Ends where a resource that was asked for may not be read any more.
async fn views(ask: &Ask<'_>, id: &Id, stream: &Arc<Stream>, filter: &Filter) {
    let mut changes = ask.core.policy_changed.subscribe();
    let (mut seen, roles) = (Arc::clone(&ask.live), &ask.principal.roles);
    loop {
        let live = ask.core.live();
        for (kind, method) in LISTS_CHANGED {
            let change = Change { alias: String::new(), method: method.to_owned() };
            if filter.wants(&change) && live.policy.shows_other(&seen.policy, roles, kind) {
                stream.push(&tagged(&raw::object([("jsonrpc", "\"2.0\""), ("method", &raw::quoted(method))]), id));
            }
        }
        let reads_other = live.policy.shows_other(&seen.policy, roles, Kind::Resource);
        if reads_other && !filter.resource_subscriptions.is_empty() {
            // Which may still be read is found out when the client asks again.
            return;
        }
        seen = live;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Whether a backend of the stateless era says that it has no subscriptions.
fn is_unknown_method(response: &Response) -> bool {
    matches!(response, Response::Error { error, .. } if upstream::error_code(error) == Some(METHOD_NOT_FOUND))
}

/// The result of a subscription that has ended.
fn complete(id: &Id) -> Response {
    let meta = raw::object([(META_SUBSCRIPTION, id.as_json())]);
    Response::Result(raw::object([("resultType", "\"complete\""), ("_meta", meta.as_str())]))
}

/// A notification under the client's own subscription.
fn tagged(json: &str, id: &Id) -> String {
    let params = raw::members(json).unwrap_or_default();
    let params = params.iter().find(|member| member.key == "params").map_or("{}", |member| member.value.get());
    raw::with_members(json, &[("params", &with_id(params, id))])
}

/// `object` with the client's id in its `_meta`.
fn with_id(object: &str, id: &Id) -> String {
    let members = raw::members(object).unwrap_or_default();
    let meta = members.iter().find(|member| member.key == "_meta").map_or("{}", |member| member.value.get());
    raw::with_members(object, &[("_meta", &raw::with_members(meta, &[(META_SUBSCRIPTION, id.as_json())]))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_backend_tells_bears_the_clients_id_and_is_acknowledged_once() {
        let id =
            super::super::envelope::id(serde_json::value::RawValue::from_string("\"c\"".to_owned()).unwrap().as_ref());
        let stream = Stream::new(0);
        let mut many = Subscribed { stream: Arc::clone(&stream), id: id.unwrap(), is_one_of_many: true };
        let event = |method: &str| Event {
            method: method.to_owned(),
            id: None,
            json: format!(r#"{{"method":"{method}","params":{{"_meta":{{"{META_SUBSCRIPTION}":7,"x":1}}}}}}"#),
        };
        assert!(many.event(event(ACKNOWLEDGED)) && stream.is_untouched());
        assert!(many.event(event("notifications/tools/list_changed")) && !stream.is_untouched());
        many.is_one_of_many = false;
        assert!(many.event(event(ACKNOWLEDGED)));
        assert!(!many.event(Event { id: Some("1".to_owned()), ..event("sampling/createMessage") }));
        let want = format!(r#""_meta":{{"{META_SUBSCRIPTION}":"c","x":1}}"#);
        let text = tagged(&event("m").json, &many.id);
        assert!(text.contains(&want), "{text}");
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let filter: Filter = serde_json::from_str(r#"{"promptsListChanged":true,"taskIds":["x"]}"#).unwrap();
        let change =
            |what: &str| Change { alias: "a".to_owned(), method: format!("notifications/{what}/list_changed") };
        assert!(
            filter.wants(&change("prompts")) && !filter.wants(&change("tools")) && !filter.wants(&change("resources"))
        );
    }
}
