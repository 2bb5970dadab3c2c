//! Server-sent events: a parser, and the point at which a broken stream is resumed.
//!
//! *Spec*: WHATWG HTML, section 9.2. Comments and unknown fields are ignored. An event without data is kept for its id
//! and its retry time.

use std::time::Duration;

use crate::mcp::lines::LINE_BYTES_MAX;

/// The pause before a stream is resumed, if the backend has not set one. *Chosen*: the default of the MCP SDKs.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that a backend can set. *Chosen*: during a longer one the backend would look dead to a client.
pub(super) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// The data; empty if the event has none.
    pub(super) data: String,
    /// The event's id.
    pub(super) id: Option<String>,
    /// The pause before the stream is resumed.
    pub(super) retry: Option<Duration>,
}

/// An event is longer than [`LINE_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventTooLongError;

/// The point that a stream was read to.
#[derive(Debug, Default)]
pub(super) struct ResumePoint {
    pub(super) last_event_id: Option<String>,
    retry: Option<Duration>,
}

impl ResumePoint {
    /// Moves the point past `event`.
    pub(super) fn advance(&mut self, event: &SseEvent) {
        if let Some(id) = &event.id {
            self.last_event_id = Some(id.clone()).filter(|id| !id.is_empty());
        }
        self.retry = event.retry.or(self.retry);
    }

    /// The pause before the stream is resumed.
    pub(super) fn pause(&self) -> Duration {
        self.retry.unwrap_or(RETRY_PAUSE).min(RETRY_PAUSE_MAX)
    }
}

/// A parser that reads a stream chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    /// The last byte was a CR that ended a line: an LF after it belongs to the same line end.
    after_cr: bool,
}

impl Parser {
    /// Parses the next chunk and returns the events that it completes.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<SseEvent>, EventTooLongError> {
        let mut events = Vec::new();
        for &byte in chunk {
            let follows_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.read_line(&line));
                }
                _ => self.line.push(byte),
            }
            // I6: an event has the same bound as a line of a stdio backend.
            if self.line.len() + self.event.data.len() > LINE_BYTES_MAX {
                return Err(EventTooLongError);
            }
        }
        Ok(events)
    }

    /// The event that the end of the stream left incomplete, if it has data. *Spec*: it is dropped; the caller takes it
    /// only if its data is a whole message.
    pub(super) fn finish(mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.read_line(&line);
        }
        Some(self.event).filter(|event| !event.data.is_empty())
    }

    fn read_line(&mut self, line: &[u8]) -> Option<SseEvent> {
        let line = String::from_utf8_lossy(line);
        let line = line.strip_prefix('\u{feff}').unwrap_or(&line);
        if line.is_empty() {
            self.has_data = false;
            let event = std::mem::take(&mut self.event);
            return (event != SseEvent::default()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "retry" => self.event.retry = value.parse().ok().map(Duration::from_millis),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> Vec<SseEvent> {
        let mut parser = Parser::default();
        chunks.iter().flat_map(|chunk| parser.feed(chunk.as_bytes()).unwrap()).collect()
    }

    fn data(text: &str) -> SseEvent {
        SseEvent { data: text.to_owned(), ..SseEvent::default() }
    }

    #[test]
    fn chunk_boundaries_do_not_change_the_events() {
        let text =
            ": hi\nid: 7\nretry: 250\ndata:\n\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:x\r\rdata: cut";
        let primed =
            SseEvent { id: Some("7".to_owned()), retry: Some(Duration::from_millis(250)), data: String::new() };
        let want = [primed, data("{\"a\":\n1}"), data("x")];
        assert_eq!(read(&[text]), want);
        for at in 0..text.len() {
            let (head, tail) = text.split_at(at);
            assert_eq!(read(&[head, tail]), want, "{at}");
        }
    }

    #[test]
    fn the_end_of_a_stream_completes_its_last_event() {
        for text in ["data: a\n\ndata: {}", "data: {}\n", "data: {}\r", "id: 7\ndata: {}\n"] {
            let mut parser = Parser::default();
            parser.feed(text.as_bytes()).unwrap();
            assert_eq!(parser.finish().unwrap().data, "{}", "{text:?}");
        }
        for text in ["data: a\n\n", "id: 7\n", ": hi"] {
            let mut parser = Parser::default();
            parser.feed(text.as_bytes()).unwrap();
            assert_eq!(parser.finish(), None, "{text:?}");
        }
    }

    #[test]
    fn i6_event_over_the_limit_is_an_error() {
        let mut parser = Parser::default();
        let line = vec![b'x'; LINE_BYTES_MAX];
        assert!(parser.feed(&line).is_ok());
        assert_eq!(parser.feed(b"x"), Err(EventTooLongError));
    }
}
