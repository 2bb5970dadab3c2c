//! The subscription to one backend on behalf of a client's subscription.
//!
//! If the backend is down or its stream ends, the gateway subscribes again after a pause. Notifications in between are
//! lost; when the backend is back, the client is notified that everything in its filter may have changed. For a backend
//! of the older era, the gateway keeps its own shared connection open, on which the changes of lists arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::gateway::answer::subscriptions::filter::{
    ACKNOWLEDGED, Filter, is_unknown_method, listen_at, notification, tagged,
};
use crate::gateway::call::context::RequestContext;
use crate::gateway::session::audience::Audience;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::Id;
use crate::mcp::json::{self, Object};
use crate::upstream::{Backend, CallError, Event, ReconnectBackoff, Response, ServerMessageHandler};

/// Most notifications that wait for the acknowledgment, the first message of a stream. *Chosen*: lists rarely change.
const HELD_MAX: usize = 64;

/// The client's stream of a subscription. Holds notifications back until the subscription is acknowledged.
#[derive(Debug)]
pub(crate) struct SubscriptionStream {
    stream: Arc<Stream>,
    id: Id,
    /// The notifications before the acknowledgment; `None` after it.
    held: Mutex<Option<Vec<String>>>,
}

/// The subscription to one backend.
#[derive(Debug)]
pub(crate) struct UpstreamSubscription {
    backend: Arc<Backend>,
    audience: Audience,
    client_stream: Arc<SubscriptionStream>,
    /// The filter for this backend, as JSON text.
    filter: String,
    /// The resources in the filter.
    uris: Vec<String>,
    /// The filter that the backend agreed to.
    agreed: watch::Sender<Agreed>,
}

/// The filter that a backend agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// The backend has not responded yet.
    Pending,
    /// The backend agreed to nothing: it is down, or its era has no subscriptions.
    Nothing,
    /// The backend agreed to this filter, JSON text.
    To(String),
}

/// Forwards a backend's notifications to the client's stream.
#[derive(Debug)]
struct UpstreamListener {
    subscription: Arc<UpstreamSubscription>,
    /// The notifications that stand in for missed ones, until the backend has subscribed the gateway again.
    missed: Mutex<Vec<String>>,
    is_open: AtomicBool,
}

impl SubscriptionStream {
    pub(crate) fn new(stream: &Arc<Stream>, id: &Id) -> Arc<Self> {
        Arc::new(Self { stream: Arc::clone(stream), id: id.clone(), held: Mutex::new(Some(Vec::new())) })
    }

    /// Sends the notification `json`. `false`: there is no room for it.
    pub(crate) fn send(&self, json: &str) -> bool {
        let mut held = self.held.lock();
        match &mut *held {
            // I6: the number of held notifications is bounded.
            Some(held) if held.len() >= HELD_MAX => false,
            Some(held) => {
                held.push(json.to_owned());
                true
            }
            None => self.stream.push(&tagged(json, &self.id)),
        }
    }

    /// Sends a notification without parameters.
    pub(crate) fn notify(&self, method: &str) -> bool {
        self.send(&notification(method))
    }

    /// Sends the acknowledgment of the filter `honoured`, then the held notifications.
    pub(crate) fn acknowledge(&self, honoured: &str) {
        let mut held = self.held.lock();
        let params = json::object([("notifications", honoured)]);
        let method = json::quoted(ACKNOWLEDGED);
        let json = json::object([("jsonrpc", "\"2.0\""), ("method", method.as_str()), ("params", &params)]);
        self.stream.push(&tagged(&json, &self.id));
        for json in held.take().unwrap_or_default() {
            self.stream.push(&tagged(&json, &self.id));
        }
    }
}

impl UpstreamSubscription {
    /// `filter` is the filter for this backend, and `uris` are the resources in it.
    pub(crate) fn new(
        backend: &Arc<Backend>,
        audience: Audience,
        client_stream: &Arc<SubscriptionStream>,
        filter: String,
        uris: Vec<String>,
    ) -> Arc<Self> {
        let agreed = watch::Sender::new(Agreed::Pending);
        let (backend, client_stream) = (Arc::clone(backend), Arc::clone(client_stream));
        Arc::new(Self { backend, audience, client_stream, filter, uris, agreed })
    }

    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The filter that the backend agreed to first. Waits until the backend has responded or failed.
    pub(crate) async fn agreed(&self) -> Agreed {
        let mut agreed = self.agreed.subscribe();
        match agreed.wait_for(|agreed| *agreed != Agreed::Pending).await {
            Ok(agreed) => agreed.clone(),
            Err(_) => Agreed::Nothing,
        }
    }

    /// Stays subscribed until the client's request ends, or the backend responds that it has no subscriptions. While
    /// the client's roles do not reach the backend, there is no subscription.
    pub(crate) async fn listen(self: &Arc<Self>, ctx: &RequestContext<'_>, filter: &Filter) {
        let stream = &self.client_stream.stream;
        loop {
            tokio::select! {
                biased;
                () = self.audience.wait_until(stream, false) => {}
                () = self.stay_subscribed(ctx, filter) => return,
            }
            self.audience.wait_until(stream, true).await;
        }
    }

    async fn stay_subscribed(self: &Arc<Self>, ctx: &RequestContext<'_>, filter: &Filter) {
        let (mut retries, mut missed) = (ReconnectBackoff::default(), Vec::new());
        loop {
            let listener = Arc::new(UpstreamListener {
                subscription: Arc::clone(self),
                missed: Mutex::new(missed),
                is_open: AtomicBool::new(false),
            });
            let begun = Instant::now();
            let ended = self.listen_once(ctx, &listener).await;
            self.agree(Agreed::Nothing);
            match ended {
                Ok(response) if response.as_ref().is_some_and(is_unknown_method) => return,
                Err(CallError::Cancelled | CallError::Stopped) => return,
                Ok(_) => tracing::debug!(
                    backend = self.backend.alias(),
                    "the backend ended the subscription; subscribing again after a pause"
                ),
                Err(error) => {
                    let backend = self.backend.alias();
                    tracing::debug!(backend, %error, "cannot subscribe; trying again after a pause");
                }
            }
            missed = self.all_notifications(filter);
            let since = listener.is_open.load(Ordering::Acquire).then_some(begun);
            tokio::time::sleep(retries.next_pause(since)).await;
        }
    }

    /// Subscribes once, and waits until the backend responds or the connection ends.
    async fn listen_once(
        &self,
        ctx: &RequestContext<'_>,
        listener: &Arc<UpstreamListener>,
    ) -> Result<Option<Response>, CallError> {
        if self.backend.speaks_modern(ctx.caller_token(&self.backend)?.as_ref()).await? {
            let handler = Arc::clone(listener) as Arc<dyn ServerMessageHandler>;
            return listen_at(ctx, &self.backend, handler, Some(&self.filter)).await.map(Some);
        }
        let connection = self.backend.shared().await?;
        self.agree(Agreed::Nothing);
        listener.on_subscribed();
        connection.ended().await;
        Ok(None)
    }

    /// The notifications that everything in the filter may have changed.
    fn all_notifications(&self, filter: &Filter) -> Vec<String> {
        let updated = |uri: &String| {
            let params = json::object([("uri", json::quoted(uri).as_str())]);
            let method = "\"notifications/resources/updated\"";
            json::object([("jsonrpc", "\"2.0\""), ("method", method), ("params", &params)])
        };
        filter.lists().map(notification).chain(self.uris.iter().map(updated)).collect()
    }

    /// Sets the filter that the backend agreed to. Only the first one counts, because the client was sent that.
    fn agree(&self, agreed: Agreed) {
        self.agreed.send_if_modified(|known| {
            let is_first = *known == Agreed::Pending;
            if is_first {
                *known = agreed;
            }
            is_first
        });
    }
}

impl UpstreamListener {
    /// Sends the notifications that stand in for missed ones: from now on the backend sends its own.
    fn on_subscribed(&self) {
        self.is_open.store(true, Ordering::Release);
        for json in std::mem::take(&mut *self.missed.lock()) {
            self.subscription.client_stream.send(&json);
        }
    }
}

impl ServerMessageHandler for UpstreamListener {
    fn on_event(&self, event: Event) -> bool {
        if event.id.is_some() {
            return false;
        }
        let UpstreamSubscription { audience, client_stream, .. } = &*self.subscription;
        if event.method != ACKNOWLEDGED {
            return audience.may_hear(&client_stream.stream) && client_stream.send(&event.json);
        }
        let message = Object::parse_path(&event.json, &["params"]);
        let params = message.as_ref().and_then(|message| message.object("params"));
        let agreed = params.and_then(|params| params.get("notifications").map(str::to_owned));
        self.subscription.agree(agreed.map_or(Agreed::Nothing, Agreed::To));
        self.on_subscribed();
        true
    }
}
