//! The keys that verify tokens: one key, one algorithm, one issuer. Those of `[[auth.keys]]` are loaded once, at start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use crate::config;

/// Shortest HS256 secret, in bytes. *Spec*: RFC 7518 3.2, a key of at least the hash's size.
pub const SECRET_BYTES_MIN: usize = 32;

/// Longest key file, in bytes. *Chosen*: an RSA key of 16,384 bits in PEM has under 3 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// An algorithm that is not supported.
    #[error("algorithm {algorithm:?} is not supported: write HS256, RS256, ES256 or EdDSA")]
    Algorithm {
        /// As configured.
        algorithm: String,
    },
    /// Not exactly one place to load the key from.
    #[error("{algorithm} needs {needed}, and nothing else to load the key from")]
    Source {
        /// The algorithm.
        algorithm: &'static str,
        /// The settings that fit it.
        needed: &'static str,
    },
    /// A file that cannot be read.
    #[error("cannot read {path:?} ({source}): make it a file that the gateway's user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file too large for a key.
    #[error("{path:?} is larger than {FILE_BYTES_MAX} bytes: that is no key")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A variable that is not set.
    #[error("the environment variable {name} is not set: set it to the secret, or use secret_file")]
    NotSet {
        /// Its name.
        name: String,
    },
    /// A secret that is too short.
    #[error(
        "the secret in {place} has {bytes} bytes, and HS256 needs {SECRET_BYTES_MIN}: make one by openssl rand -hex 32"
    )]
    Short {
        /// Where it was read.
        place: String,
        /// Its length.
        bytes: usize,
    },
    /// A key in PEM where a secret belongs: whoever has the public key could then mint tokens.
    #[error(
        "the secret in {place} is a PEM file: a public key is no secret, set algorithm and public_key_file instead"
    )]
    PemAsSecret {
        /// Where it was read.
        place: String,
    },
    /// A private key where a public one belongs.
    #[error("{path:?} holds a private key: give the gateway the public one (openssl pkey -in KEY -pubout)")]
    Private {
        /// The file.
        path: PathBuf,
    },
    /// No public key of the algorithm.
    #[error("{path:?} is no PEM public key for {algorithm} ({source})")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The algorithm.
        algorithm: &'static str,
        /// Why.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    /// No issuer.
    #[error("issuer is empty: name the iss that this key's tokens bear")]
    NoIssuer,
}

/// One key, ready to verify.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) issuer: String,
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

/// What tokens of an issuer must say, whichever of its keys verifies them.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) leeway: Duration,
}

impl Rules {
    pub(super) fn key(&self, kid: Option<String>, algorithm: Algorithm, decoding: DecodingKey) -> Key {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        Key { kid, algorithm, issuer: self.issuer.clone(), decoding, validation }
    }
}

/// Loads all keys of the configuration; a fault comes with its place in it.
pub(super) fn load(auth: &config::Auth) -> Result<Vec<Key>, Vec<(String, KeyFault)>> {
    let (mut keys, mut faults) = (Vec::new(), Vec::new());
    for (idx, key) in auth.keys.iter().enumerate() {
        match load_one(auth, key) {
            Ok(key) => keys.push(key),
            Err(fault) => faults.push((format!("auth.keys[{idx}]"), fault)),
        }
    }
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

fn load_one(auth: &config::Auth, key: &config::Key) -> Result<Key, KeyFault> {
    let algorithm = match key.algorithm.as_str() {
        "HS256" => Algorithm::HS256,
        "RS256" => Algorithm::RS256,
        "ES256" => Algorithm::ES256,
        "EdDSA" => Algorithm::EdDSA,
        other => return Err(KeyFault::Algorithm { algorithm: other.to_owned() }),
    };
    if key.issuer.is_empty() {
        return Err(KeyFault::NoIssuer);
    }
    let decoding = match algorithm {
        Algorithm::HS256 => DecodingKey::from_secret(&secret(key)?),
        _ => public_key(key, algorithm)?,
    };
    let rules = Rules { issuer: key.issuer.clone(), audience: auth.audience.clone(), leeway: auth.leeway };
    Ok(rules.key(key.kid.clone(), algorithm, decoding))
}

/// The HS256 secret of a key. A newline at its end, as editors leave it, does not belong to it.
///
/// # Errors
/// The fault that keeps the secret from being used.
pub fn secret(key: &config::Key) -> Result<Vec<u8>, KeyFault> {
    let (place, mut secret) = match (&key.secret_file, &key.secret_env, &key.public_key_file) {
        (Some(path), None, None) => (format!("{}", path.display()), read(path)?),
        (None, Some(name), None) => match std::env::var_os(name) {
            Some(value) => (format!("the variable {name}"), value.into_encoded_bytes()),
            None => return Err(KeyFault::NotSet { name: name.clone() }),
        },
        _ => return Err(KeyFault::Source { algorithm: "HS256", needed: "secret_file or secret_env" }),
    };
    secret.truncate(secret.trim_ascii_end().len());
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(KeyFault::PemAsSecret { place });
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(KeyFault::Short { place, bytes: secret.len() });
    }
    Ok(secret)
}

fn public_key(key: &config::Key, algorithm: Algorithm) -> Result<DecodingKey, KeyFault> {
    type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;
    let (name, from_pem): (&'static str, FromPem) = match algorithm {
        Algorithm::RS256 => ("RS256", DecodingKey::from_rsa_pem),
        Algorithm::ES256 => ("ES256", DecodingKey::from_ec_pem),
        _ => ("EdDSA", DecodingKey::from_ed_pem),
    };
    let (Some(path), None, None) = (&key.public_key_file, &key.secret_file, &key.secret_env) else {
        return Err(KeyFault::Source { algorithm: name, needed: "public_key_file" });
    };
    let pem = read(path)?;
    if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err(KeyFault::Private { path: path.clone() });
    }
    from_pem(&pem).map_err(|source| KeyFault::NotPem { path: path.clone(), algorithm: name, source })
}

fn read(path: &Path) -> Result<Vec<u8>, KeyFault> {
    let unreadable = |source| KeyFault::Unreadable { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(KeyFault::TooLarge { path: path.to_owned() });
    }
    std::fs::read(path).map_err(unreadable)
}
