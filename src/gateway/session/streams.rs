//! The streams of one session: the general one, those of open requests, and those of the last ended ones.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::gateway::session::replay::ReplayBudget;
use crate::gateway::session::stream::Stream;

/// Ended request streams that a session keeps, so that a client that lost its connection can resume. *Chosen*: a client
/// resumes at once, and rarely loses more than a few at a time.
const ENDED_STREAMS_MAX: usize = 8;

/// Request streams that a session may have open at once. *Chosen*: clients have far fewer requests open.
const STREAMS_MAX: usize = 256;

/// The streams of one session.
#[derive(Debug)]
pub(crate) struct SessionStreams(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u64,
    /// The stream of messages that belong to no request.
    general: Arc<Stream>,
    /// The streams of open requests and of the last ended ones, the newest last.
    requests: VecDeque<RequestStream>,
    budget: Arc<ReplayBudget>,
}

#[derive(Debug)]
struct RequestStream {
    stream: Arc<Stream>,
    is_open: bool,
}

impl SessionStreams {
    /// The streams of a session that was opened under `roles`. The messages of all of them are in `budget`.
    pub(crate) fn new(roles: &[String], budget: &Arc<ReplayBudget>) -> Self {
        let general = Stream::resumable(0, roles, budget);
        Self(Mutex::new(State { next: 1, general, requests: VecDeque::new(), budget: Arc::clone(budget) }))
    }

    /// The stream of messages that belong to no request.
    pub(crate) fn general(&self) -> Arc<Stream> {
        Arc::clone(&self.0.lock().general)
    }

    /// Opens a stream for one request, under the roles of its token. `None`: too many are open, and the request gets no
    /// stream.
    pub(crate) fn begin(&self, roles: &[String]) -> Option<Arc<Stream>> {
        let mut state = self.0.lock();
        // I6: the number of open streams is bounded.
        if state.requests.iter().filter(|request| request.is_open).count() >= STREAMS_MAX {
            return None;
        }
        let stream = Stream::resumable(state.next, roles, &state.budget);
        state.next += 1;
        state.requests.push_back(RequestStream { stream: Arc::clone(&stream), is_open: true });
        Some(stream)
    }

    /// Ends the stream of a request that got its response. A stream that was used is kept for a while.
    pub(crate) fn end(&self, stream: &Arc<Stream>, was_used: bool) {
        let mut state = self.0.lock();
        for request in &mut state.requests {
            request.is_open &= !Arc::ptr_eq(&request.stream, stream);
        }
        if was_used {
            stream.retire();
        } else {
            state.requests.retain(|request| !Arc::ptr_eq(&request.stream, stream));
        }
        let ended = state.requests.iter().filter(|request| !request.is_open).count();
        for _ in ENDED_STREAMS_MAX..ended {
            // I6: the number of streams kept for resuming is bounded.
            if let Some(oldest) = state.requests.iter().position(|request| !request.is_open) {
                state.requests.remove(oldest);
            }
        }
    }

    /// The stream that a client with `roles` reads, and the number of the last message that it has. `last_event` is its
    /// `Last-Event-ID`: `stream-message`. Without one, it reads the general stream. `None`: there is no such stream, or
    /// it was written under other roles.
    ///
    /// The general stream continues under the roles of the client that reads it.
    pub(crate) fn to_read(&self, last_event: Option<&str>, roles: &[String]) -> Option<(Arc<Stream>, Option<u64>)> {
        let last: Option<(u64, u64)> = match last_event {
            Some(event) => {
                let (stream, message) = event.split_once('-')?;
                Some((stream.parse().ok()?, message.parse().ok()?))
            }
            None => None,
        };
        let after = last.map(|(_, message)| message);
        let state = self.0.lock();
        if last.is_none_or(|(number, _)| number == 0) {
            if !state.general.is_of(roles) {
                state.general.continue_under(roles);
            }
            return Some((Arc::clone(&state.general), after));
        }
        let number = last.map_or(0, |(number, _)| number);
        let found = state.requests.iter().map(|request| &request.stream).find(|stream| stream.number == number);
        found.filter(|stream| stream.is_of(roles)).map(|stream| (Arc::clone(stream), after))
    }

    /// The stream for a message that belongs to no request: that of the newest open request; the general stream if
    /// there is none, or if the message is `is_general` and the client reads that stream. Only streams that the message
    /// `fits` count.
    pub(crate) fn for_message(&self, is_general: bool, fits: impl Fn(&Stream) -> bool) -> Option<Arc<Stream>> {
        let state = self.0.lock();
        let general = Some(&state.general).filter(|stream| fits(stream));
        let mut open = state.requests.iter().rev().filter(|request| request.is_open).map(|request| &request.stream);
        let newest = open.find(|stream| fits(stream));
        let is_read = is_general && state.general.has_reader();
        let (first, second) = if is_read { (general, newest) } else { (newest, general) };
        first.or(second).cloned()
    }

    /// Returns true if the client reads the general stream or waits for a response.
    pub(crate) fn is_in_use(&self) -> bool {
        let state = self.0.lock();
        state.general.has_reader() || state.requests.iter().any(|request| request.is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(roles: &[&str]) -> Vec<String> {
        roles.iter().map(|role| (*role).to_owned()).collect()
    }

    #[test]
    fn a_request_stream_is_read_only_under_the_roles_under_which_it_was_written() {
        let (wide, narrow) = (roles(&["a", "b"]), roles(&["a"]));
        let streams = SessionStreams::new(&wide, &ReplayBudget::new(1 << 20));
        let stream = streams.begin(&wide).unwrap();
        assert!(stream.push("secret"));
        streams.end(&stream, true);
        assert!(streams.to_read(Some("1-0"), &narrow).is_none());
        assert!(streams.to_read(Some("1-0"), &roles(&["a", "b", "c"])).is_none(), "nor under more roles");
        let (found, after) = streams.to_read(Some("1-0"), &roles(&["b", "a"])).unwrap();
        assert_eq!((found.number, after), (1, Some(0)));
        for unknown in ["2-0", "x-0", "1", ""] {
            assert!(streams.to_read(Some(unknown), &wide).is_none(), "{unknown}");
        }
    }

    #[test]
    fn the_general_stream_continues_under_the_roles_of_its_reader() {
        let (wide, narrow) = (roles(&["a", "b"]), roles(&["a"]));
        let streams = SessionStreams::new(&wide, &ReplayBudget::new(1 << 20));
        let general = streams.general();
        assert!(general.push("for the wide token"));
        let (same, _) = streams.to_read(None, &wide).unwrap();
        assert!(Arc::ptr_eq(&same, &general) && !general.is_unused());
        let (same, after) = streams.to_read(Some("0-1"), &narrow).unwrap();
        assert!(Arc::ptr_eq(&same, &general) && general.is_of(&narrow));
        assert_eq!(after, Some(1));
    }

    #[test]
    fn a_message_goes_to_a_stream_that_it_fits() {
        let streams = SessionStreams::new(&roles(&["a"]), &ReplayBudget::new(1 << 20));
        let of = |role: &str| streams.begin(&roles(&[role])).unwrap();
        let (a, b) = (of("a"), of("b"));
        let number = |is_general, role: &str| {
            streams.for_message(is_general, |stream| stream.is_of(&roles(&[role]))).map(|stream| stream.number)
        };
        assert_eq!([number(false, "a"), number(false, "b"), number(true, "b")], [Some(1), Some(2), Some(2)]);
        let _reader = streams.general().read_from(0).unwrap();
        assert_eq!([number(true, "a"), number(true, "b"), number(false, "c")], [Some(0), Some(2), None]);
        streams.end(&a, false);
        streams.end(&b, false);
        assert_eq!([number(false, "a"), number(false, "b")], [Some(0), None]);
    }
}
