//! The real binary, with a configuration, directory and ports of its own.
//!
//! `serve` listens on port 0 and writes where into `serve.json` in the audit directory once its listeners are open:
//! `{"mcp": "http://127.0.0.1:PORT", "ops": "http://127.0.0.1:PORT", "pid": N}`.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::mcp::{Client, Era};
use super::process::{self, Reaper};
use super::wait::{SOON, until};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");

/// The HS256 secret of every test gateway. *Derived*: RFC 7518 demands 32 bytes.
const SECRET: &str = "a secret for the tests alone, with more than 32 bytes";

/// `iss` and `aud` of the tokens that a test gateway believes.
pub const ISSUER: &str = "gatepost-tests";
pub const AUDIENCE: &str = "gatepost";

/// Ends the gateway that wrote `serve.json`, should the test process be gone. `$1` is the directory.
const REAP: &str = r#"
pid=$(cat "$1/pid")
[ -z "$pid" ] || case "$(tr '\0' ' ' <"/proc/$pid/cmdline")" in *"$1"*) kill -CONT "$pid"; kill -KILL "$pid" ;; esac
rm -rf "$1"
"#;

/// A gateway to be started, as often as wanted, on the same directory.
///
/// Two roles: `admin` may call all, `echo` only `example/echo`. One backend: `example`, the binary's own.
#[derive(Debug)]
pub struct Setup {
    dir: PathBuf,
    /// In TOML's notation, by key.
    pub settings: BTreeMap<String, String>,
    /// Environment variables of the gateway.
    pub env: BTreeMap<String, String>,
    /// The user of the gateway, if it is not that of the tests.
    pub user: Option<u32>,
    /// A program and its arguments that become the gateway.
    pub wrapper: Vec<String>,
    /// The gateway's working directory, if it is not [`Setup::dir`].
    pub cwd: Option<PathBuf>,
    _reaper: Reaper,
}

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub struct Gatepost {
    pub pid: u32,
    child: Child,
    log: PathBuf,
    mcp: String,
    /// The operations listener.
    pub ops_url: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("gatepost-test-").unwrap().keep();
        write_secret(&dir.join("secret"), SECRET);
        let reaper = Reaper::new(REAP, &dir);
        let (settings, env) = (BTreeMap::new(), BTreeMap::new());
        let mut setup = Self { dir, settings, env, user: None, wrapper: Vec::new(), cwd: None, _reaper: reaper };
        fs::create_dir(setup.work_dir()).unwrap();
        let secret = setup.dir.join("secret").display().to_string();
        setup.set("server.listen", "127.0.0.1:0");
        setup.set("ops.listen", "127.0.0.1:0");
        // Tests send more, and open more sessions, than the default limits allow one principal.
        setup.set_toml("limits.rate_per_principal", "0").set_toml("limits.sessions_per_principal", "256");
        let key =
            format!("[{{ kid = \"test\", algorithm = \"HS256\", issuer = {ISSUER:?}, secret_file = {secret:?} }}]");
        setup.set_toml("auth.keys", &key);
        setup.set("audit.dir", setup.audit_dir().to_str().unwrap());
        setup.role("admin", &["*/*"]).role("echo", &["example/echo"]);
        setup.backend("example", &[BINARY, "example-backend"]);
        setup
    }

    /// Sets a text setting, as `set("audit.level", "queued")`.
    pub fn set(&mut self, key: &str, text: &str) -> &mut Self {
        self.set_toml(key, &format!("{text:?}"))
    }

    /// Sets a setting to a value in TOML's notation.
    pub fn set_toml(&mut self, key: &str, value: &str) -> &mut Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn backend(&mut self, alias: &str, command: &[&str]) -> &mut Self {
        self.set_toml(&format!("backends.{alias}.command"), &format!("{command:?}"))
    }

    pub fn role(&mut self, name: &str, allow: &[&str]) -> &mut Self {
        self.set_toml(&format!("roles.{name}.allow"), &format!("{allow:?}"))
    }

    /// The directory that holds everything of this gateway.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory in which backends may write. In [`Setup::dir`], which has the gateway's own files, they cannot make
    /// anything new.
    pub fn work_dir(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The outbox directory.
    pub fn audit_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The configuration file, written anew unless it has these settings already: a process may be reading it.
    pub fn config_file(&self) -> PathBuf {
        let file = self.dir.join("gatepost.toml");
        let mut settings = self.settings.clone();
        for key in self.settings.keys() {
            // Tests count what reaches a backend, so the gateway asks nothing by itself, unless a test wants it.
            let backend = key.strip_suffix(".url").or_else(|| key.strip_suffix(".command"));
            if let Some(backend) = backend.filter(|backend| backend.starts_with("backends.")) {
                settings.entry(format!("{backend}.probe_interval")).or_insert_with(|| "\"0s\"".to_owned());
            }
        }
        let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        if fs::read_to_string(&file).is_ok_and(|written| written == lines.concat()) {
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        } else {
            write_secret(&file, lines.concat());
        }
        file
    }

    /// Any subcommand of the binary with this configuration: `run(&["outbox", "stats"])`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = self.wrapper.iter().map(String::as_str).chain([BINARY]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(args)
            .arg("--config")
            .arg(self.config_file())
            .current_dir(self.cwd.as_ref().unwrap_or(&self.dir))
            .env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.dir).envs(&self.env);
        command
    }

    /// Starts `serve` and waits until its listeners are open and it says how ready it is.
    pub fn start(&self) -> Gatepost {
        self.wait_for(self.spawn())
    }

    /// Waits until the listeners of `serve` are open and it says how ready it is.
    pub fn wait_for(&self, mut child: Child) -> Gatepost {
        let (log, addresses) = (self.log_file(), self.addresses_file());
        let mut bound = Value::Null;
        until("the gateway's listeners are open", SOON, || {
            let ended = child.try_wait().unwrap();
            let shown = || fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "gatepost serve ended with {ended:?}\n{}", shown());
            let text = fs::read_to_string(&addresses).unwrap_or_default();
            bound = serde_json::from_str(&text).unwrap_or_default();
            bound["pid"] == child.id()
        });
        let address = |key: &str| bound[key].as_str().unwrap_or_default().to_owned();
        let gatepost = Gatepost { pid: child.id(), mcp: address("mcp"), ops_url: address("ops"), child, log };
        gatepost.get_ops("/readyz");
        gatepost
    }

    /// What the gateway logged, in all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until the log contains `text`: the gateway's log thread may be behind what a client has seen.
    pub fn wait_for_log(&self, text: &str) {
        until(&format!("the log contains {text:?}"), SOON, || self.log().contains(text));
    }

    /// Starts `serve` and waits for nothing.
    pub fn spawn(&self) -> Child {
        let stderr = File::options().create(true).append(true).open(self.log_file()).unwrap();
        self.spawn_command(self.command(&["serve"]).stderr(stderr))
    }

    /// Starts a command that becomes `serve`.
    pub fn spawn_command(&self, command: &mut Command) -> Child {
        let addresses = self.addresses_file();
        if addresses.exists() {
            fs::remove_file(&addresses).unwrap();
        }
        if let Some(user) = self.user {
            let chown = Command::new("chown").args(["-R", &format!("{user}:{user}")]).arg(&self.dir).status().unwrap();
            assert!(chown.success());
            command.uid(user).gid(user);
        }
        let child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        fs::write(self.dir.join("pid"), child.id().to_string()).unwrap();
        child
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn addresses_file(&self) -> PathBuf {
        self.audit_dir().join("serve.json")
    }
}

impl Gatepost {
    /// The MCP listener, without a path.
    pub fn url(&self) -> &str {
        &self.mcp
    }

    /// What the gateway logged, in all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Status and body of a GET on the operations listener, once it answers.
    pub fn get_ops(&self, path: &str) -> (u16, String) {
        let mut answer = None;
        until("the operations listener answers", SOON, || {
            answer = get(&self.ops_url, path);
            answer.is_some()
        });
        answer.unwrap()
    }

    /// A client of all backends (`/mcp`) for a caller of `role`.
    pub async fn client(&self, era: Era, role: &str) -> Client {
        self.client_at("/mcp", era, role).await
    }

    /// A client of one path, as `/mcp/example`.
    pub async fn client_at(&self, path: &str, era: Era, role: &str) -> Client {
        Client::connect(&format!("{}{path}", self.mcp), era, Some(&token(role))).await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid, signal);
    }

    /// Asks the gateway to stop and gives its exit code; `None` if a signal ended it.
    pub fn terminate(self) -> Option<i32> {
        self.end(Signal::SIGTERM)
    }

    /// Sends a signal and waits for the end; gives the exit code, `None` if the signal ended the gateway.
    pub fn end(self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the gateway's end and gives its exit code.
    pub fn wait(mut self) -> Option<i32> {
        until("the gateway has ended", 2 * SOON, || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Gatepost {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            process::signal(self.child.id(), Signal::SIGKILL);
            self.child.wait().unwrap();
        }
    }
}

/// Writes a file that only its owner may use.
pub fn write_secret(path: &Path, text: impl AsRef<[u8]>) {
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

/// A token for `tester` with `role`, valid for an hour.
pub fn token(role: &str) -> String {
    token_with(&json!({"sub": "tester", "role": role}))
}

/// A token with these claims; `iss`, `aud`, `iat` and `exp` are added where they are missing.
pub fn token_with(claims: &Value) -> String {
    let mut claims = claims.as_object().unwrap().clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (name, value) in
        [("iss", json!(ISSUER)), ("aud", json!(AUDIENCE)), ("iat", json!(now)), ("exp", json!(now + 3600))]
    {
        claims.entry(name).or_insert(value);
    }
    let header = Header { kid: Some("test".to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A GET without a runtime: status and body, `None` while nobody answers.
fn get(base: &str, path: &str) -> Option<(u16, String)> {
    let host = base.strip_prefix("http://").expect("serve.json names the operations listener");
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
}
