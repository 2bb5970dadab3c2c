//! A time-stamp authority (RFC 3161) as an anchor: it signs the hash of a checkpoint, and the time.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use reqwest::header::CONTENT_TYPE;

use crate::evidence::time_stamp::{Nonce, TimeStampError, Token};
use crate::evidence::time_stamp_roots::Roots;
use crate::outbound;
use crate::witness::client::CLOCK_DIFFERENCE_MAX;

/// The longest time for an answer. *Chosen*: as for a witness.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The largest answer, in bytes. *Chosen*: a token with the certificates of a long chain has 10 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The media type of a request. *Spec*: RFC 3161, section 3.4.
const QUERY_TYPE: &str = "application/timestamp-query";

/// A time-stamp authority that is reached by HTTP. Its `Debug` output does not have the URL.
#[derive(Clone)]
pub struct TimeStampAnchor {
    url: String,
    interval: Duration,
    /// The authorities whose signatures count.
    roots: Option<Roots>,
    http: reqwest::Client,
}

/// A time-stamp authority did not confirm. No message contains the URL, which may have a secret in it.
#[derive(Debug, thiserror::Error)]
pub enum TimeStampAnchorError {
    /// No answer came: the network, TLS or the time limit failed, or the authority is down.
    #[error("no answer from the time-stamp authority")]
    Request(#[source] reqwest::Error),
    /// Another status than 200.
    #[error("the time-stamp authority responded with HTTP status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// The answer is larger than one may be.
    #[error("the answer of the time-stamp authority has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer is not the time stamp that was asked for.
    #[error(transparent)]
    TimeStamp(#[from] TimeStampError),
    /// There is nothing to verify a signature with.
    #[error("its signature cannot be verified: set evidence.time_stamps[].root_file to the certificate of its root")]
    NoRoots,
    /// The time in the token is far from our clock.
    #[error(
        "the token has the time {authority} s since 1970, and the clock here shows {own} s: one of the clocks is wrong"
    )]
    Clock {
        /// The time in the token.
        authority: u64,
        /// The time of our clock.
        own: u64,
    },
}

impl TimeStampAnchor {
    /// The authority at `url`, which stamps a checkpoint each `interval`. With `roots`, only tokens that lead to one of
    /// these count.
    ///
    /// # Errors
    /// [`TimeStampAnchorError::Request`] if TLS cannot be set up.
    pub fn new(url: &str, interval: Duration, roots: Option<Roots>) -> Result<Self, TimeStampAnchorError> {
        let http = outbound::client_builder(url)
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .build()
            .map_err(request_failed)?;
        Ok(Self { url: url.to_owned(), interval, roots, http })
    }

    /// The shortest time between two time stamps.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// A token for `note`, which was checked as far as it can be without a list of trusted certificates. `own` is the
    /// time of our clock, in seconds since 1970.
    ///
    /// # Errors
    /// [`TimeStampAnchorError`].
    pub async fn stamp(&self, note: &str, own: u64) -> Result<Token, TimeStampAnchorError> {
        let hash = sha256(note);
        let nonce = Nonce::new(rand::random());
        let request = self.http.post(&self.url).header(CONTENT_TYPE, QUERY_TYPE).body(nonce.request(&hash));
        let mut response = request.send().await.map_err(request_failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(TimeStampAnchorError::Status { status: response.status().as_u16() });
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(request_failed)? {
            // I6: the answer is bounded.
            if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(TimeStampAnchorError::TooLarge { limit: ANSWER_BYTES_MAX });
            }
            answer.extend_from_slice(&chunk);
        }
        let token = Token::parse(&answer, nonce, &hash)?;
        if let Some(roots) = &self.roots {
            roots.verify(&token.der, &hash)?;
        }
        if token.time.abs_diff(own) > CLOCK_DIFFERENCE_MAX {
            return Err(TimeStampAnchorError::Clock { authority: token.time, own });
        }
        Ok(token)
    }

    /// Verifies a token that was stored as one over `note`.
    ///
    /// # Errors
    /// [`TimeStampAnchorError::NoRoots`] and [`TimeStampAnchorError::TimeStamp`].
    pub fn verify(&self, note: &str, token: &[u8]) -> Result<(), TimeStampAnchorError> {
        let roots = self.roots.as_ref().ok_or(TimeStampAnchorError::NoRoots)?;
        Ok(roots.verify(token, &sha256(note)).map(drop)?)
    }
}

fn sha256(note: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, note.as_bytes()).as_ref());
    hash
}

impl fmt::Debug for TimeStampAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: part of a URL may be a secret.
        f.debug_struct("TimeStampAnchor").field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// I8: no secret enters an error.
fn request_failed(error: reqwest::Error) -> TimeStampAnchorError {
    TimeStampAnchorError::Request(error.without_url())
}
