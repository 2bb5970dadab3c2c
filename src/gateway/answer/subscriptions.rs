//! `subscriptions/listen` of the stateless era: one stream of change notifications to a client.
//!
//! A backend's notifications contain the id of the gateway's request to it; on the client's stream they contain the id
//! of the client's request. With several backends, or with one that has no subscriptions, the gateway itself
//! acknowledges the subscription. It always honours the filters of lists, because the gateway sends notifications of
//! its policy's changes, and of the other filters those that a backend agreed to. For backends of the older era it
//! forwards the changes of lists.

mod filter;
mod upstream_subscription;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use filter::{Filter, RESOURCES, is_unknown_method, listen_at, notification, tagged, with_id};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use upstream_subscription::{Agreed, SubscriptionStream, UpstreamSubscription};

use crate::gateway::answer::relay::Sourced;
use crate::gateway::answer::resources::ResourceSearch;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::stream_counts::OpenStreamGuard;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::scope::Scope;
use crate::gateway::session::audience::Audience;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::{Id, Malformed};
use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{INVALID_REQUEST, META_SUBSCRIPTION};
use crate::rbac::{Access, DEFAULT_RULE, Decision, LIST_CHANGED_METHODS, Target, TargetKind};
use crate::upstream::{Backend, Change, Event, Response, ServerMessageHandler};

/// Most resources of one subscription. *Chosen*: each costs a lookup and a decision of the policy.
const RESOURCES_MAX: usize = 256;

/// Longest wait for the acknowledgments of backends. *Chosen*: the same as for a list of all backends.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The alias of a backend, and the URI of a resource of it in the filter.
type Owned = (String, String);

/// Forwards the notifications of the only backend to the client's stream.
#[derive(Debug)]
struct SubscriptionForwarder {
    stream: Arc<Stream>,
    id: Id,
    audience: Audience,
}

impl SubscriptionForwarder {
    fn notify(&self, method: &str) -> bool {
        self.stream.push(&tagged(&notification(method), &self.id))
    }
}

impl ServerMessageHandler for SubscriptionForwarder {
    fn on_event(&self, event: Event) -> bool {
        event.id.is_none() && self.audience.may_hear(&self.stream) && self.stream.push(&tagged(&event.json, &self.id))
    }

    fn on_stream_start(&self) {
        self.stream.open();
    }
}

/// The filter of a `subscriptions/listen` request.
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
    _counted: OpenStreamGuard,
}

impl SubscriptionRequest {
    /// Reads the filter of the request.
    ///
    /// # Errors
    /// The filter is not valid.
    pub(crate) fn read(ctx: &RequestContext<'_>) -> Result<Self, Refusal> {
        let text = ctx.params.get("notifications").ok_or(Malformed::Subject)?;
        let filter: Filter = serde_json::from_str(text).map_err(|_| Malformed::Subject)?;
        // I6: the number of resources is bounded.
        if filter.resource_subscriptions.len() > RESOURCES_MAX {
            return Err(Malformed::Subject.into());
        }
        Ok(Self { filter, text: text.to_string() })
    }
}

/// Decides on a subscription. A caller may subscribe only to resources that it may read.
///
/// # Errors
/// A refusal with status `denied`, `rate_limited`, or `malformed` if the client does not accept a stream.
pub(crate) async fn permit(
    ctx: &RequestContext<'_>,
    request: SubscriptionRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<Subscription, Refusal> {
    let roles = ctx.principal.roles_in_words();
    let (mut owned, mut search) = (Vec::new(), ResourceSearch::new(ctx));
    for uri in &request.filter.resource_subscriptions {
        let backend = match ctx.inbound.scope.backend() {
            Some(backend) => Some(backend.to_owned()),
            None => search.owner(uri).await,
        };
        let decide = |backend| {
            let decision = ctx.rules.policy.decide(&ctx.principal.roles, Target::resource(backend, uri), Access::List);
            (matches!(decision, Decision::Allowed { .. }), decision.decided_by())
        };
        let (may_read, rule) = backend.as_deref().map_or_else(|| (false, DEFAULT_RULE.to_owned()), decide);
        entry.decided_by = Some(rule);
        if !may_read {
            (entry.backend, entry.tool, entry.resource) = (backend, None, Some(uri.clone()));
            return Err(Refusal::denied(format!("{roles} may not read {uri}")));
        }
        owned.extend(backend.map(|backend| (backend, uri.clone())));
    }
    let stream = ctx.stream.clone().ok_or_else(|| {
        let message = "subscriptions/listen is answered with a stream: accept text/event-stream";
        Refusal::malformed(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, message)
    })?;
    let own_max = ctx.rules.limits.streams_per_principal;
    let counted = ctx.core.streams.open(&ctx.principal, own_max, ctx.core.connections_max)?;
    Ok(Subscription { request, stream, owned, _counted: counted })
}

/// Answers `subscriptions/listen`: forwards notifications until the client disconnects or the gateway stops.
pub(crate) async fn serve(ctx: &RequestContext<'_>, subscription: Subscription) -> Sourced {
    let Subscription { request: SubscriptionRequest { filter, text }, stream, owned, _counted } = subscription;
    let id = &ctx.id;
    // Before anything is waited for: a change from now on ends the subscription.
    let backends: Vec<_> = ctx.backends().collect();
    if let Some(backend) = ctx.only_backend()
        && let Ok(caller) = ctx.caller_token(&backend)
        && backend.speaks_modern(caller.as_ref()).await.unwrap_or(false)
    {
        let audience = Audience::new(backend.alias(), ctx.core.policy.subscribe());
        let listener = Arc::new(SubscriptionForwarder { stream: Arc::clone(&stream), id: id.clone(), audience });
        let client_stream = Arc::clone(&listener);
        let answer = tokio::select! {
            answer = listen_at(ctx, &backend, listener, None) => answer,
            () = notify_policy_changes(ctx, &filter, &backends, |method| client_stream.notify(method)) => Ok(complete(id)),
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
    // Subscribed before any backend is, so that no change from now on is missed.
    let changes = ctx.core.upstreams.changes();
    let client_stream = SubscriptionStream::new(&stream, id);
    let subscriptions: Vec<_> = ctx
        .visible_backends()
        .filter_map(|backend| {
            let own = |(owner, uri): &Owned| (owner == backend.alias()).then(|| uri.clone());
            let uris: Vec<_> = owned.iter().filter_map(own).collect();
            let audience = Audience::new(backend.alias(), ctx.core.policy.subscribe());
            Some(UpstreamSubscription::new(&backend, audience, &client_stream, backend_filter(&text, &uris)?, uris))
        })
        .collect();
    let all = async {
        let acknowledged = async { client_stream.acknowledge(&honoured_filter(&filter, &text, &subscriptions).await) };
        let listening = subscriptions.iter().map(|subscription| subscription.listen(ctx, &filter));
        let changes = forward_list_changes(ctx, changes, &client_stream, &filter, &subscriptions);
        tokio::join!(acknowledged, futures_util::future::join_all(listening), changes);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all => {}
        () = notify_policy_changes(ctx, &filter, &backends, |method| client_stream.notify(method)) => {}
        () = ctx.interrupt.client.cancelled() => {}
        () = ctx.core.stopping.cancelled() => {}
    }
    Sourced::Exact(complete(id))
}

/// The filter for one backend, with those resources of the client's filter that the backend has. `None`: it is empty.
fn backend_filter(text: &str, uris: &[String]) -> Option<String> {
    let filters = Object::parse(text).unwrap_or_default();
    let uris = serde_json::json!(uris).to_string();
    let kept: Vec<_> = filters
        .members()
        .map(|filter| if filter.key == RESOURCES { (filter.key, uris.as_str()) } else { (filter.key, filter.value) })
        .filter(|(_, value)| !matches!(*value, "[]" | "false" | "null"))
        .collect();
    (!kept.is_empty()).then(|| json::object(kept.iter().map(|(key, value)| (key.as_ref(), *value))))
}

/// The honoured part of the client's filter `text`: the lists, and what the backends agreed to. Waits for the backends
/// only if the filter has members other than lists.
async fn honoured_filter(filter: &Filter, text: &str, subscriptions: &[Arc<UpstreamSubscription>]) -> String {
    let Some(requested) = Object::parse(text) else { return "{}".to_owned() };
    let mut agreed: Vec<String> = Vec::new();
    if requested.get(RESOURCES).is_some() {
        let all = futures_util::future::join_all(subscriptions.iter().map(async |subscription| {
            match tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, subscription.agreed()).await {
                Ok(Agreed::To(filter)) => Some(filter),
                Ok(Agreed::Pending | Agreed::Nothing) | Err(_) => None,
            }
        }));
        agreed = all.await.into_iter().flatten().collect();
    }
    let agreed: Vec<Object<'_>> = agreed.iter().filter_map(|filter| Object::parse(filter)).collect();
    let agreed_uris: Vec<String> = agreed
        .iter()
        .filter_map(|filter| filter.get(RESOURCES))
        .flat_map(|uris| serde_json::from_str::<Vec<String>>(uris).unwrap_or_default())
        .collect();
    let uris: Vec<_> = filter.resource_subscriptions.iter().filter(|uri| agreed_uris.contains(uri)).collect();
    let uris = (!uris.is_empty()).then(|| serde_json::json!(uris).to_string());
    let kept: Vec<_> = requested
        .members()
        .filter_map(|member| {
            let value = match &*member.key {
                RESOURCES => uris.as_deref(),
                _ => Some(member.value),
            };
            value.map(|value| (member.key, value))
        })
        .collect();
    json::object(kept.iter().map(|(key, value)| (key.as_ref(), *value)))
}

/// Forwards the list changes of backends of the older era.
async fn forward_list_changes(
    ctx: &RequestContext<'_>,
    mut changes: broadcast::Receiver<Change>,
    client_stream: &SubscriptionStream,
    filter: &Filter,
    subscriptions: &[Arc<UpstreamSubscription>],
) {
    let is_older = |subscription: &&Arc<UpstreamSubscription>| subscription.backend().modern() != Some(true);
    loop {
        let change = changes.recv().await;
        let is_subscribed = |alias: &str| {
            subscriptions.iter().filter(is_older).any(|subscription| subscription.backend().alias() == alias)
                && ctx.core.rules().policy.reaches(&ctx.principal.roles, alias)
        };
        let Some(methods) = notifications_of(change, filter, is_subscribed) else { return };
        // Changes that were missed may be of any list of any of these backends.
        for method in methods.into_iter().filter(|_| subscriptions.iter().any(|subscription| is_older(&subscription))) {
            client_stream.notify(method);
        }
    }
}

/// The methods of the notifications of a change; of all lists in the filter if changes were missed. `None`: no change
/// follows.
fn notifications_of(
    change: Result<Change, RecvError>,
    filter: &Filter,
    is_subscribed: impl Fn(&str) -> bool,
) -> Option<Vec<&'static str>> {
    match change {
        Ok(change) => {
            let matches = |method: &&'static str| *method == change.method && is_subscribed(&change.alias);
            Some(filter.lists().filter(matches).collect())
        }
        Err(RecvError::Lagged(_)) => Some(filter.lists().collect()),
        Err(RecvError::Closed) => None,
    }
}

/// Notifies about lists that may differ after a change of the policy. Returns when the client must subscribe again: a
/// backend of its endpoint was added, removed or replaced, or the readable resources may differ and the filter has
/// resources.
async fn notify_policy_changes(
    ctx: &RequestContext<'_>,
    filter: &Filter,
    backends: &[Arc<Backend>],
    notify: impl Fn(&str) -> bool,
) {
    let mut changes = ctx.core.policy.subscribe();
    let (mut seen, roles) = (Arc::clone(&ctx.rules), &ctx.principal.roles);
    // The only backend was there when the subscription was decided on.
    let is_gone = backends.is_empty() && ctx.inbound.scope != Scope::All;
    loop {
        let now = ctx.core.rules();
        if is_gone || !ctx.backends().map(|backend| Arc::as_ptr(&backend)).eq(backends.iter().map(Arc::as_ptr)) {
            for method in filter.lists() {
                notify(method);
            }
            return;
        }
        for (kind, method) in LIST_CHANGED_METHODS {
            if filter.includes(method) && now.policy.lists_differ(&seen.policy, roles, kind) {
                notify(method);
            }
        }
        let resources_differ = now.policy.lists_differ(&seen.policy, roles, TargetKind::Resource);
        if resources_differ && !filter.resource_subscriptions.is_empty() {
            // The client must subscribe again, which decides on each resource.
            return;
        }
        seen = now;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The result of an ended subscription.
fn complete(id: &Id) -> Response {
    let meta = json::object([(META_SUBSCRIPTION, id.as_json())]);
    Response::result(&json::object([("resultType", "\"complete\""), ("_meta", meta.as_str())]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::watch;

    use crate::gateway::session::replay::ReplayBudget;
    use crate::rbac::Policy;

    use super::filter::ACKNOWLEDGED;
    use super::*;

    fn client_stream() -> (Arc<Stream>, Arc<SubscriptionStream>, Id) {
        let id = Id::new("\"c\"");
        let (stream, id) = (Stream::unkept(&["all".to_owned()], &ReplayBudget::new(1 << 20)), id.unwrap());
        (Arc::clone(&stream), SubscriptionStream::new(&stream, &id), id)
    }

    /// The policy by which the role `all` may use what `allow` says.
    fn policy(allow: &str) -> (watch::Sender<Arc<Policy>>, watch::Receiver<Arc<Policy>>) {
        let role = crate::config::Role { allow: vec![allow.to_owned()], ..Default::default() };
        watch::channel(Arc::new(Policy::new(&BTreeMap::from([("all".to_owned(), role)])).unwrap()))
    }

    #[tokio::test]
    async fn notifications_have_the_clients_id_and_follow_the_acknowledgment() {
        let (stream, client_stream, _) = client_stream();
        let note = format!(r#"{{"method":"m","params":{{"_meta":{{"{META_SUBSCRIPTION}":7,"x":1}}}}}}"#);
        assert!(client_stream.send(&note) && stream.is_unused());
        client_stream.acknowledge(r#"{"toolsListChanged":true}"#);
        assert!(client_stream.notify("n"));
        stream.finish(None);
        let (mut reader, mut read) = (stream.read_from(0).unwrap(), Vec::new());
        while let crate::gateway::session::stream::Next::Message(_, json) = reader.next().await {
            read.push(json.to_string());
        }
        assert!(read[0].contains(ACKNOWLEDGED) && read[0].contains(r#""notifications":{"toolsListChanged":true}"#));
        assert!(read[1].contains(&format!(r#""_meta":{{"{META_SUBSCRIPTION}":"c","x":1}}"#)), "{read:?}");
        assert!(read.iter().all(|json| json.contains(&format!(r#""{META_SUBSCRIPTION}":"c""#))), "{read:?}");
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn i6_notifications_before_the_acknowledgment_are_bounded() {
        let (_stream, client_stream, _) = client_stream();
        assert_eq!((0..1000).filter(|_| client_stream.notify("m")).count(), 64);
    }

    #[test]
    fn the_only_backends_notifications_are_forwarded_with_the_clients_id_and_its_requests_refused() {
        let (stream, _, id) = client_stream();
        let (changes, in_force) = policy("b/*");
        let audience = Audience::new("b", in_force);
        let forwarder = SubscriptionForwarder { stream: Arc::clone(&stream), id, audience };
        let event = |id: Option<&str>| Event {
            method: ACKNOWLEDGED.to_owned(),
            id: id.map(str::to_owned),
            json: r#"{"method":"m"}"#.to_owned(),
        };
        assert!(!forwarder.on_event(event(Some("1"))) && stream.is_unused());
        assert!(forwarder.on_event(event(None)) && !stream.is_unused());
        // I10: what a reload takes away is not relayed any more.
        changes.send_replace(Arc::clone(&policy("c/*").1.borrow()));
        assert!(!forwarder.on_event(event(None)));
    }

    #[test]
    fn a_backends_filter_has_only_its_own_resources() {
        let text =
            r#"{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a:1","b:1"],"x":[7]}"#;
        let uris = ["b:1".to_owned()];
        let want = r#"{"toolsListChanged":true,"resourceSubscriptions":["b:1"],"x":[7]}"#;
        assert_eq!(backend_filter(text, &uris).as_deref(), Some(want));
        assert_eq!(backend_filter(r#"{"resourceSubscriptions":["a:1"],"toolsListChanged":false}"#, &[]), None);
    }

    #[tokio::test]
    async fn changes_in_the_filter_are_notified_and_all_of_it_if_changes_were_missed() {
        let text = r#"{"promptsListChanged":true,"toolsListChanged":true,"taskIds":["x"]}"#;
        let filter: Filter = serde_json::from_str(text).unwrap();
        let (changes, mut subscriptions) = broadcast::channel(1);
        let change = |alias: &str, list: &str| {
            let method = format!("notifications/{list}/list_changed");
            changes.send(Change { alias: alias.to_owned(), method, is_observed: false }).unwrap();
        };
        let is_subscribed = |alias: &str| alias == "a";
        let (tools, prompts) = ("notifications/tools/list_changed", "notifications/prompts/list_changed");
        for (alias, list, want) in [("a", "tools", &[tools][..]), ("b", "tools", &[]), ("a", "resources", &[])] {
            change(alias, list);
            assert_eq!(
                notifications_of(subscriptions.recv().await, &filter, is_subscribed).unwrap(),
                want,
                "{alias} {list}"
            );
        }
        change("a", "resources");
        change("a", "resources");
        assert_eq!(notifications_of(subscriptions.recv().await, &filter, is_subscribed).unwrap(), [tools, prompts]);
        assert_eq!(notifications_of(Err(RecvError::Closed), &filter, is_subscribed), None);
    }
}
