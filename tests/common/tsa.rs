//! A time-stamp authority: `openssl ts -reply` behind HTTP.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use gatepost::accept::{AcceptFailures, CountedListener};
use gatepost::connections::serve_router;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::command::run;
use super::python::python_program;

/// An authority. Below its URL, each path answers in its own way.
pub struct Tsa {
    dir: TempDir,
    pub url: String,
}

impl Tsa {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evidence/tsa.py");
        run(Command::new(python_program("python")).arg(script).arg(dir.path()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = CountedListener { listener, failures: AcceptFailures::default() };
        let path: Arc<Path> = dir.path().into();
        let answer = |kind: &'static str, change: fn(&mut [u8])| {
            let path = Arc::clone(&path);
            post(move |query: Bytes| async move {
                let mut query = query.to_vec();
                change(&mut query);
                reply(&path, kind, &query)
            })
        };
        let router = Router::new()
            .route("/good", answer("good", |_| {}))
            .route("/expired", answer("expired", |_| {}))
            .route("/refusing", answer("refusing", |_| {}))
            // The hash begins at byte 24, and the nonce at byte 58 of 69.
            .route("/other-hash", answer("good", |query| query[30] ^= 1))
            .route("/other-nonce", answer("good", |query| query[60] ^= 1))
            .route("/no-certificate", answer("good", |query| query[68] = 0))
            .route("/down", post(|| async { StatusCode::SERVICE_UNAVAILABLE }))
            .route("/page", post(|| async { "<html>Sign in</html>" }))
            .route("/long", post(|| async { vec![0x30; 70_000] }));
        tokio::spawn(serve_router(listener, router, 16, CancellationToken::new()));
        Self { dir, url }
    }

    /// The file with the certificate of its root.
    pub fn root_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Says whether `openssl ts -verify` accepts the token as one of `data`.
    pub fn verifies(&self, token: &[u8], data: &[u8]) -> bool {
        let (token_file, data_file) = (self.dir.path().join("token"), self.dir.path().join("data"));
        std::fs::write(&token_file, token).unwrap();
        std::fs::write(&data_file, data).unwrap();
        let mut command = Command::new("openssl");
        command.args(["ts", "-verify", "-token_in", "-in"]).arg(token_file).arg("-data").arg(data_file);
        command.arg("-CAfile").arg(self.dir.path().join("ca.pem"));
        command.output().unwrap().status.success()
    }
}

fn reply(dir: &Path, kind: &str, query: &[u8]) -> Vec<u8> {
    // One request at a time would be enough for a test, but two gateways may ask at once.
    let files: [PathBuf; 2] = ["query", "reply"].map(|name| dir.join(format!("{name}-{}", rand::random::<u64>())));
    std::fs::write(&files[0], query).unwrap();
    let mut command = Command::new("openssl");
    command.args(["ts", "-reply", "-config"]).arg(dir.join("openssl.cnf")).args(["-section", kind]);
    run(command.arg("-queryfile").arg(&files[0]).arg("-out").arg(&files[1]));
    std::fs::read(&files[1]).unwrap()
}
