//! First stage: the request's `Host` and `Origin` are allowed.

use crate::gateway::call::core::Core;
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::{HeadError, InboundRequest};

/// A request whose `Host` and `Origin` are allowed. Its caller is not known yet.
#[derive(Debug)]
pub struct Received<'a> {
    pub(super) core: &'a Core,
    pub(super) inbound: &'a InboundRequest,
    pub(super) body: UnreadBody,
}

impl<'a> Received<'a> {
    /// Checks `Host` and `Origin`. Nothing of the body is read.
    ///
    /// # Errors
    /// A refusal with status `malformed` (HTTP 403). Other errors of the head are refused by [`super::arrived`], after
    /// the caller is known.
    pub(super) fn new(core: &'a Core, inbound: &'a InboundRequest, body: UnreadBody) -> Result<Self, Refusal> {
        match inbound.head {
            Err(error @ (HeadError::Host | HeadError::Origin)) => Err(error.into()),
            _ => Ok(Self { core, inbound, body }),
        }
    }
}
