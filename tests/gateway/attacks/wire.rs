//! Requests as bytes, and what comes back on their connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long the gateway may take over one connection. *Chosen*: above its own limit for a body, 30 s.
const PATIENCE: Duration = Duration::from_mins(1);

/// One HTTP request, which need not be a valid one.
#[derive(Clone, Debug)]
pub struct Request {
    verb: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// One HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub text: String,
}

/// All that came back on one connection.
#[derive(Debug)]
pub struct Answers {
    /// The client's end, as records name it.
    pub addr: String,
    pub responses: Vec<Response>,
    /// Whether the gateway has closed the connection.
    pub is_closed: bool,
}

impl Request {
    /// With the headers that a good client of `host` sends; `Content-Length` is added last.
    pub fn new(host: &str, verb: &str, path: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = [("host", host), ("connection", "close"), ("content-type", "application/json")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { verb: verb.to_owned(), path: path.to_owned(), headers, body: body.into() }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without any header of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    /// With this header in place of all of its name.
    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// By the bearer of `token`.
    pub fn by(self, token: &str) -> Self {
        self.set("authorization", &format!("Bearer {token}"))
    }

    /// The bytes, with the length of the body.
    pub fn bytes(&self) -> Vec<u8> {
        let length = self.body.len().to_string();
        let mut bytes = self.clone().with("content-length", &length).head();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The head alone, without a length.
    pub fn head(&self) -> Vec<u8> {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{} {} HTTP/1.1\r\n{}\r\n", self.verb, self.path, headers.collect::<String>()).into_bytes()
    }

    /// The body as one chunk, and its end.
    pub fn chunked(&self) -> Vec<u8> {
        let mut bytes = self.clone().with("transfer-encoding", "chunked").head();
        bytes.extend_from_slice(format!("{:x}\r\n", self.body.len()).as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        bytes
    }
}

impl Response {
    /// A header's value, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The JSON-RPC message; `Null` if there is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The code of the JSON-RPC error.
    pub fn code(&self) -> Option<i64> {
        self.json()["error"]["code"].as_i64()
    }
}

/// Writes `bytes` on a connection of their own and reads until the gateway closes it.
pub fn send(host: &str, bytes: &[u8]) -> Answers {
    exchange(host, bytes, false)
}

/// As [`send`], but says after the last byte that no more will come.
pub fn send_and_end(host: &str, bytes: &[u8]) -> Answers {
    exchange(host, bytes, true)
}

/// Writes `bytes` and goes; gives the client's end.
pub fn send_and_leave(host: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(bytes).unwrap();
    stream.local_addr().unwrap().to_string()
}

fn exchange(host: &str, bytes: &[u8], ends: bool) -> Answers {
    let mut stream = TcpStream::connect(host).unwrap();
    let addr = stream.local_addr().unwrap().to_string();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    // The gateway may close before it has read all.
    let written = stream.write_all(bytes);
    if ends && written.is_ok() {
        stream.shutdown(Shutdown::Write).ok();
    }
    let (mut read, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    let is_closed = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break true,
            Ok(length) => read.extend_from_slice(&chunk[..length]),
            Err(err) if err.kind() == ErrorKind::ConnectionReset => break true,
            Err(err) if err.kind() == ErrorKind::WouldBlock => break false,
            Err(err) => panic!("{err} after {:?}", String::from_utf8_lossy(&read)),
        }
    };
    Answers { addr, is_closed, responses: responses(&String::from_utf8_lossy(&read)) }
}

fn responses(mut text: &str) -> Vec<Response> {
    let mut responses = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers: Vec<_> = lines.filter_map(header).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(rest.len(), |(_, length)| length.parse().unwrap()).min(rest.len());
        let (body, rest) = rest.split_at(length);
        responses.push(Response { status, headers, text: body.to_owned() });
        text = rest;
    }
    responses
}
