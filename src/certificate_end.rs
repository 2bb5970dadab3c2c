//! The end of a certificate, for the metric and the alarms.

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The time after which a certificate is not valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateEnd(pub i64);

/// A certificate that others verify, or that the gateway verifies, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCertificate {
    /// The one that presents it.
    pub owner: CertificateOwner,
    /// Its end.
    pub end: CertificateEnd,
}

/// The one that presents a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateOwner {
    /// The gateway, to its clients.
    Server,
    /// The backend with this alias.
    Backend(String),
    /// A server of Postgres.
    Postgres,
}

impl CertificateEnd {
    /// The end of a certificate in DER; `None` if it cannot be read.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self(certificate.validity().not_after.timestamp()))
    }
}

impl CertificateOwner {
    /// The kind of the owner, and the alias of a backend: the labels of the metric.
    #[must_use]
    pub fn labels(&self) -> (&'static str, &str) {
        match self {
            Self::Server => ("server", ""),
            Self::Backend(alias) => ("backend", alias),
            Self::Postgres => ("postgres", ""),
        }
    }
}

impl std::fmt::Display for CertificateOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server => f.write_str("server.tls.cert_file"),
            Self::Backend(alias) => write!(f, "backend {alias}"),
            Self::Postgres => f.write_str("Postgres"),
        }
    }
}
