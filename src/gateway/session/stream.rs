//! One stream of messages to a client, kept within bounds so that the client can resume it.
//!
//! The handler of a request, or a backend's listener, writes a stream; one HTTP response at a time reads it. Messages
//! that were read are kept for a legacy client that reconnects with `Last-Event-ID`. A write never waits: a client that
//! does not read loses messages of its own stream, but never the last one, which is the response.
//!
//! A stream has the roles of the token under which it is written. Only a token with the same roles may read it.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::gateway::session::replay::{Ended, ReplayBudget};
use crate::mcp::json;

/// Most messages that a stream keeps. *Chosen*: progress every 100 ms for a minute and a half.
const MESSAGES_MAX: usize = 1024;

/// Most bytes of messages that a stream keeps, without the last message. *Chosen*: the default limit of a request.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// One stream of messages.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The stream's number in its session.
    pub(crate) number: u64,
    /// The client can resume the stream: messages that were read are kept.
    is_resumable: bool,
    budget: Arc<ReplayBudget>,
    log: Mutex<Log>,
    changed: Notify,
    /// The id of the session that the request opens.
    new_session: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Log {
    /// The roles of the token under which the messages are written.
    roles: Arc<[String]>,
    messages: VecDeque<Arc<str>>,
    bytes: usize,
    /// The number of the first message that is kept. Numbers begin at 1.
    first: u64,
    /// The number of the last message that was read.
    read: u64,
    /// The number of the current reader.
    reader: Option<u64>,
    /// The number of readers so far.
    readers: u64,
    /// The response is a stream, even if no message but the last one follows.
    is_open: bool,
    /// No message follows.
    is_done: bool,
}

/// The next item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A message and its number.
    Message(u64, Arc<str>),
    /// The end of the stream for this reader.
    Done,
}

/// The exclusive right to read a stream, until dropped or taken over.
#[derive(Debug)]
pub(crate) struct StreamReader {
    stream: Arc<Stream>,
    number: u64,
    at: u64,
}

/// A stream that an HTTP response reads.
#[derive(Debug)]
pub(crate) struct ResponseStream {
    pub(crate) reader: StreamReader,
    /// The stream's number, if the client can resume the stream.
    pub(crate) number: Option<u64>,
}

impl Stream {
    /// The stream `number` of a session, whose messages are kept for a client that resumes. It is written under
    /// `roles`.
    pub(crate) fn resumable(number: u64, roles: &[String], budget: &Arc<ReplayBudget>) -> Arc<Self> {
        Self::new(number, true, roles, budget)
    }

    /// The stream of a request without a session, under `roles`. What was read is dropped.
    pub(crate) fn unkept(roles: &[String], budget: &Arc<ReplayBudget>) -> Arc<Self> {
        Self::new(0, false, roles, budget)
    }

    fn new(number: u64, is_resumable: bool, roles: &[String], budget: &Arc<ReplayBudget>) -> Arc<Self> {
        let log = Mutex::new(Log { first: 1, roles: roles.into(), ..Log::default() });
        let (budget, changed, new_session) = (Arc::clone(budget), Notify::new(), OnceLock::new());
        Arc::new(Self { number, is_resumable, budget, log, changed, new_session })
    }

    /// The request of the stream opens the session `id`.
    pub(crate) fn set_new_session(&self, id: &str) {
        self.new_session.set(id.to_owned()).ok();
    }

    /// The id of the session that the request of the stream opens.
    pub(crate) fn new_session(&self) -> Option<&str> {
        self.new_session.get().map(String::as_str)
    }

    /// The roles under which the stream is written.
    pub(crate) fn roles(&self) -> Arc<[String]> {
        Arc::clone(&self.log.lock().roles)
    }

    /// Returns true if the stream is written under these roles, in whatever order.
    pub(crate) fn is_of(&self, roles: &[String]) -> bool {
        let own = self.roles();
        own.iter().all(|role| roles.contains(role)) && roles.iter().all(|role| own.contains(role))
    }

    /// Continues the stream under other roles: drops its messages and ends its reader.
    pub(crate) fn continue_under(&self, roles: &[String]) {
        let mut log = self.log.lock();
        log.clear(&self.budget);
        (log.read, log.reader, log.roles) = (log.first - 1, None, roles.into());
        drop(log);
        self.changed.notify_waiters();
    }

    /// Adds a message. `false`: the stream has ended, or is full of messages that were not read.
    pub(crate) fn push(&self, json: &str) -> bool {
        let mut log = self.log.lock();
        if log.is_done || !log.make_room(json.len(), &self.budget) || !log.take(json.len(), &self.budget) {
            return false;
        }
        log.add(json);
        drop(log);
        self.changed.notify_waiters();
        true
    }

    /// Adds the last message, which never lacks room, and ends the stream.
    pub(crate) fn finish(&self, json: Option<&str>) {
        let mut log = self.log.lock();
        if let Some(json) = json.filter(|_| !log.is_done) {
            self.budget.take_for_response(json.len());
            log.add(json);
        }
        log.is_done = true;
        drop(log);
        self.changed.notify_waiters();
    }

    /// Keeps the messages of a stream that has ended, until others need the room.
    pub(crate) fn retire(self: &Arc<Self>) {
        let stream: Arc<dyn Ended> = Arc::<Self>::clone(self);
        self.budget.add_ended(Arc::downgrade(&stream));
    }

    /// Makes the response a stream, because the backend's response is one.
    pub(crate) fn open(&self) {
        self.log.lock().is_open = true;
        self.changed.notify_waiters();
    }

    /// Returns true if the stream is still unused, so that the response can be a single message.
    pub(crate) fn is_unused(&self) -> bool {
        let log = self.log.lock();
        log.first == 1 && log.messages.is_empty() && !log.is_open && !log.is_done
    }

    /// Returns true if a response reads the stream now.
    pub(crate) fn has_reader(&self) -> bool {
        self.log.lock().reader.is_some()
    }

    /// Waits until the stream is used, and the response must be a stream.
    pub(crate) async fn used(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_unused() {
                return;
            }
            changed.await;
        }
    }

    /// Begins to read after message `after`. `None`: the stream has a reader.
    pub(crate) fn read_from(self: &Arc<Self>, after: u64) -> Option<StreamReader> {
        (!self.has_reader()).then(|| self.take_over(after))
    }

    /// Begins to read after message `after`, and ends the current reader: the client notices a broken connection before
    /// the gateway does.
    pub(crate) fn take_over(self: &Arc<Self>, after: u64) -> StreamReader {
        let mut log = self.log.lock();
        log.readers += 1;
        let number = log.readers;
        log.reader = Some(number);
        drop(log);
        self.changed.notify_waiters();
        StreamReader { stream: Arc::clone(self), number, at: after }
    }
}

impl Log {
    /// Drops messages that were read, oldest first, until `bytes` more fit. `false`: they do not fit.
    fn make_room(&mut self, bytes: usize, budget: &ReplayBudget) -> bool {
        // I6: a stream is bounded by count and bytes.
        while self.messages.len() >= MESSAGES_MAX || self.bytes + bytes > BYTES_MAX {
            if self.first > self.read {
                return self.messages.is_empty();
            }
            if !self.drop_read(budget) {
                return true;
            }
        }
        true
    }

    /// Takes room for a message from the budget, and drops messages that were read if there is none.
    fn take(&mut self, bytes: usize, budget: &ReplayBudget) -> bool {
        loop {
            if budget.take(bytes) {
                return true;
            }
            if !self.drop_read(budget) {
                return false;
            }
        }
    }

    /// Drops the oldest message, if it was read.
    fn drop_read(&mut self, budget: &ReplayBudget) -> bool {
        if self.first > self.read {
            return false;
        }
        let Some(oldest) = self.messages.pop_front() else { return false };
        self.bytes -= oldest.len();
        self.first += 1;
        budget.give_back(oldest.len(), true);
        true
    }

    /// Drops all messages.
    fn clear(&mut self, budget: &ReplayBudget) {
        while self.drop_read(budget) {}
        for message in std::mem::take(&mut self.messages) {
            self.bytes -= message.len();
            self.first += 1;
            budget.give_back(message.len(), false);
        }
    }

    /// Counts the messages up to `number` as read.
    fn mark_read(&mut self, number: u64, is_resumable: bool, budget: &ReplayBudget) {
        if number <= self.read {
            return; // It was read before, by another reader.
        }
        let position = |number: u64| usize::try_from((number + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let new = self.messages.iter().take(position(number)).skip(position(self.read));
        let bytes = new.map(|message| message.len()).sum();
        self.read = number;
        if !budget.keep(bytes) || !is_resumable {
            // Messages before this one are dropped too: a client that resumes must not miss one in the middle.
            while self.first <= number && self.drop_read(budget) {}
        }
    }

    fn add(&mut self, json: &str) {
        self.bytes += json.len();
        self.messages.push_back(json::one_line(json).into());
    }
}

impl StreamReader {
    /// The next message, or the end of the stream.
    ///
    /// # Cancel safety
    /// No message is lost.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            let stream = Arc::clone(&self.stream);
            let mut changed = std::pin::pin!(stream.changed.notified());
            changed.as_mut().enable();
            {
                let mut log = stream.log.lock();
                if log.reader != Some(self.number) {
                    return Next::Done; // Another reader has taken over.
                }
                self.at = self.at.max(log.first - 1);
                let idx = usize::try_from(self.at + 1 - log.first).unwrap_or(usize::MAX);
                if let Some(message) = log.messages.get(idx).cloned() {
                    self.at += 1;
                    log.mark_read(self.at, stream.is_resumable, &stream.budget);
                    return Next::Message(self.at, message);
                }
                if log.is_done {
                    return Next::Done;
                }
            }
            changed.await;
        }
    }
}

impl Ended for Stream {
    fn forget(&self) {
        self.log.lock().clear(&self.budget);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.log.get_mut().clear(&self.budget);
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let mut log = self.stream.log.lock();
        log.reader = log.reader.filter(|reader| *reader != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<ReplayBudget> {
        ReplayBudget::new(64 * 1024 * 1024)
    }

    async fn all(reader: &mut StreamReader) -> Vec<String> {
        let mut messages = Vec::new();
        while let Next::Message(_, message) = reader.next().await {
            messages.push(message.to_string());
        }
        messages
    }

    #[tokio::test]
    async fn messages_that_were_read_can_be_read_again() {
        let stream = Stream::resumable(1, &[], &budget());
        assert!(stream.is_unused() && stream.push("a") && stream.push("b\n"));
        stream.finish(Some("c"));
        assert_eq!(all(&mut stream.read_from(0).unwrap()).await, ["a", "b ", "c"]);
        assert_eq!(all(&mut stream.read_from(1).unwrap()).await, ["b ", "c"]);
        assert!(!stream.push("d"));
    }

    #[tokio::test]
    async fn i6_a_stream_is_bounded_and_its_last_message_always_arrives() {
        let stream = Stream::resumable(1, &[], &budget());
        let pushed = (0..2 * MESSAGES_MAX).filter(|_| stream.push("x")).count();
        assert_eq!(pushed, MESSAGES_MAX);
        stream.finish(Some("last"));
        let read = all(&mut stream.read_from(0).unwrap()).await;
        assert_eq!((read.len(), read.last().map(String::as_str)), (MESSAGES_MAX + 1, Some("last")));
        // While the stream is read, older messages are dropped for new ones.
        let stream = Stream::resumable(2, &[], &budget());
        let mut reader = stream.read_from(0).unwrap();
        for _ in 0..2 * MESSAGES_MAX {
            assert!(stream.push("x"));
            assert!(matches!(reader.next().await, Next::Message(..)));
        }
        assert!(stream.push(&"x".repeat(BYTES_MAX)) && !stream.push("x"));
    }

    #[tokio::test]
    async fn a_stream_has_one_reader_at_a_time() {
        let stream = Stream::resumable(1, &[], &budget());
        let reader = stream.read_from(0).unwrap();
        assert!(stream.read_from(0).is_none() && stream.has_reader());
        drop(reader);
        assert!(stream.read_from(0).is_some());
    }

    #[tokio::test]
    async fn a_client_that_reconnects_takes_over_from_its_broken_connection() {
        let stream = Stream::resumable(1, &[], &budget());
        assert!(stream.push("a"));
        let mut broken = stream.read_from(0).unwrap();
        assert!(matches!(broken.next().await, Next::Message(1, _)));
        let mut again = stream.take_over(0);
        assert_eq!(broken.next().await, Next::Done);
        drop(broken);
        assert!(stream.has_reader() && stream.read_from(0).is_none());
        stream.finish(None);
        assert_eq!(all(&mut again).await, ["a"]);
    }

    #[tokio::test]
    async fn i6_streams_share_a_budget_and_ended_ones_give_way_first() {
        let budget = ReplayBudget::new(1000);
        let message = "x".repeat(100);
        let filled = |number: u64, count: usize| {
            let stream = Stream::resumable(number, &[], &budget);
            assert!((0..count).all(|_| stream.push(&message)));
            stream
        };
        let (ended, open) = (filled(1, 4), filled(2, 6));
        let other = Stream::resumable(3, &[], &budget);
        assert!(!other.push(&message), "all are waiting for readers");
        other.finish(Some(&message));
        assert_eq!(all(&mut other.read_from(0).unwrap()).await.len(), 1, "a response always has room");
        drop(other);
        ended.finish(None);
        ended.retire();
        assert!(open.push(&message) && filled(4, 2).push("x"), "the ended stream has given way");
        assert_eq!(all(&mut ended.read_from(0).unwrap()).await.len(), 0);
        drop((ended, open));
        for number in 5..8 {
            filled(number, 10); // The messages of streams that are gone take no room.
        }
    }

    #[tokio::test]
    async fn i6_read_messages_take_half_of_the_budget_and_keep_nobody_out() {
        let budget = ReplayBudget::new(1000);
        let message = "x".repeat(100);
        let kept = Stream::resumable(1, &[], &budget);
        let mut reader = kept.read_from(0).unwrap();
        for _ in 0..100 {
            assert!(kept.push(&message));
            assert!(matches!(reader.next().await, Next::Message(..)));
        }
        // A reader that begins later counts what it skips, too.
        let skipped = Stream::resumable(3, &[], &budget);
        assert!((0..3).all(|_| skipped.push("x")));
        assert_eq!(skipped.take_over(2).next().await, Next::Message(3, "x".into()));
        drop(skipped);
        let waiting = Stream::resumable(2, &[], &budget);
        assert!((0..5).all(|_| waiting.push(&message)));
        // A stream that cannot be resumed keeps nothing.
        let unkept = Stream::unkept(&[], &budget);
        let mut reader = unkept.read_from(0).unwrap();
        drop(kept);
        for _ in 0..100 {
            assert!(unkept.push(&message));
            assert!(matches!(reader.next().await, Next::Message(..)));
        }
        assert!(unkept.log.lock().messages.is_empty());
    }

    #[tokio::test]
    async fn a_stream_that_continues_under_other_roles_keeps_nothing_of_before() {
        let [wide, narrow] = [["a".to_owned(), "b".to_owned()].to_vec(), ["a".to_owned()].to_vec()];
        let stream = Stream::resumable(0, &wide, &ReplayBudget::new(1 << 20));
        assert!(stream.is_of(&["b".to_owned(), "a".to_owned()]) && !stream.is_of(&narrow) && !stream.is_of(&[]));
        assert!(stream.push("1") && stream.push("2"));
        let mut reader = stream.read_from(0).unwrap();
        assert!(matches!(reader.next().await, Next::Message(1, _)));
        stream.continue_under(&narrow);
        assert_eq!(reader.next().await, Next::Done);
        assert!(stream.is_of(&narrow) && stream.push("3"));
        stream.finish(None);
        for after in [0, 1, 2] {
            let mut reader = stream.take_over(after);
            assert_eq!(reader.next().await, Next::Message(3, "3".into()), "after {after}");
            assert_eq!(reader.next().await, Next::Done);
        }
    }
}
