//! Keyed digests: a record can be compared with a text, but a redacted text cannot be guessed from the record.
//!
//! ```text
//! record key = HMAC-SHA256( digest key, request id (16 bytes) )
//! digest     = HMAC-SHA256( record key, text )
//! key id     = HMAC-SHA256( digest key, "gatepost.v2.digest-key" )
//! config key = HMAC-SHA256( digest key, "gatepost.v2.config-key" )
//! ```
//!
//! The digest key never enters a record, Postgres or an export. With the key of one record, which
//! `gatepost audit match --reveal-key` prints, its digests can be checked elsewhere, and no others.

use std::fmt;

use aws_lc_rs::hmac;

use super::ids::{Digest, RequestId};

/// Separates the key's id from every record key: those are made from 16 bytes.
const ID_DOMAIN: &[u8] = b"gatepost.v2.digest-key";

/// Separates the key of the digests of configurations in the same way.
const CONFIG_DOMAIN: &[u8] = b"gatepost.v2.config-key";

/// The secret of which the keys of all records are made. Its `Debug` output does not contain it.
#[derive(Clone)]
pub struct DigestKey(Key);

/// The key of one record's digests. Its `Debug` output does not contain it.
#[derive(Clone)]
pub struct RecordKey(Key);

/// A key and the state of HMAC after it: half of the work of a digest of a short text.
#[derive(Clone)]
struct Key {
    bytes: [u8; 32],
    keyed: hmac::Key,
}

impl DigestKey {
    /// A new key of random bytes.
    #[must_use]
    pub fn random() -> Self {
        Self::from_bytes(rand::random())
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Key::new(bytes))
    }

    /// The bytes of the key, to be stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    /// The key of the digests of the record with this request id.
    #[must_use]
    pub fn record_key(&self, id: RequestId) -> RecordKey {
        RecordKey::from_bytes(self.0.hmac(id.0.as_bytes()))
    }

    /// The digest of the configuration `text`, which may contain secrets: it only tells whether they changed.
    #[must_use]
    pub fn config_digest(&self, text: &[u8]) -> Digest {
        Digest(Key::new(self.0.hmac(CONFIG_DOMAIN)).hmac(text))
    }

    /// The key's id, which does not reveal the key.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest(self.0.hmac(ID_DOMAIN))
    }
}

impl RecordKey {
    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Key::new(bytes))
    }

    /// The keyed digest of `text`.
    #[must_use]
    pub fn digest(&self, text: &[u8]) -> Digest {
        Digest(self.0.hmac(text))
    }

    /// The keyed digest of a text that `write` passes on in parts.
    #[must_use]
    pub fn digest_parts(&self, write: impl FnOnce(&mut dyn FnMut(&str))) -> Digest {
        let mut mac = hmac::Context::with_key(&self.0.keyed);
        write(&mut |part| mac.update(part.as_bytes()));
        Digest(copied(&mac.sign()))
    }

    /// The bytes of the key, to be revealed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }
}

impl Key {
    fn new(bytes: [u8; 32]) -> Self {
        Self { bytes, keyed: hmac::Key::new(hmac::HMAC_SHA256, &bytes) }
    }

    fn hmac(&self, text: &[u8]) -> [u8; 32] {
        copied(&hmac::sign(&self.keyed, text))
    }
}

/// The bytes of a tag, which are as many as HMAC-SHA256 has.
fn copied(tag: &hmac::Tag) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey") // I8: it is a secret.
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey") // I8: it is a secret.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_documented_formula() {
        // Computed with Python: hmac.new(hmac.new(bytes(range(32)), bytes(16), "sha256").digest(), b"{}", "sha256").
        let key = DigestKey::from_bytes(std::array::from_fn(|idx| u8::try_from(idx).unwrap()));
        let record = key.record_key(RequestId(uuid::Uuid::nil()));
        assert_eq!(
            record.digest(b"{}").to_string(),
            "920758022546c733670c0f06023b7a4117609c3e4987f42a1a70aaf103d54dd5"
        );
        // hmac.new(hmac.new(bytes(range(32)), b"gatepost.v2.config-key", "sha256").digest(), b"{}", "sha256").
        assert_eq!(
            key.config_digest(b"{}").to_string(),
            "1ee46f6efd373b9262c0633ec3df609e3e32eaf324ab07435ca038da59695e05"
        );
        let parts = ["{", "", "}"];
        assert_eq!(record.digest_parts(|sink| parts.iter().for_each(|part| sink(part))), record.digest(b"{}"));
        assert_ne!(key.record_key(RequestId::new()).digest(b"{}"), record.digest(b"{}"), "each record has its own key");
        assert!(!format!("{key:?}{record:?}").contains('1'));
        // The test vector of docs/trail.md.
        let vector = RecordKey::from_bytes([0; 32]).digest(br#"{"content":[]}"#);
        assert!(include_str!("../../../docs/trail.md").contains(&format!("`{vector}`")));
    }
}
