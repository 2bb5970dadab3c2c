//! The hash chain, which shows whether a stream is complete and unchanged.
//!
//! ```text
//! hash = SHA-256( "gatepost.v1" || prev_hash (32 bytes) || field || field || ... )
//!
//! field  = length (u32, little-endian) || value      a NULL is the length 0xffffffff and no value
//! uuid   = 16 bytes, as in its text                  bigint = i64, 8 bytes, little-endian
//! text   = UTF-8, json = its text                    bytea  = its bytes
//! timestamptz = i64 microseconds since 1970 UTC      double = IEEE 754 binary64, 8 bytes, little-endian
//! ```
//!
//! The fields are in the order of the columns of `audit_log`, without `prev_hash` and `hash` themselves, so that the
//! hash can be computed from the row alone. The first record of a stream has 32 zero bytes as its `prev_hash`.
//!
//! **Warning: every stored and delivered record has a hash of this layout.** Never add, remove, reorder or re-encode a
//! field without a new name in place of "gatepost.v1" and a way to tell from the stream which layout a record has.
//! Otherwise verification reports every existing trail as changed.

use super::record::{Digest, Entry, Epoch, GatewayId, Seq, StreamPosition};

/// Separates this hash from any other use of SHA-256 on the same bytes, and names the version of the layout.
const DOMAIN: &[u8] = b"gatepost.v1";

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
    let seq = head.seq.next();
    StreamPosition {
        gateway_id,
        epoch,
        seq,
        prev_hash: head.hash,
        hash: hash(gateway_id, epoch, seq, head.hash, entry),
    }
}

/// Returns true if a record's hash is the hash of its contents.
#[must_use]
pub fn hash_matches(position: &StreamPosition, entry: &Entry) -> bool {
    position.hash == hash(position.gateway_id, position.epoch, position.seq, position.prev_hash, entry)
}

fn hash(gateway_id: GatewayId, epoch: Epoch, seq: Seq, prev_hash: Digest, entry: &Entry) -> Digest {
    // Hashed in one call: SHA-256 hashes a page in the time of a dozen small updates.
    let mut fields = Fields(Vec::with_capacity(FIELDS_BYTES));
    fields.0.extend_from_slice(DOMAIN);
    fields.0.extend_from_slice(&prev_hash.0);
    fields.bytes(gateway_id.0.as_bytes());
    fields.bytes(&epoch.0.to_le_bytes());
    fields.bytes(&seq.0.to_le_bytes());
    let call = &entry.call;
    fields.bytes(call.request_id.0.as_bytes());
    fields.bytes(&call.timestamp.micros().to_le_bytes());
    fields.bytes(call.method.as_bytes());
    fields.bytes(call.client_subject.as_bytes());
    fields.text(call.client_role.as_deref());
    fields.text(call.client_issuer.as_deref());
    fields.text(call.token_id.as_deref());
    fields.text(call.client_addr.as_deref());
    fields.text(call.session_id.as_deref());
    fields.text(call.rpc_id.as_deref());
    fields.text(call.tool_name.as_deref());
    fields.text(call.backend_name.as_deref());
    fields.text(call.request_args.as_deref());
    fields.digest(call.args_digest);
    fields.bytes(entry.response_status.as_str().as_bytes());
    fields.text(entry.error_message.as_deref());
    fields.digest(entry.response_digest);
    fields.optional(entry.response_bytes.map(u64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
    fields.bytes(&entry.latency_ms.to_le_bytes());
    Digest::of(&fields.0)
}

/// The bytes to be hashed: length-prefixed fields, one after another.
struct Fields(Vec<u8>);

impl Fields {
    fn optional(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => self.bytes(bytes),
            None => self.0.extend_from_slice(&NULL.to_le_bytes()),
        }
    }

    fn text(&mut self, value: Option<&str>) {
        self.optional(value.map(str::as_bytes));
    }

    fn digest(&mut self, value: Option<Digest>) {
        self.optional(value.as_ref().map(|digest| digest.0.as_slice()));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(NULL - 1);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::record::{Call, Outcome, RequestId, Status};

    fn entry(tool: Option<&str>, error: Option<&str>) -> Entry {
        let call = Call::new(RequestId::new(), "tools/call").with_target(None, tool);
        Entry::new(call, Outcome::answered(Status::Ok, error.map(str::to_owned), b"{}"), Duration::from_millis(3))
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
