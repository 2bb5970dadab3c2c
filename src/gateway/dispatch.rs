//! The stages of a client's message in the gateway.
//!
//! | stage | establishes | refuses |
//! | --- | --- | --- |
//! | [`received`] | `Host` and `Origin` | requests that a browser was tricked into |
//! | [`identified`] | the principal | callers without a valid token |
//! | [`arrived`] | the whole body, in room that is bounded | bodies that are too large, incomplete or without room |
//! | [`parsed`] | the message; the members of `params` are found once | messages that break a rule |
//! | [`routed`] | protocol era, session, backend and target | what does not exist or contradicts itself |
//! | [`permitted`] | the policy's decision, and room for the call | what the policy denies, and calls over a limit |
//! | [`begun`] | the intent, stored | calls that cannot be audited |
//! | [`answered`] | the answer of the backend, or the gateway's own | - |
//! | [`finished`] | the record, stored, and the reply | - |
//!
//! Each stage is a type that only the previous stage can make, so no stage can be skipped. HTTP and stdio, both
//! protocol eras, and methods that the gateway answers itself pass the same stages. A message is handled in a task of
//! its own: a client that hangs up loses its reply, never the record.

pub mod answered;
pub mod arrived;
pub mod begun;
pub mod finished;
pub mod identified;
pub mod parsed;
pub mod permitted;
pub mod received;
pub mod routed;
pub mod session_http;
pub(crate) mod stream_offer;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::core::Core;
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::InboundRequest;

use received::Received;
use routed::Routed;
use stream_offer::{OpenedStream, StreamOffer};

/// Handles one message and returns its reply. If the request gets a stream, it is sent to `offer`.
pub(crate) async fn serve(
    core: Arc<Core>,
    inbound: InboundRequest,
    body: UnreadBody,
    offer: oneshot::Sender<OpenedStream>,
) -> Reply {
    let mut entry = AuditEntry::new(core.rules(), &inbound);
    let mut offer = StreamOffer::new(offer);
    let result = Box::pin(pass(&core, &inbound, body, &mut entry, &mut offer)).await;
    let reply = entry.conclude(&core, result).await;
    offer.end(&reply);
    reply.with_request_id(inbound.request_id)
}

/// Takes a message through all stages.
///
/// # Errors
/// The [`Refusal`] of the first stage that refuses; `entry` has what the earlier stages found out.
async fn pass<'a>(
    core: &'a Core,
    inbound: &'a InboundRequest,
    body: UnreadBody,
    entry: &mut AuditEntry<'a>,
    offer: &mut StreamOffer,
) -> Result<Reply, Refusal> {
    let received = Received::new(core, inbound, body)?;
    let identified = received.identify(entry).await?;
    let arrived = identified.read(entry).await?;
    let parsed = arrived.parse(entry)?;
    let request = match parsed.route(entry, offer).await? {
        Routed::Request(request) => request,
        Routed::OneWay(message) => return message.deliver().await,
    };
    let permitted = request.permit(entry).await?;
    let begun = permitted.begin(entry).await?;
    let answered = begun.answer(entry).await;
    let finished = answered.finish(entry).await;
    Ok(finished.reply())
}

#[cfg(test)]
mod tests;
