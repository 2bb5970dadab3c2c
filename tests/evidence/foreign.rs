//! The formats against other implementations: Cloudflare's `signed_note` and `tlog_tiles`, and `ct-merkle`. What they
//! make, ours verifies, and the other way round.

use std::convert::Infallible;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey, VerifierKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::prove::{consistency, inclusion, root};
use gatepost::evidence::tree::{
    Edge, Hash, NodeId, TreeHead, leaf_hash, node_hash, verify_consistency, verify_inclusion,
};
use sha2::{Digest as _, Sha256};
use signed_note::{StandardVerifier, VerifierList};
use tlog_tiles::tlog;

const ORIGIN: &str = "example.com/gatepost/log";

fn record(index: u64) -> [u8; 32] {
    Sha256::digest(index.to_le_bytes()).into()
}

/// The hash of a perfect subtree, computed from its leaves.
fn node(id: NodeId) -> Result<Hash, Infallible> {
    if id.level == 0 {
        return Ok(leaf_hash(&record(id.index)));
    }
    let [left, right] = [0, 1].map(|side| node(NodeId { level: id.level - 1, index: 2 * id.index + side }));
    Ok(node_hash(&left?, &right?))
}

fn head(size: u64) -> TreeHead {
    TreeHead { size, root: root(size, &mut node).unwrap() }
}

/// Stored hashes as `tlog_tiles` numbers them.
struct Stored;

impl tlog::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        let split = indexes.iter().map(|index| tlog::split_stored_hash_index(*index));
        Ok(split.map(|(level, index)| tlog::Hash(node(NodeId { level, index }).unwrap().0)).collect())
    }
}

fn theirs(hashes: &[Hash]) -> Vec<tlog::Hash> {
    hashes.iter().map(|hash| tlog::Hash(hash.0)).collect()
}

const SIZES: [u64; 12] = [1, 2, 3, 5, 8, 13, 31, 32, 33, 100, 255, 257];

#[test]
fn trees_and_proofs_are_those_of_tlog_tiles() {
    for size in SIZES {
        let tree = head(size);
        let hash = tlog::Hash(tree.root.0);
        assert_eq!(tlog::tree_hash(size, &Stored).unwrap(), hash, "{size}");
        for index in (0..size).step_by(3) {
            let proof = inclusion(index, size, &mut node).unwrap();
            assert_eq!(tlog::prove_record(size, index, &Stored).unwrap(), theirs(&proof), "{index} of {size}");
            tlog::check_record(&theirs(&proof), size, hash, index, tlog::record_hash(&record(index))).unwrap();
            verify_inclusion(index, leaf_hash(&record(index)), tree, &proof).unwrap();
        }
        for old in (1..=size).step_by(3) {
            let (before, proof) = (head(old), consistency(old, size, &mut node).unwrap());
            assert_eq!(tlog::prove_tree(size, old, &Stored).unwrap(), theirs(&proof), "{old} to {size}");
            tlog::check_tree(&theirs(&proof), size, hash, old, tlog::Hash(before.root.0)).unwrap();
            verify_consistency(before, tree, &proof).unwrap();
        }
    }
}

#[test]
fn trees_and_proofs_are_those_of_ct_merkle() {
    let mut tree = MemoryBackedTree::<Sha256, [u8; 32]>::new();
    let mut edge = Edge::EMPTY;
    for index in 0..64 {
        tree.push(record(index));
        edge.push(&record(index), |_, _, _| ()).unwrap();
        let size = index + 1;
        assert_eq!(tree.root().as_bytes()[..], edge.root().0, "{size}");
        for index in 0..size {
            let ours = inclusion(index, size, &mut node).unwrap();
            let bytes: Vec<u8> = ours.iter().flat_map(|hash| hash.0).collect();
            assert_eq!(tree.prove_inclusion(usize::try_from(index).unwrap()).as_bytes(), bytes, "{index} of {size}");
            let proof = InclusionProof::<Sha256>::try_from_bytes(bytes).unwrap();
            tree.root().verify_inclusion(&record(index), index, &proof).unwrap();
        }
        for old in 1..size {
            let ours = consistency(old, size, &mut node).unwrap();
            let bytes: Vec<u8> = ours.iter().flat_map(|hash| hash.0).collect();
            let added = usize::try_from(size - old).unwrap();
            assert_eq!(tree.prove_consistency(added).as_bytes(), bytes, "{old} to {size}");
            let before = RootHash::<Sha256>::new(head(old).root.0.into(), old);
            tree.root().verify_consistency(&before, &ConsistencyProof::try_from_bytes(bytes).unwrap()).unwrap();
        }
    }
}

fn time() -> UnixTime {
    UnixTime::from_seconds(1).unwrap()
}

#[test]
fn our_notes_are_verified_by_signed_note() {
    let (key, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
    let (witness, _) = SigningKey::generate("witness.example/w", SignatureType::CosignatureEd25519).unwrap();
    let text = Checkpoint::new(ORIGIN, head(33)).unwrap().to_string();
    let signatures = [&key, &witness].map(|key| sign(key, &text, time()).unwrap());
    let note = Note::new(text, signatures.to_vec()).unwrap();

    let theirs = signed_note::Note::from_bytes(note.to_string().as_bytes()).unwrap();
    let known = StandardVerifier::new(&key.verifier().to_string()).unwrap();
    let (verified, ignored) = theirs.verify(&VerifierList::new(vec![Box::new(known)])).unwrap();
    assert_eq!((verified.len(), ignored.len()), (1, 1));
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(theirs.text()).unwrap();
    assert_eq!((checkpoint.origin(), checkpoint.size(), checkpoint.hash().0), (ORIGIN, 33, head(33).root.0));
    // The same secret signs the same there.
    let signer = signed_note::StandardSigner::new(&secret).unwrap();
    let mut again = signed_note::Note::new(note.text().as_bytes(), &[]).unwrap();
    again.add_sigs(&[&signer]).unwrap();
    let first = Note::new(note.text().to_owned(), note.signatures()[..1].to_vec()).unwrap();
    assert_eq!(again.to_bytes(), first.to_string().into_bytes());
}

#[test]
fn a_key_and_a_note_of_signed_note_are_read() {
    // The key pair and the note of golang.org/x/mod/sumdb/note.
    let key = VerifierKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
    let note = Note::parse(format!("{text}\n{line}\n").as_bytes()).unwrap();
    assert_eq!(note.verify([&key]).unwrap()[0].key.name(), "PeterNeumann");
    StandardVerifier::new(&key.to_string()).unwrap();
}
