//! The tokens that no key of a set verifies. A token is bad only if a fetch that began later did not find its key
//! either.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};

/// Most tokens that are remembered. *Chosen*: the clients that still use a withdrawn key, all at once, in 16 KiB.
const TOKENS_MAX: usize = 1024;

/// Tokens by their hash, each with the number of fetches that had begun when it was first seen; the oldest first.
#[derive(Default)]
pub(super) struct UnverifiedTokens {
    /// Its secret is random: no caller can choose a token with the hash of another one.
    hasher: RandomState,
    seen: VecDeque<(u64, u64)>,
}

impl UnverifiedTokens {
    /// The number of fetches that had begun when `token` was first seen, which is `begun` if that is now.
    pub(super) fn first_seen(&mut self, token: &str, begun: u64) -> u64 {
        let hash = self.hasher.hash_one(token);
        if let Some((_, first)) = self.seen.iter().find(|(known, _)| *known == hash) {
            return *first;
        }
        // I6: the number of tokens is bounded.
        if self.seen.len() == TOKENS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((hash, begun));
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i6_the_oldest_tokens_are_forgotten() {
        let mut tokens = UnverifiedTokens::default();
        let last = TOKENS_MAX as u64;
        for nth in 0..=last {
            assert_eq!(tokens.first_seen(&nth.to_string(), nth), nth);
        }
        assert_eq!(tokens.first_seen("1", 0), 1, "a later look changes nothing");
        assert_eq!((tokens.first_seen("0", 7), tokens.seen.len()), (7, TOKENS_MAX));
    }
}
