//! Baselines for the outbox: group commit into an append-only file or into redb, and redb with a commit for each
//! record.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, TableDefinition};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::sample::rate;

/// Group commit: one thread stores all that arrived during the last commit, then tells who waited.
#[derive(Debug)]
pub struct GroupCommit {
    queue: Arc<Queue>,
    thread: JoinHandle<usize>,
}

#[derive(Debug, Default)]
struct Queue {
    arrived: Mutex<(Vec<Item>, bool)>,
    work: Condvar,
}

type Item = (Arc<[u8]>, oneshot::Sender<()>);

impl GroupCommit {
    /// Into an append-only file, one fdatasync a batch.
    pub fn into_file(path: &Path) -> Self {
        let mut file = File::create_new(path).unwrap();
        Self::begin(move |bytes| {
            file.write_all(bytes).unwrap();
            file.sync_data().unwrap();
        })
    }

    /// Into redb as the outbox does, two-phase, a batch under one key.
    pub fn into_redb(path: &Path) -> Self {
        let (database, mut key) = (redb_of_the_outbox(path), 0);
        Self::begin(move |bytes| {
            redb_store(&database, key, bytes);
            key += 1;
        })
    }

    /// The same, with each frame hashed after the hash of the one before, and checksummed, as it is stored.
    pub fn chained_into_redb(path: &Path) -> Self {
        let (database, mut key, mut head) = (redb_of_the_outbox(path), 0, [0; 32]);
        let frame_bytes = super::records::RECORD_BYTES;
        Self::begin(move |bytes| {
            for frame in bytes.chunks(frame_bytes) {
                head = Sha256::new().chain_update(head).chain_update(frame).finalize().into();
                std::hint::black_box(crc32c::crc32c(frame));
            }
            redb_store(&database, key, bytes);
            key += 1;
        })
    }

    fn begin(mut store: impl FnMut(&[u8]) + Send + 'static) -> Self {
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("group commit".to_owned());
        let thread = thread
            .spawn(move || {
                let (mut bytes, mut batches) = (Vec::new(), 0);
                loop {
                    let mut arrived = shared.arrived.lock().unwrap();
                    while arrived.0.is_empty() && !arrived.1 {
                        arrived = shared.work.wait(arrived).unwrap();
                    }
                    let batch = std::mem::take(&mut arrived.0);
                    drop(arrived);
                    if batch.is_empty() {
                        return batches;
                    }
                    bytes.clear();
                    for (frame, _) in &batch {
                        bytes.extend_from_slice(frame);
                    }
                    store(&bytes);
                    batches += 1;
                    for (_, receipt) in batch {
                        receipt.send(()).ok();
                    }
                }
            })
            .unwrap();
        Self { queue, thread }
    }

    pub fn appender(&self) -> Appender {
        Appender(Arc::clone(&self.queue))
    }

    /// Ends; returns how many batches there were.
    pub fn end(self) -> usize {
        self.queue.arrived.lock().unwrap().1 = true;
        self.queue.work.notify_one();
        self.thread.join().unwrap()
    }
}

/// Appends to a [`GroupCommit`].
#[derive(Clone, Debug)]
pub struct Appender(Arc<Queue>);

impl Appender {
    /// What is returned is told after the commit behind `frame`.
    pub fn append(&self, frame: Arc<[u8]>) -> oneshot::Receiver<()> {
        let (sender, stored) = oneshot::channel();
        let mut arrived = self.0.arrived.lock().unwrap();
        let first = arrived.0.is_empty();
        arrived.0.push((frame, sender));
        drop(arrived);
        if first {
            self.0.work.notify_one();
        }
        stored
    }
}

/// The limit: a plain loop that writes `batch` frames at once and calls fdatasync. Frames a second.
pub fn plain_file(path: &Path, frame: &[u8], batch: usize, during: Duration) -> f64 {
    let mut file = File::create_new(path).unwrap();
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < during {
        let mut bytes = Vec::with_capacity(frame.len() * batch);
        for _ in 0..batch {
            bytes.extend_from_slice(frame);
        }
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        written += batch;
    }
    rate(written, begun.elapsed())
}

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("records");

/// redb the plain way: a durable commit a record, its defaults. Records a second.
pub fn redb_commit_a_record(path: &Path, frame: &[u8], during: Duration) -> f64 {
    let database = Database::create(path).unwrap();
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < during {
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(written as u64, frame).unwrap();
        transaction.commit().unwrap();
        written += 1;
    }
    rate(written, begun.elapsed())
}

/// What redb itself leaves of the limit: a plain loop that stores `batch` frames at once as the outbox does. Frames a
/// second.
pub fn redb_batches(path: &Path, frame: &[u8], batch: usize, during: Duration) -> f64 {
    let database = redb_of_the_outbox(path);
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < during {
        redb_store(&database, written as u64, &frame.repeat(batch));
        written += batch;
    }
    rate(written, begun.elapsed())
}

/// With the cache that the outbox gives it.
fn redb_of_the_outbox(path: &Path) -> Database {
    let mut builder = Database::builder();
    builder.set_cache_size(16 * 1024 * 1024);
    builder.create(path).unwrap()
}

fn redb_store(database: &Database, key: u64, bytes: &[u8]) {
    let mut transaction = database.begin_write().unwrap();
    transaction.set_two_phase_commit(true);
    transaction.open_table(TABLE).unwrap().insert(key, bytes).unwrap();
    transaction.commit().unwrap();
}

/// redb in one file: segments of about 1 MiB until it holds `bytes`, two-phase as the outbox commits.
pub fn redb_one_file(path: &Path, bytes: u64) -> Database {
    let database = redb_of_the_outbox(path);
    let segment = vec![7_u8; 1_000_000];
    for seq in 0..bytes.div_ceil(segment.len() as u64) {
        redb_store(&database, seq, &segment);
    }
    database
}

/// Opens such a file as the outbox opens its own: checked.
pub fn redb_open_checked(path: &Path) -> Duration {
    let begun = Instant::now();
    let mut builder = Database::builder();
    builder.set_cache_size(16 * 1024 * 1024).set_check_integrity_on_open(true);
    drop(builder.open(path).unwrap());
    begun.elapsed()
}
