//! The two ways in which redb accesses a generation file.
//!
//! [`FailStopFile`] is for the process that creates and writes the file: after the first failed write, resize or fsync
//! nothing is written to the file again, whatever redb does. [`OverlayFile`] is for everyone else: redb's own writes
//! (recovery after a crash, the header when it closes) stay in memory and the file is never written, so that evidence
//! is preserved.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::StorageBackend;

/// The size of a block in the overlay. *Chosen*: redb's page size, so that most of its writes are whole blocks.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;

/// A file that is written until the first failure, and never again.
#[derive(Debug)]
pub(super) struct FailStopFile {
    file: Box<dyn StorageBackend>,
    failed: AtomicBool,
    len: Arc<AtomicU64>,
}

/// A file that is only read. Writes to it are kept in memory.
#[derive(Debug)]
pub(super) struct OverlayFile {
    file: Box<dyn StorageBackend>,
    file_len: u64,
    len: AtomicU64,
    blocks: Mutex<HashMap<u64, Box<[u8]>>>,
}

impl FailStopFile {
    /// Wraps a new, empty `file` and keeps `len` at its length.
    pub(super) fn new(file: Box<dyn StorageBackend>, len: Arc<AtomicU64>) -> Self {
        Self { file, failed: AtomicBool::new(false), len }
    }

    fn write_with(&self, operation: impl FnOnce(&dyn StorageBackend) -> io::Result<()>) -> io::Result<()> {
        // I7: a file that failed once is never written again.
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("the file is sealed after a failed write or fsync"));
        }
        operation(self.file.as_ref()).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

impl StorageBackend for FailStopFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_with(|file| file.set_len(len))?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_with(StorageBackend::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_with(|file| file.write(offset, data))
    }
}

impl OverlayFile {
    /// Wraps `file`, whose current contents are the overlay's.
    ///
    /// # Errors
    /// The file's length cannot be read.
    pub(super) fn new(file: Box<dyn StorageBackend>) -> io::Result<Self> {
        let file_len = file.len()?;
        Ok(Self { file, file_len, len: AtomicU64::new(file_len), blocks: Mutex::default() })
    }

    /// Reads block `idx` of the file. Bytes after its end are zero.
    fn read_block(&self, idx: u64) -> io::Result<Box<[u8]>> {
        let mut block = vec![0; BLOCK].into_boxed_slice();
        let start = idx * BLOCK_BYTES;
        let have = usize::try_from(self.file_len.saturating_sub(start).min(BLOCK_BYTES)).unwrap_or(0);
        self.file.read(start, block.get_mut(..have).unwrap_or_default())?;
        Ok(block)
    }
}

/// The blocks that contain `length` bytes at `offset`, each as: block, offset in the block, offset in the range, bytes.
fn runs(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let end = offset + length as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let (idx, within) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
            let count = (BLOCK_BYTES - within).min(end - at);
            let start = at - offset;
            at += count;
            #[expect(clippy::cast_possible_truncation, reason = "all three are at most length, a usize, or a block")]
            (idx, within as usize, start as usize, count as usize)
        })
    })
}

impl StorageBackend for OverlayFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        if offset + out.len() as u64 > self.len()? {
            return Err(beyond());
        }
        let blocks = self.blocks.lock();
        if blocks.is_empty() && offset + out.len() as u64 <= self.file_len {
            drop(blocks);
            return self.file.read(offset, out);
        }
        for (idx, within, start, count) in runs(offset, out.len()) {
            let read;
            let block = if let Some(block) = blocks.get(&idx) {
                block
            } else {
                read = self.read_block(idx)?;
                &read
            };
            let from = block.get(within..within + count).ok_or_else(beyond)?;
            out.get_mut(start..start + count).ok_or_else(beyond)?.copy_from_slice(from);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut blocks = self.blocks.lock();
        for (idx, within, start, count) in runs(offset, data.len()) {
            let mut block = match blocks.remove(&idx) {
                Some(block) => block,
                None => self.read_block(idx)?,
            };
            let from = data.get(start..start + count).ok_or_else(beyond)?;
            block.get_mut(within..within + count).ok_or_else(beyond)?.copy_from_slice(from);
            blocks.insert(idx, block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory that fails its Nth write or fsync, and counts writes and fsyncs.
    #[derive(Debug, Default)]
    struct MemoryFile {
        bytes: Mutex<Vec<u8>>,
        fail_at: u64,
        writes: AtomicU64,
    }

    #[derive(Debug)]
    struct Shared(Arc<MemoryFile>);

    impl Shared {
        fn count(&self) -> io::Result<()> {
            let fails = self.0.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.0.fail_at;
            if fails { Err(io::Error::other("injected")) } else { Ok(()) }
        }
    }

    impl StorageBackend for Shared {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.bytes.lock().len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.0.bytes.lock()[offset..offset + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.bytes.lock().resize(usize::try_from(len).unwrap(), 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            self.count()
        }

        fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
            self.count()
        }
    }

    #[test]
    fn i7_nothing_is_written_after_a_failed_write_or_fsync() {
        for fail_at in 1..=3 {
            let file = Arc::new(MemoryFile { fail_at, ..MemoryFile::default() });
            let latched = FailStopFile::new(Box::new(Shared(Arc::clone(&file))), Arc::default());
            let results = [
                latched.write(0, b"a").is_ok(),
                latched.sync_data().is_ok(),
                latched.write(0, b"b").is_ok(),
                latched.sync_data().is_ok(),
                latched.set_len(9).is_ok(),
            ];
            let before = usize::try_from(fail_at).unwrap() - 1;
            assert_eq!(results.iter().filter(|ok| **ok).count(), before);
            assert_eq!(
                file.writes.load(Ordering::SeqCst),
                fail_at,
                "no operation reached the file after the failing one"
            );
        }
    }

    #[test]
    fn overlay_writes_do_not_reach_the_file() {
        let file = Arc::new(MemoryFile { bytes: Mutex::new(vec![7; 5000]), ..MemoryFile::default() });
        let overlay = OverlayFile::new(Box::new(Shared(Arc::clone(&file)))).unwrap();
        overlay.set_len(9000).unwrap();
        overlay.write(4090, &[1; 20]).unwrap();
        let mut out = [0; 30];
        overlay.read(4085, &mut out).unwrap();
        assert_eq!(out[..5], [7; 5]);
        assert_eq!(out[5..25], [1; 20]);
        assert_eq!(out[25..], [7; 5]);
        overlay.read(8000, &mut out).unwrap();
        assert_eq!(out, [0; 30]);
        assert!(overlay.read(8990, &mut out).is_err());
        assert_eq!(*file.bytes.lock(), vec![7; 5000]);
        assert_eq!(file.writes.load(Ordering::SeqCst), 0);
    }
}
