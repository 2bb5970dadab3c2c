//! The rate of sign-ins: of each network, and of all together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::gateway::call::refusal_windows::Network;
use crate::gateway::call::token_bucket::{BucketSize, TokenBucket};

/// Sign-ins from one network. *Chosen*: one a second, and sixty at once; people sign in a few times a day, and a proxy
/// joins them.
const OF_NETWORK: BucketSize = BucketSize { tokens: 60, period: Duration::from_secs(1) };

/// Sign-ins from all networks together. *Chosen*: what a hundred networks may try in the long run, so that strangers
/// of a few networks cannot keep others out; a signature takes a fraction of the 10 ms.
const OF_ALL: BucketSize = BucketSize { tokens: 1000, period: Duration::from_millis(10) };

/// The rate of sign-ins. The number of networks is bounded (I6) by the sign-ins of all that are accepted in the time in
/// which a network's bucket fills.
#[derive(Debug)]
pub(super) struct SignInLimits(Mutex<State>);

#[derive(Debug)]
struct State {
    all: TokenBucket,
    networks: HashMap<Network, TokenBucket>,
}

impl SignInLimits {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { all: TokenBucket::full(Instant::now()), networks: HashMap::new() }))
    }

    /// Counts a sign-in from `addr`.
    ///
    /// # Errors
    /// The time after which one is accepted; it was not counted.
    pub(super) fn count(&self, addr: IpAddr) -> Result<(), Duration> {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.networks.retain(|_, bucket| !bucket.is_full(now));
        let network = Network::of(addr);
        let mut bucket = state.networks.get(&network).copied().unwrap_or_else(|| TokenBucket::full(now));
        bucket.take(OF_NETWORK, now)?;
        state.all.take(OF_ALL, now)?;
        state.networks.insert(network, bucket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(limits: &SignInLimits, network: u8, count: usize) -> usize {
        let addr = IpAddr::from([10, 0, network, 1]);
        (0..count).filter(|_| limits.count(addr).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn i6_sign_ins_are_limited_by_network_and_in_sum() {
        let limits = SignInLimits::new();
        assert_eq!(accepted(&limits, 0, 300), 60);
        assert_eq!(accepted(&limits, 1, 1), 1, "another network has a rate of its own");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(accepted(&limits, 0, 10), 1);
        tokio::time::advance(Duration::from_mins(2)).await;
        let all: usize = (0..=255).map(|network| accepted(&limits, network, 10)).sum();
        assert_eq!(all, 1000);
        assert_eq!(limits.0.lock().networks.len(), 100, "a refused sign-in takes no memory");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((accepted(&limits, 0, 1), limits.0.lock().networks.len()), (1, 1), "full buckets are forgotten");
    }
}
