//! The release binary as `serve` runs it, store-only, and clients that keep calling it.

use std::fmt::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gatepost::auth::{Claims, mint};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::process;
use super::sample::Sample;

/// Clients. *Spec*: docs/design.md, "Targets": 64 concurrent calls.
pub const CLIENTS: usize = 64;

pub const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");

const KEY: &[u8] = b"a secret for the benches, with more than 32 bytes";

/// Where a gateway that is not audited listens: it has no directory to tell it in.
const UNAUDITED: &str = "127.0.0.1:48808";

/// A gateway at work.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    host: String,
    token: String,
}

/// What clients saw.
#[derive(Debug)]
pub struct Load {
    pub sample: Sample,
    pub took: Duration,
}

impl Gateway {
    /// A gateway without a limit on the rate of calls, on the outbox `data`, at `level`: `queued`, `stored` or `not
    /// audited`.
    pub async fn start(files: &Path, data: &Path, level: &str) -> Self {
        Self::start_with(files, data, level, "limits.rate_per_principal = 0\n").await
    }

    /// The same with these settings, in TOML's notation, and the default limits.
    pub async fn start_with(files: &Path, data: &Path, level: &str, settings: &str) -> Self {
        let (secret, config) = (files.join("secret"), files.join("gatepost.toml"));
        std::fs::write(&secret, KEY).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).unwrap();
        let mut text = format!(
            "ops.listen = \"off\"\nlog.filter = \"error\"\n{settings}\
             auth.keys = [{{ algorithm = \"HS256\", issuer = \"bench\", secret_file = '{}' }}]\n\
             roles.all.allow = [\"*/*\"]\nbackends.example.command = [{BINARY:?}, \"example-backend\"]\n",
            secret.display()
        );
        if level == "not audited" {
            write!(text, "server.listen = {UNAUDITED:?}\naudit.enabled = false\n").unwrap();
        } else {
            let dir = data.display();
            write!(text, "server.listen = \"127.0.0.1:0\"\naudit.level = {level:?}\naudit.dir = '{dir}'\n").unwrap();
        }
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--config"]).arg(&config).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().unwrap();
        let host = match level {
            "not audited" => UNAUDITED.to_owned(),
            _ => address(&data.join("serve.json"), child.id().unwrap()).await,
        };
        let gateway = Self { child, host, token: token("bench", "all") };
        let warm = connect(&gateway.host).await;
        gateway.exchange(warm).await;
        gateway
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Where it listens.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// One client calls, with a pause after each call, until `is_over`.
    pub async fn calls_of(&self, subject: &str, pause: Duration, is_over: &AtomicBool) -> Sample {
        let own = token(subject, "all");
        let (mut sample, mut stream) = (Sample::default(), connect(&self.host).await);
        while !is_over.load(Ordering::Relaxed) {
            let asked = Instant::now();
            stream = self.exchange_as(&own, stream).await;
            sample.add(asked.elapsed());
            tokio::time::sleep(pause).await;
        }
        sample
    }

    /// User and system time so far.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // *Spec*: proc(5); Linux counts in hundredths of a second on every common platform.
        Duration::from_millis(ticks * 10)
    }

    /// 64 clients, each with one kept connection, call until `during` has passed.
    pub async fn load(self: &Arc<Self>, during: Duration) -> Load {
        let begun = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (gateway, over) = (Arc::clone(self), Arc::clone(&over));
                tokio::spawn(async move {
                    let (mut sample, mut stream) = (Sample::default(), connect(&gateway.host).await);
                    while !over.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        stream = gateway.exchange(stream).await;
                        sample.add(asked.elapsed());
                    }
                    sample
                })
            })
            .collect();
        tokio::time::sleep(during).await;
        over.store(true, Ordering::Relaxed);
        let mut sample = Sample::default();
        for task in tasks {
            sample.extend(task.await.unwrap());
        }
        Load { sample, took: begun.elapsed() }
    }

    /// SIGTERM and its end, or SIGKILL.
    pub async fn end(mut self, signal: Signal) {
        process::signal(self.pid(), signal);
        self.child.wait().await.unwrap();
    }

    /// A connection.
    pub async fn connect(&self) -> BufReader<TcpStream> {
        connect(&self.host).await
    }

    /// One call over a kept connection; the answer must be a result.
    pub async fn exchange(&self, stream: BufReader<TcpStream>) -> BufReader<TcpStream> {
        self.exchange_as(&self.token, stream).await
    }

    async fn exchange_as(&self, token: &str, mut stream: BufReader<TcpStream>) -> BufReader<TcpStream> {
        let (host, body) = (&self.host, call(1, "example__echo"));
        let request = format!(
            "POST /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             accept: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            assert!(stream.read_line(&mut line).await.unwrap() > 0, "the gateway closed the connection");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains("\"result\""), "{text}");
        stream
    }
}

/// A call of the example backend's echo.
pub fn call(id: u64, tool: &str) -> String {
    let params = json!({"name": tool, "arguments": {"text": "0123456789abcdef0123456789abcdef"}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
}

/// A token of `subject` with `role`.
pub fn token(subject: &str, role: &str) -> String {
    let claims = Claims {
        subject: subject.to_owned(),
        issuer: "bench".to_owned(),
        audience: "gatepost".to_owned(),
        role_claim: "role".to_owned(),
        roles: vec![role.to_owned()],
        scope: None,
        kid: None,
        valid_for: Duration::from_hours(1),
    };
    mint(KEY, &claims).unwrap()
}

/// Where gateway `pid` listens; the file may be one that a dead gateway left.
async fn address(path: &Path, pid: u32) -> String {
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let bound = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
        if bound["pid"] == pid {
            return bound["mcp"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(host: &str) -> BufReader<TcpStream> {
    loop {
        if let Ok(stream) = TcpStream::connect(host).await {
            stream.set_nodelay(true).unwrap();
            return BufReader::new(stream);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
