//! Third stage: the body is one valid message.

use crate::auth::Principal;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::core::Core;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;
use crate::mcp::envelope::{self, Incoming};

use super::identified::Identified;

/// A valid message of a known caller.
///
/// The members of the message, of `params` and of `params._meta` were read in one pass; a second pass checked depth and
/// repeated keys. No later stage parses the message again.
#[derive(Debug)]
pub struct Parsed<'a> {
    pub(super) core: &'a Core,
    pub(super) inbound: &'a InboundRequest,
    pub(super) principal: Principal,
    pub(super) incoming: Incoming<'a>,
}

impl<'a> Identified<'a> {
    /// Parses the body.
    ///
    /// # Errors
    /// A refusal with status `malformed`: the body could not be read, or the message breaks a rule of the envelope.
    pub fn parse(self, entry: &mut AuditEntry<'_>) -> Result<Parsed<'a>, Refusal> {
        let Self { core, inbound, principal } = self;
        let body = inbound.body.as_ref().map_err(|error| *error)?;
        let incoming = envelope::parse(body, core.body_bytes_max)?;
        if let Incoming::Message(message) = &incoming {
            entry.describe(message);
            if message.id.is_some() && core.is_audited(&message.method) {
                entry.trace = core.tracer.context(inbound.request_id, &inbound.headers, message.params().as_ref());
            }
        }
        Ok(Parsed { core, inbound, principal, incoming })
    }
}
