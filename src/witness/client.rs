//! The log's side: submits a checkpoint to a witness, and verifies what the witness signed.
//!
//! A witness may lie, be late or be another one: nothing that it sends counts before it is verified with its key.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::{Response, StatusCode};
use url::Url;

use crate::config::is_loopback;
use crate::evidence::add_checkpoint::{AddCheckpoint, SIZE_CONTENT_TYPE};
use crate::evidence::checkpoint::{Checkpoint, CheckpointError};
use crate::evidence::cosignature::UnixTime;
use crate::evidence::key::VerifierKey;
use crate::evidence::note::{NOTE_BYTES_MAX, Note, NoteError, SIGNATURES_MAX};
use crate::evidence::signature::Signature;
use crate::evidence::tree::Hash;
use crate::outbound;

use super::store::origin_hash;

/// The longest time for an answer. *Chosen*: a witness writes to its disk; one that takes longer is tried again.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The most seconds between our clock and the time in a signature. *Chosen*: machines whose clocks are set by the
/// network differ by less than a second; an auditor relies on minutes.
pub(crate) const CLOCK_DIFFERENCE_MAX: u64 = 300;

/// The most characters of an answer in an error. *Chosen*: a line of a log.
const SHOWN_CHARS: usize = 200;

/// A witness that is reached by HTTP. Its `Debug` output has its keys, and not its URL.
#[derive(Clone)]
pub struct WitnessClient {
    /// Without a slash at its end.
    prefix: String,
    keys: Vec<VerifierKey>,
    http: reqwest::Client,
}

/// The signatures of a witness, which were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The signature lines, to be added to the checkpoint.
    pub signatures: Vec<Signature>,
    /// The latest time in them.
    pub time: UnixTime,
}

/// A witness did not sign. No message contains the URL, which may have a secret in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is not one, or not an encrypted one to another machine.
    #[error("{url} is not a URL of a witness: it must begin with https://, or with http:// on this machine")]
    Url {
        /// The scheme and host.
        url: String,
    },
    /// A key cannot be that of a witness.
    #[error("key {key} signs without the time: a witness has a key of type 0x04 or 0x06")]
    KeyType {
        /// The key's name.
        key: String,
    },
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No answer came: the network, TLS or the time limit failed, or the witness is down.
    #[error("no answer from the witness")]
    Request(#[source] reqwest::Error),
    /// The answer is larger than one may be.
    #[error("the answer of the witness has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// 404.
    #[error("the witness does not know the log {origin} (404): its operator must add the log's key. It says: {answer}")]
    UnknownLog {
        /// The origin of the log.
        origin: String,
        /// The beginning of the answer.
        answer: String,
    },
    /// 403.
    #[error("the witness does not know the key that signed (403): its operator has another one. It says: {answer}")]
    UnknownKey {
        /// The beginning of the answer.
        answer: String,
    },
    /// 409 with a size above that of the checkpoint: the witness signed more records than this log has.
    #[error(
        "the witness signed a tree of {known} records, and this checkpoint has {size}: this log lost records that were \
         signed, or two gateways have one key"
    )]
    Ahead {
        /// The size that the witness knows.
        known: u64,
        /// The size of the checkpoint.
        size: u64,
    },
    /// 409 again, after the proof was made from the size that the witness knows.
    #[error("the witness first knew {first} records and then {second}: do two gateways have one key?")]
    Moving {
        /// The size in the first answer.
        first: u64,
        /// The size in the second answer.
        second: u64,
    },
    /// 422, or 409 for the size that was sent: the witness signed a tree that this checkpoint does not continue.
    #[error("the witness signed a tree that this checkpoint does not continue ({status}). It says: {answer}")]
    Contradiction {
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        answer: String,
    },
    /// Another status, for example 400 or 500.
    #[error("the witness responded with HTTP status {status}: {answer}")]
    Status {
        /// The status.
        status: u16,
        /// The beginning of the answer.
        answer: String,
    },
    /// The answer has not the form that it must have.
    #[error("the answer of the witness is not {wanted}: {answer}")]
    Answer {
        /// The form.
        wanted: &'static str,
        /// The beginning of the answer.
        answer: String,
    },
    /// The answer is not signed by the witness, or its signature does not match.
    #[error("the answer is not signed by the witness: {0}")]
    Signature(#[source] NoteError),
    /// The time in the signature is far from our clock.
    #[error(
        "the witness signed at {witness} s since 1970, and the clock here shows {own} s: one of the clocks is wrong"
    )]
    Clock {
        /// The time in the signature.
        witness: u64,
        /// The time of our clock.
        own: u64,
    },
}

/// A checkpoint could not be submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError<E> {
    /// The witness did not sign.
    #[error(transparent)]
    Witness(#[from] ClientError),
    /// The consistency proof cannot be made.
    #[error("no proof from {old_size} records, which the witness knows")]
    Proof {
        /// The size from which to prove.
        old_size: u64,
        /// The reason.
        source: E,
    },
}

/// Makes consistency proofs to the checkpoint that is submitted.
pub trait Prover {
    /// The reason why a proof cannot be made.
    type Error;

    /// The proof from the tree of `old` records.
    ///
    /// # Errors
    /// It cannot be made.
    fn prove(&mut self, old: u64) -> impl Future<Output = Result<Vec<Hash>, Self::Error>> + Send;
}

impl<E, P, F> Prover for P
where
    P: FnMut(u64) -> F,
    F: Future<Output = Result<Vec<Hash>, E>> + Send,
{
    type Error = E;

    fn prove(&mut self, old: u64) -> impl Future<Output = Result<Vec<Hash>, E>> + Send {
        self(old)
    }
}

/// An answer to a request.
enum Answer {
    Signed(Cosigned),
    /// The witness knows a tree of another size than the request begins with.
    OldSize(u64),
}

impl fmt::Debug for WitnessClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WitnessClient").field(&self.keys).finish() // I8: part of a URL may be a secret.
    }
}

impl WitnessClient {
    /// A client for the witness at `url` (its submission prefix) that has one of these keys.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::KeyType`], and [`ClientError::Request`] if TLS cannot be set up.
    pub fn new(url: &str, keys: Vec<VerifierKey>) -> Result<Self, ClientError> {
        let parsed = Url::parse(url).map_err(|_| ClientError::Url { url: "the text".to_owned() })?;
        let is_plain_home = parsed.scheme() == "http" && is_loopback(&parsed);
        if parsed.scheme() != "https" && !is_plain_home {
            let host = parsed.host_str().unwrap_or_default();
            return Err(ClientError::Url { url: format!("{}://{host}", parsed.scheme()) });
        }
        if let Some(key) = keys.iter().find(|key| !key.signature_type().is_cosignature()) {
            return Err(ClientError::KeyType { key: key.name().to_owned() });
        }
        let http = outbound::client_builder(url)
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .build()
            .map_err(request_failed)?;
        Ok(Self { prefix: url.trim_end_matches('/').to_owned(), keys, http })
    }

    /// Submits a checkpoint. `known` is the size that the witness is expected to know; if it knows another one, the
    /// proof is made from that, once.
    ///
    /// # Errors
    /// [`SubmitError`].
    ///
    /// # Cancel safety
    /// The witness may have signed although the future was dropped. A later submission finds that out.
    pub async fn submit<P: Prover>(
        &self,
        note: &Note,
        known: u64,
        prover: &mut P,
    ) -> Result<Cosigned, SubmitError<P::Error>> {
        let size = Checkpoint::parse(note.text()).map_err(ClientError::from)?.size();
        let (mut old_size, mut first) = (known.min(size), None);
        loop {
            let proof = prover.prove(old_size).await.map_err(|source| SubmitError::Proof { old_size, source })?;
            let request = AddCheckpoint { old_size, proof, note: note.clone() };
            match (self.send(&request).await?, first) {
                (Answer::Signed(cosigned), _) => return Ok(cosigned),
                (Answer::OldSize(known), _) if known > size => return Err(ClientError::Ahead { known, size }.into()),
                (Answer::OldSize(known), None) => (old_size, first) = (known, Some(known)),
                (Answer::OldSize(second), Some(first)) => return Err(ClientError::Moving { first, second }.into()),
            }
        }
    }

    /// The last checkpoint of a log that the witness signed, with its signatures verified: the witness's, or, if it has
    /// another key now, that of one of `log_keys`. `None`: it signed none, or it does not publish them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn last(
        &self,
        origin: &str,
        log_keys: &[VerifierKey],
    ) -> Result<Option<(Note, Checkpoint)>, ClientError> {
        let url = format!("{}/{}/checkpoint", self.prefix, origin_hash(origin));
        let response = self.http.get(url).send().await.map_err(request_failed)?;
        let status = response.status();
        let body = body(response).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if status != StatusCode::OK {
            return Err(ClientError::Status { status: status.as_u16(), answer: shown(&body) });
        }
        let note = Note::parse(&body).map_err(ClientError::Signature)?;
        note.verify(self.keys.iter().chain(log_keys)).map_err(ClientError::Signature)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin() != origin {
            return Err(ClientError::Answer { wanted: "a checkpoint of this log", answer: shown(&body) });
        }
        Ok(Some((note, checkpoint)))
    }

    async fn send(&self, request: &AddCheckpoint) -> Result<Answer, ClientError> {
        let url = format!("{}/add-checkpoint", self.prefix);
        let response = self.http.post(url).body(request.to_string()).send().await.map_err(request_failed)?;
        let status = response.status();
        let content_type = response.headers().get(reqwest::header::CONTENT_TYPE);
        let is_size = content_type.is_some_and(|found| found.as_bytes() == SIZE_CONTENT_TYPE.as_bytes());
        let body = body(response).await?;
        let answer = shown(&body);
        let contradiction = || ClientError::Contradiction { status: status.as_u16(), answer: shown(&body) };
        match status {
            StatusCode::OK => self.signed(request.note.text(), &body).map(Answer::Signed),
            StatusCode::CONFLICT if is_size => match size(&body) {
                // The stable specification has this status also for another root at the same size.
                Some(known) if known == request.old_size => Err(contradiction()),
                Some(known) => Ok(Answer::OldSize(known)),
                None => Err(ClientError::Answer { wanted: "a size in decimal and a line end", answer }),
            },
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Err(contradiction()),
            StatusCode::FORBIDDEN => Err(ClientError::UnknownKey { answer }),
            StatusCode::NOT_FOUND => {
                let origin = Checkpoint::parse(request.note.text())?.origin().to_owned();
                Err(ClientError::UnknownLog { origin, answer })
            }
            status => Err(ClientError::Status { status: status.as_u16(), answer }),
        }
    }

    /// The signatures in an answer about a checkpoint with this text, made now.
    fn signed(&self, text: &str, body: &[u8]) -> Result<Cosigned, ClientError> {
        let (cosigned, times) = self.cosigned(text, body)?;
        let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if times.iter().any(|time| is_far(time.seconds(), own)) {
            return Err(ClientError::Clock { witness: cosigned.time.seconds(), own });
        }
        Ok(cosigned)
    }

    /// The signatures of the witness in lines that were stored, of a checkpoint with this text, whenever made.
    ///
    /// # Errors
    /// [`ClientError::Answer`] and [`ClientError::Signature`].
    pub fn verify(&self, text: &str, lines: &[u8]) -> Result<Cosigned, ClientError> {
        self.cosigned(text, lines).map(|(cosigned, _)| cosigned)
    }

    /// The signatures of the witness in these lines, and their times. Those of other keys are dropped.
    fn cosigned(&self, text: &str, body: &[u8]) -> Result<(Cosigned, Vec<UnixTime>), ClientError> {
        let wrong = || ClientError::Answer { wanted: "signature lines", answer: shown(body) };
        let lines = str::from_utf8(body).ok().and_then(|lines| lines.strip_suffix('\n')).ok_or_else(wrong)?;
        let lines = lines.split('\n').take(SIGNATURES_MAX + 1).map(Signature::parse);
        let mut signatures = lines.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let answer = Note::new(text.to_owned(), signatures.clone()).map_err(ClientError::Signature)?;
        let verified = answer.verify(&self.keys).map_err(ClientError::Signature)?;
        let times: Vec<_> = verified.iter().filter_map(|verified| verified.time).collect();
        let time = times.iter().copied().max().ok_or_else(wrong)?;
        let is_known = |signature: &Signature| {
            self.keys.iter().any(|key| key.name() == signature.name() && key.id() == signature.id())
        };
        signatures.retain(is_known);
        Ok((Cosigned { signatures, time }, times))
    }
}

fn is_far(time: u64, own: u64) -> bool {
    time.abs_diff(own) > CLOCK_DIFFERENCE_MAX
}

/// I8: no secret enters an error.
fn request_failed(error: reqwest::Error) -> ClientError {
    ClientError::Request(error.without_url())
}

async fn body(mut response: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(request_failed)? {
        // I6: the answer is bounded.
        if body.len() + chunk.len() > NOTE_BYTES_MAX {
            return Err(ClientError::TooLarge { limit: NOTE_BYTES_MAX });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The size in an answer.
fn size(body: &[u8]) -> Option<u64> {
    let text = str::from_utf8(body).ok()?.strip_suffix('\n')?;
    text.parse().ok().filter(|size: &u64| size.to_string() == text)
}

/// The beginning of an answer, escaped.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    format!("{:?}", text.trim_end().chars().take(SHOWN_CHARS).collect::<String>())
}
