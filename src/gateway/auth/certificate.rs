//! Who a client certificate names. That it is genuine was decided by the handshake.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The issuer of those who come by a certificate.
pub const ISSUER: &str = "mtls";

/// Longest subject, in bytes. *Chosen*: a SPIFFE id has at most 2,048; it stands in every record.
const SUBJECT_BYTES_MAX: usize = 2048;

/// A client certificate that the handshake verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The first URI name, else the first DNS name, else the common name.
    pub subject: String,
}

impl Certificate {
    /// Reads a certificate that was verified. `None` where it names nobody: then it is no identity.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok()?;
        let names = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uri = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let dns = names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
        let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let subject = uri.or(dns).or(common)?;
        let fits = !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX && !subject.contains(char::is_control);
        fits.then(|| Self { subject: subject.to_owned() })
    }
}
