//! Delivered records that stay for a while, in case the database goes back: it is restored from a backup, or fails over
//! to a standby that lacks its last transactions.
//!
//! Whole files are kept. They count in no warning, and are the first to go when room is needed.

use std::time::Duration;

use super::listed_file::ListedFile;
use crate::audit::record::{Seq, Timestamp};

/// The number of files into which the kept records are divided, at least, by bytes and by time. *Chosen*: files are
/// removed as a whole, so what is kept is exact to within an eighth.
const FILES_MIN: u32 = 8;

/// The limits within which delivered records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The time after which a file of delivered records is removed, counted from its last record.
    pub age: Duration,
    /// Most bytes of such files.
    pub bytes: u64,
}

/// The room that the kept files may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepRoom {
    /// `None` if nothing is kept.
    pub(super) keep: Option<Keep>,
    /// The quota for all files together.
    pub(super) bytes_max: u64,
    /// True if the disk was full.
    pub(super) disk_full: bool,
}

impl Keep {
    /// The size of the segments after which a new file is begun.
    pub(super) fn segment_bytes_max(self) -> u64 {
        // redb doubles a file as it grows, and its pages cost at most an eighth.
        (self.bytes / u64::from(FILES_MIN) / 8 * 7).max(1)
    }

    /// True if a file that was begun then and is delivered should be followed by a new one.
    pub(super) fn is_old_enough_to_seal(self, begun: Timestamp) -> bool {
        age(begun) >= self.age / FILES_MIN
    }
}

impl KeepRoom {
    /// The delivered files of `files` that have to go. Until Postgres has confirmed in this process that it has their
    /// records, they go only where room is needed.
    pub(super) fn too_many(
        self,
        files: &[ListedFile],
        is_done: impl Fn(&ListedFile) -> bool,
        is_confirmed: impl Fn(&ListedFile) -> bool,
    ) -> Vec<ListedFile> {
        let mut total: u64 = files.iter().map(ListedFile::size).sum();
        let mut kept: u64 = files.iter().filter(|file| is_done(file)).map(ListedFile::size).sum();
        let ended = files.iter().skip(1).map(|next| next.begun).chain([None]);
        let mut gone = Vec::new();
        for (file, ended) in files.iter().zip(ended).filter(|(file, _)| is_done(file)) {
            let stays = self.keep.is_some_and(|keep| {
                // Its last record is at least as old as the file that follows it.
                let is_old = ended.is_some_and(|ended| age(ended) >= keep.age);
                let is_over = is_confirmed(file) && (is_old || kept > keep.bytes);
                !is_over && total < self.bytes_max && !self.disk_full
            });
            if !stays || file.last == Some(Seq::ZERO) {
                kept -= file.size();
                total -= file.size();
                gone.push(file.clone());
            }
        }
        gone
    }
}

fn age(time: Timestamp) -> Duration {
    let micros = Timestamp::now().micros().saturating_sub(time.micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::outbox::file_number::FileNumber;
    use crate::audit::record::Epoch;

    const HOUR: i64 = 3_600_000_000;

    /// Sealed files of 100 bytes, each with the hours since it was begun; the newest is not delivered.
    fn files(hours: &[i64]) -> Vec<ListedFile> {
        let file = |(number, hours): (u64, &i64)| ListedFile {
            number: FileNumber(number),
            epoch: Some(Epoch(1)),
            first: Some(Seq(number)),
            last: Some(Seq(number)),
            begun: Some(Timestamp::from_micros(Timestamp::now().micros() - hours * HOUR)),
            bytes: 100,
            kept: false,
            active: None,
        };
        (1..).zip(hours).map(file).collect()
    }

    fn gone_if(room: KeepRoom, hours: &[i64], is_confirmed: bool) -> Vec<u64> {
        let files = files(hours);
        let last = files.len() as u64;
        let gone = room.too_many(&files, |file| file.number.0 < last, |_| is_confirmed);
        gone.iter().map(|file| file.number.0).collect()
    }

    fn gone(room: KeepRoom, hours: &[i64]) -> Vec<u64> {
        gone_if(room, hours, true)
    }

    #[test]
    fn oldest_files_go_first_by_age_bytes_room_and_full_disk() {
        let keep = Keep { age: Duration::from_hours(24), bytes: 300 };
        let room = KeepRoom { keep: Some(keep), bytes_max: 10_000, disk_full: false };
        let hours = [40, 30, 20, 10, 0];
        assert_eq!(gone(room, &hours), [1], "the second one's last record is 20 hours old");
        assert_eq!(gone(KeepRoom { keep: Some(Keep { bytes: 200, ..keep }), ..room }, &hours), [1, 2]);
        assert_eq!(gone(KeepRoom { bytes_max: 300, ..room }, &hours), [1, 2, 3], "room is needed");
        assert_eq!(gone(KeepRoom { disk_full: true, ..room }, &hours), [1, 2, 3, 4]);
        assert_eq!(gone(KeepRoom { keep: None, ..room }, &hours), [1, 2, 3, 4]);
        assert_eq!(gone(KeepRoom { keep: Some(Keep { age: Duration::MAX, ..keep }), ..room }, &hours), [1]);
        assert_eq!(gone(KeepRoom { keep: Some(Keep { bytes: 10_000, ..keep }), ..room }, &hours), [1], "it is old");
        assert_eq!(gone(room, &[3, 2, 1]), [0; 0]);
        // Not confirmed: only room counts.
        assert_eq!(gone_if(room, &hours, false), [0; 0]);
        assert_eq!(gone_if(KeepRoom { bytes_max: 300, ..room }, &hours, false), [1, 2, 3]);
        // A file without records is kept for nothing.
        let mut empty = files(&[3, 2, 1]);
        empty[0].last = Some(Seq::ZERO);
        let gone_of = room.too_many(&empty, |file| file.number.0 < 3, |_| true);
        assert_eq!(gone_of.iter().map(|file| file.number.0).collect::<Vec<_>>(), [1]);
        // A clock that was set back makes nothing old.
        assert_eq!(gone(room, &[-100, -200, -300]), [0; 0]);
    }
}
