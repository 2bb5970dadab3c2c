//! `gatepost serve --quickstart`: a configuration without prerequisites, tokens, and commands to paste.
//!
//! It listens on loopback only and serves the built-in example backend under the alias `example`, and the servers of
//! the command line. Records stay in `~/.local/state/gatepost`, unless `GATEPOST_POSTGRES_URL` is set: outside the
//! working directory, in which backends may write. The signing secret is stored beside the outbox, so that printed
//! tokens remain valid across restarts until they expire.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use uuid::Uuid;

use super::backend_arg::{BackendArg, EXAMPLE, Server};
use crate::auth::{Claims, mint};
use crate::cli::configuration::environment;
use crate::cli::database;
use crate::cli::exit::usage;
use crate::cli::output::{OutputError, print};
use crate::config::{Config, ConfigError};
use crate::file_access::{FileAccess, FileKind};

/// The directory with the quickstart's data, in that of the user's state.
const DIR: &str = "gatepost";

/// Validity of the printed tokens. *Chosen*: a day of trials.
const TOKEN_VALID: Duration = Duration::from_hours(24);

/// Largest file of the secret, in bytes. *Derived*: it has 64.
const SECRET_BYTES_MAX: usize = 1024;

/// The text that the quickstart prints once it listens.
#[derive(Debug)]
pub(super) struct Quickstart {
    program: PathBuf,
    dir: PathBuf,
    postgres: bool,
    /// The aliases of the backends, the example's first.
    aliases: Vec<String>,
    all: String,
    echo: String,
    console: String,
}

/// Creates the data directory and the secret, and makes a configuration that `GATEPOST_*` variables can override.
/// `backends` are the values of `--backend`.
///
/// # Errors
/// A value of `--backend` or a variable is wrong: nothing was created. The directory or the secret cannot be written.
pub(super) fn prepare(backends: &[String]) -> anyhow::Result<(Config, Quickstart)> {
    let backends = BackendArg::read_all(backends)?;
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let dir = std::path::absolute(data_dir()?).context("cannot find the working directory")?;
    let secret_file = dir.join("quickstart.secret");
    let path = |path: &Path| toml::Value::String(path.display().to_string());
    let text = format!(
        r#"
[audit]
dir = {dir}

[backends.{EXAMPLE}]
command = [{program}, "example-backend"]
{others}
[roles.all]
allow = ["*/*"]

[roles.echo]
allow = ["{EXAMPLE}/echo"]

[[auth.keys]]
algorithm = "HS256"
issuer = "gatepost-quickstart"
secret_file = {secret_file}
"#,
        dir = path(&dir),
        program = path(&program),
        others = backends.iter().map(section).collect::<String>(),
        secret_file = path(&secret_file),
    );
    let config = Config::parse(&text, None, environment()).map_err(|faults| usage(messages(&faults)))?;
    if !config.server.listen.ip().is_loopback() {
        bail!("the quickstart listens on loopback only; to listen on {} write a configuration", config.server.listen);
    }
    let secret = secret(&secret_file).with_context(|| format!("cannot create the secret {}", secret_file.display()))?;
    let audience = config.auth.audiences.first().context("auth.audiences is empty: set at least one")?;
    let token = |subject: &str, role: &str| {
        let claims = Claims {
            subject: subject.to_owned(),
            issuer: "gatepost-quickstart".to_owned(),
            audience: audience.clone(),
            role_claim: config.auth.role_claim.clone(),
            roles: vec![role.to_owned()],
            scope: None,
            kid: None,
            valid_for: TOKEN_VALID,
        };
        mint(secret.as_bytes(), &claims).context("cannot mint a token")
    };
    let (all, echo) = (token("alice", "all")?, token("bob", "echo")?);
    let console = token("carol", &config.ops.console_role)?;
    let (dir, postgres) = (config.audit.dir.clone(), database::options(&config).is_some());
    let aliases = std::iter::once(EXAMPLE.to_owned()).chain(backends.into_iter().map(|arg| arg.alias)).collect();
    Ok((config, Quickstart { program, dir, postgres, aliases, all, echo, console }))
}

/// The section of a server of the command line, in TOML.
fn section(BackendArg { alias, server }: &BackendArg) -> String {
    let text = |text: &String| toml::Value::String(text.clone());
    match server {
        Server::Command(words) => {
            format!("\n[backends.{alias}]\ncommand = {}\n", toml::Value::Array(words.iter().map(text).collect()))
        }
        Server::Url(url) => format!("\n[backends.{alias}]\nurl = {}\n", text(url)),
    }
}

/// The faults of the configuration, a line each. One of a backend is one of the command line.
fn messages(faults: &[ConfigError]) -> String {
    let message = |fault: &ConfigError| match fault.key.strip_prefix("backends.").and_then(|key| key.split_once('.')) {
        Some((alias, _)) => format!("--backend ({alias}) {}", fault.message),
        None => fault.to_string(),
    };
    faults.iter().map(message).collect::<Vec<_>>().join("\n")
}

/// The directory with the quickstart's data. *Spec*: XDG Base Directory Specification, `XDG_STATE_HOME`.
///
/// # Errors
/// The environment names none.
fn data_dir() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("GATEPOST_AUDIT_DIR") {
        return Ok(dir);
    }
    let state = variable("XDG_STATE_HOME").filter(|dir| dir.is_absolute());
    let state = state.or_else(|| Some(variable("HOME")?.join(".local/state")));
    let state = state.context("neither HOME nor XDG_STATE_HOME is set: set one, or GATEPOST_AUDIT_DIR")?;
    Ok(state.join(DIR))
}

/// Reads the secret in `path`, or creates it: 64 hexadecimal digits, 244 random bits.
fn secret(path: &Path) -> io::Result<String> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let made = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            file.write_all(made.as_bytes())?;
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let secret =
                FileAccess::default().read(path, FileKind::Secret, SECRET_BYTES_MAX).map_err(io::Error::other)?;
            String::from_utf8(secret).map_err(io::Error::other)
        }
        Err(error) => Err(error),
    }
}

impl Quickstart {
    /// Prints the addresses, the tokens, and commands to try.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn print(&self, mcp: SocketAddr, ops: Option<SocketAddr>) -> Result<(), OutputError> {
        let Self { program, dir, postgres, aliases, all, echo, console } = self;
        let (program, dir) = (program.display(), dir.display());
        let kept = if *postgres { "delivered to Postgres" } else { "kept in the outbox (no Postgres configured)" };
        let query =
            if *postgres { format!("{program} audit query") } else { format!("{program} audit --dir {dir} query") };
        let call = |token: &str, tool: &str, arguments: &str| {
            format!(
                "  curl -s http://{mcp}/mcp/{EXAMPLE} -H 'Authorization: Bearer '{token} \\\n    \
                 -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\\n    \
                 -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\
                 \"params\":{{\"name\":\"{tool}\",\"arguments\":{arguments}}}}}'\n"
            )
        };
        let endpoints: Vec<_> = aliases.iter().map(|alias| format!("http://{mcp}/mcp/{alias}")).collect();
        let (console_token, console) = match ops {
            Some(ops) => (
                format!("export CAROL={console}\n"),
                format!("They are in the console too, http://{ops}/console: sign in with Carol's token.\n\n"),
            ),
            None => Default::default(),
        };
        // The server of the user, if there is one: its tools have their own names there.
        let endpoint = match endpoints.as_slice() {
            [_, only] => only.clone(),
            _ => format!("http://{mcp}/mcp"),
        };
        let client = serde_json::json!({ "mcpServers": { "gatepost": {
            "type": "http", "url": endpoint, "headers": { "Authorization": format!("Bearer {all}") },
        } } });
        print(&format!(
            "\nGatepost listens on http://{mcp}/mcp (all backends) and {endpoints}.\n\
             Records are {kept}, in {dir}.\n\n\
             {tokens}, valid for a day. Alice may call every tool, Bob only {EXAMPLE}/echo{carol}:\n\n\
             export ALICE={all}\n\
             export BOB={echo}\n\
             {console_token}\n\
             A call that is allowed, and one that is denied:\n\n{allowed}\n{denied}\n\
             Both are in the trail:\n\n  {query}\n\n\
             {console}\
             A client, for example Claude Code, or the configuration of one:\n\n  \
             claude mcp add --transport http gatepost {endpoint} --header \"Authorization: Bearer $ALICE\"\n\n  \
             {client}\n\n\
             Stop with Ctrl-C.\n\n",
            endpoints = endpoints.join(", "),
            tokens = if ops.is_some() { "Three tokens" } else { "Two tokens" },
            carol = if ops.is_some() { ", and Carol may use the console" } else { "" },
            allowed = call("$ALICE", "add", "{\"a\":1,\"b\":2}"),
            denied = call("$BOB", "add", "{\"a\":1,\"b\":2}"),
        ))
    }
}
