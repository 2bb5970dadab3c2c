//! A bucket (S3) as an anchor: each checkpoint is an object that cannot be replaced, if the bucket has a lock.
//!
//! ```text
//! key       LOG/SIZE.note, the size in 20 digits
//! contents  the signed note
//! ```
//!
//! An object is only ever created (`If-None-Match: *`). One that is there already must be the same checkpoint.

mod request;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use url::Url;
use zeroize::Zeroizing;

use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::key::VerifierKey;
use crate::evidence::note::{NOTE_BYTES_MAX, Note};
use crate::evidence::tree::TreeHead;
use crate::outbound;
use request::{Credentials, Request, encoded};

/// The longest time for an answer. *Chosen*: as for a witness.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The digits of a size in a key: names are in the order of the sizes. *Derived*: `u64`.
const SIZE_DIGITS: usize = 20;

/// The most characters of an answer in an error. *Chosen*: the code and the message of an S3 error.
const SHOWN_CHARS: usize = 200;

/// The settings of a bucket.
pub struct BucketSettings {
    /// The URL of the bucket: of its host, or of its host and its name as the path.
    pub url: String,
    /// Its region.
    pub region: String,
    /// The id of the access key.
    pub key_id: String,
    /// The access key.
    pub secret: Zeroizing<String>,
    /// The shortest time between two objects.
    pub interval: Duration,
    /// True if an object counts only under a lock.
    pub needs_lock: bool,
    /// The keys of the log, under any name.
    pub verifiers: Vec<VerifierKey>,
}

/// A bucket that keeps checkpoints. Its `Debug` output has no secret.
#[derive(Clone)]
pub struct BucketAnchor {
    settings: Arc<BucketSettings>,
    /// Without a slash at its end.
    path: String,
    origin: String,
    host: String,
    http: reqwest::Client,
}

/// A bucket did not keep a checkpoint. No message has a secret.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The URL is not one, or not an encrypted one to another machine.
    #[error("this is not the URL of a bucket")]
    Url,
    /// No answer came: the network, TLS or the time limit failed, or the server is down.
    #[error("no answer from the bucket")]
    Request(#[source] reqwest::Error),
    /// A status that says that the request failed.
    #[error("the bucket responded with HTTP status {status} to {operation}: {answer}")]
    Status {
        /// The operation.
        operation: &'static str,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        answer: String,
    },
    /// The answer is larger than one may be.
    #[error("the answer of the bucket has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// An object is there that is not a checkpoint of this log.
    #[error("the object {key:?} is not a checkpoint that this log signed: find out who wrote it")]
    Foreign {
        /// The key of the object.
        key: String,
    },
    /// The log signed another tree of this size.
    #[error("it has a tree of {size} records that this log does not have, in {key:?}")]
    Other {
        /// The size of the tree.
        size: u64,
        /// The key of the object.
        key: String,
    },
    /// The object can be deleted or replaced.
    #[error(
        "the bucket keeps {key:?} without a lock, or does not let this user read the lock (s3:GetObjectRetention): turn on \
         object lock with a default retention, or set require_lock = false"
    )]
    NoLock {
        /// The key of the object.
        key: String,
    },
}

/// An answer that was read.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl BucketAnchor {
    /// The bucket with these settings.
    ///
    /// # Errors
    /// [`BucketError::Url`], and [`BucketError::Request`] if TLS cannot be set up.
    pub fn new(settings: BucketSettings) -> Result<Self, BucketError> {
        let url = Url::parse(&settings.url).map_err(|_| BucketError::Url)?;
        let host = url.host_str().ok_or(BucketError::Url)?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let http = outbound::client_builder(&settings.url)
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .build()
            .map_err(request_failed)?;
        let origin = url.origin().ascii_serialization();
        let path = url.path().trim_end_matches('/').to_owned();
        Ok(Self { settings: Arc::new(settings), path, origin, host, http })
    }

    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, BucketError> {
        let path = format!("{}/{}", self.path, encoded(key, false));
        let (host, name) = (self.host.as_str(), method.as_str());
        let request = Request { method: name, host, path: &path, query, headers, body };
        let settings = &self.settings;
        let credentials = Credentials { key_id: &settings.key_id, secret: &settings.secret, region: &settings.region };
        let time = Utc::now().format("%Y%m%dT%H%M%SZ").to_string();
        let signed = request.signed_headers(credentials, &time);
        let query = request.query_text();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut sent = self.http.request(method, format!("{}{path}{mark}{query}", self.origin));
        for (name, value) in signed {
            sent = sent.header(name, value);
        }
        let mut response = sent.body(body.to_vec()).send().await.map_err(request_failed)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(request_failed)? {
            // I6: the answer is bounded.
            if body.len() + chunk.len() > NOTE_BYTES_MAX {
                return Err(BucketError::TooLarge { limit: NOTE_BYTES_MAX });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }

    /// The smallest size above `size` of which there is a checkpoint of the log.
    async fn next(&self, log: &str, size: u64) -> Result<Option<u64>, BucketError> {
        let (prefix, after) = (format!("{log}/"), key_of(log, size));
        let query =
            [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix.as_str()), ("start-after", after.as_str())];
        let answer = self.send(Method::GET, "", &query, &[], b"").await?;
        let text = answer.expect(StatusCode::OK, "ListObjectsV2")?;
        let text = String::from_utf8_lossy(&text);
        let key = text.split_once("<Key>").and_then(|(_, rest)| rest.split_once("</Key>")).map(|(key, _)| key);
        let Some(key) = key else { return Ok(None) };
        let name = key.strip_prefix(prefix.as_str()).unwrap_or(key);
        if name.contains('/') {
            // Of a later log of this gateway: its number is in the name, and sorts after the sizes.
            return Ok(None);
        }
        // A larger one: a server that gives the same key again would be asked for ever.
        let found = name.strip_suffix(".note").and_then(|size| size.parse().ok());
        let found = found.filter(|found| *found > size && key_of(log, *found) == key);
        found.map(Some).ok_or_else(|| BucketError::Foreign { key: key.to_owned() })
    }

    /// The largest size of which there is a checkpoint. Names are in the order of sizes, so that a search in steps that
    /// double, and then halve, finds it in a few dozen requests.
    async fn largest_size(&self, log: &str) -> Result<Option<u64>, BucketError> {
        let Some(mut low) = self.next(log, 0).await? else { return Ok(None) };
        let mut high = low.saturating_mul(2);
        while let Some(size) = self.next(log, high).await? {
            (low, high) = (size, size.saturating_mul(2));
        }
        while low < high {
            match self.next(log, low + (high - low) / 2).await? {
                Some(size) => low = size,
                None => high = low + (high - low) / 2,
            }
        }
        Ok(Some(low))
    }

    /// The object of the checkpoint of `size` records, which the log must have signed.
    async fn checkpoint(&self, log: &str, size: u64) -> Result<(Answer, TreeHead), BucketError> {
        let key = key_of(log, size);
        let answer = self.send(Method::GET, &key, &[], &[], b"").await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refused("GetObject"));
        }
        let foreign = || BucketError::Foreign { key: key.clone() };
        let keys = self.settings.verifiers.iter().map(|verifier| verifier.named(log));
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|_| foreign())?;
        let note = Note::parse(&answer.body).map_err(|_| foreign())?;
        note.verify(&keys).map_err(|_| foreign())?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| foreign())?;
        let is_named_so = checkpoint.origin() == log && checkpoint.size() == size;
        if is_named_so { Ok((answer, checkpoint.head())) } else { Err(foreign()) }
    }
}

impl BucketAnchor {
    /// The shortest time between two objects.
    pub(super) fn interval(&self) -> Duration {
        self.settings.interval
    }

    /// The tree of the largest checkpoint of the log with this name.
    pub(super) async fn largest_head(&self, log: &str) -> Result<Option<TreeHead>, BucketError> {
        let Some(size) = self.largest_size(log).await? else { return Ok(None) };
        Ok(Some(self.checkpoint(log, size).await?.1))
    }

    /// Keeps a signed checkpoint, and returns the words that say where and how.
    ///
    /// # Errors
    /// [`BucketError`]. After [`BucketError::Other`] nothing may be signed any more.
    pub async fn keep(&self, note: &str) -> Result<Vec<u8>, BucketError> {
        let own = Note::parse(note.as_bytes()).ok().and_then(|note| Checkpoint::parse(note.text()).ok());
        let own = own.ok_or_else(|| BucketError::Foreign { key: "of this checkpoint".to_owned() })?;
        let key = key_of(own.origin(), own.size());
        let checksum = BASE64_STANDARD.encode(digest(&SHA256, note.as_bytes()));
        // Requests to a bucket with a lock need a checksum.
        let headers = [("content-type", "text/plain"), ("if-none-match", "*"), ("x-amz-checksum-sha256", &checksum)];
        let answer = self.send(Method::PUT, &key, &[], &headers, note.as_bytes()).await?;
        // After the latter it is there already.
        if ![StatusCode::OK, StatusCode::PRECONDITION_FAILED].contains(&answer.status) {
            return Err(answer.refused("PutObject"));
        }
        self.kept(&own).await
    }

    /// The words that say where and how the bucket keeps this checkpoint, which is read again.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn kept(&self, own: &Checkpoint) -> Result<Vec<u8>, BucketError> {
        let key = key_of(own.origin(), own.size());
        let (kept, head) = self.checkpoint(own.origin(), own.size()).await?;
        if head != own.head() {
            return Err(BucketError::Other { size: head.size, key });
        }
        let mode = kept.headers.get("x-amz-object-lock-mode").map(|mode| String::from_utf8_lossy(mode.as_bytes()));
        let until = kept.headers.get("x-amz-object-lock-retain-until-date");
        let until = until.and_then(|until| DateTime::parse_from_rfc3339(until.to_str().ok()?).ok());
        match (mode, until.filter(|until| *until > Utc::now())) {
            (Some(mode), Some(until)) => Ok(format!("{key}\n{mode} until {}\n", until.to_rfc3339()).into_bytes()),
            _ if self.settings.needs_lock => Err(BucketError::NoLock { key }),
            _ => Ok(format!("{key}\nnot locked\n").into_bytes()),
        }
    }
}

impl Answer {
    fn expect(self, status: StatusCode, operation: &'static str) -> Result<Vec<u8>, BucketError> {
        if self.status == status { Ok(self.body) } else { Err(self.refused(operation)) }
    }

    fn refused(&self, operation: &'static str) -> BucketError {
        let text = String::from_utf8_lossy(&self.body);
        let answer = format!("{:?}", text.trim_end().chars().take(SHOWN_CHARS).collect::<String>());
        BucketError::Status { operation, status: self.status.as_u16(), answer }
    }
}

impl fmt::Debug for BucketAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the access key is a secret.
        f.debug_struct("BucketAnchor").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The key of the checkpoint of `size` records.
fn key_of(log: &str, size: u64) -> String {
    format!("{log}/{size:0SIZE_DIGITS$}.note")
}

/// I8: no secret enters an error.
fn request_failed(error: reqwest::Error) -> BucketError {
    BucketError::Request(error.without_url())
}
