//! The number of open streams of each principal: the streams of sessions that a GET opens, and subscriptions. Each
//! occupies a connection for as long as its client wants.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::auth::Principal;
use crate::gateway::message::refusal::Refusal;

/// The part of all connections that one principal's streams may occupy. *Chosen*: four principals are needed to take
/// all places.
const CONNECTIONS_PART: usize = 4;

/// The issuer and subject of a principal.
type PrincipalKey = (String, String);

/// The open streams of each principal. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamCounts(Arc<Mutex<HashMap<PrincipalKey, usize>>>);

/// Counts one stream as open until dropped.
#[derive(Debug)]
pub(crate) struct OpenStreamGuard {
    counts: StreamCounts,
    principal: PrincipalKey,
}

/// The principal has as many streams as it may have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many open streams of {subject} (limit {max}): retry when one ends")]
pub(crate) struct TooManyStreamsError {
    subject: String,
    max: usize,
}

impl From<TooManyStreamsError> for Refusal {
    fn from(error: TooManyStreamsError) -> Self {
        // *Chosen*: the end of a stream cannot be predicted; long enough to prevent a busy loop.
        Self::rate_limited(error.to_string(), Duration::from_secs(1))
    }
}

impl StreamCounts {
    /// Counts one more stream of `principal`, which may have `own_max`, and a quarter of `connections_max`.
    ///
    /// # Errors
    /// [`TooManyStreamsError`]; the stream is not counted.
    pub(crate) fn open(
        &self,
        principal: &Principal,
        own_max: usize,
        connections_max: usize,
    ) -> Result<OpenStreamGuard, TooManyStreamsError> {
        // I6: the number of streams of a principal is bounded.
        let max = own_max.min(connections_max / CONNECTIONS_PART).max(1);
        let key = (principal.issuer.clone(), principal.subject.clone());
        let mut counts = self.0.lock();
        let open = counts.entry(key.clone()).or_default();
        if *open >= max {
            return Err(TooManyStreamsError { subject: principal.subject.clone(), max });
        }
        *open += 1;
        Ok(OpenStreamGuard { counts: self.clone(), principal: key })
    }
}

impl Drop for OpenStreamGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(open) = counts.get_mut(&self.principal) {
            *open -= 1;
            if *open == 0 {
                counts.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::auth::credential::Credential;

    use super::*;

    #[test]
    fn i6_streams_of_a_principal_are_bounded_and_ended_ones_do_not_count() {
        let counts = StreamCounts::default();
        let [ann, bob] = ["ann", "bob"].map(|subject| Principal {
            subject: subject.to_owned(),
            issuer: "i".to_owned(),
            token_id: None,
            roles: Vec::new(),
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        });
        let open = |principal: &Principal| counts.open(principal, 3, 4096);
        let mut anns: Vec<_> = (0..3).map(|_| open(&ann).unwrap()).collect();
        assert_eq!(open(&ann).unwrap_err(), TooManyStreamsError { subject: "ann".to_owned(), max: 3 });
        let bobs = open(&bob).unwrap();
        anns.pop();
        anns.push(open(&ann).unwrap());
        // However few connections there are, one principal takes a quarter of them at most.
        assert_eq!(counts.open(&bob, 64, 4).unwrap_err().max, 1);
        drop((anns, bobs));
        assert!(counts.0.lock().is_empty());
    }
}
