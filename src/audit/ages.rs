//! The ages of undelivered records, by the monotonic clock: the wall clock may be set at any time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::record::{Epoch, Seq, StreamPosition, Timestamp};

/// Records that were made within this time of each other count as made at the same time. *Chosen*: far below the age at
/// which an alarm is raised.
const WINDOW: Duration = Duration::from_millis(100);

/// Most windows; of more, every second one is joined with the one before it. *Chosen*: 7 minutes at full precision, and
/// a hundredth of the age after a day.
const WINDOWS_MAX: usize = 4096;

/// The records of this process that may be undelivered, in windows, and the oldest undelivered record.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// The epoch of this process, the last record of each window, and when the first one was made.
    epoch: Option<Epoch>,
    windows: VecDeque<(Seq, Instant)>,
    oldest: Option<(Epoch, Seq, Instant)>,
}

impl Ages {
    /// Notes a record of this process, the next of its stream.
    pub(super) fn made(&mut self, position: StreamPosition, at: Instant) {
        self.epoch = Some(position.epoch);
        match self.windows.back_mut() {
            Some((last, begun)) if at.saturating_duration_since(*begun) < WINDOW => *last = position.seq,
            _ => self.windows.push_back((position.seq, at)),
        }
        if self.windows.len() > WINDOWS_MAX {
            let joined = self.windows.make_contiguous().chunks(2).filter_map(|pair| {
                let (first, last) = (pair.first()?, pair.last()?);
                Some((last.0, first.1))
            });
            self.windows = joined.collect();
        }
    }

    /// Notes the oldest record that is not delivered. `made_at` is the wall clock's time, which counts only for records
    /// of an earlier process.
    pub(super) fn set_oldest(&mut self, position: StreamPosition, made_at: Timestamp) {
        let (epoch, seq) = (position.epoch, position.seq);
        if self.oldest.is_some_and(|(old_epoch, old_seq, _)| (old_epoch, old_seq) == (epoch, seq)) {
            return;
        }
        let now = Instant::now();
        let since = if self.epoch == Some(epoch) {
            while self.windows.front().is_some_and(|(last, _)| *last < seq) {
                self.windows.pop_front();
            }
            self.windows.front().map_or(now, |(_, begun)| *begun)
        } else {
            let age = Timestamp::now().micros().saturating_sub(made_at.micros()).max(0);
            let since = now.checked_sub(Duration::from_micros(age.unsigned_abs())).unwrap_or(now);
            // Not older than a record before it, as it would be if the clock was set since.
            let earlier = self.oldest.filter(|(old_epoch, old_seq, _)| *old_epoch == epoch && *old_seq < seq);
            earlier.map_or(since, |(_, _, earlier)| since.max(earlier))
        };
        self.oldest = Some((epoch, seq, since));
    }

    /// Notes that every record is delivered.
    pub(super) fn clear_oldest(&mut self) {
        self.oldest = None;
    }

    /// The age of the oldest undelivered record.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.oldest.map(|(_, _, since)| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Digest, GatewayId};

    fn position(epoch: u64, seq: u64) -> StreamPosition {
        let (prev_hash, hash) = (Digest::ZERO, Digest::ZERO);
        StreamPosition { gateway_id: GatewayId(uuid::Uuid::nil()), epoch: Epoch(epoch), seq: Seq(seq), prev_hash, hash }
    }

    /// A wall clock that is wrong by so many seconds when a record is made.
    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().micros() + seconds * 1_000_000)
    }

    #[test]
    fn ages_of_own_records_do_not_depend_on_the_wall_clock() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        for (seq, seconds) in [(1, 60), (2, 60), (3, 40), (4, 20)] {
            ages.made(position(7, seq), ago(seconds));
        }
        for (seq, expected) in [(1, 60), (2, 60), (3, 40), (4, 20)] {
            for wrong in [-100_000, 0, 100_000] {
                ages.set_oldest(position(7, seq), wall(wrong));
                assert_eq!(ages.oldest().unwrap().as_secs(), expected, "seq {seq}");
            }
        }
        ages.clear_oldest();
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn record_of_an_earlier_process_ages_by_the_monotonic_clock_once_it_is_seen() {
        let mut ages = Ages::default();
        ages.set_oldest(position(1, 5), wall(-100));
        assert_eq!(ages.oldest().unwrap().as_secs(), 100);
        // The clock is set back by a day: the same record has the same age, and a later one is not older.
        ages.set_oldest(position(1, 5), wall(-86_400));
        assert_eq!(ages.oldest().unwrap().as_secs(), 100);
        ages.set_oldest(position(1, 6), wall(-86_400));
        assert_eq!(ages.oldest().unwrap().as_secs(), 100);
        ages.set_oldest(position(1, 7), wall(86_400));
        assert_eq!(ages.oldest().unwrap().as_secs(), 0, "a time in the future");
    }

    #[test]
    fn windows_are_bounded_and_stay_in_order() {
        let begun = Instant::now();
        let mut ages = Ages::default();
        for seq in 1..=20_000_u32 {
            ages.made(position(1, seq.into()), begun + WINDOW * seq);
            assert!(ages.windows.len() <= WINDOWS_MAX);
        }
        assert_eq!(ages.windows.back().unwrap().0, Seq(20_000));
        assert!(ages.windows.iter().zip(ages.windows.iter().skip(1)).all(|(a, b)| a.0 < b.0 && a.1 < b.1));
    }
}
