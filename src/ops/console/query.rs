//! The console's questions to the trail, in Postgres and, for undelivered records or without Postgres, in the outbox.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::state::Console;
use super::viewer::Viewer;
use crate::audit::pipeline::Probe;
use crate::audit::query::{Denial, Filter, Summary};
use crate::audit::record::AuditRecord;
use crate::audit::sink::postgres;
use crate::evidence::proof::LogProof;
use crate::ops::proof::{ProofError, Signatures, proof};
use crate::ops::protocol::{Line, Question};
use crate::ops::read_log::{ReadCommand, ReadOrigin, TrailRead, TrailSource, record_read};
use crate::ops::trail::{BoxError, CallDetails, OutboxAccess, TrailError, TrailReader};
use crate::ops::{background, inspect};

/// Longest time for one question. *Chosen*: longer than a person waits for a page.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time for reading the outbox for one question. *Chosen*: less than [`QUESTION_TIMEOUT`], so that the viewer
/// sees the more precise error.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) found: Vec<T>,
    /// The store that was read.
    pub(super) from: TrailSource,
    /// The error of Postgres because of which the answer is from the outbox.
    pub(super) postgres_error: Option<String>,
}

/// The outbox of this process's gateway.
#[derive(Clone, Debug)]
pub(super) struct LiveOutbox(pub(super) Probe);

impl OutboxAccess for LiveOutbox {
    async fn ask(&mut self, question: Question) -> Result<Vec<Line>, BoxError> {
        let probe = self.0.clone();
        // If this future is dropped, the thread ends too.
        let cancelled = CancellationToken::new();
        let _guard = cancelled.clone().drop_guard();
        let reading = background::spawn(move || {
            let (mut lines, started) = (Vec::new(), Instant::now());
            let mut timed_out = false;
            let mut take = |line: Line| {
                timed_out = started.elapsed() > OUTBOX_TIMEOUT;
                if timed_out || cancelled.is_cancelled() {
                    return ControlFlow::Break(());
                }
                if !matches!(line, Line::Progress(_)) {
                    lines.push(line);
                }
                ControlFlow::Continue(())
            };
            let answered = inspect::answer(&question, probe.reader(), None, &mut take);
            answered.map_err(|error| format!("cannot read the outbox: {error}"))?;
            if timed_out {
                return Err(format!(
                    "reading the outbox took longer than {OUTBOX_TIMEOUT:?}: use gatepost outbox export"
                ));
            }
            Ok(lines)
        });
        let reading = reading.map_err(|error| format!("cannot start a thread to read the outbox: {error}"))?;
        let lines = reading.await.unwrap_or_else(|_| Err("the thread that read the outbox panicked".to_owned()));
        Ok(lines?)
    }
}

/// A question to the trail.
trait TrailQuery: Sync {
    /// The kind of things found.
    type Found;
    /// The command, as it is recorded.
    const COMMAND: ReadCommand;
    /// True if the outbox answers while Postgres cannot be read.
    const HAS_OTHER_SOURCE: bool = true;

    /// The number of records that an answer shows, or counts.
    fn rows(found: &[Self::Found]) -> u64 {
        found.len() as u64
    }

    fn filter(&self) -> &Filter;

    fn run(
        &self,
        trail: &mut TrailReader<LiveOutbox>,
    ) -> impl Future<Output = Result<Vec<Self::Found>, TrailError>> + Send;
}

/// The records that match.
struct RecordsQuery<'a>(&'a Filter);

impl TrailQuery for RecordsQuery<'_> {
    type Found = AuditRecord;
    const COMMAND: ReadCommand = ReadCommand::Query;

    fn filter(&self) -> &Filter {
        self.0
    }

    async fn run(&self, trail: &mut TrailReader<LiveOutbox>) -> Result<Vec<AuditRecord>, TrailError> {
        trail.records(self.0.clone()).await
    }
}

/// Counts of the records that match.
struct SummaryQuery<'a>(&'a Filter);

impl TrailQuery for SummaryQuery<'_> {
    type Found = Summary;
    const COMMAND: ReadCommand = ReadCommand::Count;
    // The counts of an outbox beside the records of Postgres would be wrong, whatever kept Postgres from counting.
    const HAS_OTHER_SOURCE: bool = false;

    fn rows(found: &[Summary]) -> u64 {
        found.iter().map(|summary| summary.total).sum()
    }

    fn filter(&self) -> &Filter {
        self.0
    }

    async fn run(&self, trail: &mut TrailReader<LiveOutbox>) -> Result<Vec<Summary>, TrailError> {
        Ok(vec![trail.summary(self.0).await?])
    }
}

/// The refused requests that match, by caller and target.
struct DenialsQuery<'a>(&'a Filter);

impl TrailQuery for DenialsQuery<'_> {
    type Found = Denial;
    const COMMAND: ReadCommand = ReadCommand::Count;

    fn rows(found: &[Denial]) -> u64 {
        found.iter().map(|denial| denial.count).sum()
    }

    fn filter(&self) -> &Filter {
        self.0
    }

    async fn run(&self, trail: &mut TrailReader<LiveOutbox>) -> Result<Vec<Denial>, TrailError> {
        trail.denials(self.0).await
    }
}

/// Everything about the calls that match, with neighbours up to `reach` positions away.
struct CallQuery<'a> {
    filter: &'a Filter,
    reach: u64,
}

impl TrailQuery for CallQuery<'_> {
    type Found = CallDetails;
    const COMMAND: ReadCommand = ReadCommand::Show;

    fn filter(&self) -> &Filter {
        self.filter
    }

    async fn run(&self, trail: &mut TrailReader<LiveOutbox>) -> Result<Vec<CallDetails>, TrailError> {
        trail.call_details(self.filter, self.reach).await
    }
}

/// A record with the reason if it is in quarantine, and its proof; or the reason why it cannot be proven.
pub(super) type Proven = Result<(AuditRecord, Option<String>, LogProof), String>;

/// The proof of the record that matches; nothing if there is none, or several.
struct ProofQuery<'a>(&'a Filter);

impl TrailQuery for ProofQuery<'_> {
    type Found = Proven;
    const COMMAND: ReadCommand = ReadCommand::Prove;

    fn filter(&self) -> &Filter {
        self.0
    }

    async fn run(&self, trail: &mut TrailReader<LiveOutbox>) -> Result<Vec<Proven>, TrailError> {
        let quarantined = trail.quarantined(self.0).await?;
        let mut found: Vec<_> = trail.records(self.0.clone()).await?.into_iter().map(|record| (record, None)).collect();
        found.extend(quarantined.into_iter().map(|(record, reason)| (record, Some(reason))));
        let [(record, reason)] = &found[..] else { return Ok(Vec::new()) };
        let TrailReader::Postgres(connection) = trail else {
            return Ok(vec![Err("proofs need the checkpoints in Postgres: set postgres.url".to_owned())]);
        };
        match proof(connection, record, Signatures::Witnessed).await {
            Ok((proof, _)) => Ok(vec![Ok((record.clone(), reason.clone(), proof))]),
            Err(ProofError::Trail(error)) => Err(error),
            Err(error) => Ok(vec![Err(error.to_string())]),
        }
    }
}

impl Console {
    /// The proof of the record that `filter` selects; records that `viewer` asked before it returns.
    pub(super) async fn proof(&self, viewer: &Viewer, filter: &Filter) -> Result<Answer<Proven>, String> {
        self.ask(viewer, ProofQuery(filter)).await
    }

    /// Searches the trail, and records that `viewer` did before it returns.
    pub(super) async fn search(&self, viewer: &Viewer, filter: &Filter) -> Result<Answer<AuditRecord>, String> {
        self.ask(viewer, RecordsQuery(filter)).await
    }

    /// Counts the records that match, and records that `viewer` asked before it returns.
    pub(super) async fn summary(&self, viewer: &Viewer, filter: &Filter) -> Result<Answer<Summary>, String> {
        self.ask(viewer, SummaryQuery(filter)).await
    }

    /// Refused requests by caller and target; records that `viewer` asked before it returns.
    pub(super) async fn denials(&self, viewer: &Viewer, filter: &Filter) -> Result<Answer<Denial>, String> {
        self.ask(viewer, DenialsQuery(filter)).await
    }

    /// Everything about the calls that `filter` selects; records that `viewer` asked before it returns.
    pub(super) async fn call_details(
        &self,
        viewer: &Viewer,
        filter: &Filter,
        reach: u64,
    ) -> Result<Answer<CallDetails>, String> {
        self.ask(viewer, CallQuery { filter, reach }).await
    }

    async fn ask<Q: TrailQuery>(&self, viewer: &Viewer, query: Q) -> Result<Answer<Q::Found>, String> {
        let Some(probe) = &self.sources.probe else {
            return Err("auditing is off: this gateway has no trail".to_owned());
        };
        // I6: the number of answers in memory is bounded.
        let permit = Arc::clone(&self.questions).acquire_owned();
        let answering = async {
            let _permit = permit.await;
            Box::pin(self.answer(LiveOutbox(probe.clone()), &query)).await
        };
        let late = |_| late(Q::COMMAND);
        let answer = tokio::time::timeout(QUESTION_TIMEOUT, answering).await.map_err(late)??;
        let (filter, rows) = (Some(query.filter().clone()), Q::rows(&answer.found));
        let read = TrailRead { command: Q::COMMAND, from: answer.from, filter, rows };
        let recorded = record_read(probe, &viewer.caller(), ReadOrigin::Console, &read).await;
        recorded
            .map_err(|error| format!("this read cannot be recorded (gateway/read), so nothing is shown: {error}"))?;
        Ok(answer)
    }

    /// Asks Postgres if it is configured, and the outbox otherwise or if Postgres fails.
    async fn answer<Q: TrailQuery>(&self, outbox: LiveOutbox, query: &Q) -> Result<Answer<Q::Found>, String> {
        let mut postgres_error = None;
        if self.postgres.is_some() {
            match ask_one(self.postgres.as_ref(), outbox.clone(), query).await {
                Ok((found, from)) => return Ok(Answer { found, from, postgres_error }),
                Err(error) if !Q::HAS_OTHER_SOURCE => return Err(error.to_string()),
                Err(error) => postgres_error = Some(error.to_string()),
            }
        }
        let (found, from) = ask_one(None, outbox, query).await.map_err(|error| error.to_string())?;
        Ok(Answer { found, from, postgres_error })
    }
}

/// The message that a question took too long, with what the viewer can do.
fn late(command: ReadCommand) -> String {
    let advice = match command {
        // It reads the hashes of all records between two checkpoints, which no filter makes fewer.
        ReadCommand::Prove => "the records around this one are many: use gatepost audit prove, which has no limit",
        _ => "narrow the search, for example by a time",
    };
    format!("no answer within {QUESTION_TIMEOUT:?}: {advice}")
}

async fn ask_one<Q: TrailQuery>(
    postgres: Option<&postgres::Options>,
    outbox: LiveOutbox,
    query: &Q,
) -> Result<(Vec<Q::Found>, TrailSource), TrailError> {
    let mut trail = TrailReader::open(postgres, outbox).await?;
    Ok((query.run(&mut trail).await?, trail.source()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_took_too_long_has_advice_that_fits_it() {
        assert_eq!(late(ReadCommand::Query), "no answer within 30s: narrow the search, for example by a time");
        let proof = late(ReadCommand::Prove);
        assert!(proof.contains("gatepost audit prove") && !proof.contains("narrow"), "{proof}");
    }
}
