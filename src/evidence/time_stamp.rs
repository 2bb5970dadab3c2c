//! Time stamps of RFC 3161: the request, and what an answer says.
//!
//! ```text
//! request   SEQUENCE { 1, SEQUENCE { SEQUENCE { sha256, NULL }, hash }, nonce, TRUE }        DER, 69 bytes
//! answer    SEQUENCE { SEQUENCE { status, text, failure }, token }
//! token     CMS SignedData over SEQUENCE { 1, policy, imprint, serial, time, accuracy, ordering, nonce, ... }
//! ```
//!
//! [`Token::parse`] reads what the token says. Whether its signature and its certificate are those of an authority that
//! one trusts, [`super::time_stamp_roots`] checks with the certificates of those who are trusted.

use std::fmt;

use chrono::NaiveDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The beginning of a request: version 1, SHA-256, and the header of the hash. *Spec*: RFC 3161, section 2.4.1.
const REQUEST_HEAD: [u8; 24] = [
    0x30, 0x43, 0x02, 0x01, 0x01, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
    0x01, 0x05, 0x00, 0x04, 0x20,
];

/// The object identifier of SHA-256. *Spec*: RFC 5754, section 2.2.
pub(super) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// The object identifier of signed data. *Spec*: RFC 5652, section 5.1.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// The object identifier of the contents of a time stamp. *Spec*: RFC 3161, section 2.4.2.
pub(super) const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04];

/// The tags of DER that occur. *Spec*: X.690, section 8.
pub(super) mod tag {
    pub(in crate::evidence) const BOOLEAN: u8 = 0x01;
    pub(in crate::evidence) const INTEGER: u8 = 0x02;
    pub(in crate::evidence) const BIT_STRING: u8 = 0x03;
    pub(in crate::evidence) const OCTET_STRING: u8 = 0x04;
    pub(in crate::evidence) const OBJECT_ID: u8 = 0x06;
    pub(in crate::evidence) const UTF8_STRING: u8 = 0x0c;
    pub(in crate::evidence) const GENERALIZED_TIME: u8 = 0x18;
    pub(in crate::evidence) const SEQUENCE: u8 = 0x30;
    pub(in crate::evidence) const SET: u8 = 0x31;
    pub(in crate::evidence) const CONTEXT_0: u8 = 0xa0;
    pub(in crate::evidence) const CONTEXT_0_PRIMITIVE: u8 = 0x80;
    pub(in crate::evidence) const CONTEXT_1: u8 = 0xa1;
}

/// The random number of a request, which its answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; 8]);

/// A time-stamp token that an authority gave.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token, in DER: a proof that `openssl ts -verify -token_in` reads.
    pub der: Vec<u8>,
    /// The time in it, in seconds since 1970-01-01 UTC.
    pub time: u64,
}

/// An answer is not the time stamp that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeStampError {
    /// The answer is not a time stamp in DER.
    #[error("the answer is not a time stamp (RFC 3161): {part} is missing or damaged")]
    Form {
        /// The part of the answer.
        part: &'static str,
    },
    /// The authority refused.
    #[error("the authority refused (status {status}{failure}): {text:?}")]
    Refused {
        /// The status. *Spec*: RFC 3161, section 2.4.2.
        status: u8,
        /// The reason, as the authority names it.
        text: String,
        /// The reason in figures.
        failure: Failure,
    },
    /// The token is of other data.
    #[error("the token is of other data than was sent: its hash is another one")]
    Hash,
    /// The token is an answer to another request.
    #[error("the token is an answer to another request: its nonce is another one")]
    Nonce,
    /// The token has no certificate of a time-stamp authority.
    #[error("the token has no certificate that may sign time stamps: it could not be verified")]
    NoCertificate,
    /// The token is not signed, or its signature does not match.
    #[error("the signature of the token does not match: it was changed, or {part} is missing")]
    Signature {
        /// The part that does not match.
        part: &'static str,
    },
    /// The certificate that signed the token is not one of an authority that is trusted.
    #[error("the token is signed by an authority that no certificate of root_file leads to: {cause}")]
    Untrusted {
        /// The reason.
        cause: String,
    },
    /// The certificate was not valid at the time in the token.
    #[error("the certificate of the time-stamp authority was not valid at the time in the token: it ended {end}")]
    Expired {
        /// The end of the certificate.
        end: String,
    },
}

/// The reason of a refusal in figures: the number of a bit, if there is one. *Spec*: RFC 3161, section 2.4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(Option<u8>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(0) => f.write_str(", badAlg"),
            Some(2) => f.write_str(", badRequest"),
            Some(5) => f.write_str(", badDataFormat"),
            Some(14) => f.write_str(", timeNotAvailable"),
            Some(15) => f.write_str(", unacceptedPolicy"),
            Some(16) => f.write_str(", unacceptedExtension"),
            Some(17) => f.write_str(", addInfoNotAvailable"),
            Some(25) => f.write_str(", systemFailure"),
            Some(bit) => write!(f, ", failure {bit}"),
        }
    }
}

impl Nonce {
    /// The nonce with these random bits.
    #[must_use]
    pub fn new(random: u64) -> Self {
        let mut bytes = random.to_be_bytes();
        // A positive integer of 8 bytes.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes)
    }

    /// The request for a time stamp of data with this SHA-256, with the authority's certificate.
    #[must_use]
    pub fn request(self, sha256: &[u8; 32]) -> Vec<u8> {
        [&REQUEST_HEAD[..], sha256, &[tag::INTEGER, 8], &self.0, &[tag::BOOLEAN, 1, 0xff]].concat()
    }
}

impl Token {
    /// The token in an answer to the request with this nonce and hash.
    ///
    /// # Errors
    /// [`TimeStampError`].
    pub fn parse(answer: &[u8], nonce: Nonce, sha256: &[u8; 32]) -> Result<Self, TimeStampError> {
        let mut outer = Der(answer);
        let mut answer = outer.inside(tag::SEQUENCE, "the answer")?;
        granted(answer.inside(tag::SEQUENCE, "the status")?)?;
        let whole = answer.0;
        answer.take(tag::SEQUENCE, "the token")?;
        let der = whole.get(..whole.len() - answer.0.len()).unwrap_or_default();
        let parts = SignedStamp::parse(der)?;
        let time = parts.time(Some(nonce), sha256)?;
        check_certificate(parts.certificates, time)?;
        let seconds = u64::try_from(time).map_err(|_| TimeStampError::Form { part: "the time" })?;
        Ok(Self { der: der.to_vec(), time: seconds })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("bytes", &self.der.len()).field("time", &self.time).finish()
    }
}

/// The parts of a token, none of which is verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedStamp<'a> {
    /// The time stamp.
    pub(super) stamp: &'a [u8],
    /// The certificates, one after another.
    pub(super) certificates: &'a [u8],
    /// Revocation lists, if any, and the signers.
    pub(super) rest: Der<'a>,
}

impl<'a> SignedStamp<'a> {
    /// The parts of a token in DER.
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, TimeStampError> {
        let mut content = Der(token).inside(tag::SEQUENCE, "the token")?;
        content.is(tag::OBJECT_ID, SIGNED_DATA, "the token's type")?;
        let mut signed = content.inside(tag::CONTEXT_0, "the token")?.inside(tag::SEQUENCE, "the signed data")?;
        signed.take(tag::INTEGER, "the version of the signed data")?;
        signed.take(tag::SET, "the digest algorithms")?;
        let mut stamp = signed.inside(tag::SEQUENCE, "the contents")?;
        stamp.is(tag::OBJECT_ID, TST_INFO, "the type of the contents")?;
        let stamp = stamp.inside(tag::CONTEXT_0, "the contents")?.take(tag::OCTET_STRING, "the contents")?;
        let certificates =
            signed.take(tag::CONTEXT_0, "the certificates").map_err(|_| TimeStampError::NoCertificate)?;
        Ok(Self { stamp, certificates, rest: signed })
    }

    /// The time in the stamp, in seconds since 1970, if it is one of this hash, and with this nonce if that is known.
    pub(super) fn time(&self, nonce: Option<Nonce>, sha256: &[u8; 32]) -> Result<i64, TimeStampError> {
        stamped(Der(self.stamp).inside(tag::SEQUENCE, "the time stamp")?, nonce, sha256)
    }
}

/// Checks that the authority granted the request.
fn granted(mut status: Der<'_>) -> Result<(), TimeStampError> {
    let &[status_code] = status.take(tag::INTEGER, "the status")? else {
        return Err(TimeStampError::Form { part: "the status" });
    };
    if status_code <= 1 {
        return Ok(());
    }
    let text = status.inside(tag::SEQUENCE, "the text").and_then(|mut texts| texts.take(tag::UTF8_STRING, "the text"));
    let text = String::from_utf8_lossy(text.unwrap_or_default()).chars().take(200).collect();
    // The first byte says how many bits of the last one are unused.
    let bits = status.take(tag::BIT_STRING, "the failure").unwrap_or_default().iter().skip(1);
    let bit = bits.zip(0u8..4).find(|(byte, _)| **byte != 0);
    let failure = bit.and_then(|(byte, idx)| Some(idx * 8 + u8::try_from(byte.leading_zeros()).ok()?));
    Err(TimeStampError::Refused { status: status_code, text, failure: Failure(failure) })
}

/// The time in a time stamp, in seconds since 1970, if it is one of this hash and with this nonce.
fn stamped(mut stamp: Der<'_>, nonce: Option<Nonce>, sha256: &[u8; 32]) -> Result<i64, TimeStampError> {
    stamp.take(tag::INTEGER, "the version of the time stamp")?;
    stamp.take(tag::OBJECT_ID, "the policy")?;
    let mut imprint = stamp.inside(tag::SEQUENCE, "the hash")?;
    let mut algorithm = imprint.inside(tag::SEQUENCE, "the hash")?;
    if algorithm.take(tag::OBJECT_ID, "the hash")? != SHA256 || imprint.take(tag::OCTET_STRING, "the hash")? != sha256 {
        return Err(TimeStampError::Hash);
    }
    stamp.take(tag::INTEGER, "the serial number")?;
    let text = stamp.take(tag::GENERALIZED_TIME, "the time")?;
    let text = str::from_utf8(text).ok().and_then(|text| text.strip_suffix('Z'));
    let time = text.and_then(|text| NaiveDateTime::parse_from_str(text, "%Y%m%d%H%M%S%.f").ok());
    let time = time.ok_or(TimeStampError::Form { part: "the time" })?.and_utc().timestamp();
    // Between the time and the nonce there may be the accuracy and the ordering.
    stamp.take(tag::SEQUENCE, "the accuracy").ok();
    stamp.take(tag::BOOLEAN, "the ordering").ok();
    let found = stamp.take(tag::INTEGER, "the nonce").ok();
    if nonce.is_none_or(|nonce| found == Some(&nonce.0[..])) { Ok(time) } else { Err(TimeStampError::Nonce) }
}

/// Checks that there is a certificate that may sign time stamps, and was valid at `time`.
fn check_certificate(mut certificates: &[u8], time: i64) -> Result<(), TimeStampError> {
    let mut error = TimeStampError::NoCertificate;
    while !certificates.is_empty() {
        let (rest, certificate) =
            X509Certificate::from_der(certificates).map_err(|_| TimeStampError::Form { part: "a certificate" })?;
        certificates = rest;
        let usage = certificate.extended_key_usage().ok().flatten();
        if certificate.is_ca() || !usage.is_some_and(|usage| usage.value.time_stamping) {
            continue;
        }
        let validity = certificate.validity();
        if (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&time) {
            return Ok(());
        }
        error = TimeStampError::Expired { end: validity.not_after.to_string() };
    }
    Err(error)
}

/// The rest of a text in DER.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// Takes the value of the next element, if it has this tag; otherwise nothing is taken.
    pub(super) fn take(&mut self, tag: u8, part: &'static str) -> Result<&'a [u8], TimeStampError> {
        let (value, rest) = self.split(tag).ok_or(TimeStampError::Form { part })?;
        self.0 = rest;
        Ok(value)
    }

    fn split(self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let (&found, rest) = self.0.split_first()?;
        let (&length, rest) = rest.split_first()?;
        let (length, rest) = match usize::from(length) {
            length @ ..=0x7f => (length, rest),
            // I6: up to four bytes of length, of a text that is in memory.
            count @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(count - 0x80)?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        (found == tag).then(|| rest.split_at_checked(length))?
    }

    /// Takes the next element, and returns what is in it.
    pub(super) fn inside(&mut self, tag: u8, part: &'static str) -> Result<Self, TimeStampError> {
        self.take(tag, part).map(Self)
    }

    /// Takes the next element, which must be this one.
    pub(super) fn is(&mut self, tag: u8, wanted: &[u8], part: &'static str) -> Result<(), TimeStampError> {
        if self.take(tag, part)? == wanted { Ok(()) } else { Err(TimeStampError::Form { part }) }
    }
}
