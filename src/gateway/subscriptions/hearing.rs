//! Listening to backends for one subscription of a client's, for as long as that lasts.
//!
//! A backend that is down, or whose stream ends, is listened to again after a pause. What it told nobody meanwhile is lost:
//! the client then hears that everything may have changed that it asked of it. Of a backend that speaks the older era, the
//! changes of its lists come by the gateway's own conversation with it, which is held open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::upstream::{Backend, CallError, Event, Listen, Pauses, Response};

use super::super::ask::Ask;
use super::super::envelope::Id;
use super::super::raw;
use super::super::stream::Stream;
use super::{ACKNOWLEDGED, Filter, is_unknown_method, notification, relayed, tagged};

/// Messages that wait for the acknowledgment, which is the first on a stream. *Chosen*: a list changes seldom.
const HELD_MAX: usize = 64;

/// The client's side of a subscription: what is told before it is acknowledged waits.
#[derive(Debug)]
pub(super) struct Told {
    stream: Arc<Stream>,
    id: Id,
    /// Until it is acknowledged.
    held: Mutex<Option<Vec<String>>>,
}

/// One backend of a subscription.
#[derive(Debug)]
pub(super) struct Hearing {
    backend: Arc<Backend>,
    told: Arc<Told>,
    /// What it is asked to tell of, as JSON text.
    asked: String,
    /// What it is asked to tell of resources.
    uris: Vec<String>,
    /// What it agreed to tell of, as JSON text, once that is known.
    agreed: watch::Sender<Agreed>,
}

/// What a backend agreed to tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    /// That is not known yet.
    Pending,
    /// Nothing: it is down, or speaks an era in which it cannot be asked.
    Nothing,
    /// This filter.
    To(String),
}

/// Puts a backend's messages on the client's stream.
#[derive(Debug)]
struct Ear {
    hearing: Arc<Hearing>,
    /// The notifications of what may have been missed, until it tells again.
    missed: Mutex<Vec<String>>,
    is_open: AtomicBool,
}

impl Told {
    pub(super) fn new(stream: &Arc<Stream>, id: &Id) -> Arc<Self> {
        Arc::new(Self { stream: Arc::clone(stream), id: id.clone(), held: Mutex::new(Some(Vec::new())) })
    }

    /// Tells of `json`, a notification. `false`: there is no room for it.
    pub(super) fn tell(&self, json: &str) -> bool {
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
    pub(super) fn tell_of(&self, method: &str) -> bool {
        self.tell(&notification(method))
    }

    /// Says what is told of, and tells what waited for that.
    pub(super) fn acknowledge(&self, honoured: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let params = raw::object([("notifications", honoured)]);
        let method = raw::quoted(ACKNOWLEDGED);
        let json = raw::object([("jsonrpc", "\"2.0\""), ("method", method.as_str()), ("params", &params)]);
        self.stream.push(&tagged(&json, &self.id));
        for json in held.take().unwrap_or_default() {
            self.stream.push(&tagged(&json, &self.id));
        }
    }
}

impl Hearing {
    /// `asked` is the filter for this backend, and `uris` are the resources in it.
    pub(super) fn new(backend: &Arc<Backend>, told: &Arc<Told>, asked: String, uris: Vec<String>) -> Arc<Self> {
        let agreed = watch::Sender::new(Agreed::Pending);
        Arc::new(Self { backend: Arc::clone(backend), told: Arc::clone(told), asked, uris, agreed })
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What it agreed to at first, which is known once it has answered or failed to.
    pub(super) async fn agreed(&self) -> Agreed {
        let mut agreed = self.agreed.subscribe();
        match agreed.wait_for(|agreed| *agreed != Agreed::Pending).await {
            Ok(agreed) => agreed.clone(),
            Err(_) => Agreed::Nothing,
        }
    }

    /// Listens for as long as the subscription lasts, or until the backend says that it has none.
    pub(super) async fn listen(self: &Arc<Self>, ask: &Ask<'_>, filter: &Filter) {
        let (mut pauses, mut missed) = (Pauses::default(), Vec::new());
        loop {
            let ear = Arc::new(Ear {
                hearing: Arc::clone(self),
                missed: Mutex::new(missed),
                is_open: AtomicBool::new(false),
            });
            let begun = Instant::now();
            let ended = self.listen_once(ask, &ear).await;
            self.agree(Agreed::Nothing);
            match ended {
                Ok(response) if response.as_ref().is_some_and(is_unknown_method) => return,
                Err(CallError::Cancelled | CallError::Stopped) => return,
                Ok(_) => tracing::debug!(backend = self.backend.alias(), "the backend ended a subscription"),
                Err(error) => tracing::debug!(backend = self.backend.alias(), %error, "not listening to the backend"),
            }
            missed = self.all(filter);
            let since = ear.is_open.load(Ordering::Acquire).then_some(begun);
            tokio::time::sleep(pauses.next(since)).await;
        }
    }

    /// Listens until the backend ends it: with its response, or with the conversation.
    async fn listen_once(&self, ask: &Ask<'_>, ear: &Arc<Ear>) -> Result<Option<Response>, CallError> {
        if self.backend.speaks_modern().await? {
            let listener = Arc::clone(ear) as Arc<dyn Listen>;
            return relayed(ask, &self.backend, listener, Some(&self.asked)).await.map(Some);
        }
        let peer = self.backend.shared().await?;
        self.agree(Agreed::Nothing);
        ear.opens();
        peer.ended().await;
        Ok(None)
    }

    /// The notifications that all may have changed of which it is asked to tell.
    fn all(&self, filter: &Filter) -> Vec<String> {
        let updated = |uri: &String| {
            let params = raw::object([("uri", raw::quoted(uri).as_str())]);
            let method = "\"notifications/resources/updated\"";
            raw::object([("jsonrpc", "\"2.0\""), ("method", method), ("params", &params)])
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

impl Ear {
    /// From now on it is told of changes: what was missed until now is made up for.
    fn opens(&self) {
        self.is_open.store(true, Ordering::Release);
        for json in std::mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.hearing.told.tell(&json);
        }
    }
}

impl Listen for Ear {
    fn event(&self, event: Event) -> bool {
        if event.id.is_some() {
            return false;
        }
        if event.method != ACKNOWLEDGED {
            return self.hearing.told.tell(&event.json);
        }
        let find = |json: &str, key: &str| {
            let members = raw::members(json)?;
            members.iter().find(|member| member.key == key).map(|member| member.value.get().to_owned())
        };
        let agreed = find(&event.json, "params").and_then(|params| find(&params, "notifications"));
        self.hearing.agree(agreed.map_or(Agreed::Nothing, Agreed::To));
        self.opens();
        true
    }
}
