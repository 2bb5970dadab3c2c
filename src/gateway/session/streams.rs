//! The streams of one session.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::gateway::session::replay::ReplayBudget;
use crate::gateway::session::stream::Stream;

/// Ended request streams that a session keeps, so that a client that lost its connection can resume. *Chosen*: a client
/// resumes at once, and rarely loses more than a few at a time.
const ENDED_STREAMS_MAX: usize = 8;

/// Request streams that a session may have open at once. *Chosen*: clients have far fewer requests open.
const STREAMS_MAX: usize = 256;

/// The streams of one session.
#[derive(Debug)]
pub(crate) struct Streams {
    next: u64,
    /// The stream of messages that belong to no request.
    pub(super) general: Arc<Stream>,
    /// The streams of open requests and of the last ended ones, the newest last.
    requests: VecDeque<RequestStream>,
    budget: Arc<ReplayBudget>,
}

#[derive(Debug)]
struct RequestStream {
    stream: Arc<Stream>,
    is_open: bool,
}

impl Streams {
    /// The general stream only. The messages of all streams are in `budget`.
    pub(super) fn new(budget: &Arc<ReplayBudget>) -> Self {
        let general = Stream::resumable(0, budget);
        Self { next: 1, general, requests: VecDeque::new(), budget: Arc::clone(budget) }
    }

    /// Opens a stream for one request. `None`: too many are open.
    pub(super) fn begin(&mut self) -> Option<Arc<Stream>> {
        let open = self.requests.iter().filter(|request| request.is_open).count();
        if open >= STREAMS_MAX {
            return None;
        }
        let stream = Stream::resumable(self.next, &self.budget);
        self.next += 1;
        self.requests.push_back(RequestStream { stream: Arc::clone(&stream), is_open: true });
        Some(stream)
    }

    /// Ends a request's stream. One that was used is kept for a while.
    pub(super) fn end(&mut self, stream: &Arc<Stream>, was_used: bool) {
        for request in &mut self.requests {
            request.is_open &= !Arc::ptr_eq(&request.stream, stream);
        }
        if was_used {
            stream.retire();
        } else {
            self.requests.retain(|request| !Arc::ptr_eq(&request.stream, stream));
        }
        let ended = self.requests.iter().filter(|request| !request.is_open).count();
        for _ in ENDED_STREAMS_MAX..ended {
            // I6: the number of streams kept for resuming is bounded.
            if let Some(oldest) = self.requests.iter().position(|request| !request.is_open) {
                self.requests.remove(oldest);
            }
        }
    }

    /// The stream of the newest open request.
    pub(super) fn newest(&self) -> Option<Arc<Stream>> {
        self.requests.iter().rev().find(|request| request.is_open).map(|request| Arc::clone(&request.stream))
    }

    /// The stream and the message number of an event id.
    pub(super) fn of_event(&self, event_id: &str) -> Option<(Arc<Stream>, u64)> {
        let (stream, message) = event_id.split_once('-')?;
        let (number, message): (u64, u64) = (stream.parse().ok()?, message.parse().ok()?);
        let mut all = std::iter::once(&self.general).chain(self.requests.iter().map(|request| &request.stream));
        all.find(|stream| stream.number == number).map(|stream| (Arc::clone(stream), message))
    }
}
