//! The bytes of a simulated file: what its readers see, what is on the platter, and what a crash makes of the two.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::percent;
use crate::common::rng::Rng;

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;

/// What a disk writes whole, unless the power fails in the middle.
const SECTOR: usize = 512;

/// A page; `None` is one of zeros that takes room. A page that is not there takes none and reads as zeros.
type Page = Option<Arc<[u8; PAGE]>>;

/// An image of a file. Clones share their pages until one is written.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub len: u64,
    pages: BTreeMap<u64, Page>,
}

/// What was done to a file and not synced.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Arc<[u8]>),
    /// So many zeros, for files that are only there to take room.
    Zeros(u64, usize),
    SetLen(u64),
}

/// A file: the image in the page cache, the image on the platter, and the way from this one to that one.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub live: Image,
    durable: Image,
    pending: Vec<Change>,
    /// How many of these a sync was asked for that is late, see [`Content::sync_late`].
    asked: usize,
}

impl Image {
    /// Pages that take room.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Pages that a write would add.
    pub fn pages_added(&self, offset: u64, length: usize) -> usize {
        let last = (offset + (length as u64).max(1) - 1) / PAGE_BYTES;
        (offset / PAGE_BYTES..=last).filter(|idx| !self.pages.contains_key(idx)).count()
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (idx, within, start, count) in runs(offset, out.len()) {
            let to = &mut out[start..start + count];
            match self.pages.get(&idx) {
                Some(Some(page)) => to.copy_from_slice(&page[within..within + count]),
                _ => to.fill(0),
            }
        }
        Ok(())
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (idx, within, start, count) in runs(offset, data.len()) {
            let page = self.pages.entry(idx).or_default().get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + count].copy_from_slice(&data[start..start + count]);
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    fn write_zeros(&mut self, offset: u64, length: usize) {
        for (idx, within, _, count) in runs(offset, length) {
            if let Some(page) = self.pages.entry(idx).or_default() {
                Arc::make_mut(page)[within..within + count].fill(0);
            }
        }
        self.len = self.len.max(offset + length as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE_BYTES));
            let within = usize::try_from(len % PAGE_BYTES).unwrap();
            if within > 0
                && let Some(Some(page)) = self.pages.get_mut(&(len / PAGE_BYTES))
            {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::Zeros(offset, length) => self.write_zeros(*offset, *length),
            Change::SetLen(len) => self.set_len(*len),
        }
    }

    /// What is kept of a write: each sector whole, not at all, or its first bytes only.
    fn apply_torn(&mut self, change: &Change, kept_percent: u64, rng: &mut Rng) {
        match change {
            Change::Write(offset, data) => {
                let mut start = 0;
                while start < data.len() {
                    let at = offset + start as u64;
                    let to_boundary = SECTOR - usize::try_from(at % SECTOR as u64).unwrap();
                    let count = to_boundary.min(data.len() - start);
                    let torn = percent(rng, 10) && kept_percent > 0 && kept_percent < 100;
                    let kept = if torn {
                        rng.index(count + 1)
                    } else if percent(rng, kept_percent) {
                        count
                    } else {
                        0
                    };
                    if kept > 0 {
                        self.write(at, &data[start..start + kept]);
                    }
                    start += count;
                }
            }
            Change::Zeros(offset, length) if percent(rng, kept_percent) => self.write_zeros(*offset, *length),
            Change::Zeros(..) | Change::SetLen(_) => {}
        }
    }
}

impl Content {
    /// A file that is wholly on the platter.
    pub fn durable(image: Image) -> Self {
        Self { live: image.clone(), durable: image, ..Self::default() }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let zeros = data.len() > 64 * PAGE && data.iter().all(|byte| *byte == 0);
        let change = if zeros { Change::Zeros(offset, data.len()) } else { Change::Write(offset, data.into()) };
        self.live.apply(&change);
        self.pending.push(change);
    }

    pub fn set_len(&mut self, len: u64) {
        self.live.set_len(len);
        self.pending.push(Change::SetLen(len));
    }

    pub fn sync(&mut self) {
        for change in self.pending.drain(..) {
            self.durable.apply(&change);
        }
        self.asked = 0;
    }

    /// A sync that returns before it has happened: what was asked for the last time happens now.
    pub fn sync_late(&mut self) {
        for change in self.pending.drain(..self.asked) {
            self.durable.apply(&change);
        }
        self.asked = self.pending.len();
    }

    /// A sync that fails: some of it is on the platter, and nothing is tried again, since the pages count as clean.
    pub fn forget(&mut self, rng: &mut Rng) {
        self.durable = self.after_power_loss(rng);
        self.pending.clear();
        self.asked = 0;
    }

    /// The content of the disk after a power failure. The length is one of those that the file had since the last sync,
    /// and each sector of each write is independently kept, dropped or torn. A sector that was written more than once
    /// may have any of its versions, since later ones may be dropped and earlier ones kept.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Image {
        let mut image = self.durable.clone();
        if self.pending.is_empty() {
            return image;
        }
        let (mut length, mut lengths) = (image.len, vec![image.len]);
        for change in &self.pending {
            length = match change {
                Change::Write(offset, data) => length.max(offset + data.len() as u64),
                Change::Zeros(offset, zeros) => length.max(offset + *zeros as u64),
                Change::SetLen(len) => *len,
            };
            lengths.push(length);
        }
        let kept_percent = [0, 10, 50, 90, 100][rng.index(5)];
        for change in &self.pending {
            image.apply_torn(change, kept_percent, rng);
        }
        lengths.dedup();
        let length = if kept_percent == 100 { length } else { lengths[rng.index(lengths.len())] };
        image.set_len(length);
        image
    }
}

/// The pages that `length` bytes at `offset` touch: page, first byte within it, first byte within the run, byte count.
fn runs(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        (start < length).then(|| {
            let at = offset + start as u64;
            let within = usize::try_from(at % PAGE_BYTES).unwrap();
            let count = (PAGE - within).min(length - start);
            let run = (at / PAGE_BYTES, within, start, count);
            start += count;
            run
        })
    })
}
