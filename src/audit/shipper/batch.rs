//! Limits of a batch, and its size at the moment.

/// Full batches that have to succeed before a larger one is tried. *Chosen*: an attempt that the server cancels at its
/// timeout costs as much as several batches, so it is made rarely; growing from 1 record to 2,000 takes under 200
/// batches.
const GROW_AFTER: usize = 16;

/// Limits of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most rows in a batch.
    pub records: usize,
    /// Most bytes of text in a batch.
    pub bytes: usize,
}

/// The current number of records in a batch. Halved when the server cannot process a batch, and grown back slowly.
#[derive(Debug)]
pub(super) struct BatchSize {
    max: usize,
    current: usize,
    successes: usize,
}

impl BatchSize {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, current: max, successes: 0 }
    }

    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// Notes that a batch of `count` records was too much for the server.
    pub(super) fn shrink(&mut self, count: usize) {
        self.current = self.current.min(count.div_ceil(2).max(1));
        self.successes = 0;
    }

    /// Notes that a batch of `count` records was delivered.
    pub(super) fn succeeded(&mut self, count: usize) {
        if count >= self.current && self.current < self.max {
            self.successes += 1;
            if self.successes >= GROW_AFTER {
                self.current = self.current.saturating_mul(2).min(self.max);
                self.successes = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_halved_down_to_one_and_grows_back_to_the_maximum() {
        let mut size = BatchSize::new(5);
        for expected in [3, 2, 1, 1] {
            size.shrink(size.current());
            assert_eq!(size.current(), expected);
        }
        for expected in [2, 4, 5, 5] {
            (0..GROW_AFTER).for_each(|_| size.succeeded(size.current()));
            assert_eq!(size.current(), expected);
        }
        // A batch that is not full is no evidence for full ones.
        size.shrink(5);
        (0..GROW_AFTER).for_each(|_| size.succeeded(2));
        assert_eq!(size.current(), 3);
    }
}
