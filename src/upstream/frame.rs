//! One message to a backend, in the parts in which it is written: large parameters are written from where they are,
//! without a copy.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame as BodyFrame, SizeHint};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::mcp::json;
use crate::mcp::shared_text::SharedText;

use super::message;

/// The smallest parameters that are written from where they are, in bytes. *Chosen*: a copy of fewer takes less time
/// than two more writes.
const SHARED_MIN: usize = 16 * 1024;

/// One message to a backend.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The whole message, or its text up to the parameters.
    head: String,
    /// Large parameters, which are the message's last member.
    params: Option<SharedText>,
}

/// A [`Frame`] as the body of an HTTP request, part by part.
#[derive(Debug)]
struct FrameBody(VecDeque<Bytes>);

impl Frame {
    /// The request `id`, or a notification if there is no id.
    pub(super) fn new(id: Option<u64>, method: &str, params: Option<&SharedText>) -> Self {
        let Some(large) = params.filter(|params| params.len() >= SHARED_MIN) else {
            return Self::from(message::write(id, method, params.map(SharedText::as_str)));
        };
        let mut head = message::write(id, method, None);
        head.pop();
        head.push_str(",\"params\":");
        Self { head, params: Some(large.clone()) }
    }

    /// The message on one line, as a transport needs it that separates messages by line ends.
    pub(super) fn into_one_line(self) -> Self {
        let one_line = |params: SharedText| match json::one_line(&params) {
            std::borrow::Cow::Owned(text) => params.derived(text),
            std::borrow::Cow::Borrowed(_) => params,
        };
        let head = match json::one_line(&self.head) {
            std::borrow::Cow::Owned(text) => text,
            std::borrow::Cow::Borrowed(_) => self.head,
        };
        Self { head, params: self.params.map(one_line) }
    }

    /// Writes the message and a line end.
    ///
    /// # Errors
    /// The writer's.
    pub(super) async fn write_line(mut self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        if let Some(params) = self.params {
            writer.write_all(self.head.as_bytes()).await?;
            writer.write_all(params.as_bytes()).await?;
            return writer.write_all(b"}\n").await;
        }
        self.head.push('\n');
        writer.write_all(self.head.as_bytes()).await
    }

    /// The message as the body of an HTTP request.
    pub(super) fn into_body(self) -> reqwest::Body {
        match self.params {
            None => self.head.into(),
            Some(params) => reqwest::Body::wrap(FrameBody(
                [Bytes::from(self.head), Bytes::from_owner(params), Bytes::from_static(b"}")].into(),
            )),
        }
    }
}

impl From<String> for Frame {
    fn from(message: String) -> Self {
        Self { head: message, params: None }
    }
}

impl Body for FrameBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(BodyFrame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn line(frame: Frame) -> String {
        let mut written = Vec::new();
        frame.into_one_line().write_line(&mut written).await.unwrap();
        String::from_utf8(written).unwrap()
    }

    fn body(frame: Frame) -> (Option<u64>, String) {
        let mut body = std::pin::pin!(frame.into_body());
        let (size, mut read) = (body.size_hint().exact(), Vec::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(part)) = body.as_mut().poll_frame(&mut cx) {
            read.extend_from_slice(&part.unwrap().into_data().unwrap());
        }
        (size, String::from_utf8(read).unwrap())
    }

    #[tokio::test]
    async fn large_parameters_are_written_without_a_copy_and_with_the_same_bytes() {
        for length in [1, SHARED_MIN] {
            let params = SharedText::new(format!("{{\"text\": \"{}\"}}", "x".repeat(length)));
            let frame = Frame::new(Some(7), "tools/call", Some(&params));
            assert_eq!(frame.params.is_some(), length == SHARED_MIN);
            let want = message::write(Some(7), "tools/call", Some(&params));
            assert_eq!(body(frame.clone()), (Some(want.len() as u64), want.clone()));
            assert_eq!(line(frame).await, format!("{want}\n"));
            let lines = SharedText::new(params.replace(' ', "\r\n"));
            let want = want.replace(": ", ":  ");
            assert_eq!(line(Frame::new(Some(7), "tools/call", Some(&lines))).await, format!("{want}\n"));
        }
    }
}
