//! Fourth stage: the body is one valid message.

use crate::auth::Principal;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::core::Core;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;
use crate::mcp::envelope::{self, Incoming};
use crate::mcp::shared_text::SharedText;

use super::arrived::Arrived;

/// A valid message of a known caller.
///
/// The members of the message, of `params` and of `params._meta` were read in one pass; a second pass checked depth and
/// repeated keys. No later stage parses the message again.
#[derive(Debug)]
pub struct Parsed<'a> {
    pub(super) core: &'a Core,
    pub(super) inbound: &'a InboundRequest,
    pub(super) principal: Principal,
    pub(super) body: &'a SharedText,
    pub(super) incoming: Incoming<'a>,
}

impl<'a> Arrived<'a> {
    /// Parses the body.
    ///
    /// # Errors
    /// A refusal with status `malformed`: the message breaks a rule of the envelope.
    pub fn parse(self, entry: &mut AuditEntry<'_>) -> Result<Parsed<'a>, Refusal> {
        let Self { core, inbound, principal, body } = self;
        let incoming = envelope::parse_text(body).inspect_err(|_| {
            entry.describe_as(envelope::hint(body.as_bytes(), true));
        })?;
        if let Incoming::Message(message) = &incoming {
            entry.describe(message);
            if message.id.is_some() && core.is_audited(&message.method) {
                entry.trace = core.tracer.context(inbound.request_id, &inbound.headers, message.params().as_ref());
            }
        }
        Ok(Parsed { core, inbound, principal, body, incoming })
    }
}
