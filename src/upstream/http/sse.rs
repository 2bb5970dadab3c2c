//! Server-sent events, as a stream of bytes becomes them.
//!
//! *Spec*: WHATWG HTML, section 9.2. Comments and unknown fields are left out; an event without data still tells its id
//! and the time to wait before the stream is asked for again.

use std::time::Duration;

use crate::mcp::lines::LINE_BYTES_MAX;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// Its data; empty where there is none.
    pub(super) data: String,
    /// Its id.
    pub(super) id: Option<String>,
    /// How long to wait before the stream is asked for again.
    pub(super) retry: Option<Duration>,
}

/// An event is longer than what is held for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Reads a stream piece by piece.
#[derive(Debug, Default)]
pub(super) struct Parser {
    rest: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    /// The last byte was a CR that ended a line: an LF behind it belongs to it.
    after_cr: bool,
}

impl Parser {
    /// Takes the next piece and gives the events that it completes.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in piece {
            let follows_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.rest);
                    events.extend(self.line(&line));
                }
                _ => self.rest.push(byte),
            }
            // I6: an event is bounded as a line of a stdio backend is.
            if self.rest.len() + self.event.data.len() > LINE_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn line(&mut self, line: &[u8]) -> Option<SseEvent> {
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

    fn read(pieces: &[&str]) -> Vec<SseEvent> {
        let mut parser = Parser::default();
        pieces.iter().flat_map(|piece| parser.feed(piece.as_bytes()).unwrap()).collect()
    }

    fn data(text: &str) -> SseEvent {
        SseEvent { data: text.to_owned(), ..SseEvent::default() }
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
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
    fn i6_an_event_takes_no_more_than_its_limit() {
        let mut parser = Parser::default();
        let line = vec![b'x'; LINE_BYTES_MAX];
        assert!(parser.feed(&line).is_ok());
        assert_eq!(parser.feed(b"x"), Err(TooLong));
    }
}
