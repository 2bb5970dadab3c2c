//! Sign-ins at the issuer that have begun: the browser is there, and has not come back yet.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::audit::record::Digest;
use crate::auth::openid_client::{Attempt, random};
use crate::gateway::call::refusal_windows::Network;

/// Longest time at the issuer. *Chosen*: a person looks for a second factor, and does not go to lunch.
pub(super) const PENDING_MAX: Duration = Duration::from_mins(10);

/// Most sign-ins that have begun. *Chosen*: far more than there are auditors; about 1 MiB.
const COUNT_MAX: usize = 4096;

/// Most sign-ins that have begun of one network; its oldest gives way. *Chosen*: those of other networks are kept while
/// one begins as many as it may.
const COUNT_OF_NETWORK_MAX: usize = 64;

/// The sign-ins that have begun, oldest first.
#[derive(Debug, Default)]
pub(super) struct PendingSignIns(Mutex<VecDeque<Pending>>);

#[derive(Debug)]
struct Pending {
    /// The digest of the state, so that the time of a look-up reveals nothing about it.
    state: Digest,
    /// The digest of the cookie of the browser.
    browser: Digest,
    nonce: String,
    verifier: String,
    network: Network,
    begun: Instant,
}

/// The secrets of a sign-in that its browser has brought back.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) nonce: String,
    pub(super) verifier: String,
}

impl PendingSignIns {
    /// Keeps a sign-in. Returns the value of the cookie that the browser must bring back: 244 random bits.
    pub(super) fn begin(&self, attempt: Attempt, addr: IpAddr) -> String {
        let (browser, network) = (random(), Network::of(addr));
        let pending = Pending {
            state: digest(&attempt.state),
            browser: digest(&browser),
            nonce: attempt.nonce,
            verifier: attempt.verifier,
            network,
            begun: Instant::now(),
        };
        let mut all = self.0.lock();
        all.retain(|pending| pending.begun.elapsed() < PENDING_MAX);
        // I6: bounded by count, each and in sum.
        let is_of_network = |pending: &Pending| pending.network == network;
        if all.iter().filter(|pending| is_of_network(pending)).count() >= COUNT_OF_NETWORK_MAX
            && let Some(oldest) = all.iter().position(is_of_network)
        {
            all.remove(oldest);
        }
        if all.len() >= COUNT_MAX {
            all.pop_front();
        }
        all.push_back(pending);
        browser
    }

    /// Takes the sign-in with this state, which cannot be taken again. `None` if there is none, if it has ended, or if
    /// the browser is another one.
    pub(super) fn take(&self, state: &str, browser: &str) -> Option<Returned> {
        let (state, browser) = (digest(state), digest(browser));
        let mut all = self.0.lock();
        let at = all.iter().position(|pending| pending.state == state)?;
        let pending = all.remove(at)?;
        let is_good = pending.browser == browser && pending.begun.elapsed() < PENDING_MAX;
        is_good.then_some(Returned { nonce: pending.nonce, verifier: pending.verifier })
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn begin(all: &PendingSignIns, addr: IpAddr) -> (String, String) {
        let attempt = Attempt::new();
        let state = attempt.state.clone();
        (state, all.begin(attempt, addr))
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_in_is_taken_once_in_time_and_by_its_browser() {
        let all = PendingSignIns::default();
        let (state, browser) = begin(&all, HOME);
        assert!(all.take("0", &browser).is_none());
        assert!(all.take(&state, &browser).is_some());
        assert!(all.take(&state, &browser).is_none(), "it was taken");
        let ((state, browser), (_, other)) = (begin(&all, HOME), begin(&all, HOME));
        assert!(all.take(&state, &other).is_none(), "another browser");
        assert!(all.take(&state, &browser).is_none(), "its state is known to others");
        let (state, browser) = begin(&all, HOME);
        tokio::time::advance(PENDING_MAX).await;
        assert!(all.take(&state, &browser).is_none(), "it took too long");
        begin(&all, HOME);
        assert_eq!(all.0.lock().len(), 1, "what has ended is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sign_ins_that_have_begun_are_bounded_by_network_and_in_sum() {
        let all = PendingSignIns::default();
        let first = begin(&all, IpAddr::from([192, 0, 2, 1]));
        let of_home: Vec<_> = (0..=COUNT_OF_NETWORK_MAX).map(|_| begin(&all, HOME)).collect();
        assert_eq!(all.0.lock().len(), 1 + COUNT_OF_NETWORK_MAX);
        let (oldest, newest) = (&of_home[0], &of_home[COUNT_OF_NETWORK_MAX]);
        assert!(all.take(&oldest.0, &oldest.1).is_none() && all.take(&newest.0, &newest.1).is_some());
        assert!(all.take(&first.0, &first.1).is_some(), "another network's is kept");
        for number in 0..66 {
            for _ in 0..COUNT_OF_NETWORK_MAX {
                begin(&all, IpAddr::from([10, 0, number, 1]));
            }
        }
        assert_eq!(all.0.lock().len(), COUNT_MAX);
    }
}
