//! The secret of the gateway's client at an authorization server.

use std::fs::File;
use std::io;
use std::path::Path;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded::byte_serialize;

use super::watched::{WatchedFile, read_bounded};
use crate::file_access::{FileAccess, FileError, FileKind};

/// Largest file of a client's secret, in bytes. *Chosen*: real ones have less than 256.
const SECRET_BYTES_MAX: usize = 4096;

/// The secret of a client.
pub(crate) struct ClientSecret(String);

/// The reason why a file has no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Others may read or change the file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The contents are not a secret.
    #[error("it is empty, larger than {SECRET_BYTES_MAX} bytes or not text: write the client's secret on one line")]
    Contents,
}

impl ClientSecret {
    /// Opens a file with a secret, which is read again when it changes.
    ///
    /// # Errors
    /// [`SecretFileError`]: the file cannot be used.
    pub(crate) fn open(path: &Path, files: FileAccess) -> Result<WatchedFile<Self>, SecretFileError> {
        WatchedFile::open(path, files, FileKind::Secret, read)
    }

    /// Returns true if `text` contains the secret.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        text.contains(&self.0)
    }

    /// The secret. I8: it goes to the token server only.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The header with the client's id and secret; `None` if they do not fit a header. *Spec*: RFC 6749 2.3.1, each is
    /// form-encoded first.
    pub(crate) fn basic(&self, id: &str) -> Option<HeaderValue> {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = STANDARD.encode(format!("{}:{}", encoded(id), encoded(&self.0)));
        let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

fn read(file: File) -> Result<ClientSecret, SecretFileError> {
    let bytes = read_bounded(file, SECRET_BYTES_MAX)?.ok_or(SecretFileError::Contents)?;
    let text = String::from_utf8(bytes).map_err(|_| SecretFileError::Contents)?;
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_control) {
        return Err(SecretFileError::Contents);
    }
    Ok(ClientSecret(text.to_owned()))
}
