//! Requests that must be refused, as many and as varied as a client can make them.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::rng::Rng;

/// The responses to a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    /// All responses.
    pub all: u64,
    /// The responses that are errors, by HTTP status or as JSON-RPC errors.
    pub refused: u64,
}

impl Answered {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { all: self.all + other.all, refused: self.refused + other.refused }
    }
}

/// One client of a flood, and the requests that it sends in turn.
#[derive(Debug)]
pub struct Flood {
    host: String,
    requests: Vec<Vec<u8>>,
}

impl Flood {
    /// Some `distinct` requests of the bearer of `token`, or of nobody.
    #[must_use]
    pub fn new(host: &str, token: Option<&str>, seed: u64, distinct: usize) -> Self {
        let mut rng = Rng::new(seed);
        Self { host: host.to_owned(), requests: (0..distinct).map(|_| request(&mut rng, host, token)).collect() }
    }

    /// Sends one request after the other while `goes_on`, which gets the number of responses so far, is true.
    pub fn send(&self, mut goes_on: impl FnMut(u64) -> bool) -> Answered {
        let mut answered = Answered::default();
        let mut kept = None;
        for request in self.requests.iter().cycle() {
            if !goes_on(answered.all) {
                break;
            }
            let response = loop {
                let mut stream = kept.take().unwrap_or_else(|| self.connect());
                if let Some(response) = exchange(&mut stream, request) {
                    kept = response.is_kept.then_some(stream);
                    break response;
                }
                // The server closed the connection after the last response, and has not read this request.
            };
            answered.all += 1;
            answered.refused += u64::from(response.is_error);
        }
        answered
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(&self.host).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::new(stream)
    }
}

struct Response {
    is_error: bool,
    /// The connection takes another request.
    is_kept: bool,
}

/// Sends one request and reads its response; `None` if the connection was closed before.
fn exchange(stream: &mut BufReader<TcpStream>, request: &[u8]) -> Option<Response> {
    stream.get_mut().write_all(request).ok()?;
    let (mut line, mut status, mut length, mut is_kept) = (String::new(), 0, 0, true);
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            assert_eq!(status, 0, "the connection was closed within a response");
            return None;
        }
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        is_kept &= line.trim() != "connection: close";
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Some(Response { is_error: status >= 400 || String::from_utf8_lossy(&body).contains(r#""error":"#), is_kept })
}

fn word(rng: &mut Rng, longest: u64) -> String {
    let length = 1 + rng.below(longest);
    (0..length).map(|_| char::from(b'a' + u8::try_from(rng.below(26)).unwrap())).collect()
}

/// A request with a random path, method, name, body, id and headers.
fn request(rng: &mut Rng, host: &str, token: Option<&str>) -> Vec<u8> {
    let path = match rng.below(5) {
        0 => "/mcp".to_owned(),
        1 => "/mcp/example".to_owned(),
        2 => format!("/{}", word(rng, 500)),
        _ => format!("/mcp/{}", word(rng, 1000)),
    };
    let verb = ["POST", "POST", "POST", "POST", "POST", "POST", "GET", "DELETE", "PUT", "PATCH"][rng.index(10)];
    let method = match rng.below(4) {
        0 => ["initialize", "tools/list", "resources/read", "prompts/get", "ping", "subscriptions/listen"]
            [rng.index(6)]
        .to_owned(),
        1 => word(rng, 120),
        _ => "tools/call".to_owned(),
    };
    let (id, name, text) = (word(rng, 200), word(rng, 250), word(rng, 2000));
    let body = match rng.below(8) {
        0 => text,
        1 => format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}","params":{{"name":1}}}}"#),
        _ => {
            let params = format!(r#"{{"name":"{name}","uri":"{name}:x","arguments":{{"text":"{text}"}}}}"#);
            format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}","params":{params}}}"#)
        }
    };
    let mut head = format!("{verb} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
    let content_type = if rng.below(20) == 0 { "text/plain" } else { "application/json" };
    write!(head, "content-type: {content_type}\r\n").unwrap();
    if rng.below(2) == 0 {
        write!(head, "mcp-session-id: {}\r\n", word(rng, 1000)).unwrap();
    }
    match token {
        Some(token) => write!(head, "authorization: Bearer {token}\r\n").unwrap(),
        None if rng.below(3) == 0 => write!(head, "authorization: Bearer {}\r\n", word(rng, 500)).unwrap(),
        None => {}
    }
    write!(head, "\r\n").unwrap();
    [head.into_bytes(), body.into_bytes()].concat()
}
