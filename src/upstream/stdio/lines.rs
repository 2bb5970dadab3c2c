//! The lines that wait to be written to a child, in the order in which they were given.
//!
//! A request waits for room. What says that a request is given up, and what answers the child's own requests, waits for
//! none: both are due when the child is slowest, and neither may be lost. They are few all the same: a cancellation belongs
//! to a line that had room, and a child that asks on and on without reading the answers gets no more of them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Most lines that wait for the child to read what stands before them. *Chosen*: a child that does not read holds back its
/// own callers; each line is bounded by the request limit.
const ROOM: usize = 16;

/// Most answers to the child's own requests that it has not read. *Chosen*: more than any sensible server has open; an
/// answer is some 100 bytes long.
const ANSWERS_MAX: usize = 1024;

/// The end that is written to.
#[derive(Debug)]
pub(super) struct Lines {
    queue: mpsc::UnboundedSender<Line>,
    room: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// The end that the child's writer has.
#[derive(Debug)]
pub(super) struct ToWrite(mpsc::UnboundedReceiver<Line>);

/// A line, and the place that it has until it is taken.
#[derive(Debug)]
struct Line {
    text: String,
    place: Option<OwnedSemaphorePermit>,
}

/// The child has ended.
#[derive(Debug)]
pub(super) struct Ended;

impl Lines {
    pub(super) fn new() -> (Self, ToWrite) {
        let (queue, to_write) = mpsc::unbounded_channel();
        // I6: bounded by these.
        let (room, answers) = (Arc::new(Semaphore::new(ROOM)), Arc::new(Semaphore::new(ANSWERS_MAX)));
        (Self { queue, room, answers }, ToWrite(to_write))
    }

    /// Waits for room, and gives the line.
    ///
    /// # Errors
    /// [`Ended`]; it is not written.
    ///
    /// # Cancel safety
    /// Nothing is given where the future is dropped.
    pub(super) async fn send(&self, text: String) -> Result<(), Ended> {
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(|_| Ended)?;
        self.queue.send(Line { text, place: Some(place) }).map_err(|_| Ended)
    }

    /// Gives the line that says that a request, which was given before, is given up.
    pub(super) fn cancel(&self, text: String) {
        // A child that has ended needs none.
        self.queue.send(Line { text, place: None }).ok();
    }

    /// Gives the answer to a request of the child; whether there was room for it.
    pub(super) fn answer(&self, text: String) -> bool {
        let place = Arc::clone(&self.answers).try_acquire_owned().ok();
        let has_place = place.is_some();
        if has_place {
            // A child that has ended needs none.
            self.queue.send(Line { text, place }).ok();
        }
        has_place
    }

    /// The child has ended: whoever waits for room is told.
    pub(super) fn end(&self) {
        self.room.close();
    }
}

impl ToWrite {
    /// The next line; `None` where nobody can give one any more.
    pub(super) async fn next(&mut self) -> Option<String> {
        let Line { text, place } = self.0.recv().await?;
        drop(place);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn i6_requests_wait_for_room_and_answers_are_bounded() {
        let (lines, mut to_write) = Lines::new();
        for number in 0..ROOM {
            lines.send(number.to_string()).await.unwrap();
        }
        assert!(lines.send("late".to_owned()).now_or_never().is_none(), "one more waits");
        assert!((0..ANSWERS_MAX).all(|_| lines.answer("answer".to_owned())));
        assert!(!lines.answer("one more".to_owned()));
        assert_eq!(to_write.next().await.as_deref(), Some("0"));
        assert!(lines.send("late".to_owned()).now_or_never().is_some());
        lines.end();
        assert!(lines.send("too late".to_owned()).await.is_err());
    }

    #[tokio::test]
    async fn a_cancellation_needs_no_room_and_comes_behind_its_request() {
        let (lines, mut to_write) = Lines::new();
        for number in 0..ROOM {
            lines.send(format!("request {number}")).await.unwrap();
        }
        (0..ROOM).for_each(|number| lines.cancel(format!("cancel {number}")));
        let mut written = Vec::new();
        while let Some(line) = to_write.next().now_or_never() {
            written.extend(line);
        }
        assert_eq!(written.len(), 2 * ROOM);
        for number in 0..ROOM {
            let at = |line: &str| written.iter().position(|text| *text == format!("{line} {number}"));
            assert!(at("request") < at("cancel"));
        }
    }
}
