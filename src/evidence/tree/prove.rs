//! Proofs, roots and edges from the stored hashes of perfect subtrees.
//!
//! A proof is a list of subtrees, and the hash of each is put together from at most 63 perfect ones. Which those are
//! depends on the sizes only: with a [`NodeList`] as the source, they are listed, and a caller can read all at once.

use std::convert::Infallible;

use super::edge::Edge;
use super::hash::{Hash, SIZE_MAX, empty_root, node_hash};

/// The place of a perfect subtree: it has the leaves from `index << level` up to and without `(index + 1) << level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// The height of the subtree: 0 for a leaf.
    pub level: u8,
    /// The number of perfect subtrees of the same level to the left.
    pub index: u64,
}

/// The hashes of perfect subtrees. Only such are asked for as are full in a tree of the size that a proof is made for.
pub trait NodeSource {
    /// The reason why a hash cannot be read.
    type Error;

    /// The hash of a perfect subtree.
    ///
    /// # Errors
    /// It cannot be read, or is missing.
    fn node(&mut self, id: NodeId) -> Result<Hash, Self::Error>;
}

impl<E, F: FnMut(NodeId) -> Result<Hash, E>> NodeSource for F {
    type Error = E;

    fn node(&mut self, id: NodeId) -> Result<Hash, E> {
        self(id)
    }
}

/// A source without hashes, which lists what it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeList(pub Vec<NodeId>);

impl NodeSource for NodeList {
    type Error = Infallible;

    fn node(&mut self, id: NodeId) -> Result<Hash, Infallible> {
        self.0.push(id);
        Ok(empty_root())
    }
}

/// A proof cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProveError<E> {
    /// There is no such record in the tree.
    #[error("record {index} is not in a tree of {size} records, whose last is {size} - 1")]
    Index {
        /// The index of the record.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The older tree would be larger than the newer one.
    #[error("a tree of {new} records cannot continue one of {old}")]
    Sizes {
        /// The size of the older tree.
        old: u64,
        /// The size of the newer tree.
        new: u64,
    },
    /// A tree cannot have this size.
    #[error("a tree of {size} records: the limit is {SIZE_MAX}")]
    Size {
        /// The size.
        size: u64,
    },
    /// The source has an error.
    #[error(transparent)]
    Source(#[from] E),
}

/// The leaves `begin..end` as a subtree. `begin` is a multiple of the smallest power of two that is at least the count.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    begin: u64,
    end: u64,
}

impl Subtree {
    /// The subtree as it is, if it is perfect.
    fn perfect(self) -> Option<NodeId> {
        let size = self.end - self.begin;
        let level = size.trailing_zeros();
        let id = |level| NodeId { level, index: self.begin >> level };
        size.is_power_of_two().then(|| u8::try_from(level).ok().map(id))?
    }

    /// The index where its right child begins, if it has more than one leaf.
    fn middle(self) -> Option<u64> {
        let last = (self.end - self.begin).checked_sub(1)?;
        Some(self.begin + (1 << last.checked_ilog2()?))
    }

    fn children(self) -> Option<(Self, Self)> {
        let middle = self.middle()?;
        Some((Self { end: middle, ..self }, Self { begin: middle, ..self }))
    }

    /// The perfect subtrees that it consists of, the largest first.
    fn parts(mut self) -> Vec<NodeId> {
        let mut parts = Vec::new();
        while self.begin < self.end {
            let (left, right) = self
                .children()
                .filter(|_| self.perfect().is_none())
                .unwrap_or((self, Self { begin: self.end, ..self }));
            parts.extend(left.perfect());
            self = right;
        }
        parts
    }

    fn hash<S: NodeSource>(self, nodes: &mut S) -> Result<Hash, S::Error> {
        let mut hashes = self.parts().into_iter().map(|id| nodes.node(id)).collect::<Result<Vec<_>, _>>()?;
        let Some(mut hash) = hashes.pop() else { return Ok(empty_root()) };
        while let Some(left) = hashes.pop() {
            hash = node_hash(&left, &hash);
        }
        Ok(hash)
    }
}

/// The hash of the root of the tree of the first `size` leaves.
///
/// # Errors
/// [`ProveError::Size`], and what `nodes` returns.
pub fn root<S: NodeSource>(size: u64, nodes: &mut S) -> Result<Hash, ProveError<S::Error>> {
    Ok(whole(size)?.hash(nodes)?)
}

/// The edge of the tree of the first `size` leaves.
///
/// # Errors
/// [`ProveError::Size`], and what `nodes` returns.
pub fn edge<S: NodeSource>(size: u64, nodes: &mut S) -> Result<Edge, ProveError<S::Error>> {
    let parts = whole(size)?.parts();
    let hashes = parts.into_iter().map(|id| nodes.node(id)).collect::<Result<_, _>>()?;
    Edge::from_hashes(size, hashes).map_err(|_| ProveError::Size { size })
}

/// The proof that the record `index` is in the tree of the first `size` records: RFC 6962, section 2.1.1.
///
/// # Errors
/// [`ProveError::Index`], [`ProveError::Size`], and what `nodes` returns.
pub fn inclusion<S: NodeSource>(index: u64, size: u64, nodes: &mut S) -> Result<Vec<Hash>, ProveError<S::Error>> {
    let mut tree = whole(size)?;
    if index >= size {
        return Err(ProveError::Index { index, size });
    }
    let mut siblings = Vec::new();
    while let Some((left, right)) = tree.children() {
        let (inside, sibling) = if index < right.begin { (left, right) } else { (right, left) };
        siblings.push(sibling);
        tree = inside;
    }
    hashes(siblings, nodes)
}

/// The proof that the tree of the first `new` records continues that of the first `old`: RFC 6962, section 2.1.2. It is
/// empty if `old` is zero or `new`.
///
/// # Errors
/// [`ProveError::Sizes`], [`ProveError::Size`], and what `nodes` returns.
pub fn consistency<S: NodeSource>(old: u64, new: u64, nodes: &mut S) -> Result<Vec<Hash>, ProveError<S::Error>> {
    let mut tree = whole(new)?;
    if old > new {
        return Err(ProveError::Sizes { old, new });
    }
    if old == 0 {
        return Ok(Vec::new());
    }
    let mut subtrees = Vec::new();
    while tree.end > old
        && let Some((left, right)) = tree.children()
    {
        let (inside, other) = if old <= right.begin { (left, right) } else { (right, left) };
        subtrees.push(other);
        tree = inside;
    }
    // What is left is the right end of the older tree. The verifier has its hash if it is that whole tree.
    if tree.begin > 0 {
        subtrees.push(tree);
    }
    hashes(subtrees, nodes)
}

fn whole<E>(size: u64) -> Result<Subtree, ProveError<E>> {
    if size > SIZE_MAX { Err(ProveError::Size { size }) } else { Ok(Subtree { begin: 0, end: size }) }
}

/// The hashes of subtrees that were listed from the root downward, in the order of a proof: from the leaves upward.
fn hashes<S: NodeSource>(subtrees: Vec<Subtree>, nodes: &mut S) -> Result<Vec<Hash>, ProveError<S::Error>> {
    let from_leaves = subtrees.into_iter().rev();
    Ok(from_leaves.map(|subtree| subtree.hash(nodes)).collect::<Result<_, _>>()?)
}
