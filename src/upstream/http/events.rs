//! The stream on which a backend of the older era sends what belongs to no request.
//!
//! It is read for as long as the backend offers one. Where it broke and the backend does not take it up where it broke,
//! what was sent meanwhile is lost: the listener is told that every list may have changed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use axum::http::{HeaderName, HeaderValue, StatusCode};

use crate::mcp::protocol::Era;

use super::super::CallError;
use super::super::message::{self, Message};
use super::super::timeouts::RequestTimer;
use super::parts::{Place, failed, is_event_stream};
use super::{Remote, SEND_TIMEOUT, Session, era};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Whether a status is of a moment: the stream is asked for again. *Spec*: 405 says that there is none.
fn is_passing(status: StatusCode) -> bool {
    era::says_nothing(status) || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

impl Remote {
    /// Opens the stream on which the backend sends what belongs to no request, once.
    pub(in crate::upstream) fn listen(self: &Arc<Self>) {
        self.begin_to_listen(false);
    }

    /// As [`Remote::listen`]. `missed`: what the backend sent meanwhile was lost.
    pub(super) fn begin_to_listen(self: &Arc<Self>, missed: bool) {
        if self.era == Era::Modern || self.listener.is_none() || self.listening.swap(true, Ordering::AcqRel) {
            return;
        }
        self.is_wanted.store(true, Ordering::Release);
        let remote = Arc::clone(self);
        tokio::spawn(async move {
            let closed = remote.closed.clone();
            tokio::select! {
                () = closed.cancelled() => {}
                () = remote.read_events(missed) => {}
            }
        });
    }

    /// Reads it, for as long as there is one. `missed`: what was sent so far is lost.
    async fn read_events(self: Arc<Self>, mut missed: bool) {
        let (mut place, mut failures, mut was_open) = (Place::default(), 0, false);
        loop {
            let seen = self.session();
            let response = tokio::time::timeout(SEND_TIMEOUT, self.get_stream(&seen, &place)).await;
            match response {
                Ok(Ok(mut response)) if response.status().is_success() && is_event_stream(&response) => {
                    if std::mem::replace(&mut missed, false) {
                        self.tell_of_lists();
                    }
                    (failures, was_open) = (0, true);
                    let mut wait = RequestTimer::unlimited();
                    let mut on_message = |message| {
                        if let Message::Event(event) = message {
                            self.take(event, None);
                        }
                        None::<()>
                    };
                    let read = self.read_until_end(&mut response, &mut place, &mut wait, &mut on_message);
                    if let Err(error) = read.await {
                        tracing::warn!(backend = self.endpoint.alias, %error, "the backend's stream was dropped");
                        missed = true;
                    }
                    missed |= place.last_id.is_none();
                }
                Ok(Ok(response)) if !is_passing(response.status()) => {
                    // It offers none (405), or the session is gone; the next request finds that out.
                    self.listening.store(false, Ordering::Release);
                    if self.session() != seen {
                        self.begin_to_listen(true); // One has found it out meanwhile, and found this still reading.
                    } else if (was_open || failures > 0) && !self.is_session() {
                        self.give_up(); // Perhaps nobody asks anything, and all wait to be told.
                    }
                    return;
                }
                Ok(Ok(_) | Err(_)) | Err(_) => (failures, missed) = (failures + 1, true),
            }
            tokio::time::sleep(place.pause_after(failures)).await;
        }
    }

    /// Asks for it, from where it broke.
    pub(super) async fn get_stream(&self, session: &Session, place: &Place) -> Result<reqwest::Response, CallError> {
        let mut headers = self.headers(session, "text/event-stream");
        let last = place.last_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok());
        headers.extend(last.map(|last| (LAST_EVENT_ID, last)));
        self.endpoint.client.get(&self.endpoint.url).headers(headers).send().await.map_err(failed)
    }

    /// Tells the listener that every list may have changed of whose changes the backend tells.
    fn tell_of_lists(&self) {
        let Some(listener) = &self.listener else { return };
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for method in lists {
            listener.on_event(message::Event {
                method: method.to_owned(),
                id: None,
                json: message::write(None, method, None),
            });
        }
    }
}
