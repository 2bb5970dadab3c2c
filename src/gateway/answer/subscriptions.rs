//! `subscriptions/listen` of the stateless era: one stream on which a client hears of changes.
//!
//! A backend's messages bear the id of the gateway's request to it; on the client's stream they bear that of the client's
//! own. Where several backends are listened to, or the only one has no subscriptions, the gateway acknowledges what is
//! honoured: lists always, since the gateway itself tells of its policy's changes, and of all else what a backend agreed to.
//! Of backends that speak the older era, the changes of their lists are told.

mod upstream_subscription;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use upstream_subscription::{Agreed, SubscriptionStream, UpstreamSubscription};

use crate::audit::record::Status;
use crate::gateway::answer::local;
use crate::gateway::call::audit_entry::{AuditEntry, Refusal};
use crate::gateway::call::context::RequestContext;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::route;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::{Id, Malformed};
use crate::mcp::json;
use crate::mcp::protocol::{DENIED, INVALID_REQUEST, META_SUBSCRIPTION, METHOD_NOT_FOUND};
use crate::rbac::{LIST_CHANGED_METHODS, Target, TargetKind};
use crate::upstream::{self, Backend, CallError, Change, Event, Response, ServerMessageHandler};

/// The member of a filter that names resources.
const RESOURCES: &str = "resourceSubscriptions";

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Most resources of one subscription. *Chosen*: each is looked up and decided on.
const RESOURCES_MAX: usize = 256;

/// How long the acknowledgment waits for those of backends. *Chosen*: as for a list of all backends.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a caller may hear of every backend that it reaches. *Spec*: the filters of `subscriptions/listen` that tell of lists,
/// and the one whose resources are decided on one by one; all others, known or not, may tell of anything.
const HEARD_BY_ALL: [&str; 4] = ["toolsListChanged", "promptsListChanged", "resourcesListChanged", RESOURCES];

/// What a client asks to hear of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// A resource that is asked for, and the backend that has it.
type Owned = (String, String);

/// Puts the only backend's messages on the client's stream.
#[derive(Debug)]
struct SubscriptionForwarder {
    stream: Arc<Stream>,
    id: Id,
}

impl SubscriptionForwarder {
    fn tell_of(&self, method: &str) -> bool {
        self.stream.push(&tagged(&notification(method), &self.id))
    }
}

impl ServerMessageHandler for SubscriptionForwarder {
    fn on_event(&self, event: Event) -> bool {
        event.id.is_none() && self.stream.push(&tagged(&event.json, &self.id))
    }

    fn on_stream_start(&self) {
        self.stream.open();
    }
}

impl Filter {
    fn wants(&self, method: &str) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools_list_changed,
            "notifications/prompts/list_changed" => self.prompts_list_changed,
            "notifications/resources/list_changed" => self.resources_list_changed,
            _ => false,
        }
    }

    /// The notifications of changed lists that are asked for.
    fn lists(&self) -> impl Iterator<Item = &'static str> {
        LIST_CHANGED_METHODS.into_iter().map(|(_, method)| method).filter(|method| self.wants(method))
    }
}

/// Relays changes until the client hangs up or the gateway stops.
pub(crate) async fn listen(ctx: &RequestContext<'_>, id: &Id, entry: &mut AuditEntry<'_>) -> Reply {
    let (filter, text) = match filter(ctx) {
        Ok(filter) => filter,
        Err(rule) => return entry.refuse(ctx.core, rule.into()).await,
    };
    let owned = match allowed(ctx, &filter, &text, entry).await {
        Ok(owned) => owned,
        Err(refusal) => return entry.refuse(ctx.core, refusal).await,
    };
    let Some(stream) = &ctx.stream else {
        let message = "subscriptions/listen is answered by a stream: accept text/event-stream";
        return entry.refuse(ctx.core, Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message)).await;
    };
    let only = route::only(&ctx.inbound.scope, ctx.core.upstreams.all());
    if let Some(backend) = only
        && backend.speaks_modern().await.unwrap_or(false)
    {
        let listener = Arc::new(SubscriptionForwarder { stream: Arc::clone(stream), id: id.clone() });
        let client_stream = Arc::clone(&listener);
        let answer = tokio::select! {
            answer = relayed(ctx, backend, listener, None) => answer,
            () = views(ctx, &filter, |method| client_stream.tell_of(method)) => Ok(complete(id)),
        };
        match answer {
            // What the gateway itself knows of is told below.
            Ok(response) if is_unknown_method(&response) => {}
            Ok(Response::Result(result)) => {
                return Reply::relayed_unaudited(id, Response::Result(with_id(&result, id)));
            }
            Ok(error) => return Reply::relayed_unaudited(id, error),
            Err(err) => return local::failed(id, backend, &err),
        }
    }
    stream.open();
    // Before anything is listened to: what changes from now on is told.
    let changes = ctx.core.upstreams.changes();
    let client_stream = SubscriptionStream::new(stream, id);
    let visible = |backend: &&Arc<Backend>| ctx.rules.policy.reaches(&ctx.principal.roles, backend.alias());
    let heard: Vec<_> = ctx
        .backends()
        .filter(visible)
        .filter_map(|backend| {
            let of_it = |(owner, uri): &Owned| (owner == backend.alias()).then(|| uri.clone());
            let uris: Vec<_> = owned.iter().filter_map(of_it).collect();
            Some(UpstreamSubscription::new(backend, &client_stream, for_one(&text, &uris)?, uris))
        })
        .collect();
    let all = async {
        let acknowledged = async { client_stream.acknowledge(&honoured(&filter, &text, &heard).await) };
        let listening = heard.iter().map(|subscription| subscription.listen(ctx, &filter));
        let changes = tell_of_changes(ctx, changes, &client_stream, &filter, &heard);
        tokio::join!(acknowledged, futures_util::future::join_all(listening), changes);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all => {}
        () = views(ctx, &filter, |method| client_stream.tell_of(method)) => {}
        () = ctx.interrupt.client.cancelled() => {}
        () = ctx.core.stopping.cancelled() => {}
    }
    Reply::relayed_unaudited(id, complete(id))
}

/// The filter for one backend, which has these of the resources that are asked for. `None`: it is asked for nothing.
fn for_one(text: &str, uris: &[String]) -> Option<String> {
    let members = json::members(text).unwrap_or_default();
    let uris = serde_json::json!(uris).to_string();
    let kept: Vec<_> = members
        .iter()
        .map(|member| match member.key.as_str() {
            RESOURCES => (RESOURCES, uris.as_str()),
            key => (key, member.value.get()),
        })
        .filter(|(_, value)| !matches!(*value, "[]" | "false" | "null"))
        .collect();
    (!kept.is_empty()).then(|| json::object(kept))
}

/// What of the filter is honoured. Lists are, by the gateway; the backends are waited for where it is for them to say.
async fn honoured(filter: &Filter, text: &str, heard: &[Arc<UpstreamSubscription>]) -> String {
    let members = json::members(text).unwrap_or_default();
    let is_list = |key: &str| key != RESOURCES && HEARD_BY_ALL.contains(&key);
    let mut agreed = Vec::new();
    if members.iter().any(|member| !is_list(&member.key)) {
        let all = futures_util::future::join_all(heard.iter().map(async |subscription| {
            match tokio::time::timeout(PATIENCE, subscription.agreed()).await {
                Ok(Agreed::To(filter)) => Some(filter),
                Ok(Agreed::Pending | Agreed::Nothing) | Err(_) => None,
            }
        }));
        agreed = all.await.into_iter().flatten().collect();
    }
    let agreed_to = |key: &str| {
        let of_one = |filter: &String| {
            let members = json::members(filter).unwrap_or_default();
            members.iter().find(|member| member.key == key).map(|member| member.value.get().to_owned())
        };
        agreed.iter().filter_map(of_one).collect::<Vec<_>>()
    };
    let told_of: Vec<String> = agreed_to(RESOURCES)
        .iter()
        .flat_map(|uris| serde_json::from_str::<Vec<String>>(uris).unwrap_or_default())
        .collect();
    let uris: Vec<_> = filter.resource_subscriptions.iter().filter(|uri| told_of.contains(uri)).collect();
    let uris = (!uris.is_empty()).then(|| serde_json::json!(uris).to_string());
    let kept: Vec<(String, String)> = members
        .iter()
        .filter_map(|member| {
            let value = match member.key.as_str() {
                RESOURCES => uris.clone(),
                key if is_list(key) => Some(member.value.get().to_owned()),
                key => agreed_to(key).into_iter().next(),
            };
            value.map(|value| (member.key.clone(), value))
        })
        .collect();
    json::object(kept.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

/// What the client asks for, and its text.
fn filter(ctx: &RequestContext<'_>) -> Result<(Filter, String), Malformed> {
    let params = ctx.message.params.and_then(|params| json::members(params.get())).unwrap_or_default();
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

/// Gives the resources with the backends that have them. Who may not read a resource does not hear of its changes either, and only who may read all of a backend may request for
/// what the gateway does not know.
async fn allowed(
    ctx: &RequestContext<'_>,
    filter: &Filter,
    text: &str,
    entry: &mut AuditEntry<'_>,
) -> Result<Vec<Owned>, Refusal> {
    let members = |json| json::members(json).unwrap_or_default();
    let params = ctx.message.params.map_or("{}", serde_json::value::RawValue::get);
    let is_known = members(text).iter().all(|filter| HEARD_BY_ALL.contains(&filter.key.as_str()))
        && members(params).iter().all(|member| member.key == "notifications" || member.key == "_meta");
    let may_all = |backend: &Arc<Backend>| ctx.rules.policy.allows_all_of(&ctx.principal.roles, backend.alias());
    if !is_known && !ctx.backends().all(may_all) {
        let message = format!("role {} may hear of nothing but lists here", ctx.principal.roles.join(","));
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, message);
        return Err(Refusal { status: Status::Denied, ..refusal });
    }
    let mut owned = Vec::new();
    for uri in &filter.resource_subscriptions {
        let backend = match ctx.inbound.scope.backend() {
            Some(backend) => Some(backend.to_owned()),
            None => local::owner(ctx, uri).await,
        };
        let may = |backend| ctx.rules.policy.shows(&ctx.principal.roles, Target::resource(backend, uri));
        if !backend.as_deref().is_some_and(may) {
            (entry.backend, entry.tool) = (backend, Some(uri.clone()));
            let message = format!("role {} may not read {uri}", ctx.principal.roles.join(","));
            let refusal = Refusal::malformed(StatusCode::OK, DENIED, message);
            return Err(Refusal { status: Status::Denied, ..refusal });
        }
        owned.extend(backend.map(|backend| (backend, uri.clone())));
    }
    Ok(owned)
}

/// Listens to a backend of the stateless era, for as long as it tells; with `filter` in the place of the client's own.
async fn relayed(
    ctx: &RequestContext<'_>,
    backend: &Arc<Backend>,
    listener: Arc<dyn ServerMessageHandler>,
    filter: Option<&str>,
) -> Result<Response, CallError> {
    let mut route = ctx.route(backend, None).await?;
    route.events = Some(listener);
    let params = ctx.message.params.map_or("{}", serde_json::value::RawValue::get);
    let params = filter.map_or_else(|| params.to_owned(), |filter| json::replaced(params, "notifications", filter));
    ctx.core.upstreams.relay(&ctx.message.method, Some(&params), &route, &ctx.interrupt).await
}

/// Tells of the lists of backends of the older era.
async fn tell_of_changes(
    ctx: &RequestContext<'_>,
    mut changes: broadcast::Receiver<Change>,
    client_stream: &SubscriptionStream,
    filter: &Filter,
    heard: &[Arc<UpstreamSubscription>],
) {
    let is_older = |subscription: &&Arc<UpstreamSubscription>| subscription.backend().modern() != Some(true);
    loop {
        let change = changes.recv().await;
        let is_heard = |alias: &str| {
            heard.iter().filter(is_older).any(|subscription| subscription.backend().alias() == alias)
                && ctx.core.rules().policy.reaches(&ctx.principal.roles, alias)
        };
        let Some(methods) = told_by(change, filter, is_heard) else { return };
        // What was missed were changes of one of these, of whichever list.
        for method in methods.into_iter().filter(|_| heard.iter().any(|subscription| is_older(&subscription))) {
            client_stream.tell_of(method);
        }
    }
}

/// The notifications that a change makes, or one that was missed; `None`: nothing changes any more.
fn told_by(
    change: Result<Change, RecvError>,
    filter: &Filter,
    is_heard: impl Fn(&str) -> bool,
) -> Option<Vec<&'static str>> {
    match change {
        Ok(change) => {
            let is_told = |method: &&'static str| *method == change.method && is_heard(&change.alias);
            Some(filter.lists().filter(is_told).collect())
        }
        Err(RecvError::Lagged(_)) => Some(filter.lists().collect()),
        Err(RecvError::Closed) => None,
    }
}

/// Tells that lists may differ, since the policy does. Ends where a resource that was asked for may not be read any more.
async fn views(ctx: &RequestContext<'_>, filter: &Filter, tell_of: impl Fn(&str) -> bool) {
    let mut changes = ctx.core.policy_changed.subscribe();
    let (mut seen, roles) = (Arc::clone(&ctx.rules), &ctx.principal.roles);
    loop {
        let now = ctx.core.rules();
        for (kind, method) in LIST_CHANGED_METHODS {
            if filter.wants(method) && now.policy.lists_differ(&seen.policy, roles, kind) {
                tell_of(method);
            }
        }
        let reads_other = now.policy.lists_differ(&seen.policy, roles, TargetKind::Resource);
        if reads_other && !filter.resource_subscriptions.is_empty() {
            // Which may still be read is found out when the client asks again.
            return;
        }
        seen = now;
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
    let meta = json::object([(META_SUBSCRIPTION, id.as_json())]);
    Response::Result(json::object([("resultType", "\"complete\""), ("_meta", meta.as_str())]))
}

/// A notification without parameters.
fn notification(method: &str) -> String {
    json::object([("jsonrpc", "\"2.0\""), ("method", &json::quoted(method))])
}

/// A notification under the client's own subscription.
fn tagged(json: &str, id: &Id) -> String {
    let params = json::members(json).unwrap_or_default();
    let params = params.iter().find(|member| member.key == "params").map_or("{}", |member| member.value.get());
    json::with_members(json, &[("params", &with_id(params, id))])
}

/// `object` with the client's id in its `_meta`.
fn with_id(object: &str, id: &Id) -> String {
    let members = json::members(object).unwrap_or_default();
    let meta = members.iter().find(|member| member.key == "_meta").map_or("{}", |member| member.value.get());
    json::with_members(object, &[("_meta", &json::with_members(meta, &[(META_SUBSCRIPTION, id.as_json())]))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_stream() -> (Arc<Stream>, Arc<SubscriptionStream>, Id) {
        let id = crate::mcp::envelope::id(&serde_json::value::RawValue::from_string("\"c\"".to_owned()).unwrap());
        let (stream, id) = (Stream::new(0), id.unwrap());
        (Arc::clone(&stream), SubscriptionStream::new(&stream, &id), id)
    }

    #[tokio::test]
    async fn what_is_told_bears_the_clients_id_and_comes_behind_the_acknowledgment() {
        let (stream, client_stream, _) = client_stream();
        let note = format!(r#"{{"method":"m","params":{{"_meta":{{"{META_SUBSCRIPTION}":7,"x":1}}}}}}"#);
        assert!(client_stream.tell(&note) && stream.is_unused());
        client_stream.acknowledge(r#"{"toolsListChanged":true}"#);
        assert!(client_stream.tell_of("n"));
        stream.finish(None);
        let (mut reading, mut read) = (stream.read_from(0).unwrap(), Vec::new());
        while let crate::gateway::session::stream::Next::Message(_, json) = reading.next().await {
            read.push(json.to_string());
        }
        assert!(read[0].contains(ACKNOWLEDGED) && read[0].contains(r#""notifications":{"toolsListChanged":true}"#));
        assert!(read[1].contains(&format!(r#""_meta":{{"{META_SUBSCRIPTION}":"c","x":1}}"#)), "{read:?}");
        assert!(read.iter().all(|json| json.contains(&format!(r#""{META_SUBSCRIPTION}":"c""#))), "{read:?}");
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn i6_what_waits_for_the_acknowledgment_is_bounded() {
        let (_stream, client_stream, _) = client_stream();
        assert_eq!((0..1000).filter(|_| client_stream.tell_of("m")).count(), 64);
    }

    #[test]
    fn the_only_backends_messages_bear_the_clients_id_and_its_requests_do_not_pass() {
        let (stream, _, id) = client_stream();
        let relayed = SubscriptionForwarder { stream: Arc::clone(&stream), id };
        let event = |id: Option<&str>| Event {
            method: ACKNOWLEDGED.to_owned(),
            id: id.map(str::to_owned),
            json: r#"{"method":"m"}"#.to_owned(),
        };
        assert!(!relayed.on_event(event(Some("1"))) && stream.is_unused());
        assert!(relayed.on_event(event(None)) && !stream.is_unused());
    }

    #[test]
    fn a_backend_is_asked_for_what_it_has_only() {
        let text =
            r#"{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a:1","b:1"],"x":[7]}"#;
        let uris = ["b:1".to_owned()];
        let want = r#"{"toolsListChanged":true,"resourceSubscriptions":["b:1"],"x":[7]}"#;
        assert_eq!(for_one(text, &uris).as_deref(), Some(want));
        assert_eq!(for_one(r#"{"resourceSubscriptions":["a:1"],"toolsListChanged":false}"#, &[]), None);
    }

    #[tokio::test]
    async fn only_what_was_asked_for_is_told_and_all_of_it_where_a_change_was_missed() {
        let text = r#"{"promptsListChanged":true,"toolsListChanged":true,"taskIds":["x"]}"#;
        let filter: Filter = serde_json::from_str(text).unwrap();
        let (changes, mut heard) = broadcast::channel(1);
        let change = |alias: &str, list: &str| {
            let method = format!("notifications/{list}/list_changed");
            changes.send(Change { alias: alias.to_owned(), method }).unwrap();
        };
        let is_heard = |alias: &str| alias == "a";
        let (tools, prompts) = ("notifications/tools/list_changed", "notifications/prompts/list_changed");
        for (alias, list, want) in [("a", "tools", &[tools][..]), ("b", "tools", &[]), ("a", "resources", &[])] {
            change(alias, list);
            assert_eq!(told_by(heard.recv().await, &filter, is_heard).unwrap(), want, "{alias} {list}");
        }
        change("a", "resources");
        change("a", "resources");
        assert_eq!(told_by(heard.recv().await, &filter, is_heard).unwrap(), [tools, prompts]);
        assert_eq!(told_by(Err(RecvError::Closed), &filter, is_heard), None);
    }
}
