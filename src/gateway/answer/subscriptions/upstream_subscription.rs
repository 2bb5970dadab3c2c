//! Listening to backends for one subscription of a client's, for as long as that lasts.
//!
//! A backend that is down, or whose stream ends, is listened to again after a pause. What it told nobody meanwhile is lost:
//! the client then hears that everything may have changed that it asked of it. Of a backend that speaks the older era, the
//! changes of its lists come by the gateway's own conversation with it, which is held open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::gateway::answer::subscriptions::{ACKNOWLEDGED, Filter, is_unknown_method, notification, relayed, tagged};
use crate::gateway::call::context::RequestContext;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::Id;
use crate::mcp::json::{self, Object};
use crate::upstream::{Backend, CallError, Event, ReconnectBackoff, Response, ServerMessageHandler};

/// Messages that wait for the acknowledgment, which is the first on a stream. *Chosen*: a list changes seldom.
const HELD_MAX: usize = 64;

/// The client's side of a subscription: what is told before it is acknowledged waits.
#[derive(Debug)]
pub(crate) struct SubscriptionStream {
    stream: Arc<Stream>,
    id: Id,
    /// Until it is acknowledged.
    held: Mutex<Option<Vec<String>>>,
}

/// One backend of a subscription.
#[derive(Debug)]
pub(crate) struct UpstreamSubscription {
    backend: Arc<Backend>,
    client_stream: Arc<SubscriptionStream>,
    /// What it is asked to tell of, as JSON text.
    asked: String,
    /// What it is asked to tell of resources.
    uris: Vec<String>,
    /// What it agreed to tell of, as JSON text, once that is known.
    agreed: watch::Sender<Agreed>,
}

/// What a backend agreed to tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// That is not known yet.
    Pending,
    /// Nothing: it is down, or speaks an era in which it cannot be asked.
    Nothing,
    /// This filter.
    To(String),
}

/// Puts a backend's messages on the client's stream.
#[derive(Debug)]
struct UpstreamListener {
    subscription: Arc<UpstreamSubscription>,
    /// The notifications of what may have been missed, until it tells again.
    missed: Mutex<Vec<String>>,
    is_open: AtomicBool,
}

impl SubscriptionStream {
    pub(crate) fn new(stream: &Arc<Stream>, id: &Id) -> Arc<Self> {
        Arc::new(Self { stream: Arc::clone(stream), id: id.clone(), held: Mutex::new(Some(Vec::new())) })
    }

    /// Tells of `json`, a notification. `false`: there is no room for it.
    pub(crate) fn tell(&self, json: &str) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            // I6: what waits is bounded.
            Some(held) if held.len() >= HELD_MAX => false,
            Some(held) => {
                held.push(json.to_owned());
                true
            }
            None => self.stream.push(&tagged(json, &self.id)),
        }
    }

    /// Tells of a notification without parameters.
    pub(crate) fn tell_of(&self, method: &str) -> bool {
        self.tell(&notification(method))
    }

    /// Says what is told of, and tells what waited for that.
    pub(crate) fn acknowledge(&self, honoured: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// `asked` is the filter for this backend, and `uris` are the resources in it.
    pub(crate) fn new(
        backend: &Arc<Backend>,
        client_stream: &Arc<SubscriptionStream>,
        asked: String,
        uris: Vec<String>,
    ) -> Arc<Self> {
        let agreed = watch::Sender::new(Agreed::Pending);
        Arc::new(Self { backend: Arc::clone(backend), client_stream: Arc::clone(client_stream), asked, uris, agreed })
    }

    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What it agreed to at first, which is known once it has answered or failed to.
    pub(crate) async fn agreed(&self) -> Agreed {
        let mut agreed = self.agreed.subscribe();
        match agreed.wait_for(|agreed| *agreed != Agreed::Pending).await {
            Ok(agreed) => agreed.clone(),
            Err(_) => Agreed::Nothing,
        }
    }

    /// Listens for as long as the subscription lasts, or until the backend says that it has none.
    pub(crate) async fn listen(self: &Arc<Self>, ctx: &RequestContext<'_>, filter: &Filter) {
        let (mut retries, mut missed) = (ReconnectBackoff::default(), Vec::new());
        loop {
            let ear = Arc::new(UpstreamListener {
                subscription: Arc::clone(self),
                missed: Mutex::new(missed),
                is_open: AtomicBool::new(false),
            });
            let begun = Instant::now();
            let ended = self.listen_once(ctx, &ear).await;
            self.agree(Agreed::Nothing);
            match ended {
                Ok(response) if response.as_ref().is_some_and(is_unknown_method) => return,
                Err(CallError::Cancelled | CallError::Stopped) => return,
                Ok(_) => tracing::debug!(backend = self.backend.alias(), "the backend ended a subscription"),
                Err(error) => tracing::debug!(backend = self.backend.alias(), %error, "not listening to the backend"),
            }
            missed = self.all(filter);
            let since = ear.is_open.load(Ordering::Acquire).then_some(begun);
            tokio::time::sleep(retries.next_pause(since)).await;
        }
    }

    /// Listens until the backend ends it: with its response, or with the conversation.
    async fn listen_once(
        &self,
        ctx: &RequestContext<'_>,
        ear: &Arc<UpstreamListener>,
    ) -> Result<Option<Response>, CallError> {
        if self.backend.speaks_modern().await? {
            let listener = Arc::clone(ear) as Arc<dyn ServerMessageHandler>;
            return relayed(ctx, &self.backend, listener, Some(&self.asked)).await.map(Some);
        }
        let connection = self.backend.shared().await?;
        self.agree(Agreed::Nothing);
        ear.opens();
        connection.ended().await;
        Ok(None)
    }

    /// The notifications that all may have changed of which it is asked to tell.
    fn all(&self, filter: &Filter) -> Vec<String> {
        let updated = |uri: &String| {
            let params = json::object([("uri", json::quoted(uri).as_str())]);
            let method = "\"notifications/resources/updated\"";
            json::object([("jsonrpc", "\"2.0\""), ("method", method), ("params", &params)])
        };
        filter.lists().map(notification).chain(self.uris.iter().map(updated)).collect()
    }

    /// What it agreed to at first stays: the client has heard that.
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
    /// From now on it is told of changes: what was missed until now is made up for.
    fn opens(&self) {
        self.is_open.store(true, Ordering::Release);
        for json in std::mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.subscription.client_stream.tell(&json);
        }
    }
}

impl ServerMessageHandler for UpstreamListener {
    fn on_event(&self, event: Event) -> bool {
        if event.id.is_some() {
            return false;
        }
        if event.method != ACKNOWLEDGED {
            return self.subscription.client_stream.tell(&event.json);
        }
        let message = Object::parse_path(&event.json, &["params"]);
        let params = message.as_ref().and_then(|message| message.object("params"));
        let agreed = params.and_then(|params| params.get("notifications").map(str::to_owned));
        self.subscription.agree(agreed.map_or(Agreed::Nothing, Agreed::To));
        self.opens();
        true
    }
}
