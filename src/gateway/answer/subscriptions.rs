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

use crate::gateway::answer::relay::Sourced;
use crate::gateway::answer::resources;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::{Id, Malformed};
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{INVALID_REQUEST, META_SUBSCRIPTION, METHOD_NOT_FOUND};
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

/// What a client subscribes to.
#[derive(Debug)]
pub struct SubscriptionRequest {
    filter: Filter,
    /// The filter as the client sent it.
    text: String,
}

/// A subscription that the policy allows.
#[derive(Debug)]
pub(crate) struct Subscription {
    request: SubscriptionRequest,
    stream: Arc<Stream>,
    /// The resources of the filter, each with the backend that has it.
    owned: Vec<Owned>,
}

impl SubscriptionRequest {
    /// Reads the filter of the request.
    ///
    /// # Errors
    /// The filter is not valid.
    pub(crate) fn read(ctx: &RequestContext<'_>) -> Result<Self, Refusal> {
        let params = ctx.message.params().unwrap_or_default();
        let text = params.get("notifications").ok_or(Malformed::Subject)?;
        let filter: Filter = serde_json::from_str(text).map_err(|_| Malformed::Subject)?;
        // I6: the number of resources that are decided on is bounded.
        if filter.resource_subscriptions.len() > RESOURCES_MAX {
            return Err(Malformed::Subject.into());
        }
        Ok(Self { filter, text: text.to_owned() })
    }
}

/// Decides on a subscription: only who may read a resource is notified of its changes, and only who may use all of a backend
/// may subscribe to notifications that the gateway does not know.
///
/// # Errors
/// A refusal with status `denied`, or `malformed` if the client does not accept a stream.
pub(crate) async fn permit(
    ctx: &RequestContext<'_>,
    request: SubscriptionRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<Subscription, Refusal> {
    let filters = Object::parse(&request.text).unwrap_or_default();
    let params = ctx.message.params().unwrap_or_default();
    let is_known = filters.members().all(|filter| HEARD_BY_ALL.contains(&filter.key.as_ref()))
        && params.members().all(|member| member.key == "notifications" || member.key == "_meta");
    let may_use_all = |backend: &Arc<Backend>| ctx.rules.policy.allows_all_of(&ctx.principal.roles, backend.alias());
    let roles = ctx.principal.roles.join(",");
    if !is_known && !ctx.backends().all(may_use_all) {
        return Err(Refusal::denied(format!("role {roles} may subscribe only to changes of lists here")));
    }
    let mut owned = Vec::new();
    for uri in &request.filter.resource_subscriptions {
        let backend = match ctx.inbound.scope.backend() {
            Some(backend) => Some(backend.to_owned()),
            None => resources::owner(ctx, uri).await,
        };
        let may_read = |backend| ctx.rules.policy.shows(&ctx.principal.roles, Target::resource(backend, uri));
        if !backend.as_deref().is_some_and(may_read) {
            (entry.backend, entry.tool) = (backend, Some(uri.clone()));
            return Err(Refusal::denied(format!("role {roles} may not read {uri}")));
        }
        owned.extend(backend.map(|backend| (backend, uri.clone())));
    }
    let stream = ctx.stream.clone().ok_or_else(|| {
        let message = "subscriptions/listen is answered with a stream: accept text/event-stream";
        Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message)
    })?;
    Ok(Subscription { request, stream, owned })
}

/// Relays changes until the client hangs up or the gateway stops.
pub(crate) async fn serve(ctx: &RequestContext<'_>, subscription: Subscription) -> Sourced {
    let Subscription { request: SubscriptionRequest { filter, text }, stream, owned } = subscription;
    let id = &ctx.id;
    if let Some(backend) = ctx.only_backend()
        && backend.speaks_modern().await.unwrap_or(false)
    {
        let listener = Arc::new(SubscriptionForwarder { stream: Arc::clone(&stream), id: id.clone() });
        let client_stream = Arc::clone(&listener);
        let answer = tokio::select! {
            answer = relayed(ctx, backend, listener, None) => answer,
            () = views(ctx, &filter, |method| client_stream.tell_of(method)) => Ok(complete(id)),
        };
        match answer {
            // The backend has no subscriptions: the gateway serves those that it can.
            Ok(response) if is_unknown_method(&response) => {}
            Ok(Response::Result(result)) => return Sourced::Exact(Response::result(&with_id(&result, id))),
            Ok(error) => return Sourced::Exact(error),
            Err(error) => return Sourced::failed(backend.alias(), error),
        }
    }
    stream.open();
    // Before the backends are asked: no change from now on is missed.
    let changes = ctx.core.upstreams.changes();
    let client_stream = SubscriptionStream::new(&stream, id);
    let heard: Vec<_> = ctx
        .visible_backends()
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
    Sourced::Exact(complete(id))
}

/// The filter for one backend, which has these of the resources that are asked for. `None`: it is asked for nothing.
fn for_one(text: &str, uris: &[String]) -> Option<String> {
    let filters = Object::parse(text).unwrap_or_default();
    let uris = serde_json::json!(uris).to_string();
    let kept: Vec<_> = filters
        .members()
        .map(|filter| if filter.key == RESOURCES { (filter.key, uris.as_str()) } else { (filter.key, filter.value) })
        .filter(|(_, value)| !matches!(*value, "[]" | "false" | "null"))
        .collect();
    (!kept.is_empty()).then(|| json::object(kept.iter().map(|(key, value)| (key.as_ref(), *value))))
}

/// What of the filter is honoured. Lists are, by the gateway; the backends are waited for where it is for them to say.
async fn honoured(filter: &Filter, text: &str, heard: &[Arc<UpstreamSubscription>]) -> String {
    let filters = Object::parse(text).unwrap_or_default();
    let is_list = |key: &str| key != RESOURCES && HEARD_BY_ALL.contains(&key);
    let mut agreed = Vec::new();
    if filters.members().any(|filter| !is_list(&filter.key)) {
        let all = futures_util::future::join_all(heard.iter().map(async |subscription| {
            match tokio::time::timeout(PATIENCE, subscription.agreed()).await {
                Ok(Agreed::To(filter)) => Some(filter),
                Ok(Agreed::Pending | Agreed::Nothing) | Err(_) => None,
            }
        }));
        agreed = all.await.into_iter().flatten().collect();
    }
    let agreed_to = |key: &str| {
        let of_one = |filter: &String| Object::parse(filter)?.get(key).map(str::to_owned);
        agreed.iter().filter_map(of_one).collect::<Vec<_>>()
    };
    let told_of: Vec<String> = agreed_to(RESOURCES)
        .iter()
        .flat_map(|uris| serde_json::from_str::<Vec<String>>(uris).unwrap_or_default())
        .collect();
    let uris: Vec<_> = filter.resource_subscriptions.iter().filter(|uri| told_of.contains(uri)).collect();
    let uris = (!uris.is_empty()).then(|| serde_json::json!(uris).to_string());
    let kept: Vec<(String, String)> = filters
        .members()
        .filter_map(|filter| {
            let value = match filter.key.as_ref() {
                RESOURCES => uris.clone(),
                key if is_list(key) => Some(filter.value.to_owned()),
                key => agreed_to(key).into_iter().next(),
            };
            value.map(|value| (filter.key.into_owned(), value))
        })
        .collect();
    json::object(kept.iter().map(|(key, value)| (key.as_str(), value.as_str())))
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
    let params = ctx.message.params().unwrap_or_default();
    let params = filter.map_or_else(|| params.text().to_owned(), |filter| params.replaced("notifications", filter));
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
    Response::result(&json::object([("resultType", "\"complete\""), ("_meta", meta.as_str())]))
}

/// A notification without parameters.
fn notification(method: &str) -> String {
    json::object([("jsonrpc", "\"2.0\""), ("method", &json::quoted(method))])
}

/// A notification under the client's own subscription.
fn tagged(json: &str, id: &Id) -> String {
    let message = Object::parse_path(json, &["params", "_meta"]).unwrap_or_default();
    let params = with_id(&message.object("params").unwrap_or_default(), id);
    message.with(&[("params", &params)])
}

/// `object` with the client's id in its `_meta`.
fn with_id(object: &Object<'_>, id: &Id) -> String {
    let meta = object.object("_meta").unwrap_or_default();
    object.with(&[("_meta", &meta.with(&[(META_SUBSCRIPTION, id.as_json())]))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_stream() -> (Arc<Stream>, Arc<SubscriptionStream>, Id) {
        let id = Id::new("\"c\"");
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
