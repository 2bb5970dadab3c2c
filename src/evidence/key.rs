//! Keys that sign notes: C2SP signed-note, "Verifier keys", and the encoding of secret keys that note signers share.
//!
//! ```text
//! verifier key = NAME "+" ID "+" base64( TYPE (1 byte) || public key )
//! signing key  = "PRIVATE+KEY+" NAME "+" ID "+" base64( TYPE (1 byte) || seed (32 bytes) )
//! ID           = 8 hexadecimal digits: the first 4 bytes of SHA-256( NAME || 0x0a || TYPE || public key )
//! ```

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::fill;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::text::{base64, from_base64, shown};

/// The most bytes of a key's name. *Spec*: C2SP tlog-cosignature, `cosigner_name<1..2^8-1>`.
pub const NAME_BYTES_MAX: usize = 255;

/// The most bytes of a key as text. *Derived*: a name, and the 1313 bytes of an ML-DSA-44 key in base64 (1752).
pub const KEY_TEXT_BYTES_MAX: usize = 4096;

/// The beginning of a secret key. *Spec*: golang.org/x/mod/sumdb/note, which other signers follow.
const PRIVATE: &str = "PRIVATE+KEY+";

/// The beginning and the end of a public key in PEM. *Spec*: RFC 7468, section 13.
const PEM: [&str; 2] = ["-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"];

/// The bytes of an Ed25519 public key in DER before the key itself. *Spec*: RFC 8410, section 4.
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The length of the secret that a key pair is made of. *Spec*: RFC 8032, and FIPS 204.
const SEED_BYTES: usize = 32;

/// The first 4 bytes of a hash over name, type and public key. It tells keys of one name apart; it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

/// A signature type: the algorithm, and the bytes that are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignatureType {
    /// Ed25519 over the text of a note. *Spec*: C2SP signed-note.
    Ed25519,
    /// Ed25519 over a time and the text of a checkpoint. *Spec*: C2SP tlog-cosignature.
    CosignatureEd25519,
    /// ML-DSA-44, which quantum computers do not break, over a time and a checkpoint. *Spec*: C2SP tlog-cosignature.
    CosignatureMlDsa44,
}

/// The public half of a key, with its name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    name: String,
    id: KeyId,
    signature_type: SignatureType,
    public: Vec<u8>,
}

/// A key that signs. Its `Debug` output is the verifier key.
pub struct SigningKey {
    pair: Pair,
    verifier: VerifierKey,
}

/// aws-lc overwrites the secret of a pair when it is dropped.
enum Pair {
    Ed25519(Ed25519KeyPair),
    MlDsa44(PqdsaKeyPair),
}

/// A text is not a key, or a key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text has not the form of a verifier key.
    #[error("{text} is not a verifier key: it must have the form NAME+ID+KEY")]
    VerifierForm {
        /// The beginning of the text.
        text: String,
    },
    /// A secret key was given where a verifier key is expected. The message does not contain it.
    #[error("this is a secret key (it begins with {PRIVATE}), and a verifier key is expected: it begins with its name")]
    SecretGiven,
    /// The text has not the form of a secret key. The message does not contain it.
    #[error("this is not a secret key: it must have the form {PRIVATE}NAME+ID+KEY, on one line")]
    SecretForm,
    /// The text is not a public key in PEM.
    #[error("this is not an Ed25519 public key in PEM: `openssl pkey -pubout` writes one")]
    PemForm,
    /// The name is empty, too long, or has characters that a name cannot have.
    #[error("key name {name}: it must have 1 to {NAME_BYTES_MAX} bytes, without spaces, control characters and '+'")]
    Name {
        /// The beginning of the name.
        name: String,
    },
    /// The id is not 8 hexadecimal digits.
    #[error("key {name}: the id {id} is not 8 hexadecimal digits")]
    IdForm {
        /// The key's name.
        name: String,
        /// The id.
        id: String,
    },
    /// The id is not that of name and key: one of the three was changed or cut.
    #[error("key {name}: the id is {found:?}, but name and key give {computed:?}: copy the key again as a whole")]
    Id {
        /// The key's name.
        name: String,
        /// The id in the text.
        found: KeyId,
        /// The right id.
        computed: KeyId,
    },
    /// The last part is not base64.
    #[error("key {name}: the part after the id is not base64")]
    Base64 {
        /// The key's name.
        name: String,
    },
    /// The signature type is unknown.
    #[error("key {name}: signature type {found:#04x} is not known; known are 0x01, 0x04 and 0x06")]
    Type {
        /// The key's name.
        name: String,
        /// The type.
        found: u8,
    },
    /// The key has another length than keys of its type.
    #[error("key {name}: it has {found} bytes, and a key of its type has {wanted}")]
    Length {
        /// The key's name.
        name: String,
        /// The number of bytes.
        found: usize,
        /// The number of bytes that it should have.
        wanted: usize,
    },
    /// The cryptographic library refused the key or could not use it.
    #[error("key {name}: the cryptographic library could not {operation}")]
    Library {
        /// The key's name.
        name: String,
        /// The operation, as a verb.
        operation: &'static str,
    },
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl SignatureType {
    /// The byte that identifies it.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureEd25519 => 0x04,
            Self::CosignatureMlDsa44 => 0x06,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::CosignatureEd25519, Self::CosignatureMlDsa44].into_iter().find(|kind| kind.byte() == byte)
    }

    /// Returns true if the signature includes its time.
    #[must_use]
    pub fn is_cosignature(self) -> bool {
        self != Self::Ed25519
    }

    /// The length of a public key.
    fn public_bytes(self) -> usize {
        match self {
            Self::Ed25519 | Self::CosignatureEd25519 => 32,
            Self::CosignatureMlDsa44 => 1312,
        }
    }

    /// The length of a signature, without the time.
    #[must_use]
    pub fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 | Self::CosignatureEd25519 => 64,
            Self::CosignatureMlDsa44 => 2420,
        }
    }
}

impl VerifierKey {
    fn new(name: &str, signature_type: SignatureType, public: Vec<u8>) -> Result<Self, KeyError> {
        let id = key_id(name, signature_type, &public);
        let key = Self { name: checked_name(name)?.to_owned(), id, signature_type, public };
        let wanted = signature_type.public_bytes();
        if key.public.len() != wanted {
            return Err(KeyError::Length { name: key.name, found: key.public.len(), wanted });
        }
        Ok(key)
    }

    /// The key of a text of the form `NAME+ID+KEY`.
    ///
    /// # Errors
    /// [`KeyError`]. No message contains a secret key that was given by mistake.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PRIVATE) {
            return Err(KeyError::SecretGiven);
        }
        let parts = Parts::of(text).ok_or_else(|| KeyError::VerifierForm { text: shown(text) })?;
        let (signature_type, public) = parts.key()?;
        let key = Self::new(parts.name, signature_type, public.to_vec())?;
        parts.check_id(&key)?;
        Ok(key)
    }

    /// The Ed25519 key of a log (type 0x01) with this name, from a public key in PEM.
    ///
    /// # Errors
    /// [`KeyError::PemForm`] and [`KeyError::Name`].
    pub fn from_pem(name: &str, text: &str) -> Result<Self, KeyError> {
        let body = text.trim().strip_prefix(PEM[0]).and_then(|rest| rest.strip_suffix(PEM[1]));
        let body = body.map(|body| body.split_whitespace().collect::<String>());
        let der = body.and_then(|body| from_base64(&body)).ok_or(KeyError::PemForm)?;
        let public = der.strip_prefix(&ED25519_HEAD).ok_or(KeyError::PemForm)?;
        Self::new(name, SignatureType::Ed25519, public.to_vec())
    }

    /// The same key under another name: the key of a log has the log's name.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn named(&self, name: &str) -> Result<Self, KeyError> {
        Self::new(name, self.signature_type, self.public.clone())
    }

    /// The key's name: that of a log is its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The type of its signatures.
    #[must_use]
    pub fn signature_type(&self) -> SignatureType {
        self.signature_type
    }

    /// Returns true if both have the same public key, whatever their names and types.
    #[must_use]
    pub fn is_duplicate(&self, other: &Self) -> bool {
        self.public == other.public
    }

    /// Returns true if `signature`, without a time, is of these bytes.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.signature_type {
            SignatureType::Ed25519 | SignatureType::CosignatureEd25519 => {
                UnparsedPublicKey::new(&ED25519, &self.public).verify(message, signature).is_ok()
            }
            SignatureType::CosignatureMlDsa44 => {
                UnparsedPublicKey::new(&ML_DSA_44, &self.public).verify(message, signature).is_ok()
            }
        }
    }
}

/// The text from which [`VerifierKey::parse`] makes this key.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id, base64(&with_type(self.signature_type, &self.public)))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.name, self.id)
    }
}

impl SigningKey {
    /// A new key, and the text of its secret, without a line end.
    ///
    /// # Errors
    /// [`KeyError::Name`], and [`KeyError::Library`] if there are no random bytes.
    pub fn generate(name: &str, signature_type: SignatureType) -> Result<(Self, Zeroizing<String>), KeyError> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        let failed = |_| KeyError::Library { name: name.to_owned(), operation: "read random bytes" };
        checked_name(name)?;
        fill(&mut *seed).map_err(failed)?;
        let key = Self::from_seed(name, signature_type, &seed)?;
        let secret = Zeroizing::new(with_type(signature_type, &*seed));
        let encoded = Zeroizing::new(base64(&secret));
        let text = Zeroizing::new(format!("{PRIVATE}{name}+{}+{}", key.verifier.id, *encoded));
        Ok((key, text))
    }

    /// The key whose secret has this text. A line end after it is allowed.
    ///
    /// # Errors
    /// [`KeyError`]. No message contains the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::parse_as(text, None)
    }

    /// The key whose secret has this text, under another name: the key of a log has the log's name.
    ///
    /// # Errors
    /// [`KeyError`]. No message contains the text.
    pub fn parse_named(text: &str, name: &str) -> Result<Self, KeyError> {
        Self::parse_as(text, Some(name))
    }

    fn parse_as(text: &str, name: Option<&str>) -> Result<Self, KeyError> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let parts = line.strip_prefix(PRIVATE).and_then(Parts::of).ok_or(KeyError::SecretForm)?;
        let (signature_type, seed) = parts.key()?;
        let wrong = |found| KeyError::Length { name: parts.name.to_owned(), found, wanted: SEED_BYTES };
        let seed = Zeroizing::new(<[u8; SEED_BYTES]>::try_from(&seed[..]).map_err(|_| wrong(seed.len()))?);
        let key = Self::from_seed(parts.name, signature_type, &seed)?;
        parts.check_id(&key.verifier)?;
        name.map_or(Ok(key), |name| Self::from_seed(name, signature_type, &seed))
    }

    fn from_seed(name: &str, signature_type: SignatureType, seed: &[u8; SEED_BYTES]) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Library { name: name.to_owned(), operation: "make a key pair of the secret" };
        let (pair, public) = match signature_type {
            SignatureType::Ed25519 | SignatureType::CosignatureEd25519 => {
                let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(failed)?;
                let public = pair.public_key().as_ref().to_vec();
                (Pair::Ed25519(pair), public)
            }
            SignatureType::CosignatureMlDsa44 => {
                let pair = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed).map_err(failed)?;
                let public = pair.public_key().as_ref().to_vec();
                (Pair::MlDsa44(pair), public)
            }
        };
        Ok(Self { pair, verifier: VerifierKey::new(name, signature_type, public)? })
    }

    /// The public half.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signature of these bytes, without a time.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signed = match &self.pair {
            Pair::Ed25519(pair) => pair.try_sign(message).map(|signature| signature.as_ref().to_vec()),
            Pair::MlDsa44(pair) => {
                let mut signature = vec![0; self.verifier.signature_type.signature_bytes()];
                pair.sign(message, &mut signature).map(|_| signature)
            }
        };
        signed.map_err(|_| KeyError::Library { name: self.verifier.name.clone(), operation: "sign" })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.verifier, f)
    }
}

/// The three parts of a key as text.
struct Parts<'a> {
    name: &'a str,
    id: &'a str,
    key: &'a str,
}

impl<'a> Parts<'a> {
    /// The last part may contain `+` itself, and the name cannot.
    fn of(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(3, '+');
        Some(Self { name: parts.next()?, id: parts.next()?, key: parts.next()? })
    }

    /// The signature type, and the bytes after it.
    fn key(&self) -> Result<(SignatureType, Zeroizing<Vec<u8>>), KeyError> {
        let name = || shown(self.name);
        let bytes = from_base64(self.key).map(Zeroizing::new).ok_or_else(|| KeyError::Base64 { name: name() })?;
        let (first, rest) = bytes.split_first().ok_or_else(|| KeyError::Base64 { name: name() })?;
        let signature_type =
            SignatureType::from_byte(*first).ok_or_else(|| KeyError::Type { name: name(), found: *first })?;
        Ok((signature_type, Zeroizing::new(rest.to_vec())))
    }

    fn check_id(&self, key: &VerifierKey) -> Result<(), KeyError> {
        let mut id = KeyId([0; 4]);
        hex::decode_to_slice(self.id, &mut id.0)
            .map_err(|_| KeyError::IdForm { name: key.name.clone(), id: shown(self.id) })?;
        let (name, found, computed) = (key.name.clone(), id, key.id);
        if found == computed { Ok(()) } else { Err(KeyError::Id { name, found, computed }) }
    }
}

/// The name, if a key may have it. *Spec*: C2SP signed-note, "Format".
///
/// # Errors
/// [`KeyError::Name`].
pub fn checked_name(name: &str) -> Result<&str, KeyError> {
    let is_allowed = |c: char| !(c.is_whitespace() || c.is_control() || c == '+');
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if fits && name.chars().all(is_allowed) { Ok(name) } else { Err(KeyError::Name { name: shown(name) }) }
}

fn key_id(name: &str, signature_type: SignatureType, public: &[u8]) -> KeyId {
    let bytes = [name.as_bytes(), b"\n", &[signature_type.byte()], public].concat();
    KeyId(digest(&SHA256, &bytes).as_ref().first_chunk().copied().unwrap_or_default())
}

fn with_type(signature_type: SignatureType, key: &[u8]) -> Vec<u8> {
    [&[signature_type.byte()], key].concat()
}
