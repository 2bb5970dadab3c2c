//! The hash chain, which shows whether a stream is complete and unchanged.
//!
//! ```text
//! hash = SHA-256( "gatepost.v2.record" || prev_hash (32 bytes) || open fields || commitments (3 times 32 bytes) )
//!
//! commitment = SHA-256( "gatepost.v2.who" | "gatepost.v2.circumstances" | "gatepost.v2.content"
//!                       || salt (32 bytes) || fields of the group )
//!
//! field  = length (u32, little-endian) || value      a NULL is the length 0xffffffff and no value
//! uuid   = 16 bytes, as in its text                  bigint = i64, 8 bytes, little-endian
//! text   = UTF-8, json = its text                    bytea  = its bytes
//! timestamptz = i64 microseconds since 1970 UTC      double = IEEE 754 binary64, 8 bytes, little-endian
//! ```
//!
//! The fields are in the order of the columns of `audit_log`; the group of each is in
//! [`COLUMNS`]. The hash can be computed from the row alone. A commitment can take the place of
//! its group: a verifier that is given it needs neither the group's values nor its salt, and cannot guess them back.
//! The first record of a stream has 32 zero bytes as its `prev_hash`.
//!
//! **Warning: every stored and delivered record has a hash of this layout.** `gateway/opened` says which format a
//! stream has; another layout needs another number there and other names in place of "gatepost.v2".

use super::record::column::{COLUMNS, Group, Value};
use super::record::{Digest, Entry, Epoch, GatewayId, Salt, Salts, Seq, StreamPosition};

/// The record format, which `gateway/opened` names: the columns of a record, their groups and this hash.
pub const FORMAT: u64 = 2;

/// Separates this hash from any other use of SHA-256 on the same bytes, and names the version of the layout.
const DOMAIN: &[u8] = b"gatepost.v2.record";

/// A group whose commitment is hashed.
struct Committed {
    group: Group,
    /// Separates the commitment from those of other groups.
    domain: &'static [u8],
    salt: fn(&Salts) -> &Salt,
}

/// The groups whose commitments are hashed, in their order.
const COMMITTED: [Committed; 3] = [
    Committed { group: Group::Who, domain: b"gatepost.v2.who", salt: |salts| &salts.who },
    Committed { group: Group::Circumstances, domain: b"gatepost.v2.circumstances", salt: |salts| &salts.circumstances },
    Committed { group: Group::Content, domain: b"gatepost.v2.content", salt: |salts| &salts.content },
];

/// The length that represents NULL. *Chosen*: no field can be 4 GiB long.
const NULL: u32 = u32::MAX;

/// The initial capacity for the hashed bytes of a record. *Derived*: 22 lengths, four digests, two ids, six numbers,
/// the domain and the longest status are 384 bytes; the rest is for text. Most records fit.
const FIELDS_BYTES: usize = 1024;

/// The current end of a stream, to which the next record is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The seq of the last record; zero before the first.
    pub seq: Seq,
    /// The hash of the last record; zero before the first.
    pub hash: Digest,
}

impl Head {
    /// The head of an empty stream.
    pub const START: Self = Self { seq: Seq::ZERO, hash: Digest::ZERO };

    /// The head after the record at `position`.
    #[must_use]
    pub fn after(position: &StreamPosition) -> Self {
        Self { seq: position.seq, hash: position.hash }
    }
}

/// Gives `entry` the next position after `head` in the stream of `gateway_id` and `epoch`.
#[must_use]
pub fn link(gateway_id: GatewayId, epoch: Epoch, head: Head, entry: &Entry) -> StreamPosition {
    // I3: every seq is made here, and is the previous one plus one.
    let mut position =
        StreamPosition { gateway_id, epoch, seq: head.seq.next(), prev_hash: head.hash, hash: Digest::ZERO };
    position.hash = hash(&position, entry);
    position
}

/// Returns true if a record's hash is the hash of its contents.
#[must_use]
pub fn hash_matches(position: &StreamPosition, entry: &Entry) -> bool {
    position.hash == hash(position, entry)
}

/// The commitments to the groups of a record that can be withheld, in their order.
#[must_use]
pub fn commitments(position: &StreamPosition, entry: &Entry) -> [(Group, Digest); 3] {
    let mut fields = Fields(Vec::with_capacity(FIELDS_BYTES));
    COMMITTED.map(|committed| (committed.group, fields.commitment(&committed, position, entry)))
}

fn hash(position: &StreamPosition, entry: &Entry) -> Digest {
    let mut fields = Fields(Vec::with_capacity(FIELDS_BYTES));
    let commitments = COMMITTED.map(|committed| fields.commitment(&committed, position, entry));
    fields.begin(DOMAIN);
    fields.0.extend_from_slice(&position.prev_hash.0);
    fields.group(Group::Open, position, entry);
    for commitment in commitments {
        fields.0.extend_from_slice(&commitment.0);
    }
    Digest::of(&fields.0)
}

/// The bytes to be hashed: length-prefixed fields, one after another. Hashed in one call: SHA-256 hashes a page in the
/// time of a dozen small updates.
struct Fields(Vec<u8>);

impl Fields {
    fn begin(&mut self, domain: &[u8]) {
        self.0.clear();
        self.0.extend_from_slice(domain);
    }

    /// The commitment to the columns of a group, which hides them from those who know neither the values nor the salt.
    fn commitment(&mut self, committed: &Committed, position: &StreamPosition, entry: &Entry) -> Digest {
        self.begin(committed.domain);
        self.0.extend_from_slice(&(committed.salt)(&entry.salts).0);
        self.group(committed.group, position, entry);
        Digest::of(&self.0)
    }

    /// The columns of a group, in their order.
    fn group(&mut self, group: Group, position: &StreamPosition, entry: &Entry) {
        for column in COLUMNS.iter().filter(|column| column.group == group) {
            match column.in_parts(position, entry) {
                Value::Null => self.0.extend_from_slice(&NULL.to_le_bytes()),
                Value::Uuid(value) => self.bytes(value.as_bytes()),
                Value::Bigint(value) => self.bytes(&value.to_le_bytes()),
                Value::Bytes32(value) => self.bytes(value),
                Value::Timestamptz(value) => self.bytes(&value.micros().to_le_bytes()),
                Value::Text(value) => self.bytes(value.as_bytes()),
                Value::Double(value) => self.bytes(&value.to_le_bytes()),
            }
        }
    }

    fn bytes(&mut self, value: &[u8]) {
        // A longer field cannot exist: a frame has at most 16 MiB.
        let length = u32::try_from(value.len()).unwrap_or(NULL - 1);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::record::{Call, Outcome, RequestId, Status};

    fn entry(tool: Option<&str>, error: Option<&str>) -> Entry {
        let call = Call::new(RequestId::new(), "tools/call").with_target(None, tool);
        Entry::new(
            call,
            Outcome::answered(
                Status::Ok,
                error.map(str::to_owned),
                b"{}",
                &crate::audit::record::RecordKey::from_bytes([0; 32]),
            ),
            Duration::from_millis(3),
        )
    }

    fn position(entry: &Entry) -> StreamPosition {
        link(GatewayId(uuid::Uuid::nil()), Epoch(1), Head::START, entry)
    }

    #[test]
    fn i3_seqs_rise_by_one_and_records_are_linked() {
        let entry = entry(Some("echo"), None);
        let first = position(&entry);
        let second = link(first.gateway_id, first.epoch, Head::after(&first), &entry);
        assert_eq!((first.seq, second.seq), (Seq(1), Seq(2)));
        assert_eq!((first.prev_hash, second.prev_hash), (Digest::ZERO, first.hash));
    }

    #[test]
    fn a_changed_field_changes_the_hash() {
        let original = entry(Some("echo"), None);
        let position = position(&original);
        assert!(hash_matches(&position, &original));
        let mut changed = original.clone();
        changed.latency_ms += 1.0;
        assert!(!hash_matches(&position, &changed));
        let mut changed = original.clone();
        changed.call.request_args = Some(String::new());
        assert!(!hash_matches(&position, &changed), "NULL differs from empty text");
        assert!(!hash_matches(&StreamPosition { epoch: Epoch(2), ..position }, &original));
    }

    #[test]
    fn text_moved_to_the_next_field_changes_the_hash() {
        let mut one = entry(Some("ab"), None);
        one.call.backend_name = Some("c".into());
        let mut other = one.clone();
        other.call.tool_name = Some("a".into());
        other.call.backend_name = Some("bc".into());
        assert!(!hash_matches(&position(&one), &other));
    }
}
