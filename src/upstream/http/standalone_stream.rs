//! The standalone stream of a legacy session: the `GET` stream for messages that belong to no request.
//!
//! It is read for as long as the backend offers it. If it breaks and the backend cannot resume it at the same event,
//! messages may have been lost, so the listener is told that every list may have changed.
//!
//! On behalf of a caller, it is read with the token of the caller's last message, until that token ends. It is then
//! opened again with a newer one: at once if there is one, otherwise when the caller's next message brings one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::auth::validity::Validity;
use crate::mcp::protocol::Era;
use crate::retry::{Backoff, RetryPolicy};
use crate::upstream::error::CallError;
use crate::upstream::message::{self, Event, Message};
use crate::upstream::oauth::CallerToken;
use crate::upstream::sent_credentials::SentCredentials;
use crate::upstream::timeouts::RequestTimer;

use super::connection::{HttpConnection, SEND_TIMEOUT, Session};
use super::convert::{is_event_stream, transport_error};
use super::era;
use super::exchange::read_messages;
use super::sse::{RETRY_PAUSE_MAX, ResumePoint};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest interval between attempts to open the stream. *Derived*: with its jitter a pause is at most
/// [`RETRY_PAUSE_MAX`].
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(20);

/// The time after which a stream that ends is opened again at once. *Chosen*: shorter than the limits of proxies for
/// silent streams, and clients read all lists again each time.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Returns whether a status is temporary, so that the stream may be opened later. *Spec*: 405 says that there is none.
fn is_temporary(status: StatusCode) -> bool {
    era::is_inconclusive(status) || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

/// The pauses between attempts to open the stream.
#[derive(Debug, Default)]
struct StreamBackoff(Option<Backoff>);

impl StreamBackoff {
    /// The pause after a failed attempt: never shorter than the backend's own retry time.
    fn next_pause(&mut self, resume_point: &ResumePoint) -> Duration {
        let shortest = resume_point.pause();
        let policy = RetryPolicy::new(shortest, RETRY_INTERVAL_MAX);
        self.0.get_or_insert_with(|| Backoff::new(policy)).next_pause().clamp(shortest, RETRY_PAUSE_MAX)
    }

    /// The pause after a stream that was `opened` and has ended. A backend whose events have ids may end each stream
    /// soon and expect to be polled.
    fn pause_after_stream(&mut self, opened: Instant, resume_point: &ResumePoint) -> Duration {
        if resume_point.last_event_id.is_none() && opened.elapsed() < STABLE_AFTER {
            return self.next_pause(resume_point);
        }
        self.0 = None;
        resume_point.pause()
    }
}

impl HttpConnection {
    /// Starts to read the standalone stream, unless it is being read already.
    pub(in crate::upstream) fn listen(self: &Arc<Self>) {
        self.start_listening(false);
    }

    /// As [`HttpConnection::listen`]. `missed`: messages of the backend were lost before this.
    pub(super) fn start_listening(self: &Arc<Self>, missed: bool) {
        if self.era == Era::Modern || self.listener.is_none() || self.is_listening.swap(true, Ordering::AcqRel) {
            return;
        }
        self.listen_requested.store(true, Ordering::Release);
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let ended = connection.ended.clone();
            tokio::select! {
                () = ended.cancelled() => {}
                () = connection.read_standalone_stream(missed) => {}
            }
        });
    }

    /// Reads the stream for as long as the backend offers it. `missed`: messages were lost before this.
    async fn read_standalone_stream(self: Arc<Self>, mut missed: bool) {
        let (mut resume_point, mut retries) = (ResumePoint::default(), StreamBackoff::default());
        let mut has_tried = false;
        loop {
            let caller = self.valid_caller().await;
            let session = self.session();
            let sent = SentCredentials::default();
            let opening = self.get_stream(&session, &resume_point, caller.as_ref(), &sent);
            let response = tokio::time::timeout(SEND_TIMEOUT, opening).await;
            let pause = match response {
                Ok(Ok(response)) if response.status().is_success() && is_event_stream(&response) => {
                    if std::mem::replace(&mut missed, false) {
                        self.announce_all_lists();
                    }
                    let opened = Instant::now();
                    missed = self.read_events(response, &mut resume_point, caller.as_ref(), &sent).await;
                    retries.pause_after_stream(opened, &resume_point)
                }
                Ok(Ok(response)) if !is_temporary(response.status()) => {
                    // The backend has no stream (405), or does not know the session; the next request shows which.
                    self.is_listening.store(false, Ordering::Release);
                    if self.session() != session {
                        // The session was initialized again, while this task was still marked as the reader.
                        self.start_listening(true);
                    } else if has_tried && !self.is_client_session() {
                        // Subscribers may be waiting without any request that would show it.
                        self.abandon();
                    }
                    return;
                }
                Ok(Ok(_) | Err(_)) | Err(_) => {
                    missed = true;
                    retries.next_pause(&resume_point)
                }
            };
            has_tried = true;
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads the events of an open stream until it ends, or the token of the `caller` does. Returns whether later
    /// events may be lost.
    async fn read_events(
        &self,
        mut response: reqwest::Response,
        resume_point: &mut ResumePoint,
        caller: Option<&Arc<CallerToken>>,
        sent: &SentCredentials,
    ) -> bool {
        let validity = caller.map_or(Validity::UNLIMITED, |caller| caller.validity());
        let mut timer = RequestTimer::unlimited();
        let mut on_message = |message| {
            if let Message::Event(event) = message {
                self.handle_event(event, None, sent);
            }
            None::<()>
        };
        let read = read_messages(&mut response, resume_point, &mut timer, &mut on_message);
        let end = tokio::select! { end = read => end, () = validity.ended() => Ok(None) };
        if let Err(error) = &end {
            let backend = &self.endpoint.alias;
            tracing::warn!(backend, %error, "could not read the backend's stream; opening it again");
        }
        end.is_err() || resume_point.last_event_id.is_none()
    }

    /// Opens the stream, or a broken response stream, after the last event that was read, on behalf of a `caller` or of
    /// the gateway. `sent` takes its credentials.
    pub(super) async fn get_stream(
        &self,
        session: &Session,
        resume_point: &ResumePoint,
        caller: Option<&Arc<CallerToken>>,
        sent: &SentCredentials,
    ) -> Result<reqwest::Response, CallError> {
        let mut headers = self.headers(session, "text/event-stream");
        let last = resume_point.last_event_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok());
        headers.extend(last.map(|last| (LAST_EVENT_ID, last)));
        self.authorize(&mut headers, caller).await?;
        self.note_sent(&headers, sent);
        let client = self.endpoint.client.get();
        client.get(&self.endpoint.url).headers(headers).send().await.map_err(transport_error)
    }

    /// Sends the listener a `list_changed` notification for each list for which the backend declared them.
    fn announce_all_lists(&self) {
        let Some(listener) = &self.listener else { return };
        let lists = self.declared_lists.lock().clone();
        for method in lists {
            let json = message::write(None, method, None);
            listener.on_event(Event { method: method.to_owned(), id: None, json });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::http::sse::SseEvent;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_are_not_shorter_than_the_backends_retry_time() {
        let mut resume_point = ResumePoint::default();
        let mut retries = StreamBackoff::default();
        for interval in [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0_f64] {
            let pause = retries.next_pause(&resume_point).as_secs_f64();
            assert!((interval / 2.0).max(1.0) <= pause && pause <= interval * 1.5, "{interval}: {pause}");
        }
        // Streams that end soon make them longer, too; one that was stable, or has ids, begins with the first.
        let pause = |retries: &mut StreamBackoff, opened, at: &ResumePoint| retries.pause_after_stream(opened, at);
        let opened = Instant::now();
        assert!(pause(&mut retries, opened, &resume_point) >= Duration::from_secs(10));
        tokio::time::advance(STABLE_AFTER).await;
        assert_eq!(pause(&mut retries, opened, &resume_point), Duration::from_secs(1));
        assert!(retries.next_pause(&resume_point) <= Duration::from_millis(1500));
        resume_point.advance(&SseEvent { id: Some("7".to_owned()), ..SseEvent::default() });
        for _ in 0..8 {
            assert_eq!(pause(&mut retries, Instant::now(), &resume_point), Duration::from_secs(1));
        }
        for retry in [1, 29_000].map(Duration::from_millis) {
            resume_point.advance(&SseEvent { retry: Some(retry), ..SseEvent::default() });
            let pause = StreamBackoff::default().next_pause(&resume_point);
            assert!((retry..=RETRY_PAUSE_MAX).contains(&pause), "{retry:?}: {pause:?}");
        }
    }
}
