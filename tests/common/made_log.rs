//! A log for the tests: made-up records, in as many histories as there are salts.

use std::convert::Infallible;

use gatepost::evidence::add_checkpoint::AddCheckpoint;
use gatepost::evidence::checkpoint::Checkpoint;
use gatepost::evidence::cosignature::{UnixTime, sign};
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::prove::{consistency, root};
use gatepost::evidence::tree::{Hash, NodeId, TreeHead, leaf_hash, node_hash};
use sha2::{Digest as _, Sha256};

pub const ORIGIN: &str = "example.com/gatepost/log";

pub struct Log {
    pub key: SigningKey,
    /// The key as text.
    pub secret: String,
    /// Another salt makes other records.
    pub salt: u64,
}

impl Log {
    pub fn new() -> Self {
        let (key, secret) = SigningKey::generate(ORIGIN, SignatureType::Ed25519).unwrap();
        Self { key, secret: secret.to_string(), salt: 0 }
    }

    /// The hash of a perfect subtree, computed from its leaves.
    fn node(&self, id: NodeId) -> Hash {
        if id.level == 0 {
            return leaf_hash(&Sha256::digest([id.index.to_le_bytes(), self.salt.to_le_bytes()].concat()).into());
        }
        let [left, right] = [0, 1].map(|side| self.node(NodeId { level: id.level - 1, index: 2 * id.index + side }));
        node_hash(&left, &right)
    }

    fn nodes(&self) -> impl FnMut(NodeId) -> Result<Hash, Infallible> {
        |id| Ok(self.node(id))
    }

    pub fn head(&self, size: u64) -> TreeHead {
        TreeHead { size, root: root(size, &mut self.nodes()).unwrap() }
    }

    /// The signed checkpoint of this size.
    pub fn note(&self, size: u64) -> Note {
        self.sign(Checkpoint::new(self.key.verifier().name(), self.head(size)).unwrap().to_string())
    }

    pub fn sign(&self, text: String) -> Note {
        let signature = sign(&self.key, &text, UnixTime::from_seconds(1).unwrap()).unwrap();
        Note::new(text, vec![signature]).unwrap()
    }

    pub fn proof(&self, old: u64, size: u64) -> Vec<Hash> {
        consistency(old, size, &mut self.nodes()).unwrap()
    }

    pub fn request(&self, old_size: u64, size: u64) -> AddCheckpoint {
        AddCheckpoint { old_size, proof: self.proof(old_size, size), note: self.note(size) }
    }
}
