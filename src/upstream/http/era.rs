//! Which era an HTTP backend speaks: how it is found out, remembered, and doubted.
//!
//! *Spec*, "Versioning": a client remembers what it found out, and asks again where that fails. A backend that cannot be
//! reached may be another one when it comes back; one that was replaced unseen refuses what it is asked in the era of its
//! predecessor. Nothing is ever sent again because of that: whoever asks next is answered in the right era.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;

use crate::mcp::protocol::{
    Era, HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, PARSE_ERROR, UNSUPPORTED_VERSION,
};

use super::super::CallError;
use super::super::message::{self, DISCOVER};
use super::{Endpoint, Remote};

/// Longest time for the answer to `server/discover`. *Chosen*: as for a list; a client waits for it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Statuses that say nothing of what a backend speaks: they are of its guard, its load, or what stands before it.
const SAYS_NOTHING: [u16; 8] = [401, 403, 408, 425, 429, 502, 503, 504];

/// Statuses with which a server of the older era meets a request without a session. *Spec*: 400, 404 and 405. 422 is what
/// the official Rust SDK answered until its third version.
const REFUSES: [u16; 4] = [400, 404, 405, 422];

/// What is known of a backend's era.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<bool>>);

/// What a response says of the era in which its request was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is spoken, or nothing is said of it.
    #[default]
    None,
    /// It may be spoken no more.
    Some,
    /// It is spoken no more, or this conversation is over.
    Certain,
}

/// Whether a status says nothing of the era, whatever comes with it.
pub(super) fn says_nothing(status: StatusCode) -> bool {
    SAYS_NOTHING.contains(&status.as_u16())
}

/// Whether a status is one of a server that does not want to be talked to like this.
pub(in crate::upstream) fn refuses(status: u16) -> bool {
    REFUSES.contains(&status)
}

/// What a response to `method` of this status, with an error of this code where it is one of JSON-RPC, says of `era`. A
/// session of a client's has a state that is not thrown away for a mere suspicion.
pub(super) fn doubt(era: Era, is_session: bool, method: &str, status: StatusCode, code: Option<i32>) -> Doubt {
    if (era, method, code) == (Era::Modern, DISCOVER, Some(METHOD_NOT_FOUND)) && !says_nothing(status) {
        return Doubt::Certain; // *Spec*: every server of that era has it.
    }
    if !refuses(status.as_u16()) {
        return Doubt::None;
    }
    let is_modern = code.is_some_and(|code| (UNSUPPORTED_VERSION..=HEADER_MISMATCH).contains(&code));
    // What either era answers to a request that is wrong in itself.
    let is_common = matches!(code, Some(METHOD_NOT_FOUND | INVALID_PARAMS | INTERNAL_ERROR | PARSE_ERROR));
    match era {
        Era::Modern if code == Some(UNSUPPORTED_VERSION) => Doubt::Certain,
        Era::Modern if is_modern || is_common => Doubt::None,
        // A server that knows the older era has no such errors in it.
        Era::Legacy if is_modern => Doubt::Certain,
        Era::Legacy if is_session || is_common => Doubt::Some,
        Era::Modern | Era::Legacy => Doubt::Certain,
    }
}

impl Endpoint {
    /// Whether the stateless era is spoken, as far as is known.
    pub(in crate::upstream) fn is_modern(&self) -> Option<bool> {
        *self.known.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was known may be true no more: the next one who needs to know asks.
    pub(in crate::upstream) fn forget_era(&self) {
        if self.remember(None).is_some() {
            tracing::info!(backend = self.alias, "the backend's protocol is not certain any more");
        }
    }

    /// Whether the stateless era is spoken; asks where that is not known.
    ///
    /// # Errors
    /// [`CallError`]: it cannot be asked, or the answer says nothing of it. Nothing is remembered then.
    pub(in crate::upstream) async fn speaks_modern(self: &Arc<Self>) -> Result<bool, CallError> {
        match self.is_modern() {
            Some(known) => Ok(known),
            // Boxed: it is asked once, and every call's future has room for it.
            None => Box::pin(self.ask_era()).await,
        }
    }

    /// Asks which era is spoken, and remembers it.
    ///
    /// # Errors
    /// As for [`Endpoint::speaks_modern`]; what was known is known still.
    pub(super) async fn ask_era(self: &Arc<Self>) -> Result<bool, CallError> {
        let params = message::discover_params();
        let request = message::Request::new(DISCOVER, Some(&params));
        let asked = Arc::new(self.modern());
        let answer = tokio::time::timeout(PROBE_TIMEOUT, asked.ask_once(&request)).await;
        let speaks = match answer.unwrap_or(Err(CallError::TimedOut { after: PROBE_TIMEOUT })) {
            Ok(answer) => message::discovers_modern(&answer),
            Err(CallError::Http { status }) if refuses(status) => false,
            Err(error) => return Err(error),
        };
        if self.remember(Some(speaks)) != Some(speaks) {
            tracing::info!(backend = self.alias, modern = speaks, "the backend's protocol is known");
        }
        Ok(speaks)
    }

    fn remember(&self, modern: Option<bool>) -> Option<bool> {
        std::mem::replace(&mut *self.known.0.lock().unwrap_or_else(PoisonError::into_inner), modern)
    }
}

impl Remote {
    /// Whether the backend does not go on with it.
    pub(in crate::upstream) fn has_ended(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the backend does not go on with it.
    pub(in crate::upstream) async fn ended(&self) {
        self.closed.cancelled().await;
    }

    /// The backend does not go on with it: whoever asks next finds out how to talk to it.
    pub(super) fn give_up(&self) {
        if !self.closed.is_cancelled() {
            tracing::info!(backend = self.endpoint.alias, era = ?self.era, "the backend does not go on as it was known");
        }
        self.closed.cancel();
        self.endpoint.forget_era();
    }

    /// Finds out what is to become of a conversation whose era is in doubt.
    pub(super) async fn settle(&self, doubt: Doubt) {
        match doubt {
            Doubt::Certain => self.give_up(),
            // Only a change tells: one that speaks both eras answers the question as one that speaks the newer alone.
            Doubt::Some if self.endpoint.is_modern() == Some(false) => {
                if self.endpoint.ask_era().await.unwrap_or(false) {
                    self.give_up();
                }
            }
            Doubt::None | Doubt::Some => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_is_doubted_for_what_only_the_other_one_answers() {
        let own = |era, status: u16, code| doubt(era, false, "m", StatusCode::from_u16(status).unwrap(), code);
        let session = |status: u16, code| doubt(Era::Legacy, true, "m", StatusCode::from_u16(status).unwrap(), code);
        for status in [200, 202, 401, 403, 408, 410, 429, 500, 503] {
            for code in [None, Some(-32000), Some(-32022)] {
                for era in [Era::Legacy, Era::Modern] {
                    assert_eq!(own(era, status, code), Doubt::None, "{era:?} {status} {code:?}");
                }
            }
        }
        assert_eq!(doubt(Era::Modern, false, DISCOVER, StatusCode::OK, Some(-32601)), Doubt::Certain);
        for (status, code, of_modern, of_shared, of_session) in [
            // The official SDKs of the older era, asked without a session.
            (400, None, Doubt::Certain, Doubt::Certain, Doubt::Some),
            (400, Some(-32000), Doubt::Certain, Doubt::Certain, Doubt::Some),
            (400, Some(-32600), Doubt::Certain, Doubt::Certain, Doubt::Some),
            (404, Some(-32001), Doubt::Certain, Doubt::Certain, Doubt::Some),
            (405, None, Doubt::Certain, Doubt::Certain, Doubt::Some),
            (422, None, Doubt::Certain, Doubt::Certain, Doubt::Some),
            // A stateless server's own.
            (400, Some(-32020), Doubt::None, Doubt::Certain, Doubt::Certain),
            (400, Some(-32021), Doubt::None, Doubt::Certain, Doubt::Certain),
            (400, Some(-32022), Doubt::Certain, Doubt::Certain, Doubt::Certain),
            // Either's.
            (400, Some(-32602), Doubt::None, Doubt::Some, Doubt::Some),
            (404, Some(-32601), Doubt::None, Doubt::Some, Doubt::Some),
        ] {
            let got = (own(Era::Modern, status, code), own(Era::Legacy, status, code), session(status, code));
            assert_eq!(got, (of_modern, of_shared, of_session), "{status} {code:?}");
        }
    }
}
