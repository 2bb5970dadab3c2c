//! Sixth stage: the policy allows the request, and no limit is exceeded.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::SemaphorePermit;

use crate::audit::record::BackendCredential;
use crate::config::Pin;
use crate::gateway::answer::subscriptions::{self, Subscription};
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::caller_token;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::limits::{self, SESSION_COST, USELESS_SESSION_COST};
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::scope::Scope;
use crate::mcp::protocol::{HEADER_MISMATCH, PARAM_HEADER_PREFIX};
use crate::mcp::shared_text::SharedText;
use crate::rbac::{DEFAULT_RULE, Permit, TargetKind};
use crate::upstream::{Backend, UsedBackend};

use super::routed::{ANSWERS, Destination, LocalMethod, RoutedRequest, TargetRequest};

/// A request that the policy allows. It cannot be answered before its intent is stored:
///
/// ```compile_fail,E0599
/// # use gatepost::gateway::call::audit_entry::AuditEntry;
/// # use gatepost::gateway::dispatch::permitted::Permitted;
/// async fn skip_the_intent(permitted: Permitted<'_>, entry: &AuditEntry<'_>) {
///     permitted.answer(entry).await; // A method of Begun only.
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permitted request is begun"]
pub struct Permitted<'a> {
    pub(super) ctx: RequestContext<'a>,
    pub(super) grant: Grant,
    pub(super) slot: Option<Slot<'a>>,
}

/// The permission to answer a request, by its destination.
#[derive(Debug)]
pub(super) enum Grant {
    Local(LocalMethod),
    /// The permit, and the backend for which everything was decided.
    Target(Box<Permit>, UsedBackend),
    Subscription(Subscription),
    Extension(Arc<Backend>),
}

/// A call's share of the limits on open calls. Dropping it makes room for another call.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_principal_and_backend: limits::OpenCallGuard<'a>,
}

impl<'a> Slot<'a> {
    fn take(ctx: &RequestContext<'a>, backend: &str) -> Result<Self, Refusal> {
        // I6: the number of open calls is bounded.
        let of_all = ctx.core.calls.try_acquire();
        let of_all = of_all.map_err(|_| Refusal::rate_limited("too many calls are open", Duration::from_secs(1)))?;
        let own = ctx.core.limits.enter(&ctx.principal, backend, &ctx.rules)?;
        Ok(Self { _of_all: of_all, _of_principal_and_backend: own })
    }
}

impl<'a> RoutedRequest<'a> {
    /// Authorizes the request. This happens before any check whether the target exists, so that a denied caller does
    /// not learn which targets exist.
    ///
    /// # Errors
    /// A refusal with status `denied`, `rate_limited`, or `malformed` if the target does not exist.
    pub async fn permit(self, entry: &mut AuditEntry<'_>) -> Result<Permitted<'a>, Refusal> {
        let Self { mut ctx, destination } = self;
        let (grant, slot) = match destination {
            Destination::Local(method) => {
                if let LocalMethod::Initialize = method {
                    count_session(&ctx, entry);
                }
                if method.records_credentials(&ctx.inbound.scope) {
                    with_credentials(&mut ctx, entry).await?;
                }
                (Grant::Local(method), None)
            }
            Destination::Target(request) => {
                let (permit, backend, slot) = target(&mut ctx, &request, entry).await?;
                (Grant::Target(Box::new(permit), backend), Some(slot))
            }
            Destination::Subscription(request) => {
                (Grant::Subscription(subscriptions::permit(&ctx, request, entry).await?), None)
            }
            Destination::Extension(backend) => {
                let slot = extension(&ctx, &backend, entry)?;
                with_credential(&mut ctx, &backend, entry).await?;
                (Grant::Extension(backend), Some(slot))
            }
        };
        Ok(Permitted { ctx, grant, slot })
    }
}

/// Returns true if the request has a record.
fn is_recorded(ctx: &RequestContext<'_>) -> bool {
    let method = ctx.message.method.as_str();
    ctx.core.is_recorded(method) || method == "initialize"
}

/// Finds out with which credentials a request that is not for one tool, resource or prompt is made, for its record. At
/// the endpoint of one backend that is one credential, otherwise one for each backend.
///
/// # Errors
/// As for [`with_credential`].
async fn with_credentials(ctx: &mut RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Result<(), Refusal> {
    if !is_recorded(ctx) {
        return Ok(());
    }
    if ctx.inbound.scope != Scope::All {
        return match ctx.only_backend() {
            Some(backend) => with_credential(ctx, &backend, entry).await,
            None => Ok(()),
        };
    }
    let asked: Vec<_> = ctx.visible_backends().collect();
    let of_all = futures_util::future::join_all(asked.iter().map(|backend| credential_at(ctx, backend)));
    entry.credentials = Box::pin(of_all).await.into_iter().flatten().collect();
    Ok(())
}

/// The credential with which the request is made at `backend`, one of several. `None`: it has none, or there is none
/// within the time that the backend may delay the others.
async fn credential_at(ctx: &RequestContext<'_>, backend: &Backend) -> Option<BackendCredential> {
    let caller = ctx.caller_token(backend).ok()?;
    let name = backend.credential_name(caller.as_ref())?;
    let subject = tokio::time::timeout(backend.patience(), backend.credential_subject(caller.as_ref())).await.ok()?;
    Some(BackendCredential { backend: backend.alias().to_owned(), name, subject: subject.ok()? })
}

/// Finds out with which credential the request is made, for its record, and gets the token for it. If there is none,
/// the request is answered with the reason once its intent is stored.
///
/// # Errors
/// A refusal with status `denied`: the backend is called on behalf of callers, and this one has no token for that.
async fn with_credential(
    ctx: &mut RequestContext<'_>,
    backend: &Backend,
    entry: &mut AuditEntry<'_>,
) -> Result<(), Refusal> {
    if backend.credential_name(None).is_none() {
        return Ok(());
    }
    entry.sent = Some(Arc::clone(ctx.sent.get_or_insert_default()));
    let caller = ctx.caller_token(backend).map_err(|error| caller_token::refusal(entry, backend.alias(), &error))?;
    let mut subject = None;
    if backend.has_oauth() && is_recorded(ctx) {
        // Boxed: tokens are rare, and would make the future of every call larger.
        match Box::pin(ctx.interrupt.run(backend.credential_subject(caller.as_ref()))).await {
            Ok(found) => subject = found,
            Err(error) => {
                ctx.no_credential = Some(Box::new(error));
                return Ok(());
            }
        }
    }
    entry.credential = backend.credential_name(caller.as_ref()).map(|name| (name, subject));
    Ok(())
}

/// Counts the opening of a session in the caller's rate. It counts as more if the caller may use nothing: its session
/// leaves records all the same.
fn count_session(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) {
    let is_useful = ctx.visible_backends().next().is_some();
    if !is_useful {
        entry.record_little();
    }
    // I6: each session may start a child process at every backend.
    let cost = if is_useful { SESSION_COST } else { USELESS_SESSION_COST };
    ctx.core.limits.charge(&ctx.principal, cost, &ctx.rules);
}

async fn target<'a>(
    ctx: &mut RequestContext<'a>,
    request: &TargetRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<(Permit, UsedBackend, Slot<'a>), Refusal> {
    let TargetRequest { subject, params, .. } = request;
    let arguments = subject.arguments.as_deref();
    let answers = params.get(ANSWERS).map(SharedText::as_str);
    let policy = &ctx.rules.policy;
    let decision = policy.authorize(&ctx.principal, request.target(), params.clone(), arguments, answers);
    let permit = decision.map_err(|denied| {
        entry.caller = denied.caller;
        entry.decided_by = Some(denied.decided_by);
        Refusal::denied(denied.reason)
    })?;
    entry.caller = permit.caller().clone();
    entry.decided_by = Some(permit.decided_by().to_owned());
    if !request.is_listed {
        return Err(Refusal::unknown(subject.kind_name(), &subject.name, ctx.era));
    }
    let slot = Slot::take(ctx, permit.backend())?;
    let core = ctx.core;
    let Some(backend) = core.upstreams.used(permit.backend()) else {
        return Err(match ctx.inbound.scope {
            Scope::All => Refusal::unknown(subject.kind_name(), &subject.name, ctx.era),
            Scope::One(_) => Refusal::unknown_backend(),
        });
    };
    with_credential(ctx, &backend, entry).await?;
    // In a session the backend itself answers for unknown tools: its tools may differ from session to session.
    let is_looked_up = ctx.session.is_none() && subject.kind == TargetKind::Tool && backend.is_looked_up();
    // Without a credential there is no list either.
    let is_looked_up = is_looked_up && ctx.no_credential.is_none();
    if is_looked_up && backend.has_tool(permit.name(), || ctx.owner()).await == Some(false) {
        return Err(Refusal::unknown("tool", &subject.name, ctx.era));
    }
    if subject.kind == TargetKind::Tool {
        accepted(ctx, &backend, permit.name(), entry).await?;
    }
    let headers = &ctx.inbound.headers;
    if subject.kind == TargetKind::Tool
        && headers.keys().any(|name| name.as_str().starts_with(PARAM_HEADER_PREFIX))
        && let Some(header) = Box::pin(contradicted(ctx, &backend, permit.name(), arguments)).await
    {
        let message = format!("header {header} does not match the arguments");
        return Err(Refusal::malformed(StatusCode::BAD_REQUEST, HEADER_MISMATCH, message));
    }
    Ok((permit, backend, slot))
}

/// The name of the first `Mcp-Param-*` header of the request that contradicts the `arguments` of its call of `tool`.
async fn contradicted(
    ctx: &RequestContext<'_>,
    backend: &Arc<Backend>,
    tool: &str,
    arguments: Option<&str>,
) -> Option<String> {
    let caller = ctx.caller_token(backend).ok()?;
    backend.contradicted_header(tool, arguments, &ctx.inbound.headers, || ctx.owner(), caller.as_ref()).await
}

/// Finds out how the tool is defined, for the record, and that the definition is accepted.
///
/// # Errors
/// A refusal with status `denied`: the backend's `pin` refuses the tool as it is.
async fn accepted(
    ctx: &RequestContext<'_>,
    backend: &Backend,
    tool: &str,
    entry: &mut AuditEntry<'_>,
) -> Result<(), Refusal> {
    let alias = backend.alias();
    if !ctx.core.audit.is_enabled() && ctx.rules.pin(alias) != Pin::Refuse {
        return Ok(());
    }
    // Boxed: it would make the future of every call larger.
    entry.tool_digest = Box::pin(backend.tool_digest(tool, &ctx.owner())).await;
    if ctx.rules.is_accepted(alias, tool, entry.tool_digest) {
        return Ok(());
    }
    entry.decided_by = Some(format!("backends.{alias}.pin"));
    Err(Refusal::denied(format!(
        "the definition of tool {tool} of {alias} is not the accepted one: an operator has to review it and run gatepost \
         audit pins accept"
    )))
}

/// Authorizes a method that the gateway does not know. The method may have any effect, so the caller needs a role that
/// may use everything of the backend.
fn extension<'a>(ctx: &RequestContext<'a>, backend: &Backend, entry: &mut AuditEntry<'_>) -> Result<Slot<'a>, Refusal> {
    let rule = ctx.rules.policy.all_of(&ctx.principal.roles, backend.alias());
    let is_allowed = rule.is_some();
    entry.decided_by = Some(rule.unwrap_or_else(|| DEFAULT_RULE.to_owned()));
    if !is_allowed {
        let method = &ctx.message.method;
        return Err(Refusal::denied(format!("{method} is for roles that may use all of {}", backend.alias())));
    }
    Slot::take(ctx, backend.alias())
}
