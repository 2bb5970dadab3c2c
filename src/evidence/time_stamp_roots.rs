//! The authorities whose time stamps are trusted, and the signature of a token. RFC 3161 and RFC 5652.
//!
//! ```text
//! signer       SEQUENCE { version, name, digest algorithm, attributes, signature algorithm, signature }
//! attributes   [0] { SEQUENCE { type, SET { value } }, ... }
//! ```
//!
//! The signature is over the attributes, with the tag of a SET. Among them is the hash of the time stamp.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{self, digest};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::time_stamp::{SHA256, SignedStamp, TST_INFO, TimeStampError, tag};

/// The object identifiers of SHA-384 and SHA-512. *Spec*: RFC 5754, sections 2.3 and 2.4.
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];

/// The object identifiers of the attributes that every signature has. *Spec*: RFC 5652, sections 11.1 and 11.2.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];

/// The use of a certificate that signs time stamps. *Spec*: RFC 3161, section 2.3.
const TIME_STAMPING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];

/// Certificates of authorities that are trusted.
#[derive(Clone)]
pub struct Roots(Vec<CertificateDer<'static>>);

/// A text has no certificate of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must have one certificate or more in PEM (-----BEGIN CERTIFICATE-----)")]
pub struct RootsError;

impl Roots {
    /// The certificates in a text in PEM.
    ///
    /// # Errors
    /// [`RootsError`]: there is none, or one is damaged.
    pub fn from_pem(text: &[u8]) -> Result<Self, RootsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let found = found.map_err(|_| RootsError)?;
        let is_usable = !found.is_empty() && found.iter().all(|root| anchor_from_trusted_cert(root).is_ok());
        if is_usable { Ok(Self(found)) } else { Err(RootsError) }
    }

    /// Verifies a token over data with this SHA-256: its signature, and that a certificate in it that may sign time
    /// stamps and leads to one of these, each valid at the time in the token, made it. Returns that time, in seconds
    /// since 1970. Revocation is not checked.
    ///
    /// # Errors
    /// [`TimeStampError`].
    pub fn verify(&self, token: &[u8], sha256: &[u8; 32]) -> Result<u64, TimeStampError> {
        let parts = SignedStamp::parse(token)?;
        let time = parts.time(None, sha256)?;
        let time = u64::try_from(time).map_err(|_| TimeStampError::Form { part: "the time" })?;
        let Signed { message, signature } = signed(&parts)?;
        let (mut certificates, mut rest) = (Vec::new(), parts.certificates);
        while !rest.is_empty() {
            let part = "a certificate";
            let (after, _) = X509Certificate::from_der(rest).map_err(|_| TimeStampError::Form { part })?;
            let one = rest.get(..rest.len() - after.len()).unwrap_or_default();
            certificates.push(CertificateDer::from(one));
            rest = after;
        }
        let mut error = TimeStampError::Signature { part: "the certificate of the signer" };
        for certificate in &certificates {
            let Ok(signer) = EndEntityCert::try_from(certificate) else { continue };
            let matches = |algorithm| signer.verify_signature(algorithm, &message, signature).is_ok();
            if !webpki::ALL_VERIFICATION_ALGS.iter().any(|algorithm| matches(*algorithm)) {
                continue;
            }
            match self.check(&signer, certificate, &certificates, time) {
                Ok(()) => return Ok(time),
                Err(cause) => error = TimeStampError::Untrusted { cause },
            }
        }
        Err(error)
    }

    /// Checks that a certificate may sign time stamps and leads to one of these.
    fn check(
        &self,
        signer: &EndEntityCert<'_>,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        time: u64,
    ) -> Result<(), String> {
        let parsed = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?.1;
        // An authority above it may be without this extension.
        let usage = parsed.extended_key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.time_stamping) {
            return Err("the certificate of the signer is not one for time stamps".to_owned());
        }
        let roots: Vec<_> = self.0.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
        let (time, usage) = (UnixTime::since_unix_epoch(Duration::from_secs(time)), TIME_STAMPING);
        let usage = KeyUsage::required_if_present(usage);
        let path = signer.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &roots, others, time, usage, None, None);
        path.map(drop).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.0.len()).finish()
    }
}

/// The bytes that were signed, and the signature of them.
struct Signed<'a> {
    message: Vec<u8>,
    signature: &'a [u8],
}

/// The first signature of a token, whose attributes are those of its time stamp.
fn signed<'a>(parts: &SignedStamp<'a>) -> Result<Signed<'a>, TimeStampError> {
    let mut rest = parts.rest;
    rest.take(tag::CONTEXT_1, "the revocation lists").ok();
    let mut signer = rest.inside(tag::SET, "the signers")?.inside(tag::SEQUENCE, "the signer")?;
    signer.take(tag::INTEGER, "the version of the signer")?;
    // The name and number of its certificate, or the id of its key.
    let named = signer.take(tag::SEQUENCE, "the name of the signer").is_ok();
    if !named {
        signer.take(tag::CONTEXT_0_PRIMITIVE, "the name of the signer")?;
    }
    let algorithm = signer.inside(tag::SEQUENCE, "the hash")?.take(tag::OBJECT_ID, "the hash")?;
    let algorithm = match algorithm {
        SHA256 => &digest::SHA256,
        SHA384 => &digest::SHA384,
        SHA512 => &digest::SHA512,
        _ => return Err(TimeStampError::Signature { part: "a hash by SHA-256, SHA-384 or SHA-512" }),
    };
    let whole = signer.0;
    let mut attributes = signer.inside(tag::CONTEXT_0, "the attributes")?;
    let mut message = whole.get(..whole.len() - signer.0.len()).unwrap_or_default().to_vec();
    // *Spec*: RFC 5652, section 5.4: the signature is over these bytes with the tag of a SET.
    if let Some(first) = message.first_mut() {
        *first = tag::SET;
    }
    let (mut types, mut hashes) = (Vec::new(), Vec::new());
    while !attributes.0.is_empty() {
        let mut attribute = attributes.inside(tag::SEQUENCE, "an attribute")?;
        match attribute.take(tag::OBJECT_ID, "the type of an attribute")? {
            CONTENT_TYPE => types.push(attribute.inside(tag::SET, "an attribute")?.take(tag::OBJECT_ID, "the type")?),
            MESSAGE_DIGEST => {
                hashes.push(attribute.inside(tag::SET, "an attribute")?.take(tag::OCTET_STRING, "the hash")?);
            }
            _ => {}
        }
    }
    if types != [TST_INFO] {
        return Err(TimeStampError::Signature { part: "the type of its contents" });
    }
    if hashes != [digest(algorithm, parts.stamp).as_ref()] {
        return Err(TimeStampError::Signature { part: "the hash of its contents" });
    }
    signer.take(tag::SEQUENCE, "the algorithm of the signature")?;
    let signature = signer.take(tag::OCTET_STRING, "the signature")?;
    Ok(Signed { message, signature })
}
