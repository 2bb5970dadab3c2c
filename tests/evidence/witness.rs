//! The witness against each case of C2SP tlog-witness, over HTTP; and what it keeps on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, path::Path};

use axum::http::StatusCode;
use gatepost::audit::outbox::fs::{DiskFs, Fs};
use gatepost::connections::serve_router;
use gatepost::evidence::add_checkpoint::{AddCheckpoint, REQUEST_BYTES_MAX};
use gatepost::evidence::key::{SignatureType, SigningKey, VerifierKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::signature::Signature;
use gatepost::witness::refusal::Refusal;
use gatepost::witness::store::{Store, StoreError, origin_hash};
use gatepost::witness::{Witness, server};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::common::made_log::{Log, ORIGIN};

fn key(name: &str, signature_type: SignatureType) -> SigningKey {
    SigningKey::generate(name, signature_type).unwrap().0
}

/// A key that can be used by several witnesses, one after another.
fn witness_key() -> String {
    SigningKey::generate("witness.example/w", SignatureType::CosignatureEd25519).unwrap().1.to_string()
}

/// A witness in `dir` that knows the log.
fn witness(fs: &Arc<dyn Fs>, dir: &Path, secret: &str, log: &Log) -> Result<Witness, StoreError> {
    let key = SigningKey::parse(secret).unwrap();
    let store = Store::open(Arc::clone(fs), dir, &[key.verifier()])?;
    Ok(Witness::new(vec![key], [log.key.verifier().clone()], store))
}

/// A witness in a new directory.
struct Fresh {
    dir: TempDir,
    secret: String,
    log: Log,
    witness: Witness,
}

impl Fresh {
    fn on(fs: &Arc<dyn Fs>) -> Self {
        let (dir, secret, log) = (tempfile::tempdir().unwrap(), witness_key(), Log::new());
        Store::create(&DiskFs, dir.path(), &[SigningKey::parse(&secret).unwrap().verifier()]).unwrap();
        let witness = witness(fs, dir.path(), &secret, &log).unwrap();
        Self { dir, secret, log, witness }
    }

    fn new() -> Self {
        Self::on(&disk())
    }

    fn add(&self, old: u64, size: u64, now: u64) -> Result<String, Refusal> {
        self.witness.add_checkpoint(self.log.request(old, size).to_string().as_bytes(), now)
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join(format!("{}.checkpoint", origin_hash(ORIGIN)))
    }

    fn verifier(&self) -> VerifierKey {
        SigningKey::parse(&self.secret).unwrap().verifier().clone()
    }
}

fn disk() -> Arc<dyn Fs> {
    Arc::new(DiskFs)
}

/// The time in the signature lines of an answer about this size, after they were verified.
fn signed_at(fresh: &Fresh, size: u64, lines: &str) -> u64 {
    let signatures = lines.lines().map(|line| Signature::parse(line).unwrap()).collect();
    let note = Note::new(fresh.log.note(size).text().to_owned(), signatures).unwrap();
    note.verify([&fresh.verifier()]).unwrap()[0].time.unwrap().seconds()
}

/// Serves a witness, and returns its URL.
async fn serve(witness: Witness) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve_router(listener, server::router(Arc::new(witness)), 8, CancellationToken::new()));
    url
}

/// Status, content type and body.
async fn post(url: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.post(format!("{url}/add-checkpoint")).body(body).send().await.unwrap();
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status(), content_type, response.text().await.unwrap())
}

#[tokio::test]
async fn each_case_of_the_specification_has_its_status() {
    let Fresh { dir, secret, log, .. } = Fresh::new();
    let url = serve(witness(&disk(), dir.path(), &secret, &log).unwrap()).await;
    let request = |old, size| log.request(old, size).to_string();
    let (status, content_type, body) = post(&url, request(0, 5)).await;
    assert_eq!((status, content_type.as_str()), (StatusCode::OK, "text/plain; charset=utf-8"));
    assert!(body.starts_with("\u{2014} witness.example/w ") && body.ends_with('\n'), "{body}");

    let good = log.request(5, 9);
    let other = Log { key: key(ORIGIN, SignatureType::Ed25519), ..Log::new() };
    let unknown = Log { key: key("example.com/unknown", SignatureType::Ed25519), ..Log::new() };
    let broken = {
        let mut line = good.note.signatures()[0].to_string();
        // A bit of the signature, after the key id.
        let at = line.len() - 6;
        let with = if &line[at..=at] == "A" { "B" } else { "A" };
        line.replace_range(at..=at, with);
        Note::new(good.note.text().to_owned(), vec![Signature::parse(&line).unwrap()]).unwrap()
    };
    let forked = Log { salt: 1, key: SigningKey::parse(&log.secret).unwrap(), ..Log::new() };
    let proof = |proof| AddCheckpoint { proof, ..good.clone() }.to_string();
    let text = good.to_string();
    let (conflict, unprocessable) = (StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY);
    for (body, expected, what) in [
        (String::new(), StatusCode::BAD_REQUEST, "empty"),
        ("old 5\n".to_owned(), StatusCode::BAD_REQUEST, "cut"),
        (text.replacen("old 5", "old 05", 1), StatusCode::BAD_REQUEST, "leading zero"),
        (text.replacen("old 5", "old -5", 1), StatusCode::BAD_REQUEST, "sign"),
        (text.replacen("old 5", "size 5", 1), StatusCode::BAD_REQUEST, "other word"),
        (text.replacen("old 5\n", "old 5\nAAAA\n", 1), StatusCode::BAD_REQUEST, "short hash"),
        (text.trim_end().to_owned(), StatusCode::BAD_REQUEST, "last line not ended"),
        (text.replacen("\n9\n", "\n09\n", 1), StatusCode::BAD_REQUEST, "size of the checkpoint"),
        (proof(vec![good.proof[0]; 64]), StatusCode::BAD_REQUEST, "64 hashes"),
        (AddCheckpoint { old_size: 10, ..good.clone() }.to_string(), StatusCode::BAD_REQUEST, "old above size"),
        (unknown.request(5, 9).to_string(), StatusCode::NOT_FOUND, "unknown origin"),
        (other.request(5, 9).to_string(), StatusCode::FORBIDDEN, "unknown key"),
        (AddCheckpoint { note: broken, ..good.clone() }.to_string(), StatusCode::FORBIDDEN, "changed signature"),
        (request(0, 9), conflict, "old 0"),
        (request(4, 9), conflict, "old 4"),
        (request(8, 9), conflict, "old 8"),
        (proof(Vec::new()), unprocessable, "no proof"),
        (proof(good.proof[1..].to_vec()), unprocessable, "proof too short"),
        (proof([&good.proof[..], &good.proof[..1]].concat()), unprocessable, "proof too long"),
        (forked.request(5, 9).to_string(), unprocessable, "another history"),
        (forked.request(5, 5).to_string(), unprocessable, "another root at the same size"),
    ] {
        let (status, content_type, answer) = post(&url, body).await;
        assert_eq!(status, expected, "{what}: {answer}");
        let is_size = content_type == "text/x.tlog.size";
        assert_eq!(is_size, expected == conflict, "{what}: {content_type}");
        assert!(
            if is_size { answer == "5\n" } else { answer.ends_with('\n') && answer.len() > 20 },
            "{what}: {answer}"
        );
    }
    let (status, _, answer) = post(&url, vec![b'a'; REQUEST_BYTES_MAX + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    // Nothing of this changed the state; the same checkpoint again is signed again.
    for (old, size) in [(5, 5), (5, 9), (9, 9), (9, 300)] {
        assert_eq!(post(&url, request(old, size)).await.0, StatusCode::OK, "{old} to {size}");
    }
}

#[tokio::test]
async fn a_monitor_gets_the_last_checkpoint_with_both_signatures() {
    let fresh = Fresh::new();
    let (log, verifier) = (fresh.log.key.verifier().clone(), fresh.verifier());
    let url = serve(witness(&disk(), fresh.dir.path(), &fresh.secret, &fresh.log).unwrap()).await;
    let get = async |hash: &str| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("{url}/{hash}/checkpoint")).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    };
    assert_eq!(get(&origin_hash(ORIGIN)).await.0, StatusCode::NOT_FOUND);
    post(&url, fresh.log.request(0, 3).to_string()).await;
    let (status, note) = get(&origin_hash(ORIGIN)).await;
    assert_eq!(status, StatusCode::OK);
    let note = Note::parse(note.as_bytes()).unwrap();
    assert_eq!((note.text(), note.verify([&log, &verifier]).unwrap().len()), (fresh.log.note(3).text(), 2));
    assert_eq!(get(&origin_hash("other")).await.0, StatusCode::NOT_FOUND);
}

#[test]
fn an_empty_tree_has_the_empty_root() {
    let fresh = Fresh::new();
    let text = format!("{ORIGIN}\n0\n{}\n", "A".repeat(43) + "=");
    let request = AddCheckpoint { old_size: 0, proof: Vec::new(), note: fresh.log.sign(text) };
    let refusal = fresh.witness.add_checkpoint(request.to_string().as_bytes(), 1).unwrap_err();
    assert_eq!(refusal.status(), 422, "{refusal}");
    fresh.add(0, 0, 1).unwrap();
}

#[test]
fn the_state_survives_a_restart() {
    let fresh = Fresh::new();
    fresh.add(0, 5, 100).unwrap();
    let again = witness(&disk(), fresh.dir.path(), &fresh.secret, &fresh.log).unwrap();
    let add = |old, size| again.add_checkpoint(fresh.log.request(old, size).to_string().as_bytes(), 101);
    assert!(matches!(add(0, 9), Err(Refusal::OldSize { known: 5, .. })));
    assert_eq!(signed_at(&fresh, 9, &add(5, 9).unwrap()), 101);
}

#[test]
fn the_time_never_goes_back() {
    let fresh = Fresh::new();
    fresh.add(0, 5, 1000).unwrap();
    // A small step of the clock: the last time is used again.
    let lines = fresh.add(5, 6, 990).unwrap();
    assert_eq!(signed_at(&fresh, 6, &lines), 1000);
    let refusal = fresh.add(6, 7, 900).unwrap_err();
    assert!(matches!(refusal, Refusal::Clock { now: 900, last: 1000 }) && refusal.status() == 500);
    let reopened = witness(&disk(), fresh.dir.path(), &fresh.secret, &fresh.log).unwrap();
    let request = fresh.log.request(6, 7).to_string();
    assert!(matches!(reopened.add_checkpoint(request.as_bytes(), 900), Err(Refusal::Clock { last: 1000, .. })));
    assert!(matches!(Fresh::new().add(0, 1, 0), Err(Refusal::Sign(_))), "a clock without a time");
}

#[test]
fn of_two_requests_at_once_one_is_signed() {
    let fresh = Fresh::new();
    fresh.add(0, 5, 1).unwrap();
    for round in 0..20 {
        let old = 5 + round * 10;
        // Both continue the same tree, each in another way.
        let results = std::thread::scope(|scope| {
            let both = [old + 3, old + 10].map(|size| {
                let fresh = &fresh;
                scope.spawn(move || fresh.add(old, size, 1).is_ok())
            });
            both.map(|thread| thread.join().unwrap())
        });
        assert_eq!(results.iter().filter(|is_signed| **is_signed).count(), 1, "round {round}");
        if results[0] {
            fresh.add(old + 3, old + 10, 1).unwrap();
        }
    }
}

#[test]
fn a_directory_is_made_once_and_checked_at_each_start() {
    let fresh = Fresh::new();
    let own = fresh.verifier();
    let open = || witness(&disk(), fresh.dir.path(), &fresh.secret, &fresh.log).map(|_| ());
    assert!(matches!(Store::create(&DiskFs, fresh.dir.path(), &[&own]), Err(StoreError::Exists { .. })));
    for missing in [fresh.dir.path().join("missing"), tempfile::tempdir().unwrap().path().to_owned()] {
        assert!(matches!(Store::open(disk(), &missing, &[&own]), Err(StoreError::NotWitness { .. })));
    }
    fresh.add(0, 5, 1).unwrap();
    fresh.add(5, 6, 1).unwrap();
    open().unwrap();
    let good = fs::read(fresh.file()).unwrap();
    let other = key("witness.example/w", SignatureType::CosignatureEd25519);
    assert!(matches!(Store::open(disk(), fresh.dir.path(), &[other.verifier()]), Err(StoreError::OtherKeys { .. })));
    // Each changed byte, and each cut, is noticed, but for those in the signature line of the log.
    let by_log = fresh.log.note(6).signatures()[0].to_string();
    let at_log = String::from_utf8(good.clone()).unwrap().find(&by_log).unwrap();
    for at in (0..good.len()).filter(|at| !(at_log + 4..at_log + by_log.len()).contains(at)) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(fresh.file(), bytes).unwrap();
        assert!(open().is_err(), "byte {at}");
    }
    for cut in 0..good.len() {
        fs::write(fresh.file(), &good[..cut]).unwrap();
        assert!(open().is_err(), "cut to {cut}");
    }
    fs::write(fresh.file(), &good).unwrap();
    // A file that was being written when the witness was killed is ignored.
    fs::write(fresh.file().with_extension("new"), "half").unwrap();
    open().unwrap();
    fresh.add(6, 7, 1).unwrap();
    fs::write(fresh.dir.path().join(format!("{}.checkpoint", origin_hash("x"))), &good).unwrap();
    assert!(matches!(open(), Err(StoreError::Damaged { .. })), "a checkpoint under another log's name");
}

/// A file system whose directories fail to sync, or whose disk is full, from a chosen moment on.
#[derive(Debug, Default)]
struct Failing {
    /// The number of the operation that fails next: 1 is the creation of a file, 2 its renaming, 3 the sync.
    at: AtomicUsize,
}

impl Failing {
    fn fail(&self, operation: usize) -> io::Result<()> {
        let fails = self.at.load(Ordering::Relaxed) == operation;
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Fs for Failing {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DiskFs.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        DiskFs.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.fail(1)?;
        DiskFs.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn redb::StorageBackend>> {
        DiskFs.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fail(2)?;
        DiskFs.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskFs.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        DiskFs.remove(path)
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        DiskFs.identity(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fail(3)?;
        DiskFs.sync_dir(dir)
    }
}

#[test]
fn a_full_disk_signs_nothing_and_is_overcome() {
    let failing = Arc::new(Failing::default());
    let fresh = Fresh::on(&(Arc::clone(&failing) as Arc<dyn Fs>));
    let mut size = 5;
    fresh.add(0, size, 1).unwrap();
    for operation in 1..=3 {
        failing.at.store(operation, Ordering::Relaxed);
        let refusal = fresh.add(size, size + 1, 1).unwrap_err();
        assert!(matches!(refusal, Refusal::Store(_)) && refusal.status() == 500, "{refusal}");
        // The older state still counts, and another continuation of it may be signed.
        failing.at.store(0, Ordering::Relaxed);
        fresh.add(size, size + 2, 1).unwrap();
        size += 2;
        let again = witness(&disk(), fresh.dir.path(), &fresh.secret, &fresh.log).unwrap();
        again.add_checkpoint(fresh.log.request(size, size).to_string().as_bytes(), 1).unwrap();
    }
}
