//! The identity in a client certificate. The TLS handshake has already verified the certificate.
//!
//! A subject begins with the kind of its name (`uri:`, `dns:` or `cn:`), so that a common name that reads like a URI is
//! never the identity of that URI: many authorities let their clients choose the common name.

use std::sync::Arc;

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The issuer of principals that are authenticated by a certificate.
pub const ISSUER: &str = "mtls";

/// Longest subject, in bytes. *Chosen*: a SPIFFE id has at most 2,048; every record contains the subject.
const SUBJECT_BYTES_MAX: usize = 2048;

/// Verifies again a certificate that a handshake verified, because connections live longer than certificates.
pub trait Revalidate: Send + Sync + std::fmt::Debug {
    /// Returns true if the handshake would accept the certificate now: it has not expired and is not revoked.
    fn is_valid(&self) -> bool;
}

/// A client certificate that the handshake verified.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The first URI name, else the first DNS name, else the common name, after its kind: `uri:spiffe://example/ci`.
    pub subject: String,
    revalidate: Arc<dyn Revalidate>,
}

impl Certificate {
    /// Reads a verified certificate. `None`: it has no usable name, and is not an identity.
    #[must_use]
    pub fn read(der: &[u8], revalidate: Arc<dyn Revalidate>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok()?;
        let names = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uri = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some(("uri:", *uri)),
            _ => None,
        });
        let dns = names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some(("dns:", *name)),
            _ => None,
        });
        let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let (kind, name) = uri.or(dns).or(common.map(|name| ("cn:", name)))?;
        let fits = !name.is_empty() && name.len() <= SUBJECT_BYTES_MAX && !name.contains(char::is_control);
        fits.then(|| Self::new(&format!("{kind}{name}"), revalidate))
    }

    /// The certificate of `subject`.
    #[must_use]
    pub fn new(subject: &str, revalidate: Arc<dyn Revalidate>) -> Self {
        Self { subject: subject.to_owned(), revalidate }
    }

    /// Returns true if the handshake would accept the certificate now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.revalidate.is_valid()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    #[derive(Debug)]
    struct Valid;

    impl Revalidate for Valid {
        fn is_valid(&self) -> bool {
            true
        }
    }

    fn read(names: &[SanType], common: Option<&str>) -> Option<String> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(common.to_owned()));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(certificate.der(), Arc::new(Valid)).map(|certificate| certificate.subject)
    }

    #[test]
    fn the_subject_is_the_first_uri_else_dns_name_else_cn() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let ip = SanType::IpAddress([127, 0, 0, 1].into());
        let all = [ip.clone(), dns("a.example"), uri("spiffe://x/one"), uri("spiffe://x/two")];
        assert_eq!(read(&all, Some("cn")).as_deref(), Some("uri:spiffe://x/one"));
        let names = [ip.clone(), dns("a.example"), dns("b.example")];
        assert_eq!(read(&names, Some("cn")).as_deref(), Some("dns:a.example"));
        assert_eq!(read(std::slice::from_ref(&ip), Some("cn")).as_deref(), Some("cn:cn"));
        assert_eq!(read(&[], Some("spiffe://x/one")).as_deref(), Some("cn:spiffe://x/one"), "a CN is not a URI");
    }

    #[test]
    fn a_certificate_without_a_usable_name_is_not_an_identity() {
        assert_eq!(read(&[], None), None);
        assert_eq!(read(&[], Some("")), None);
        assert_eq!(read(&[], Some("a\nb")), None);
        assert_eq!(read(&[], Some(&"a".repeat(SUBJECT_BYTES_MAX + 1))), None);
        assert!(Certificate::read(b"no certificate", Arc::new(Valid)).is_none());
    }
}
