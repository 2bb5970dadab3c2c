//! What is sent to a client piece by piece: the messages of one stream, kept so that they can be asked for again.
//!
//! A stream is written by whoever handles a request, or by a backend's listener, and read by one HTTP response at a time.
//! Messages that were read stay, within bounds, for a legacy client that comes back with `Last-Event-ID`. Writing never
//! waits: a client that does not read loses messages of its own stream only, and its last one, the response, never.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::mcp::json;

/// Most messages of a stream that are kept. *Chosen*: progress every 100 ms for a minute and a half.
const MESSAGES_MAX: usize = 1024;

/// Most bytes of a stream's messages that are kept, besides the last one. *Chosen*: the default limit of a request.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// One stream of messages.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Its number in the session.
    pub(crate) number: u64,
    log: Mutex<Log>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Log {
    messages: VecDeque<Arc<str>>,
    bytes: usize,
    /// The number of the first message that is kept; the first one of a stream is 1.
    first: u64,
    /// The last one that was read.
    read: u64,
    /// The response that reads it, by its number, and how many did so far.
    reader: Option<u64>,
    readers: u64,
    /// The response is to be a stream, whatever comes.
    is_open: bool,
    /// Nothing follows.
    is_done: bool,
}

/// What comes next on a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A message and its number.
    Message(u64, Arc<str>),
    /// Nothing any more.
    Done,
}

/// The right to read a stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reading {
    stream: Arc<Stream>,
    number: u64,
    at: u64,
}

/// A stream that a GET reads.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) reading: Reading,
    /// The stream's number, where a client can come back for its messages.
    pub(crate) number: Option<u64>,
}

impl Stream {
    pub(crate) fn new(number: u64) -> Arc<Self> {
        let log = Mutex::new(Log { first: 1, ..Log::default() });
        Arc::new(Self { number, log, changed: Notify::new() })
    }

    /// Adds a message. `false`: there is no room for it, since nobody reads.
    pub(crate) fn push(&self, json: &str) -> bool {
        let mut log = self.lock();
        if log.is_done || !log.make_room(json.len()) {
            return false;
        }
        log.add(json);
        drop(log);
        self.changed.notify_waiters();
        true
    }

    /// Adds the last message, for which there is always room, and ends the stream.
    pub(crate) fn finish(&self, json: Option<&str>) {
        let mut log = self.lock();
        if let Some(json) = json.filter(|_| !log.is_done) {
            log.add(json);
        }
        log.is_done = true;
        drop(log);
        self.changed.notify_waiters();
    }

    /// Makes the response a stream, as the backend's is.
    pub(crate) fn open(&self) {
        self.lock().is_open = true;
        self.changed.notify_waiters();
    }

    /// Whether the response can still be a single message.
    pub(crate) fn is_untouched(&self) -> bool {
        let log = self.lock();
        log.first == 1 && log.messages.is_empty() && !log.is_open && !log.is_done
    }

    /// Whether a response reads it now.
    pub(crate) fn is_read(&self) -> bool {
        self.lock().reader.is_some()
    }

    /// Waits until the response is a stream.
    pub(crate) async fn touched(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_untouched() {
                return;
            }
            changed.await;
        }
    }

    /// Begins to read behind message `after`. `None`: somebody else reads.
    pub(crate) fn read_from(self: &Arc<Self>, after: u64) -> Option<Reading> {
        (!self.is_read()).then(|| self.take_over(after))
    }

    /// Begins to read behind message `after` in the place of whoever reads: of a connection that broke unseen, the client
    /// knows first.
    pub(crate) fn take_over(self: &Arc<Self>, after: u64) -> Reading {
        let mut log = self.lock();
        log.readers += 1;
        let number = log.readers;
        log.reader = Some(number);
        drop(log);
        self.changed.notify_waiters();
        Reading { stream: Arc::clone(self), number, at: after }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Lets go of messages that were read, oldest first, until `bytes` more fit.
    fn make_room(&mut self, bytes: usize) -> bool {
        // I6: a stream is bounded by count and bytes.
        while self.messages.len() >= MESSAGES_MAX || self.bytes + bytes > BYTES_MAX {
            if self.first > self.read {
                return self.messages.is_empty();
            }
            let Some(gone) = self.messages.pop_front() else { return true };
            self.bytes -= gone.len();
            self.first += 1;
        }
        true
    }

    fn add(&mut self, json: &str) {
        self.bytes += json.len();
        self.messages.push_back(json::one_line(json).into());
    }
}

impl Reading {
    /// The next message.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            let stream = Arc::clone(&self.stream);
            let mut changed = std::pin::pin!(stream.changed.notified());
            changed.as_mut().enable();
            {
                let mut log = stream.lock();
                if log.reader != Some(self.number) {
                    return Next::Done; // Another has taken it over.
                }
                self.at = self.at.max(log.first - 1);
                let idx = usize::try_from(self.at + 1 - log.first).unwrap_or(usize::MAX);
                if let Some(message) = log.messages.get(idx).cloned() {
                    self.at += 1;
                    log.read = log.read.max(self.at);
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

impl Drop for Reading {
    fn drop(&mut self) {
        let mut log = self.stream.lock();
        log.reader = log.reader.filter(|reader| *reader != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(reading: &mut Reading) -> Vec<String> {
        let mut messages = Vec::new();
        while let Next::Message(_, message) = reading.next().await {
            messages.push(message.to_string());
        }
        messages
    }

    #[tokio::test]
    async fn what_was_read_can_be_asked_for_again() {
        let stream = Stream::new(1);
        assert!(stream.is_untouched() && stream.push("a") && stream.push("b\n"));
        stream.finish(Some("c"));
        assert_eq!(all(&mut stream.read_from(0).unwrap()).await, ["a", "b ", "c"]);
        assert_eq!(all(&mut stream.read_from(1).unwrap()).await, ["b ", "c"]);
        assert!(!stream.push("d"));
    }

    #[tokio::test]
    async fn i6_a_stream_is_bounded_and_its_last_message_always_arrives() {
        let stream = Stream::new(1);
        let pushed = (0..2 * MESSAGES_MAX).filter(|_| stream.push("x")).count();
        assert_eq!(pushed, MESSAGES_MAX);
        stream.finish(Some("last"));
        let read = all(&mut stream.read_from(0).unwrap()).await;
        assert_eq!((read.len(), read.last().map(String::as_str)), (MESSAGES_MAX + 1, Some("last")));
        // Where somebody reads, older messages make room.
        let stream = Stream::new(2);
        let mut reading = stream.read_from(0).unwrap();
        for _ in 0..2 * MESSAGES_MAX {
            assert!(stream.push("x"));
            assert!(matches!(reading.next().await, Next::Message(..)));
        }
        assert!(stream.push(&"x".repeat(BYTES_MAX)) && !stream.push("x"));
    }

    #[tokio::test]
    async fn one_reads_at_a_time() {
        let stream = Stream::new(1);
        let reading = stream.read_from(0).unwrap();
        assert!(stream.read_from(0).is_none() && stream.is_read());
        drop(reading);
        assert!(stream.read_from(0).is_some());
    }

    #[tokio::test]
    async fn who_comes_back_takes_the_place_of_a_reader_that_is_gone_unseen() {
        let stream = Stream::new(1);
        assert!(stream.push("a"));
        let mut broken = stream.read_from(0).unwrap();
        assert!(matches!(broken.next().await, Next::Message(1, _)));
        let mut again = stream.take_over(0);
        assert_eq!(broken.next().await, Next::Done);
        drop(broken);
        assert!(stream.is_read() && stream.read_from(0).is_none());
        stream.finish(None);
        assert_eq!(all(&mut again).await, ["a"]);
    }
}
