//! The tree as the scribe extends it, and as much of it as may be signed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::audit::outbox::Opening;
use crate::audit::record::{Epoch, Seq, StreamPosition};
use crate::audit::ring::Ring;
use crate::audit::tree::Tree;
use crate::evidence::tree::{Edge, Hash, KnownNodes, prove};

/// The most hashes of records that are kept for proofs, in 8 MiB. *Chosen*: those of a minute at full load; a witness
/// that is further behind gets its proof from Postgres.
const RECENT_MAX: usize = 1 << 18;

/// The number of hashes after which a part of them is closed. *Chosen*: 128 KiB, which are copied while the scribe
/// waits; closed parts are shared.
const PART_MIN: usize = 1 << 12;

/// The tree over all records with a position, and the one over all safe records.
#[derive(Debug)]
pub(super) struct GrowingTree {
    /// The tree over all records with a position, as it was when it was needed last.
    made: Tree,
    /// The hashes of records with a position that no other part has yet.
    new: Vec<[u8; 32]>,
    /// The number of hashes in `new` that `made` has.
    counted: usize,
    queued: bool,
    safe: Arc<Mutex<Safe>>,
}

/// The tree over all records that a crash cannot lose, as it is at any time: those that are stored or, at level
/// `queued`, delivered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoredTree {
    safe: Arc<Mutex<Safe>>,
    /// Tells what is delivered; `None` in a test without a scribe.
    ring: Option<Arc<Ring>>,
}

#[derive(Debug)]
struct Safe {
    tree: Tree,
    /// The tree as the outbox had it when it was opened.
    opening: Tree,
    epoch: Epoch,
    /// At level `queued`: the hashes of the published records after the tree, which are not safe yet.
    unsafe_yet: Option<VecDeque<[u8; 32]>>,
    /// The hashes of the last records; `None` while nothing needs them.
    recent: Option<Recent>,
}

/// The hashes of the last records of a tree, in parts.
#[derive(Debug)]
struct Recent {
    closed: VecDeque<Arc<Part>>,
    open: Part,
}

/// Hashes of consecutive records, and the edge of the tree before them.
#[derive(Clone, Debug)]
struct Part {
    before: Edge,
    hashes: Vec<[u8; 32]>,
}

impl GrowingTree {
    /// The tree that the new epoch continues.
    pub(super) fn of(opening: &Opening) -> Self {
        let made = opening.tree.clone();
        let unsafe_yet = opening.queued.then(VecDeque::new);
        let safe = Safe { opening: made.clone(), tree: made.clone(), epoch: opening.epoch, unsafe_yet, recent: None };
        Self { made, new: Vec::new(), counted: 0, queued: opening.queued, safe: Arc::new(Mutex::new(safe)) }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, position: &StreamPosition) {
        self.new.push(position.hash.0);
    }

    /// At level `queued`: the records so far are about to be published, and Postgres has those up to `delivered`.
    /// Without effect at level `stored`.
    pub(super) fn publish(&mut self, delivered: Option<Seq>) {
        if !self.queued {
            return;
        }
        let mut safe = self.safe.lock();
        if let Some(unsafe_yet) = &mut safe.unsafe_yet {
            unsafe_yet.extend(self.new.drain(..));
            safe.deliver(delivered.unwrap_or(Seq::ZERO));
        }
    }

    /// The tree over all records with a position.
    pub(super) fn made(&mut self) -> &Tree {
        let safe = self.safe.lock();
        if let Some(unsafe_yet) = &safe.unsafe_yet {
            self.made.clone_from(&safe.tree);
            for hash in unsafe_yet {
                safe.add(&mut self.made, hash);
            }
        }
        for hash in self.new.iter().skip(self.counted) {
            safe.add(&mut self.made, hash);
        }
        self.counted = self.new.len();
        drop(safe);
        &self.made
    }

    /// The records of the tree that was made last are stored.
    pub(super) fn mark_stored(&mut self) {
        let mut safe = self.safe.lock();
        let safe = &mut *safe;
        let count = usize::try_from(self.made.size().saturating_sub(safe.tree.size())).unwrap_or_default();
        if let Some(recent) = &mut safe.recent {
            let queued = safe.unsafe_yet.iter().flatten();
            recent.open.hashes.extend(queued.chain(&self.new).take(count));
        }
        let queued = safe.unsafe_yet.as_mut().map_or(0, |queued| queued.drain(..count.min(queued.len())).len());
        self.new.drain(..(count - queued).min(self.new.len()));
        self.counted = 0;
        if count > 0 {
            safe.tree.clone_from(&self.made);
            safe.close_part();
        }
    }

    /// The tree over all safe records.
    pub(super) fn stored(&self, ring: &Arc<Ring>) -> StoredTree {
        StoredTree { safe: Arc::clone(&self.safe), ring: Some(Arc::clone(ring)) }
    }
}

impl Safe {
    /// Adds the next record of the epoch to a tree that continues the opening's.
    fn add(&self, tree: &mut Tree, hash: &[u8; 32]) {
        let seq = Seq(tree.size() - self.opening.size() + 1);
        tree.add((self.epoch, seq), hash);
    }

    /// Postgres has the records of this epoch up to `delivered`.
    fn deliver(&mut self, delivered: Seq) {
        let Some(mut unsafe_yet) = self.unsafe_yet.take() else { return };
        let size = self.opening.size().saturating_add(delivered.0);
        let count = usize::try_from(size.saturating_sub(self.tree.size())).unwrap_or(usize::MAX);
        let mut tree = std::mem::replace(&mut self.tree, Tree::begin(self.epoch));
        for hash in unsafe_yet.drain(..count.min(unsafe_yet.len())) {
            self.add(&mut tree, &hash);
            if let Some(recent) = &mut self.recent {
                recent.open.hashes.push(hash);
            }
        }
        (self.tree, self.unsafe_yet) = (tree, Some(unsafe_yet));
        self.close_part();
    }

    /// Closes the open part if it is large, and forgets the oldest ones.
    fn close_part(&mut self) {
        let Some(recent) = &mut self.recent else { return };
        if recent.open.hashes.len() < PART_MIN {
            return;
        }
        let next = Part::begin(self.tree.edge());
        recent.closed.push_back(Arc::new(std::mem::replace(&mut recent.open, next)));
        let mut kept: usize = recent.closed.iter().map(|part| part.hashes.len()).sum();
        while kept > RECENT_MAX
            && let Some(oldest) = recent.closed.pop_front()
        {
            kept -= oldest.hashes.len();
        }
    }
}

impl Part {
    fn begin(before: &Edge) -> Self {
        Self { before: before.clone(), hashes: Vec::new() }
    }
}

impl StoredTree {
    /// A tree of which all records are stored.
    #[cfg(test)]
    pub(crate) fn of(tree: Tree) -> Self {
        let (opening, epoch) = (tree.clone(), tree.log);
        let safe = Safe { tree, opening, epoch, unsafe_yet: None, recent: None };
        Self { safe: Arc::new(Mutex::new(safe)), ring: None }
    }

    /// Replaces the tree, for a test without a scribe.
    #[cfg(test)]
    pub(crate) fn set(&self, tree: Tree) {
        self.safe.lock().tree = tree;
    }

    /// The tree over the records that are safe now.
    #[must_use]
    pub fn get(&self) -> Tree {
        self.now().tree.clone()
    }

    /// The tree as the outbox had it when it was opened, before this process added a record.
    #[must_use]
    pub fn opening(&self) -> Tree {
        self.safe.lock().opening.clone()
    }

    /// From now on, the hashes of the last records are kept for proofs.
    pub fn keep_hashes(&self) {
        let mut safe = self.now();
        let open = Part::begin(safe.tree.edge());
        safe.recent.get_or_insert(Recent { closed: VecDeque::new(), open });
    }

    /// The root of the tree of the first `size` records, from the hashes of the last records; `None` if they do not
    /// reach back so far.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        let mut nodes = self.recent(size)?;
        prove::root(size, &mut nodes).ok()
    }

    /// The proof that the tree of `new` records continues that of `old`, from the hashes of the last records; `None` if
    /// they do not reach back so far. `new` is at most the size of the tree.
    #[must_use]
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        if old == 0 {
            // From the tree without records there is a proof without hashes.
            return Some(Vec::new());
        }
        let mut nodes = self.recent(old)?;
        if new > nodes.size() {
            return None;
        }
        prove::consistency(old, new, &mut nodes).ok()
    }

    /// The nodes of the tree from a tree of at most `size` records on, from the hashes of the last records; `None` if
    /// they do not reach back so far, or the tree is smaller.
    #[must_use]
    pub fn recent(&self, size: u64) -> Option<KnownNodes> {
        let (parts, open) = {
            let safe = self.now();
            let recent = safe.recent.as_ref().filter(|_| size <= safe.tree.size())?;
            let is_needed = |part: &&Arc<Part>| part.before.size() + part.hashes.len() as u64 > size;
            let parts: Vec<_> = recent.closed.iter().filter(is_needed).map(Arc::clone).collect();
            (parts, recent.open.clone())
        };
        // The scribe does not wait for what follows.
        let before = parts.first().map_or(&open.before, |part| &part.before);
        let hashes: Vec<_> = parts.iter().map(|part| &part.hashes).chain([&open.hashes]).flatten().copied().collect();
        (before.size() <= size).then(|| KnownNodes::new(before.clone(), hashes))
    }

    /// The tree as it is now, with what Postgres has taken at level `queued`.
    fn now(&self) -> parking_lot::MutexGuard<'_, Safe> {
        let delivered = self.ring.as_ref().map(|ring| ring.gauge().delivered);
        let mut safe = self.safe.lock();
        safe.deliver(delivered.unwrap_or(Seq::ZERO));
        safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Digest, GatewayId};
    use crate::evidence::tree::{TreeHead, verify_consistency};

    const EPOCH: Epoch = Epoch(3);

    /// A scribe's tree that continues one of `before` records, and all trees that it grows through.
    struct Grown {
        tree: GrowingTree,
        all: Vec<Tree>,
        first: u64,
    }

    fn position(seq: u64) -> StreamPosition {
        let (gateway_id, prev_hash) = (GatewayId(uuid::Uuid::nil()), Digest::ZERO);
        StreamPosition { gateway_id, epoch: EPOCH, seq: Seq(seq), prev_hash, hash: Digest::of(&seq.to_le_bytes()) }
    }

    impl Grown {
        fn begin(before: u64, queued: bool) -> Self {
            let mut opening = Tree::begin(Epoch(1));
            for seq in 1..=before {
                opening.add((Epoch(1), Seq(seq)), &[7; 32]);
            }
            let unsafe_yet = queued.then(VecDeque::new);
            let safe = Safe { tree: opening.clone(), opening: opening.clone(), epoch: EPOCH, unsafe_yet, recent: None };
            let (made, safe) = (opening.clone(), Arc::new(Mutex::new(safe)));
            let tree = GrowingTree { made, new: Vec::new(), counted: 0, queued, safe };
            Self { tree, all: vec![opening], first: before }
        }

        fn push(&mut self, count: u64) {
            for _ in 0..count {
                let mut next = self.all.last().unwrap().clone();
                let position = position(next.size() - self.first + 1);
                next.push(&position);
                self.tree.push(&position);
                self.all.push(next);
            }
        }

        fn stored(&self) -> StoredTree {
            StoredTree { safe: Arc::clone(&self.tree.safe), ring: None }
        }

        /// The tree after `seq` records of the epoch.
        fn at(&self, seq: u64) -> &Tree {
            self.all.get(usize::try_from(seq).unwrap()).unwrap()
        }

        /// Checks the tree after `seq` records, and every proof since the tree of `known` records.
        fn check(&self, seq: u64, known: u64) {
            let stored = self.stored();
            let now = self.at(seq);
            assert_eq!(stored.get(), *now);
            for older in known..=seq {
                let older = self.at(older);
                let (old, new) = [older, now].map(|tree| TreeHead { size: tree.size(), root: tree.root() }).into();
                assert_eq!(stored.root_at(old.size), Some(old.root));
                verify_consistency(old, new, &stored.consistency(old.size, new.size).unwrap()).unwrap();
            }
            assert_eq!(stored.root_at(now.size() + 1), None);
        }
    }

    #[test]
    fn at_level_stored_the_tree_is_that_of_the_last_commit() {
        let mut grown = Grown::begin(5, false);
        grown.push(3);
        grown.tree.publish(Some(Seq(3)));
        assert_eq!(grown.stored().get(), *grown.at(0), "what is not stored is not safe");
        assert_eq!(grown.tree.made().clone(), *grown.at(3));
        // The commit failed, and is tried again with what came since.
        grown.push(2);
        assert_eq!(grown.tree.made().clone(), *grown.at(5));
        grown.tree.mark_stored();
        assert_eq!(grown.stored().get(), *grown.at(5));
        assert_eq!(grown.stored().root_at(5), None, "hashes are kept only if they are needed");
        grown.stored().keep_hashes();
        for count in [1, 0, 7, 2] {
            grown.push(count);
            grown.tree.made();
            grown.tree.mark_stored();
        }
        grown.check(15, 5);
        assert_eq!(grown.stored().root_at(9), None, "hashes from before they were kept");
        assert!(grown.tree.new.is_empty());
    }

    #[test]
    fn i6_at_level_queued_the_tree_is_that_of_stored_and_delivered_records() {
        let mut grown = Grown::begin(2, true);
        grown.stored().keep_hashes();
        grown.push(4);
        grown.tree.publish(None);
        grown.check(0, 0);
        grown.push(3);
        grown.tree.publish(Some(Seq(5)));
        grown.check(5, 0);
        // A spill stores all; a delivery that is noticed later changes nothing.
        assert_eq!(grown.tree.made().clone(), *grown.at(7));
        grown.tree.publish(Some(Seq(6)));
        grown.tree.mark_stored();
        grown.check(7, 0);
        grown.push(2);
        grown.tree.publish(Some(Seq(6)));
        grown.check(7, 0);
        // Postgres went back: what was signed stays.
        grown.tree.publish(Some(Seq(1)));
        grown.tree.publish(Some(Seq(9)));
        grown.check(9, 0);
        let safe = grown.tree.safe.lock();
        assert!(safe.unsafe_yet.as_ref().is_some_and(VecDeque::is_empty) && grown.tree.new.is_empty());
    }

    #[test]
    fn the_hashes_of_the_last_records_are_kept_in_parts() {
        let mut grown = Grown::begin(0, false);
        grown.stored().keep_hashes();
        let part = PART_MIN as u64;
        let parts = RECENT_MAX as u64 / part + 3;
        for _ in 0..parts {
            for seq in 0..part {
                grown.tree.push(&position(seq + 1));
            }
            grown.tree.made();
            grown.tree.mark_stored();
        }
        let (stored, size) = (grown.stored(), parts * part);
        assert_eq!(stored.get().size(), size);
        let first = size - RECENT_MAX as u64;
        assert!(stored.recent(first - 1).is_none() && stored.recent(size + 1).is_none());
        for from in [first, first + 1, size - part, size - 1, size] {
            let nodes = stored.recent(from).unwrap();
            assert!(nodes.base() <= from && from < nodes.base() + part || from == size, "{from}");
            assert_eq!(nodes.size(), size);
        }
        assert_eq!(stored.root_at(size), Some(stored.get().root()));
    }
}
