//! Where the trail is asked: Postgres where there is a URL, else the outbox.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::super::complain;
use super::super::outbox::ask;
use crate::audit::outbox::lock;
use crate::audit::query::{self, Filter};
use crate::audit::sink::postgres;
use crate::config::Config;
use crate::ops::admin;
use crate::ops::inspect::Question;
use crate::ops::reads::Read;
use crate::ops::trail::Source;

/// The trail, opened.
#[derive(Debug)]
pub(super) enum Trail {
    Postgres(Box<postgres::Connection>),
    Outbox(PathBuf),
}

impl Trail {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        Ok(match &config.postgres.url {
            Some(url) => Self::Postgres(Box::new(connect(config, url).await?)),
            None => Self::Outbox(config.audit.dir.clone()),
        })
    }
}

impl Source for Trail {
    type Error = anyhow::Error;

    async fn records(&mut self, filter: Filter) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Postgres(connection) => {
                let records = query::query(connection, &filter).await;
                let records = records.map_err(|error| explained("query audit_log", error))?;
                Ok(records.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
            }
            Self::Outbox(dir) => outbox(dir, &Question::Records { filter: Box::new(filter) }).await,
        }
    }

    async fn quarantined(&mut self, filter: &Filter) -> anyhow::Result<Vec<(Value, String)>> {
        let Self::Postgres(connection) = self else { return Ok(Vec::new()) };
        let found = query::quarantined(connection, filter).await;
        let found = found.map_err(|error| explained("query audit_quarantine", error))?;
        found.into_iter().map(|(record, why)| Ok((serde_json::to_value(record)?, why))).collect()
    }
}

/// Has the live gateway of `audit.dir` record the read, before anything is shown. Where none runs there, nobody can, and
/// standard error says so: who may only read Postgres cannot write a record, and no stream but a gateway's own may grow.
///
/// # Errors
/// A gateway runs there and does not record it: then nothing is to be shown.
pub(super) async fn recorded(
    config: &Config,
    command: &'static str,
    filter: Option<&Filter>,
    rows: usize,
) -> anyhow::Result<()> {
    let dir = &config.audit.dir;
    // A directory that may not be entered is another user's gateway.
    let live = lock::holder(dir).ok().flatten();
    if live.is_none() {
        let from = dir.display();
        complain(&format!("this read is not recorded: no gateway that runs in {from} (--dir) can be asked to"));
        return Ok(());
    }
    let from = if config.postgres.url.is_some() { "postgres" } else { "outbox" }.to_owned();
    let read = Read { command: command.to_owned(), from, filter: filter.cloned(), rows: rows as u64 };
    let noted = admin::each(dir, &Question::NoteRead { read: Box::new(read) }, &mut |_| Ok(())).await;
    noted.context("the live gateway did not record this read (gateway/read); nothing is shown")
}

/// Asks an outbox, which has to be there.
pub(super) async fn outbox(dir: &Path, question: &Question) -> anyhow::Result<Vec<Value>> {
    anyhow::ensure!(
        dir.is_dir(),
        "{} is no outbox directory, and postgres.url is not set: name the one by --dir, the other by --config or \
         GATEPOST_POSTGRES_URL",
        dir.display()
    );
    ask(dir, question).await
}

pub(super) async fn connect(config: &Config, url: &str) -> anyhow::Result<postgres::Connection> {
    let options =
        postgres::Options { url: url.to_owned(), statement_timeout: config.postgres.statement_timeout, migrate: false };
    Ok(postgres::connect(&postgres::connect_options(&options)?).await?)
}

/// Postgres's error, with what to do about it where that is known.
pub(super) fn explained(operation: &'static str, error: query::Error) -> anyhow::Error {
    let remedy = query::remedy(&error);
    let error = anyhow::Error::new(error).context(operation);
    match remedy {
        Some(remedy) => anyhow::anyhow!("{error:#}; {remedy}"),
        None => error,
    }
}
