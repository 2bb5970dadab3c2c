//! `gatepost serve --quickstart`: a configuration without prerequisites, two tokens, and commands to paste.
//!
//! It listens on loopback only and serves the built-in example backend under the alias `example`. Records stay in
//! `~/.local/state/gatepost`, unless `GATEPOST_POSTGRES_URL` is set: outside the working directory, in which backends
//! may write. The signing secret is stored beside the outbox, so that printed tokens remain valid across restarts until
//! they expire.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use uuid::Uuid;

use crate::auth::{Claims, mint};
use crate::cli::configuration::environment;
use crate::cli::database;
use crate::cli::output::{OutputError, print};
use crate::config::Config;
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
    all: String,
    echo: String,
}

/// Creates the data directory and the secret, and makes a configuration that `GATEPOST_*` variables can override.
///
/// # Errors
/// The directory or the secret cannot be written, or a variable is wrong.
pub(super) fn prepare() -> anyhow::Result<(Config, Quickstart)> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let dir = std::path::absolute(data_dir()?).context("cannot find the working directory")?;
    let secret_file = dir.join("quickstart.secret");
    let secret = secret(&secret_file).with_context(|| format!("cannot create the secret {}", secret_file.display()))?;
    let path = |path: &Path| toml::Value::String(path.display().to_string());
    let text = format!(
        r#"
[audit]
dir = {dir}

[backends.example]
command = [{program}, "example-backend"]

[roles.all]
allow = ["example/*"]

[roles.echo]
allow = ["example/echo"]

[[auth.keys]]
algorithm = "HS256"
issuer = "gatepost-quickstart"
secret_file = {secret_file}
"#,
        dir = path(&dir),
        program = path(&program),
        secret_file = path(&secret_file),
    );
    let config = Config::parse(&text, None, environment())
        .map_err(|faults| anyhow::anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    if !config.server.listen.ip().is_loopback() {
        bail!("the quickstart listens on loopback only; to listen on {} write a configuration", config.server.listen);
    }
    let token = |subject: &str, role: &str| {
        let claims = Claims {
            subject: subject.to_owned(),
            issuer: "gatepost-quickstart".to_owned(),
            audience: config.auth.audience.clone(),
            role_claim: config.auth.role_claim.clone(),
            roles: vec![role.to_owned()],
            scope: None,
            kid: None,
            valid_for: TOKEN_VALID,
        };
        mint(secret.as_bytes(), &claims).context("cannot mint a token")
    };
    let (all, echo) = (token("alice", "all")?, token("bob", "echo")?);
    let (dir, postgres) = (config.audit.dir.clone(), database::options(&config).is_some());
    Ok((config, Quickstart { program, dir, postgres, all, echo }))
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
    pub(super) fn print(&self, mcp: SocketAddr) -> Result<(), OutputError> {
        let Self { program, dir, postgres, all, echo } = self;
        let (program, dir) = (program.display(), dir.display());
        let kept = if *postgres { "delivered to Postgres" } else { "kept in the outbox (no Postgres configured)" };
        let query =
            if *postgres { format!("{program} audit query") } else { format!("{program} audit --dir {dir} query") };
        let call = |token: &str, tool: &str, arguments: &str| {
            format!(
                "  curl -s http://{mcp}/mcp/example -H 'Authorization: Bearer '{token} \\\n    \
                 -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\\n    \
                 -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\
                 \"params\":{{\"name\":\"{tool}\",\"arguments\":{arguments}}}}}'\n"
            )
        };
        print(&format!(
            "\nGatepost listens on http://{mcp}/mcp (all backends) and http://{mcp}/mcp/example.\n\
             Records are {kept}, in {dir}.\n\n\
             Two tokens, valid for a day. Alice may call every tool, Bob only echo:\n\n\
             export ALICE={all}\n\
             export BOB={echo}\n\n\
             A call that is allowed, and one that is denied:\n\n{allowed}\n{denied}\n\
             Both are in the trail:\n\n  {query}\n\n\
             Stop with Ctrl-C.\n\n",
            allowed = call("$ALICE", "add", "{\"a\":1,\"b\":2}"),
            denied = call("$BOB", "add", "{\"a\":1,\"b\":2}"),
        ))
    }
}
