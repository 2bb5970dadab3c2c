//! Keys that verify tokens, each for one algorithm and one issuer. The keys of `[[auth.keys]]` are loaded at
//! start and by a reload.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use crate::audit::record::Digest;
use crate::auth::verified_token::KeyDigest;
use crate::config;
use crate::file_access::{FileAccess, FileError, FileKind};

/// Shortest HS256 secret, in bytes. *Spec*: RFC 7518 3.2, a key of at least the hash's size.
pub const SECRET_BYTES_MIN: usize = 32;

/// Longest key file, in bytes. *Chosen*: an RSA key of 16,384 bits in PEM has under 3 KiB.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// The reason why a key of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The algorithm is not supported.
    #[error("algorithm {algorithm:?} is not supported: write HS256, RS256, ES256 or EdDSA")]
    Algorithm {
        /// The algorithm as configured.
        algorithm: String,
    },
    /// There is not exactly one suitable source of the key.
    #[error("{algorithm} needs exactly one source of the key: set {needed}")]
    Source {
        /// The algorithm.
        algorithm: &'static str,
        /// The settings that the algorithm accepts.
        needed: &'static str,
    },
    /// The file cannot be read, or others may read or change it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The environment variable is not set.
    #[error("the environment variable {name} is not set: set it to the secret, or use secret_file")]
    NotSet {
        /// The variable's name.
        name: String,
    },
    /// The secret is too short.
    #[error("the secret in {place} has {bytes} bytes, and HS256 needs {SECRET_BYTES_MIN}: run openssl rand -hex 32")]
    Short {
        /// The file or variable of the secret.
        place: String,
        /// The secret's length.
        bytes: usize,
    },
    /// The secret is a key in PEM. If it were accepted, every holder of the public key could mint tokens.
    #[error("the secret in {place} is a PEM file: for a public key set algorithm and public_key_file instead")]
    PemAsSecret {
        /// The file or variable of the secret.
        place: String,
    },
    /// The file contains a private key instead of a public one.
    #[error("{path:?} contains a private key: name a file with the public key (openssl pkey -in KEY -pubout)")]
    Private {
        /// The file.
        path: PathBuf,
    },
    /// The file does not contain a public key of the algorithm.
    #[error("{path:?} is not a PEM public key for {algorithm} ({source})")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The algorithm.
        algorithm: &'static str,
        /// The cause.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    /// The issuer is empty.
    #[error("issuer is empty: set it to the iss of this key's tokens")]
    NoIssuer,
}

/// A loaded key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) issuer: String,
    pub(super) decoding: DecodingKey,
    /// Of everything but the audience.
    pub(super) validation: Validation,
}

/// A key of `[[auth.keys]]`.
#[derive(Debug)]
pub(super) struct ConfiguredKey {
    pub(super) key: Key,
    pub(super) digest: KeyDigest,
}

/// The requirements on an issuer's tokens, the same for all of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenRequirements {
    pub(super) issuer: String,
    pub(super) leeway: Duration,
}

impl TokenRequirements {
    pub(super) fn key(&self, kid: Option<String>, algorithm: Algorithm, decoding: DecodingKey) -> Key {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        // The accepted audiences depend on the endpoint too: `auth::audience` checks them.
        validation.validate_aud = false;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        Key { kid, algorithm, issuer: self.issuer.clone(), decoding, validation }
    }
}

/// Loads all keys of the configuration. Errors are returned with their settings.
pub(super) fn load(auth: &config::Auth) -> Result<Vec<ConfiguredKey>, Vec<(String, KeyError)>> {
    let (mut keys, mut errors) = (Vec::new(), Vec::new());
    for (idx, key) in auth.keys.iter().enumerate() {
        match load_one(auth, key) {
            Ok(key) => keys.push(key),
            Err(error) => errors.push((format!("auth.keys[{idx}]"), error)),
        }
    }
    if errors.is_empty() { Ok(keys) } else { Err(errors) }
}

fn load_one(auth: &config::Auth, key: &config::Key) -> Result<ConfiguredKey, KeyError> {
    let algorithm = match key.algorithm.as_str() {
        "HS256" => Algorithm::HS256,
        "RS256" => Algorithm::RS256,
        "ES256" => Algorithm::ES256,
        "EdDSA" => Algorithm::EdDSA,
        other => return Err(KeyError::Algorithm { algorithm: other.to_owned() }),
    };
    if key.issuer.is_empty() {
        return Err(KeyError::NoIssuer);
    }
    let (decoding, digest) = if algorithm == Algorithm::HS256 {
        let secret = secret(key, auth.files)?;
        (DecodingKey::from_secret(&secret), KeyDigest(Digest::of(&secret)))
    } else {
        public_key(key, algorithm, auth.files)?
    };
    let requirements = TokenRequirements { issuer: key.issuer.clone(), leeway: auth.leeway };
    Ok(ConfiguredKey { key: requirements.key(key.kid.clone(), algorithm, decoding), digest })
}

/// Reads the HS256 secret of a key, without white space at its end, which editors append.
///
/// # Errors
/// [`KeyError`]: the secret cannot be used.
pub fn secret(key: &config::Key, files: FileAccess) -> Result<Vec<u8>, KeyError> {
    let (place, mut secret) = match (&key.secret_file, &key.secret_env, &key.public_key_file) {
        (Some(path), None, None) => {
            (format!("{}", path.display()), files.read(path, FileKind::Secret, FILE_BYTES_MAX)?)
        }
        (None, Some(name), None) => match std::env::var_os(name) {
            Some(value) => (format!("the variable {name}"), value.into_encoded_bytes()),
            None => return Err(KeyError::NotSet { name: name.clone() }),
        },
        _ => return Err(KeyError::Source { algorithm: "HS256", needed: "secret_file or secret_env" }),
    };
    secret.truncate(secret.trim_ascii_end().len());
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(KeyError::PemAsSecret { place });
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(KeyError::Short { place, bytes: secret.len() });
    }
    Ok(secret)
}

fn public_key(
    key: &config::Key,
    algorithm: Algorithm,
    files: FileAccess,
) -> Result<(DecodingKey, KeyDigest), KeyError> {
    type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;
    let (name, from_pem): (&'static str, FromPem) = match algorithm {
        Algorithm::RS256 => ("RS256", DecodingKey::from_rsa_pem),
        Algorithm::ES256 => ("ES256", DecodingKey::from_ec_pem),
        _ => ("EdDSA", DecodingKey::from_ed_pem),
    };
    let (Some(path), None, None) = (&key.public_key_file, &key.secret_file, &key.secret_env) else {
        return Err(KeyError::Source { algorithm: name, needed: "public_key_file" });
    };
    let pem = files.read(path, FileKind::Trusted, FILE_BYTES_MAX)?;
    if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err(KeyError::Private { path: path.clone() });
    }
    let decoding = from_pem(&pem);
    let decoding = decoding.map_err(|source| KeyError::NotPem { path: path.clone(), algorithm: name, source })?;
    Ok((decoding, KeyDigest(Digest::of(&pem))))
}
