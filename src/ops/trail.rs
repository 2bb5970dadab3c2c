//! Reads of the trail, from Postgres or from an outbox, for `gatepost audit` and the console.

use std::error::Error;

use serde::Serialize;
use uuid::Uuid;

use super::protocol::{Line, Question};
use super::read_log::TrailSource;
use super::record_ref::EpochSeq;
use super::rule::rule_text;
use crate::audit::query::{self, Confirmation, Denial, Effort, Filter, LIMIT_MAX, Summary};
use crate::audit::record::{AuditRecord, Digest, PolicyText};
use crate::audit::sink::{SinkError, postgres};

/// Most requests of one call that are shown. *Chosen*: a person answers fewer questions of a tool.
const RELATED_MAX: usize = 100;

/// Most records of one kind that are searched for a policy. *Chosen*: an epoch has fewer changes of its policy.
const POLICY_RECORDS_MAX: usize = 1000;

/// An error of any kind, with its sources.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Access to an outbox: of this process, through an admin socket, or of a dead gateway's directory.
pub trait OutboxAccess {
    /// The lines of the answer to `question`, without those of progress.
    fn ask(&mut self, question: Question) -> impl Future<Output = Result<Vec<Line>, BoxError>>;
}

/// Reads the trail.
#[derive(Debug)]
pub enum TrailReader<O> {
    /// From Postgres.
    Postgres(Box<postgres::Connection>),
    /// From an outbox.
    Outbox(O),
}

/// An error of reading the trail.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] SinkError),
    /// A query failed.
    #[error("cannot {operation}: {}{}", server_message(.error), .remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default())]
    Query {
        /// The operation that failed.
        operation: &'static str,
        /// The error.
        error: query::Error,
        /// The remedy, if it is known.
        remedy: Option<&'static str>,
    },
    /// The outbox cannot be read.
    #[error(transparent)]
    Outbox(#[from] BoxError),
}

/// The message of the server alone, without the place in its own source, or the error of the driver.
fn server_message(error: &query::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Everything about one call.
#[derive(Clone, Debug, Serialize)]
pub struct CallDetails {
    /// Its record.
    pub record: AuditRecord,
    /// The reason if the record is in quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// The rule that decided about it, as JSON or in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The records around it in its stream, itself included.
    pub neighbours: Vec<AuditRecord>,
    /// The requests of the same call, if it took several.
    pub same_call: Vec<AuditRecord>,
    /// The confirmations of checkpoints that cover it, by anchors, as the database has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confirmations: Vec<Confirmation>,
}

impl<O: OutboxAccess> TrailReader<O> {
    /// Connects to Postgres if it is configured; otherwise the trail is in `outbox`.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn open(postgres: Option<&postgres::Options>, outbox: O) -> Result<Self, TrailError> {
        Ok(match postgres {
            Some(options) => Self::Postgres(Box::new(postgres::connect(options).await?)),
            None => Self::Outbox(outbox),
        })
    }

    /// The store that is read.
    #[must_use]
    pub fn source(&self) -> TrailSource {
        match self {
            Self::Postgres(_) => TrailSource::Postgres,
            Self::Outbox(_) => TrailSource::Outbox,
        }
    }

    /// The newest matching records, oldest first.
    ///
    /// # Errors
    /// See [`TrailError`].
    pub async fn records(&mut self, filter: Filter) -> Result<Vec<AuditRecord>, TrailError> {
        match self {
            Self::Postgres(connection) => {
                query::query(connection, &filter).await.map_err(|error| failed("query audit_log", error))
            }
            Self::Outbox(outbox) => {
                let lines = outbox.ask(Question::Records { filter: Box::new(filter) }).await?;
                lines.into_iter().map(|line| line.try_into().map_err(|error| BoxError::from(error).into())).collect()
            }
        }
    }

    /// Counts of the matching records, over time and by the values of some columns.
    ///
    /// # Errors
    /// See [`TrailError`].
    pub async fn summary(&mut self, filter: &Filter) -> Result<Summary, TrailError> {
        if let Self::Postgres(connection) = self {
            return query::summary(connection, filter, Effort::PAGE)
                .await
                .map_err(|error| failed("count the records", error));
        }
        let filter = Filter { before: None, limit: LIMIT_MAX, ..filter.clone() };
        let records = self.records(filter.clone()).await?;
        Ok(query::summary_of(&records, &filter, records.len() < LIMIT_MAX))
    }

    /// The matching requests by caller, target and status, the most frequent first.
    ///
    /// # Errors
    /// See [`TrailError`].
    pub async fn denials(&mut self, filter: &Filter) -> Result<Vec<Denial>, TrailError> {
        if let Self::Postgres(connection) = self {
            return query::denials(connection, filter).await.map_err(|error| failed("count the refusals", error));
        }
        let records = self.records(Filter { limit: LIMIT_MAX, ..filter.clone() }).await?;
        Ok(query::denials_of(&records))
    }

    /// The quarantined records of the call or the position that `filter` names, and why each is there.
    ///
    /// # Errors
    /// See [`TrailError`].
    pub async fn quarantined(&mut self, filter: &Filter) -> Result<Vec<(AuditRecord, String)>, TrailError> {
        let Self::Postgres(connection) = self else { return Ok(Vec::new()) };
        query::quarantined(connection, filter).await.map_err(|error| failed("query audit_quarantine", error))
    }

    /// The last delivered position of each stream in Postgres: of all streams, or of those with a recent delivery.
    ///
    /// # Errors
    /// See [`TrailError`].
    pub async fn delivered_positions(&mut self, all: bool) -> Result<Vec<(Uuid, EpochSeq)>, TrailError> {
        let Self::Postgres(connection) = self else { return Ok(Vec::new()) };
        let positions = query::delivered_positions(connection, all).await;
        let positions = positions.map_err(|error| failed("read the cursors", error))?;
        Ok(positions.into_iter().map(|(id, epoch, seq)| (id, EpochSeq { epoch, seq })).collect())
    }

    /// Everything about the calls that `filter` selects, with neighbours up to `reach` positions away.
    ///
    /// # Errors
    /// See [`TrailError`].
    pub async fn call_details(&mut self, filter: &Filter, reach: u64) -> Result<Vec<CallDetails>, TrailError> {
        let mut found: Vec<_> =
            self.quarantined(filter).await?.into_iter().map(|(record, reason)| (record, Some(reason))).collect();
        found.extend(self.records(filter.clone()).await?.into_iter().map(|record| (record, None)));
        let mut calls = Vec::new();
        for (record, quarantined) in found {
            let neighbours = self.neighbours(&record, reach).await?;
            let same_call = self.same_call(&record).await?;
            let rule = self.rule(&record).await?;
            let confirmations = self.confirmations(&record).await?;
            calls.push(CallDetails { record, quarantined, rule, neighbours, same_call, confirmations });
        }
        Ok(calls)
    }

    async fn confirmations(&mut self, record: &AuditRecord) -> Result<Vec<Confirmation>, TrailError> {
        let Self::Postgres(connection) = self else { return Ok(Vec::new()) };
        let found = query::confirmations(connection, &record.position).await;
        found.map_err(|error| failed("read the checkpoints", error))
    }

    /// The rule that decided about the request, from the policy that the trail states at or before its record.
    async fn rule(&mut self, record: &AuditRecord) -> Result<Option<String>, TrailError> {
        let call = &record.entry.call;
        let (Some(decided_by), Some(digest)) = (&call.decided_by, call.policy_digest) else { return Ok(None) };
        let rule = self.policy(record, digest).await?.map(|policy| rule_text(&policy, decided_by));
        Ok(Some(match rule {
            Some(Some(rule)) => rule,
            Some(None) => "the policy in the trail has no such rule".to_owned(),
            None => "the policy is not in this trail".to_owned(),
        }))
    }

    /// The policy with this digest, as the epoch of `record` states it before that record.
    async fn policy(&mut self, record: &AuditRecord, digest: Digest) -> Result<Option<serde_json::Value>, TrailError> {
        let filter = |event: &str| Filter {
            gateway_id: Some(record.position.gateway_id.0),
            epoch: Some(record.position.epoch.0),
            method: Some(format!("gateway/{event}")),
            limit: POLICY_RECORDS_MAX,
            ..Filter::default()
        };
        let details = |found: &AuditRecord| {
            let is_before = found.position.seq < record.position.seq;
            found
                .entry
                .call
                .request_args
                .clone()
                .filter(|_| is_before && found.entry.call.policy_digest == Some(digest))
        };
        for event in ["config", "opened"] {
            for stated in self.records(filter(event)).await?.iter().rev().filter_map(details) {
                if let Some(policy) = PolicyText::from_details(digest, &stated, &[]) {
                    return Ok(Some(policy));
                }
                if !stated.contains("\"policy_parts\"") {
                    continue;
                }
                let parts: Vec<_> = self
                    .records(filter("policy"))
                    .await?
                    .iter()
                    .filter_map(|part| {
                        part.entry.call.request_args.clone().filter(|_| part.entry.call.policy_digest == Some(digest))
                    })
                    .collect();
                let parts: Vec<_> = parts.iter().map(String::as_str).collect();
                if let Some(policy) = PolicyText::from_details(digest, &stated, &parts) {
                    return Ok(Some(policy));
                }
            }
        }
        // The records that state it may be retired.
        let Self::Postgres(connection) = self else { return Ok(None) };
        let text = query::kept_policy(connection, digest).await.map_err(|error| failed("read the policy", error))?;
        let policy = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(policy.filter(|policy| PolicyText::new(policy).digest() == digest))
    }

    async fn neighbours(&mut self, record: &AuditRecord, reach: u64) -> Result<Vec<AuditRecord>, TrailError> {
        if reach == 0 {
            return Ok(Vec::new());
        }
        let EpochSeq { epoch, seq } = EpochSeq::of(record);
        let first = seq.saturating_sub(reach).max(1);
        let filter = Filter {
            gateway_id: Some(record.position.gateway_id.0),
            epoch: Some(epoch),
            after: Some((epoch, first - 1)),
            limit: usize::try_from(2 * reach + 1).unwrap_or(usize::MAX),
            ..Filter::default()
        };
        let mut found = self.records(filter).await?;
        found.retain(|record| record.position.seq.0 <= seq.saturating_add(reach));
        Ok(found)
    }

    /// The requests that belong together: a call, the questions that its backend asked, and its retries with answers.
    async fn same_call(&mut self, record: &AuditRecord) -> Result<Vec<AuditRecord>, TrailError> {
        let call = &record.entry.call;
        let origin = call.parent_id.unwrap_or(call.request_id).0;
        // A question may have been asked by one replica and answered at another.
        let filter = Filter { request_id: Some(origin), limit: 1, ..Filter::default() };
        let first = self.records(filter).await?;
        let seconds = origin.get_timestamp().map(|time| time.to_unix().0.cast_signed());
        let filter = Filter {
            parent_id: Some(origin),
            since_micros: seconds.map(|seconds| seconds.saturating_mul(1_000_000)),
            limit: RELATED_MAX,
            ..Filter::default()
        };
        let later = self.records(filter).await?;
        Ok(if later.is_empty() { Vec::new() } else { first.into_iter().chain(later).collect() })
    }
}

/// The error of a query, with what the caller can do.
pub(crate) fn failed(operation: &'static str, error: query::Error) -> TrailError {
    TrailError::Query { operation, remedy: query::remedy(&error), error }
}
