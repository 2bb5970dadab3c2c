//! The headers that the operator configured for a backend.
//!
//! A file with a value is read again when it changes: a rotated credential is used by the next request that begins a
//! second after the change.

use std::fs::File;
use std::io;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::watched::{WatchedFile, read_bounded};
use crate::config;
use crate::file_access::{FileError, FileKind};

use super::endpoint_error::EndpointError;

/// Largest file of a header's value, in bytes. *Chosen*: the most headers that common servers accept.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// The headers of every request to a backend. The `Debug` output contains no value.
#[derive(Debug, Default)]
pub(super) struct ConfiguredHeaders {
    /// Those of environment variables.
    fixed: HeaderMap,
    files: Vec<(HeaderName, WatchedFile<HeaderValue>)>,
}

/// The reason why a file has no value of a header. I8: no message contains the value.
#[derive(Debug, thiserror::Error)]
enum HeaderFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the file is larger than {FILE_BYTES_MAX} bytes: is it the right one?")]
    TooLarge,
    #[error(transparent)]
    Value(#[from] HeaderValueError),
}

/// The reason why a text is not the value of a header.
#[derive(Debug, thiserror::Error)]
enum HeaderValueError {
    /// A file that is written in place is empty for a moment.
    #[error("it is empty: write the value of the header")]
    Empty,
    #[error("not a valid header value: use one line of visible ASCII characters")]
    Characters,
}

impl ConfiguredHeaders {
    /// Reads the variables and files of the backend `alias`.
    ///
    /// # Errors
    /// [`EndpointError`]; its message contains no value.
    pub(super) fn load(alias: &str, config: &config::Backend) -> Result<Self, EndpointError> {
        let mut headers = Self::default();
        for (name, variable) in &config.header_env {
            let error = |message: String| EndpointError::new(alias, &format!("header_env.{name}"), message);
            let text = std::env::var(variable)
                .map_err(|_| error(format!("the environment variable {variable} is not set: set it")))?;
            let value = header_value(&text).map_err(|reason| error(reason.to_string()))?;
            headers.fixed.insert(header_name(name).map_err(error)?, value);
        }
        for (name, path) in &config.header_file {
            let error = |message: String| EndpointError::new(alias, &format!("header_file.{name}"), message);
            let file = WatchedFile::open(path, config.files, FileKind::Secret, read);
            let file = file.map_err(|reason| error(reason.to_string()))?;
            headers.files.push((header_name(name).map_err(error)?, file));
        }
        Ok(headers)
    }

    /// The headers with their values at this moment.
    pub(super) fn current(&self) -> HeaderMap {
        let mut headers = self.fixed.clone();
        headers.extend(self.files.iter().map(|(name, file)| (name.clone(), HeaderValue::clone(&file.get()))));
        headers
    }

    /// Returns true if there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.files.is_empty()
    }

    /// Returns true if the operator has configured the header `name`.
    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.fixed.contains_key(name) || self.files.iter().any(|(known, _)| known == name)
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| "not a valid header name".to_owned())
}

fn header_value(text: &str) -> Result<HeaderValue, HeaderValueError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(HeaderValueError::Empty);
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| HeaderValueError::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(file: File) -> Result<HeaderValue, HeaderFileError> {
    let bytes = read_bounded(file, FILE_BYTES_MAX)?.ok_or(HeaderFileError::TooLarge)?;
    Ok(header_value(&String::from_utf8_lossy(&bytes))?)
}
