//! Last stage: if the request is recorded, its record is stored and its answer released.

use std::sync::Arc;

use axum::http::{HeaderName, StatusCode};

use crate::audit::record::Outcome;
use crate::audit::{Receipt, Released, UnavailableError};
use crate::gateway::answer::relay::Sourced;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::message::reply::Reply;
use crate::gateway::session::Session;
use crate::mcp::protocol::{SESSION_HEADER, UPSTREAM_FAILED};
use crate::upstream::{Answer, AnswerKind};

use super::answered::{Answered, Unfinished};

/// A request that is over. Each stage is made from the previous one:
///
/// ```no_run
/// # use gatepost::gateway::call::audit_entry::AuditEntry;
/// # use gatepost::gateway::dispatch::permitted::Permitted;
/// # use gatepost::gateway::message::refusal::Refusal;
/// # use gatepost::gateway::message::reply::Reply;
/// async fn reply(permitted: Permitted<'_>, entry: &mut AuditEntry<'_>) -> Result<Reply, Refusal> {
///     Ok(permitted.begin(entry).await?.answer(entry).await.finish(entry).await.reply())
/// }
/// ```
///
/// and none can be skipped:
///
/// ```compile_fail,E0599
/// # use gatepost::gateway::dispatch::answered::Answered;
/// # use gatepost::gateway::message::reply::Reply;
/// fn skip_the_record(answered: Answered<'_>) -> Reply {
///     answered.reply() // A method of Finished only.
/// }
/// ```
#[derive(Debug)]
#[must_use = "a finished request has a reply"]
pub struct Finished<'a> {
    ctx: RequestContext<'a>,
    result: Result<Finish, UnavailableError>,
    opened: Option<Arc<Session>>,
}

#[derive(Debug)]
enum Finish {
    Released(Released<Answer>),
    Unrecorded(Sourced),
}

/// The error for a client if its backend asks for input and there is no room to record the questions.
const NO_ROOM: &str = "the backend asks for input, which cannot be recorded at the moment; call again later";

/// Makes room for the questions in `outcome`. Returns false if there is none.
fn makes_room(receipt: &mut Receipt, outcome: &Outcome) -> bool {
    outcome.response.as_ref().is_none_or(|questions| receipt.make_room(questions.len()))
}

impl<'a> Answered<'a> {
    /// Stores the record, counts the call and exports its trace span.
    pub async fn finish(self, entry: &AuditEntry<'_>) -> Finished<'a> {
        let Self { ctx, result, opened, started_at, slot } = self;
        let result = match result {
            Unfinished::Unrecorded(sourced) => Ok(Finish::Unrecorded(sourced)),
            Unfinished::Whole(answer) => entry.record(ctx.core, answer).await.map(Finish::Released),
            Unfinished::Intent(mut receipt, mut answer) => {
                let mut outcome = entry.outcome(ctx.core, &answer);
                if answer.kind() == AnswerKind::InputRequired && !makes_room(&mut receipt, &outcome) {
                    answer = Answer::refusal(UPSTREAM_FAILED, NO_ROOM, None);
                    outcome = entry.outcome(ctx.core, &answer);
                }
                let status = outcome.status;
                // I1: the reply is sent after the record has reached its level.
                // I2: the receipt ends in exactly one record. Nothing is logged between the answer and its record.
                let released = receipt.finish(outcome, answer).await;
                tracing::info!(
                    %status, method = ctx.message.method, subject = entry.caller.subject,
                    backend = entry.backend, tool = entry.target_name(), "call answered"
                );
                if let Some(backend) = &entry.backend {
                    ctx.core.counters.called(backend, status, started_at.elapsed());
                }
                entry.export_span(ctx.core, status, started_at.elapsed());
                released.map(Finish::Released)
            }
        };
        drop(slot);
        Finished { ctx, result, opened }
    }
}

impl Finished<'_> {
    /// The reply. If the record could not be stored, it is the error `audit unavailable`.
    #[must_use]
    pub fn reply(self) -> Reply {
        let Self { ctx, result, opened } = self;
        let reply = match result {
            Ok(Finish::Released(answer)) => Reply::released(StatusCode::OK, Some(&ctx.id), answer),
            Ok(Finish::Unrecorded(sourced)) => sourced.into_unrecorded_reply(&ctx),
            Err(unavailable) => Reply::unavailable(Some(&ctx.id), &unavailable),
        };
        let Some(session) = opened else { return reply };
        if reply.is_error() {
            ctx.core.sessions.close(&session.id, &ctx.principal, &ctx.inbound.scope).ok();
            return reply;
        }
        reply.with_header(HeaderName::from_static(SESSION_HEADER), &session.id)
    }
}
