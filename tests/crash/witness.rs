//! A witness on a disk that crashes at every operation, or fails at it: what it has signed never contradicts itself.
//!
//! The oracle is the caller: it remembers the last size that was signed, and then submits another history of the log.

use std::path::Path;
use std::sync::Arc;

use gatepost::audit::outbox::fs::Fs;
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::witness::Witness;
use gatepost::witness::refusal::Refusal;
use gatepost::witness::store::{Store, StoreError};

use crate::common::made_log::Log;
use crate::sim_disk::{Crash, Fault, Lie, SimDisk};

/// The sizes that the script submits, one after another, from 0.
const SCRIPT: [u64; 5] = [3, 7, 7, 8, 20];

/// A log, and another history of it with the same key.
struct Histories {
    honest: Log,
    forked: Log,
    witness: String,
}

impl Histories {
    fn new() -> Self {
        let honest = Log::new();
        let forked = Log { key: SigningKey::parse(&honest.secret).unwrap(), secret: honest.secret.clone(), salt: 1 };
        let (_, secret) = SigningKey::generate("witness.example/w", SignatureType::CosignatureEd25519).unwrap();
        Self { honest, forked, witness: secret.to_string() }
    }

    fn key(&self) -> SigningKey {
        SigningKey::parse(&self.witness).unwrap()
    }

    fn create(&self, disk: &SimDisk, dir: &Path) -> Result<(), StoreError> {
        Store::create(disk, dir, &[self.key().verifier()])
    }

    fn open(&self, disk: &SimDisk, dir: &Path) -> Result<Witness, StoreError> {
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let store = Store::open(fs, dir, &[self.key().verifier()])?;
        Ok(Witness::new(vec![self.key()], [self.honest.key.verifier().clone()], store))
    }

    /// Runs the script until the disk fails, and returns the last size that was signed.
    fn run(&self, disk: &SimDisk, dir: &Path) -> u64 {
        let mut signed = 0;
        if self.create(disk, dir).is_err() {
            return signed;
        }
        let Ok(witness) = self.open(disk, dir) else { return signed };
        for size in SCRIPT {
            if add(&witness, &self.honest, signed, size).is_err() {
                return signed;
            }
            signed = size;
        }
        signed
    }

    /// Looks for a contradiction to a signature of `signed` records: the reason, if there is one.
    fn contradiction(&self, disk: &SimDisk, dir: &Path, signed: u64) -> Option<String> {
        let witness = match self.open(disk, dir) {
            Ok(witness) => witness,
            // It signs nothing more, which contradicts nothing; but what was durable must be there.
            Err(error) if signed > 0 => return Some(format!("the state is lost: {error}")),
            Err(_) => return None,
        };
        let known = match add(&witness, &self.honest, 0, 30) {
            Err(Refusal::OldSize { known, .. }) => known,
            signed_or_refused if signed > 0 => return Some(format!("forgot {signed}: {signed_or_refused:?}")),
            _ => return None,
        };
        if known < signed {
            return Some(format!("knows {known}, and signed {signed}"));
        }
        for old in 0..=known {
            if add(&witness, &self.forked, old, old + 9).is_ok() {
                return Some(format!("signed another history from {old}"));
            }
        }
        add(&witness, &self.honest, known, 31).err().map(|error| format!("does not continue from {known}: {error}"))
    }
}

fn add(witness: &Witness, log: &Log, old: u64, size: u64) -> Result<String, Refusal> {
    witness.add_checkpoint(log.request(old, size).to_string().as_bytes(), 1_800_000_000)
}

/// The contradictions after a crash at each operation, with a disk that keeps its promises but for `lie`.
fn crash_everywhere(lie: Lie) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("witness");
    let histories = Histories::new();
    let fresh = |seed| {
        let disk = SimDisk::new(root.path(), seed);
        disk.lie(lie);
        disk
    };
    let dry = fresh(0);
    assert_eq!(histories.run(&dry, &dir), 20);
    assert!(dry.operations() > 20, "{} operations", dry.operations());
    let mut found = Vec::new();
    for (operation, seed) in (1..=dry.operations() + 1).flat_map(|operation| (0..8).map(move |seed| (operation, seed)))
    {
        let disk = fresh(seed);
        disk.crash_at(operation);
        let signed = histories.run(&disk, &dir);
        for crash in [Crash::Kill, Crash::PowerLoss] {
            let next = disk.crashed(crash, seed);
            let reason = histories.contradiction(&next, &dir, signed);
            found.extend(reason.map(|reason| format!("{crash:?} at {operation}, seed {seed}: {reason}")));
        }
    }
    found
}

#[test]
fn a_witness_that_crashes_at_any_operation_never_contradicts_itself() {
    let found = crash_everywhere(Lie::None);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_disk_that_lies_about_a_sync_is_noticed() {
    for lie in [Lie::FileSync, Lie::DirectorySync] {
        assert!(!crash_everywhere(lie).is_empty(), "{lie:?}");
    }
}

#[test]
fn a_witness_whose_disk_fails_once_continues_and_never_contradicts_itself() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("witness");
    let histories = Histories::new();
    let dry = SimDisk::new(root.path(), 0);
    histories.create(&dry, &dir).unwrap();
    let made = dry.operations();
    let total = {
        let disk = SimDisk::new(root.path(), 0);
        histories.run(&disk, &dir);
        disk.operations()
    };
    for operation in made + 1..=total {
        let disk = SimDisk::new(root.path(), operation);
        histories.create(&disk, &dir).unwrap();
        let witness = histories.open(&disk, &dir).unwrap();
        disk.fail(Fault::Once(operation));
        let (mut signed, mut failures) = (0, 0);
        for size in SCRIPT {
            // Refused once; the same again is signed.
            while let Err(refusal) = add(&witness, &histories.honest, signed, size) {
                assert!(matches!(refusal, Refusal::Store(_)) && failures == 0, "{operation}: {refusal}");
                failures += 1;
            }
            signed = size;
        }
        assert_eq!((signed, failures), (20, 1), "{operation}");
        let next = disk.crashed(Crash::PowerLoss, operation);
        assert_eq!(histories.contradiction(&next, &dir, signed), None, "{operation}");
    }
}
