//! The tokens on behalf of callers.

use std::convert::Infallible;
use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::audit::record::Digest;
use crate::auth::validity::Validity;

use super::caller_token::CallerToken;
use super::token_cell::TokenCell;

/// Most callers' tokens of which the exchanged one is kept. *Chosen*: a few KiB each; one more is exchanged again.
const TOKENS_MAX: usize = 4096;

/// The principal, and the digest of its token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    issuer: String,
    subject: String,
    digest: [u8; 32],
}

/// The exchanged tokens for one backend, each by the principal and the digest of the token that it was issued for.
#[derive(Debug)]
pub(super) struct ExchangedTokens(Cache<Key, (Validity, Arc<TokenCell>)>);

impl Default for ExchangedTokens {
    fn default() -> Self {
        Self(Cache::new(TOKENS_MAX)) // I6: bounded; one entry is evicted for each that is added.
    }
}

impl ExchangedTokens {
    /// The place of the token that is issued for `caller`.
    pub(super) fn of(&self, caller: &CallerToken) -> Arc<TokenCell> {
        let Digest(digest) = caller.digest();
        let key = Key { issuer: caller.issuer().to_owned(), subject: caller.subject().to_owned(), digest };
        let place = || Ok::<_, Infallible>((caller.validity(), Arc::default()));
        let Ok((_, cell)) = self.0.get_or_insert_with(&key, place);
        cell
    }

    /// Forgets the tokens of callers whose own tokens have ended, or of all callers.
    pub(super) fn forget(&self, all: bool) {
        self.0.retain(|_, (validity, _)| !all && !validity.has_ended());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Timestamp;

    fn caller(subject: &str, text: &str) -> CallerToken {
        CallerToken::new("i", subject, text, Validity::UNLIMITED)
    }

    #[test]
    fn a_token_is_kept_for_its_principal_and_its_callers_token() {
        let tokens = ExchangedTokens::default();
        let ann = tokens.of(&caller("ann", "a"));
        assert!(Arc::ptr_eq(&ann, &tokens.of(&caller("ann", "a"))));
        let of_other_issuer = CallerToken::new("j", "ann", "a", Validity::UNLIMITED);
        for other in [caller("ann", "b"), caller("bob", "a"), of_other_issuer] {
            assert!(!Arc::ptr_eq(&ann, &tokens.of(&other)), "{other:?}");
        }
        tokens.forget(true);
        assert!(!Arc::ptr_eq(&ann, &tokens.of(&caller("ann", "a"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_forgotten_with_that_of_its_caller() {
        let tokens = ExchangedTokens::default();
        let end = Timestamp::from_micros(Timestamp::now().micros() + 60_000_000);
        tokens.of(&CallerToken::new("i", "ann", "a", Validity::until(end)));
        let bob = tokens.of(&caller("bob", "b"));
        tokens.forget(false);
        assert_eq!(tokens.0.len(), 2);
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        tokens.forget(false);
        assert_eq!(tokens.0.len(), 1);
        assert!(Arc::ptr_eq(&bob, &tokens.of(&caller("bob", "b"))));
    }

    #[test]
    fn i6_tokens_are_bounded() {
        let tokens = ExchangedTokens::default();
        for number in 0..2 * TOKENS_MAX {
            tokens.of(&caller("ann", &number.to_string()));
        }
        assert!(tokens.0.len() <= TOKENS_MAX, "{}", tokens.0.len());
    }
}
