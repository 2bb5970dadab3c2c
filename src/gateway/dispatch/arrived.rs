//! Third stage: the whole body has arrived.

use crate::auth::Principal;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::core::Core;
use crate::gateway::message::body::BodyError;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;
use crate::mcp::shared_text::SharedText;

use super::identified::Identified;

/// A request of a known caller whose body has arrived, within the limits.
#[derive(Debug)]
pub struct Arrived<'a> {
    pub(super) core: &'a Core,
    pub(super) inbound: &'a InboundRequest,
    pub(super) principal: Principal,
    pub(super) body: &'a SharedText,
}

impl<'a> Identified<'a> {
    /// Reads the body, once there is room for it.
    ///
    /// # Errors
    /// A refusal with status `malformed`: the head is not valid, or the body is too large, incomplete or not UTF-8;
    /// `rate_limited`: there is no room.
    pub async fn read(self, entry: &mut AuditEntry<'_>) -> Result<Arrived<'a>, Refusal> {
        let Self { core, inbound, principal, mut body } = self;
        let read = match inbound.head {
            // I6: what cannot be a message is not read.
            Err(error) => Err(Refusal::from(error)),
            Ok(()) => unless_given_up(inbound, body.read(&principal, &core.bodies, core.body_bytes_max)).await,
        };
        match read {
            Ok(text) => Ok(Arrived { core, inbound, principal, body: inbound.body.get_or_init(|| text) }),
            Err(refusal) => {
                entry.describe_unread(core, body).await;
                Err(refusal)
            }
        }
    }
}

/// The body that `read` reads, unless it is late and its connection gives way to another.
async fn unless_given_up(
    inbound: &InboundRequest,
    read: impl Future<Output = Result<SharedText, BodyError>>,
) -> Result<SharedText, Refusal> {
    let Some(place) = &inbound.place else { return Ok(read.await?) };
    // I6: a caller that sends no body keeps no place from others.
    let awaited = place.await_body();
    tokio::select! {
        biased;
        read = read => Ok(read?),
        () = awaited.given_up() => Err(BodyError::Incomplete.into()),
    }
}
