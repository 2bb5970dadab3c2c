//! How many records a batch may hold just now.

/// Full batches that have to succeed before a larger one is tried. *Chosen*: a try that the server ends at its timeout
/// costs as much as some batches, so it is made seldom; from one record to 2,000 it takes under 200 batches.
const GROW_AFTER: usize = 16;

/// Halved by what is too much for the server, and grown back by what is not.
#[derive(Debug)]
pub(super) struct Size {
    max: usize,
    now: usize,
    succeeded: usize,
}

impl Size {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, now: max, succeeded: 0 }
    }

    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// A batch of so many was too much.
    pub(super) fn was_too_much(&mut self, count: usize) {
        self.now = self.now.min(count.div_ceil(2).max(1));
        self.succeeded = 0;
    }

    /// A batch of so many was delivered.
    pub(super) fn succeeded(&mut self, count: usize) {
        if count >= self.now && self.now < self.max {
            self.succeeded += 1;
            if self.succeeded >= GROW_AFTER {
                self.now = self.now.saturating_mul(2).min(self.max);
                self.succeeded = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_halved_to_one_at_least_and_grows_back_to_its_largest() {
        let mut size = Size::new(5);
        for expected in [3, 2, 1, 1] {
            size.was_too_much(size.now());
            assert_eq!(size.now(), expected);
        }
        for expected in [2, 4, 5, 5] {
            (0..GROW_AFTER).for_each(|_| size.succeeded(size.now()));
            assert_eq!(size.now(), expected);
        }
        // Batches that are not full say nothing of full ones.
        size.was_too_much(5);
        (0..GROW_AFTER).for_each(|_| size.succeeded(2));
        assert_eq!(size.now(), 3);
    }
}
