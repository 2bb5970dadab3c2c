//! A connection's stream with limits: a client that does not read what is written to it is given up, the bytes of heads
//! are counted, and so are the `Content-Length` headers.
//!
//! The HTTP library removes `Content-Length` from a head that also has `Transfer-Encoding`, as RFC 9112 allows. A proxy
//! or a filter that goes by the other header sees another body. Such a request must be refused, but only the bytes show
//! that it is one. In a body, no line of valid JSON begins with the name of a header.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::places::{HEAD_BYTES_FREE, Place};

/// The longest time in which a client reads nothing of what is written to it. *Chosen*: as for a head.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

const CONTENT_LENGTH: &[u8] = b"content-length";

/// The stream of one connection.
pub(super) struct GuardedStream<S> {
    inner: S,
    place: Arc<Place>,
    /// The byte that [`Self::poll_first`] has read, until it is handed out.
    first: Option<u8>,
    /// Ends the wait for a client that does not read; `None` while it reads.
    write_deadline: Option<Pin<Box<Sleep>>>,
    head: HeadMeter,
    lengths: LengthFinder,
}

/// Finds lines that begin with `content-length`, in any case, in what arrives in parts.
#[derive(Debug, Default)]
struct LengthFinder {
    /// The number of bytes of the name that a line has begun with; `None`: it begins with something else.
    matched: Option<usize>,
}

/// Counts the bytes of the head that arrives.
#[derive(Debug, Default)]
struct HeadMeter {
    /// The number of requests before this head.
    begun: u32,
    bytes: usize,
    /// Room for the bytes over [`HEAD_BYTES_FREE`].
    room: Option<OwnedSemaphorePermit>,
}

impl<S> GuardedStream<S> {
    pub(super) fn new(inner: S, place: Arc<Place>) -> Self {
        Self {
            inner,
            place,
            first: None,
            write_deadline: None,
            head: HeadMeter::default(),
            lengths: LengthFinder::default(),
        }
    }

    /// Ready when the client has sent something, or when reading would end at once.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        self.first = buffer.filled().first().copied();
        Poll::Ready(Ok(()))
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }
}

impl LengthFinder {
    /// The number of such lines whose names end in `bytes`.
    fn count(&mut self, bytes: &[u8]) -> i32 {
        let (mut rest, mut found) = (bytes, 0);
        loop {
            let Some(matched) = self.matched else {
                let Some(end) = memchr::memchr(b'\n', rest) else { return found };
                rest = rest.get(end + 1..).unwrap_or_default();
                self.matched = Some(0);
                continue;
            };
            let Some((byte, after)) = rest.split_first() else { return found };
            if CONTENT_LENGTH.get(matched) != Some(&byte.to_ascii_lowercase()) {
                self.matched = None; // The byte may itself end a line.
                continue;
            }
            rest = after;
            self.matched = Some(matched + 1);
            if matched + 1 == CONTENT_LENGTH.len() {
                (self.matched, found) = (None, found + 1);
            }
        }
    }
}

impl HeadMeter {
    /// Counts what was read while no request was in progress.
    fn count(&mut self, bytes: usize, place: &Place) -> io::Result<()> {
        let begun = place.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            *self = Self { begun, ..Self::default() };
        }
        self.bytes = self.bytes.saturating_add(bytes);
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = self.bytes.saturating_sub(HEAD_BYTES_FREE).saturating_sub(held);
        if missing == 0 || place.is_known() {
            return Ok(());
        }
        // I6: the heads of callers that are not known are bounded in sum.
        let permits = u32::try_from(missing).unwrap_or(u32::MAX);
        let more = Arc::clone(&place.places.heads).try_acquire_many_owned(permits);
        let more = more.map_err(|_| io::Error::other("too many large heads of unknown clients"))?;
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        Ok(())
    }
}

impl<S> GuardedStream<S> {
    /// Passes on the result of a write. After [`WRITE_TIMEOUT`] without progress it is an error.
    fn within_deadline<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let first = this.first.take_if(|_| buf.remaining() > 0);
        buf.put_slice(first.as_slice());
        let mut read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if first.is_some() && read.is_pending() {
            read = Poll::Ready(Ok(()));
        }
        if let (Poll::Ready(Ok(())), Some(bytes)) = (&read, buf.filled().get(before..)) {
            this.place.add_lengths(this.lengths.count(bytes));
            if this.place.is_idle() {
                this.head.count(bytes.len(), &this.place)?;
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.within_deadline(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.within_deadline(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.within_deadline(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.within_deadline(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_found_in_any_case_and_in_any_parts() {
        let text =
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nX-Content-Length: 2\r\n\ncontent-length: 3\nCONTENT-LENGTH\n\
                     content-lengt: 5\n{\"a\":\n\"content-length\":1}";
        for size in 1..text.len() {
            let mut finder = LengthFinder::default();
            assert_eq!(text.chunks(size).map(|part| finder.count(part)).sum::<i32>(), 3, "{size}");
        }
    }
}
