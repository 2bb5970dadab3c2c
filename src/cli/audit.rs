//! `gatepost audit`: asks the trail, in Postgres or, store-only, in the outbox. One file a subcommand.

mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;
use uuid::Uuid;

use super::outbox::{ask, json_lines, records_table};
use super::{BAD_CONFIG, Source, blocking, complain, print};
use crate::audit::query::{self, Filter};
use crate::audit::record::{Status, Timestamp};
use crate::audit::sink::postgres;
use crate::config::Config;
use crate::ops::inspect::Question;

/// `gatepost audit`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The newest records that match, oldest first
    Query(Query),
    /// Check that every stream is whole and unchanged; exit code 1 with the faults if not
    Verify(verify::Args),
}

#[derive(Debug, clap::Args)]
struct Query {
    /// The token's subject
    #[arg(long)]
    who: Option<String>,
    /// The role
    #[arg(long)]
    role: Option<String>,
    /// The tool, without its backend
    #[arg(long)]
    tool: Option<String>,
    /// The backend
    #[arg(long)]
    backend: Option<String>,
    /// ok, `tool_error`, error, denied, ...
    #[arg(long)]
    status: Option<String>,
    /// tools/call, gateway/opened, ...
    #[arg(long)]
    method: Option<String>,
    /// Not older than this, as 90s, 2h or 7d
    #[arg(long, value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// The call
    #[arg(long)]
    request_id: Option<Uuid>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match args.source.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let query = match &args.command {
        Command::Query(query) => query,
        Command::Verify(verify) => return blocking(verify::run(&config, verify, args.source.json)),
    };
    if let Some(word) = query.status.as_deref().filter(|word| Status::from_word(word).is_none()) {
        let words = Status::ALL.map(Status::as_str).join(", ");
        complain(&format!("--status {word}: no such status; one of {words}"));
        return ExitCode::from(BAD_CONFIG);
    }
    blocking(answer(&config, query, args.source.json))
}

async fn answer(config: &Config, query: &Query, json: bool) -> anyhow::Result<()> {
    let filter = query.filter();
    let records = match &config.postgres.url {
        Some(url) => from_postgres(config, url, &filter).await?,
        None => ask(&config.audit.dir, &Question::Records { filter: Box::new(filter) }).await?,
    };
    Ok(print(&if json { json_lines(&records) } else { records_table(&records) })?)
}

async fn from_postgres(config: &Config, url: &str, filter: &Filter) -> anyhow::Result<Vec<Value>> {
    let mut connection = connect(config, url).await?;
    let records = query::query(&mut connection, filter).await.map_err(|error| explained("query audit_log", error))?;
    Ok(records.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

async fn connect(config: &Config, url: &str) -> anyhow::Result<postgres::Connection> {
    let options =
        postgres::Options { url: url.to_owned(), statement_timeout: config.postgres.statement_timeout, migrate: false };
    Ok(postgres::connect(&postgres::connect_options(&options)?).await?)
}

/// Postgres's error, with what to do about it where that is known.
fn explained(operation: &'static str, error: impl Into<query::Error>) -> anyhow::Error {
    let error = error.into();
    let remedy = query::remedy(&error);
    let error = anyhow::Error::new(error).context(operation);
    match remedy {
        Some(remedy) => anyhow::anyhow!("{error:#}; {remedy}"),
        None => error,
    }
}

impl Query {
    fn filter(&self) -> Filter {
        let since = |age: Duration| {
            let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            Timestamp::now().micros().saturating_sub(age)
        };
        Filter {
            subject: self.who.clone(),
            role: self.role.clone(),
            tool: self.tool.clone(),
            backend: self.backend.clone(),
            status: self.status.clone(),
            method: self.method.clone(),
            request_id: self.request_id,
            since_micros: self.since.map(since),
            limit: self.limit,
            ..Filter::default()
        }
    }
}
