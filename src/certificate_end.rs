//! The end of a certificate, for the metric and the alarms.

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest time before the end of a certificate from which its end is near, in seconds. *Chosen*: two weeks; automatic
/// renewal, usually a month before the end, has failed by then.
const NEAR_SECS_MAX: i64 = 14 * 24 * 3600;

/// The last part of its lifetime in which a certificate's end is near, as a divisor. *Chosen*: automatic renewal begins
/// at a third or earlier, also of certificates that live for less than 14 days.
const NEAR_PART: i64 = 3;

/// The end of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateEnd {
    /// The time after which it is not valid, in seconds since 1970.
    pub at: i64,
    /// The time for which it is valid as a whole, in seconds.
    pub lifetime: i64,
}

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
        let validity = certificate.validity();
        let at = validity.not_after.timestamp();
        Some(Self { at, lifetime: at.saturating_sub(validity.not_before.timestamp()) })
    }

    /// True if it has passed at `now`, in seconds since 1970.
    #[must_use]
    pub fn has_passed(self, now: i64) -> bool {
        self.at < now
    }

    /// True if it is so near at `now`, in seconds since 1970, that the certificate should have been renewed.
    #[must_use]
    pub fn is_near(self, now: i64) -> bool {
        let near = NEAR_SECS_MAX.min(self.lifetime / NEAR_PART);
        (0..=near).contains(&self.at.saturating_sub(now))
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

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn of(lifetime: i64) -> CertificateEnd {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let now = std::time::SystemTime::now();
        let end = now + std::time::Duration::from_secs(lifetime.unsigned_abs());
        (params.not_before, params.not_after) = (now.into(), end.into());
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        CertificateEnd::of(certificate.der()).unwrap()
    }

    #[test]
    fn an_end_is_near_two_weeks_or_a_third_of_the_lifetime_before_it() {
        for (lifetime, near) in [(365 * DAY, 14 * DAY), (90 * DAY, 14 * DAY), (9 * DAY, 3 * DAY), (3600, 1200)] {
            let end = of(lifetime);
            assert_eq!(end.lifetime, lifetime);
            let states = [end.at - near - 1, end.at - near, end.at, end.at + 1];
            assert_eq!(states.map(|now| end.is_near(now)), [false, true, true, false], "{lifetime}");
            assert_eq!(states.map(|now| end.has_passed(now)), [false, false, false, true], "{lifetime}");
        }
    }
}
