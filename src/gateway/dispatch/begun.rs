//! Seventh stage: the intent of a recorded request is stored.

use std::time::Instant;

use crate::audit::Receipt;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::message::refusal::Refusal;
use crate::rbac::Target;

use super::permitted::{Grant, Permitted, Slot};
use super::routed::LocalMethod;

/// A request that may be answered now. Its answer cannot be sent before its record is stored:
///
/// ```compile_fail,E0599
/// # use gatepost::gateway::dispatch::begun::Begun;
/// # use gatepost::gateway::message::reply::Reply;
/// fn skip_the_record(begun: Begun<'_>) -> Reply {
///     begun.reply() // A method of Finished only.
/// }
/// ```
#[derive(Debug)]
#[must_use = "a request that was begun is answered"]
pub struct Begun<'a> {
    pub(super) ctx: RequestContext<'a>,
    pub(super) grant: Grant,
    pub(super) recording: Recording,
    pub(super) started_at: Instant,
    pub(super) slot: Option<Slot<'a>>,
}

/// The form in which a request is recorded.
#[derive(Debug)]
pub(super) enum Recording {
    /// The request is not recorded: `audit.methods` does not name its method.
    None,
    /// In one piece with its answer, as an event of the gateway.
    Whole,
    /// The intent is stored. The receipt ends in exactly one record, however the request ends.
    Intent(Box<Receipt>),
}

impl<'a> Permitted<'a> {
    /// Stores the intent, if requests of this method are recorded.
    ///
    /// # Errors
    /// A refusal with status `audit_unavailable`: the intent cannot be stored; with `malformed`: it is too large.
    pub async fn begin(self, entry: &AuditEntry<'_>) -> Result<Begun<'a>, Refusal> {
        let Self { ctx, grant, slot } = self;
        let started_at = Instant::now();
        let recording = match &grant {
            Grant::Local(LocalMethod::Initialize) => {
                // Its record is made with its answer; whether it fits is known now.
                entry.intent(ctx.core)?;
                Recording::Whole
            }
            Grant::Extension(_) => intent(&ctx, None, entry).await?,
            _ if !ctx.core.is_audited(&ctx.message.method) => Recording::None,
            Grant::Target(permit, _) => {
                let target = Target { kind: permit.kind(), backend: permit.backend(), name: permit.name() };
                intent(&ctx, Some(target), entry).await?
            }
            Grant::Local(_) | Grant::Subscription(_) => intent(&ctx, None, entry).await?,
        };
        Ok(Begun { ctx, grant, recording, started_at, slot })
    }
}

async fn intent(
    ctx: &RequestContext<'_>,
    target: Option<Target<'_>>,
    entry: &AuditEntry<'_>,
) -> Result<Recording, Refusal> {
    let (audit, call) = (&ctx.core.audit, entry.intent(ctx.core)?);
    // I1: the intent reaches its level before the request is forwarded, or nothing is forwarded.
    let begun = if target.is_some_and(|target| ctx.rules.continue_for.matches(target)) {
        audit.begin_or_continue(call).await
    } else {
        audit.begin(call).await
    };
    begun.map(|receipt| Recording::Intent(Box::new(receipt))).map_err(|cause| Refusal::unaudited(&cause))
}
