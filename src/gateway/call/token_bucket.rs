//! A token bucket, stored as the time at which it will be full again (the generic cell rate algorithm).
//!
//! Taking a token moves that time forward by one period. A token is refused if that would move the time further into
//! the future than a full bucket takes to refill.

use std::time::Duration;

use tokio::time::Instant;

/// The size of a bucket, and the time in which it gains one token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketSize {
    pub(crate) tokens: u32,
    pub(crate) period: Duration,
}

/// One bucket. The size belongs to the caller, which may change it at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Returns `true` if the bucket is full, so that forgetting it changes nothing.
    pub(crate) fn is_full(self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// The time at which the bucket is full again.
    pub(crate) fn full_at(self) -> Instant {
        self.full_at
    }

    /// Takes one token.
    ///
    /// # Errors
    /// The time after which there will be one; none was taken.
    pub(crate) fn take(&mut self, size: BucketSize, now: Instant) -> Result<(), Duration> {
        let next = self.full_at.max(now) + size.period;
        let latest = now + size.period * size.tokens;
        if next > latest {
            return Err(next - latest);
        }
        self.full_at = next;
        Ok(())
    }

    /// Takes `count` more tokens, which the bucket may lack: the next token is then available so much later.
    pub(crate) fn charge(&mut self, count: u32, size: BucketSize, now: Instant) {
        self.full_at = self.full_at.max(now) + size.period * count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: BucketSize = BucketSize { tokens: 3, period: Duration::from_millis(100) };

    #[test]
    fn a_bucket_gives_its_tokens_at_once_and_then_one_each_period() {
        let now = Instant::now();
        let mut bucket = TokenBucket::full(now);
        assert!((0..3).all(|_| bucket.take(SIZE, now).is_ok()));
        assert_eq!(bucket.take(SIZE, now), Err(SIZE.period));
        let later = now + SIZE.period;
        assert_eq!((bucket.take(SIZE, later), bucket.take(SIZE, later)), (Ok(()), Err(SIZE.period)));
        assert!(!bucket.is_full(later) && bucket.is_full(later + 3 * SIZE.period));
        let long = later + 100 * SIZE.period;
        assert_eq!((0..10).filter(|_| bucket.take(SIZE, long).is_ok()).count(), 3, "no more than the bucket holds");
    }

    #[test]
    fn tokens_that_a_bucket_lacks_delay_the_next_one() {
        let now = Instant::now();
        let mut bucket = TokenBucket::full(now);
        bucket.charge(5, SIZE, now);
        assert_eq!(bucket.take(SIZE, now), Err(3 * SIZE.period));
        assert_eq!(bucket.take(SIZE, now + 3 * SIZE.period), Ok(()));
    }
}
