//! nginx in front of the gateway, with its defaults (buffering, HTTP/1.0, read timeout) and a path prefix.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::common::gatepost::Setup;
use crate::common::python::python_program;
use crate::common::wait::{SOON, until};
use crate::session::Session;

const NGINX: &str = "/usr/sbin/nginx";

/// The read timeout of nginx in seconds, unless `NGINX_SECONDS` is set. *Chosen*: above the gateway's heartbeat, which
/// is 8 s. nginx's own default is 60, which the long form takes.
const READ_TIMEOUT: u64 = 9;

/// A running nginx. Dropping it ends it.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts nginx, which passes `/tools/` at `port` on to `target` without the prefix, and `/kept/` with it.
fn nginx(dir: &Path, port: u16, target: &str, timeout: Option<u64>) -> Nginx {
    assert!(Path::new(NGINX).exists(), "{NGINX} is missing: run ./scripts/setup");
    fs::create_dir(dir).unwrap();
    let timeout = timeout.map(|seconds| format!("proxy_read_timeout {seconds}s;")).unwrap_or_default();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr; events {{ }}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen 127.0.0.1:{port}; {timeout}\n\
         location /tools/ {{ proxy_pass {target}/; }}\n\
         location /kept/ {{ proxy_pass {target}; }} }} }}\n",
        dir = dir.display(),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let log = File::create(dir.join("log")).unwrap();
    let mut command = Command::new(NGINX);
    command.arg("-e").arg("stderr").arg("-c").arg(&file).arg("-p").arg(dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let nginx = Nginx(child);
    until("nginx listens", SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    nginx
}

#[test]
fn a_quiet_call_outlasts_the_read_timeout_of_nginx() {
    let own = std::env::var("NGINX_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    // nginx's default is 60 s: nothing is configured then.
    let (timeout, seconds) = match own {
        Some(60) => (None, 60),
        other => (Some(other.unwrap_or(READ_TIMEOUT)), other.unwrap_or(READ_TIMEOUT)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/odd_server.py");
    let mut setup = Setup::new();
    setup.backend("quiet", &[python_program("python").to_str().unwrap(), script, "quiet"]);
    // The name by which clients reach the gateway. Loopback needs no TLS.
    setup.set("server.public_url", &format!("http://127.0.0.1:{port}/kept"));
    let gatepost = setup.start();
    let dir = setup.dir().join("nginx");
    let _nginx = nginx(&dir, port, gatepost.url(), timeout);
    let mut sessions: Vec<_> = ["legacy", "modern"]
        .into_iter()
        .flat_map(|era| {
            [("tools/mcp/quiet", ""), ("kept/mcp", "quiet__")]
                .map(|(path, prefix)| (Session::start(&format!("http://127.0.0.1:{port}/{path}"), era), prefix))
        })
        .collect();
    let calls: Vec<_> = sessions
        .iter_mut()
        .map(|(session, prefix)| {
            assert!(session.tools().contains(&format!("{prefix}quiet")));
            session.begin_call(&format!("{prefix}quiet"), &json!({"seconds": seconds + 2, "text": "late"}))
        })
        .collect();
    for ((session, prefix), call) in sessions.iter_mut().zip(calls) {
        assert_eq!(session.answer(call).unwrap(), "late", "{prefix} {}", fs::read_to_string(dir.join("log")).unwrap());
    }
}
