//! The queue of lines to write to a child process, in the order in which they were added.
//!
//! A request waits for a free place in the queue. A cancellation and an answer to the child's own request do not wait,
//! because both are needed most when the child is slow. Their number is bounded too: a cancellation belongs to a
//! request that had a place, and answers have places of their own. When those are taken, further answers are dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::upstream::frame::Frame;

/// Most requests in the queue. *Chosen*: a child that does not read delays its own callers only; the request limit
/// bounds each line.
const REQUESTS_MAX: usize = 16;

/// Most answers to the child's own requests in the queue. *Chosen*: more requests than any sensible server has open; an
/// answer has about 100 bytes.
const ANSWERS_MAX: usize = 1024;

/// The sending end of the queue.
#[derive(Debug)]
pub(super) struct WriteQueue {
    lines: mpsc::UnboundedSender<QueuedLine>,
    request_places: Arc<Semaphore>,
    answer_places: Arc<Semaphore>,
}

/// The receiving end of the queue, for the task that writes to the child.
#[derive(Debug)]
pub(super) struct QueuedLines(mpsc::UnboundedReceiver<QueuedLine>);

/// A line, and its place in the queue if it needs one.
#[derive(Debug)]
struct QueuedLine {
    frame: Frame,
    place: Option<OwnedSemaphorePermit>,
}

/// The queue is closed, because the child has ended.
#[derive(Debug)]
pub(super) struct QueueClosedError;

impl WriteQueue {
    pub(super) fn new() -> (Self, QueuedLines) {
        let (lines, receiver) = mpsc::unbounded_channel();
        // I6: the semaphores bound the channel.
        let request_places = Arc::new(Semaphore::new(REQUESTS_MAX));
        let answer_places = Arc::new(Semaphore::new(ANSWERS_MAX));
        (Self { lines, request_places, answer_places }, QueuedLines(receiver))
    }

    /// Waits for a place and adds a request or a notification.
    ///
    /// # Errors
    /// [`QueueClosedError`]; the line is not written.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is added.
    pub(super) async fn send(&self, frame: Frame) -> Result<(), QueueClosedError> {
        let place = Arc::clone(&self.request_places).acquire_owned().await.map_err(|_| QueueClosedError)?;
        self.lines.send(QueuedLine { frame, place: Some(place) }).map_err(|_| QueueClosedError)
    }

    /// Adds the notification that cancels a request that was added before.
    pub(super) fn cancel(&self, frame: Frame) {
        // A child that has ended needs no cancellation.
        self.lines.send(QueuedLine { frame, place: None }).ok();
    }

    /// Adds an answer to a request of the child. `false`: the answer is dropped, because too many wait.
    pub(super) fn answer(&self, frame: Frame) -> bool {
        let Ok(place) = Arc::clone(&self.answer_places).try_acquire_owned() else { return false };
        // A child that has ended needs no answer.
        self.lines.send(QueuedLine { frame, place: Some(place) }).ok();
        true
    }

    /// Closes the queue: requests that wait for a place fail.
    pub(super) fn close(&self) {
        self.request_places.close();
    }
}

impl QueuedLines {
    /// The next line, which leaves its place. `None`: the sending end is gone.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let QueuedLine { frame, place } = self.0.recv().await?;
        drop(place);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn frame(text: &str) -> Frame {
        Frame::from(text.to_owned())
    }

    async fn text(frame: Frame) -> String {
        let mut written = Vec::new();
        frame.write_line(&mut written).await.unwrap();
        String::from_utf8(written).unwrap().trim_end().to_owned()
    }

    #[tokio::test]
    async fn i6_requests_wait_for_a_place_and_answers_are_bounded() {
        let (queue, mut lines) = WriteQueue::new();
        for number in 0..REQUESTS_MAX {
            queue.send(frame(&number.to_string())).await.unwrap();
        }
        assert!(queue.send(frame("late")).now_or_never().is_none(), "one more waits");
        assert!((0..ANSWERS_MAX).all(|_| queue.answer(frame("answer"))));
        assert!(!queue.answer(frame("one more")));
        assert_eq!(text(lines.next().await.unwrap()).await, "0");
        assert!(queue.send(frame("late")).now_or_never().is_some());
        queue.close();
        assert!(queue.send(frame("too late")).await.is_err());
    }

    #[tokio::test]
    async fn cancellation_needs_no_place_and_follows_its_request() {
        let (queue, mut lines) = WriteQueue::new();
        for number in 0..REQUESTS_MAX {
            queue.send(frame(&format!("request {number}"))).await.unwrap();
        }
        (0..REQUESTS_MAX).for_each(|number| queue.cancel(frame(&format!("cancel {number}"))));
        let mut written = Vec::new();
        while let Some(line) = lines.next().now_or_never() {
            written.push(text(line.unwrap()).await);
        }
        assert_eq!(written.len(), 2 * REQUESTS_MAX);
        for number in 0..REQUESTS_MAX {
            let position = |line: &str| written.iter().position(|text| *text == format!("{line} {number}"));
            assert!(position("request") < position("cancel"));
        }
    }
}
