//! Where the console reads the trail: Postgres, and what is not delivered yet, or store-only all of it, in the outbox.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Console;
use super::entry::Reader;
use crate::audit::pipeline::Probe;
use crate::audit::query::{self, Filter};
use crate::audit::sink::postgres;
use crate::ops::background;
use crate::ops::inspect::{self, Question};
use crate::ops::reads::{self, Read};
use crate::ops::trail::Source;

/// How long one question may take. *Chosen*: longer than one person waits for a page.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one question may read the outbox. *Chosen*: within [`ANSWER_TIMEOUT`], so that it says so itself.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer, and where it is from.
#[derive(Debug)]
pub(super) struct Answer {
    /// As asked.
    pub(super) values: Vec<Value>,
    /// `postgres` or `outbox`.
    pub(super) from: &'static str,
    /// Why it is not from where it should be.
    pub(super) instead: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Records.
    Query,
    /// Everything about a call, with so many neighbours to each side.
    Show(u64),
}

/// Where it is read.
enum Place {
    Postgres(Box<postgres::Connection>),
    Outbox(Probe),
}

impl Source for Place {
    type Error = String;

    async fn records(&mut self, filter: Filter) -> Result<Vec<Value>, String> {
        match self {
            Self::Postgres(connection) => {
                let records = query::query(connection, &filter).await;
                let records = records.map_err(|error| explained("query audit_log", &error))?;
                Ok(records.iter().map(|record| serde_json::to_value(record).unwrap_or_default()).collect())
            }
            Self::Outbox(probe) => outbox(probe.clone(), Question::Records { filter: Box::new(filter) }).await,
        }
    }

    async fn quarantined(&mut self, filter: &Filter) -> Result<Vec<(Value, String)>, String> {
        let Self::Postgres(connection) = self else { return Ok(Vec::new()) };
        let found = query::quarantined(connection, filter).await;
        let found = found.map_err(|error| explained("query audit_quarantine", &error))?;
        Ok(found.into_iter().map(|(record, why)| (serde_json::to_value(record).unwrap_or_default(), why)).collect())
    }
}

fn explained(operation: &str, error: &query::Error) -> String {
    let remedy = query::remedy(error).map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("cannot {operation}: {error}{remedy}")
}

/// Asks the live outbox, on a thread that may block.
pub(super) async fn outbox(probe: Probe, question: Question) -> Result<Vec<Value>, String> {
    // Whoever asked may be gone: the thread then ends too.
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    let reading = background::spawn(move || {
        let (mut lines, begun) = (Vec::new(), Instant::now());
        let mut late = false;
        let mut take = |line: Value| {
            if gone.is_cancelled() {
                return ControlFlow::Break(());
            }
            if begun.elapsed() > OUTBOX_TIMEOUT {
                late = true;
                return ControlFlow::Break(());
            }
            if line.get("progress").is_none() {
                lines.push(line);
            }
            ControlFlow::Continue(())
        };
        let answered = inspect::answer(&question, probe.reader(), None, &mut take);
        answered.map_err(|error| format!("cannot read the outbox: {error}"))?;
        if late {
            return Err(format!("the outbox was not read within {OUTBOX_TIMEOUT:?}: use gatepost outbox export"));
        }
        Ok(lines)
    });
    reading
        .map_err(|error| format!("no thread to read the outbox with: {error}"))?
        .await
        .unwrap_or_else(|_| Err("the answer could not be made".to_owned()))
}

impl Console {
    /// Asks, and has the gateway record that `reader` did before the answer is given away.
    pub(super) async fn ask(&self, reader: &Reader, ask: Ask, filter: &Filter) -> Result<Answer, String> {
        let Some(probe) = &self.0.sources.probe else {
            return Err("auditing is off: this gateway keeps no trail".to_owned());
        };
        // I6: so many answers are in memory at most.
        let permit = Arc::clone(&self.0.questions).acquire_owned();
        let asked = async {
            let _permit = permit.await;
            Box::pin(self.found(probe, ask, filter)).await
        };
        let late = |_| format!("no answer within {ANSWER_TIMEOUT:?}: narrow the search, as by a time");
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(late)??;
        let command = if ask == Ask::Query { "query" } else { "show" }.to_owned();
        let rows = answer.values.len() as u64;
        let read = Read { command, from: answer.from.to_owned(), filter: Some(filter.clone()), rows };
        let noted = reads::note_by(probe, &reader.caller(), ("via", json!("console")), &read).await;
        noted
            .map_err(|error| format!("nothing is shown, since this read cannot be recorded (gateway/read): {error}"))?;
        Ok(answer)
    }

    async fn found(&self, probe: &Probe, ask: Ask, filter: &Filter) -> Result<Answer, String> {
        let mut instead = None;
        if let Some(options) = &self.0.postgres {
            let connected = match postgres::connect_options(options) {
                Ok(options) => postgres::connect(&options).await,
                Err(error) => Err(error),
            };
            let answered = match connected {
                Ok(connection) => answered(&mut Place::Postgres(Box::new(connection)), ask, filter).await,
                Err(error) => Err(error.to_string()),
            };
            match answered {
                Ok(values) => return Ok(Answer { values, from: "postgres", instead }),
                Err(error) => instead = Some(error),
            }
        }
        let values = answered(&mut Place::Outbox(probe.clone()), ask, filter).await?;
        Ok(Answer { values, from: "outbox", instead })
    }
}

async fn answered(place: &mut Place, ask: Ask, filter: &Filter) -> Result<Vec<Value>, String> {
    match ask {
        Ask::Query => place.records(filter.clone()).await,
        Ask::Show(reach) => crate::ops::trail::calls(place, filter, reach).await,
    }
}
