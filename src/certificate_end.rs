//! The end of a certificate, for the metric and the alarms.
//!
//! A backend or a Postgres may have several certificates at a time: those of the servers of a load balancer, or an old
//! and a new one. [`RecentEnds`] has those that handshakes have shown of late, of which the earliest end counts.

use std::time::{Duration, Instant};

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest time before the end of a certificate from which its end is near, in seconds. *Chosen*: two weeks; automatic
/// renewal, usually a month before the end, has failed by then.
const NEAR_SECS_MAX: i64 = 14 * 24 * 3600;

/// The last part of its lifetime in which a certificate's end is near, as a divisor. *Chosen*: automatic renewal begins
/// at a third or earlier (cert-manager at a third), and has failed at a quarter.
const NEAR_PART: i64 = 4;

/// Longest time for which a certificate counts after the last handshake that showed it. *Chosen*: the servers of a load
/// balancer take turns within it, and the alarm of a renewed certificate ends soon.
const RECENT_MAX: Duration = Duration::from_hours(1);

/// The part of its lifetime for which a certificate counts, as a divisor. *Chosen*: one that is renewed at half of its
/// lifetime does not count any more when its end is near.
const RECENT_PART: u64 = 10;

/// Most certificates of one server. *Chosen*: more than a rolling renewal shows.
const RECENT_COUNT_MAX: usize = 16;

/// The end of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateEnd {
    /// The time after which it is not valid, in seconds since 1970.
    pub at: i64,
    /// The time for which it is valid as a whole, in seconds.
    pub lifetime: i64,
}

/// The ends of the certificates that handshakes with one server have shown of late, in the order of the handshakes.
#[derive(Debug, Default)]
pub struct RecentEnds(Vec<(CertificateEnd, Instant)>);

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

impl RecentEnds {
    /// No handshake yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes the certificate that a handshake at `now` has shown.
    pub fn note(&mut self, end: CertificateEnd, now: Instant) {
        self.0.retain(|known| known.0 != end && is_recent(known, now));
        // I6: a server that shows many certificates cannot fill the memory.
        if self.0.len() == RECENT_COUNT_MAX {
            self.0.remove(0);
        }
        self.0.push((end, now));
    }

    /// The earliest end of the certificates that count at `now`; if none does, the end of the last handshake's.
    #[must_use]
    pub fn earliest(&self, now: Instant) -> Option<CertificateEnd> {
        let recent = self.0.iter().filter(|known| is_recent(known, now)).map(|(end, _)| *end);
        recent.min().or(self.0.last().map(|(end, _)| *end))
    }
}

/// True if a certificate whose last handshake was at this time counts at `now`.
fn is_recent((end, shown): &(CertificateEnd, Instant), now: Instant) -> bool {
    let part = Duration::from_secs(u64::try_from(end.lifetime).unwrap_or(0) / RECENT_PART);
    now.saturating_duration_since(*shown) <= part.min(RECENT_MAX)
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
    fn of_the_certificates_of_an_hour_the_earliest_end_counts() {
        let (old, new) =
            (CertificateEnd { at: 7 * DAY, lifetime: 90 * DAY }, CertificateEnd { at: 97 * DAY, lifetime: 90 * DAY });
        let start = Instant::now();
        let at = |minutes| start + Duration::from_mins(minutes);
        let mut ends = RecentEnds::new();
        assert_eq!(ends.earliest(at(0)), None);
        // Two servers of a load balancer.
        for minutes in 0..10 {
            ends.note(if minutes % 2 == 0 { old } else { new }, at(minutes));
            assert_eq!(ends.earliest(at(minutes)), Some(old));
        }
        // The old one is not shown any more.
        ends.note(new, at(60));
        assert_eq!(ends.earliest(at(68)), Some(old));
        assert_eq!(ends.earliest(at(69)), Some(new));
        // Without handshakes the last one counts, whatever its end.
        ends.note(old, at(70));
        ends.note(new, at(71));
        assert_eq!(ends.earliest(at(1000)), Some(new));
    }

    #[test]
    fn a_certificate_that_lives_shortly_counts_for_a_tenth_of_its_lifetime() {
        let of = |minute: i64| CertificateEnd { at: minute * 60, lifetime: 3600 };
        let start = Instant::now();
        let mut ends = RecentEnds::new();
        ends.note(of(60), start + Duration::from_mins(29));
        ends.note(of(90), start + Duration::from_mins(30));
        assert_eq!(ends.earliest(start + Duration::from_mins(35)), Some(of(60)));
        assert_eq!(ends.earliest(start + Duration::from_mins(36)), Some(of(90)));
    }

    #[test]
    fn i6_a_server_that_shows_many_certificates_cannot_fill_the_memory() {
        let (mut ends, now) = (RecentEnds::new(), Instant::now());
        for at in 0..1000 {
            ends.note(CertificateEnd { at, lifetime: DAY }, now);
        }
        assert_eq!(ends.0.len(), RECENT_COUNT_MAX);
    }

    #[test]
    fn an_end_is_near_two_weeks_or_a_quarter_of_the_lifetime_before_it() {
        for (lifetime, near) in [(365 * DAY, 14 * DAY), (90 * DAY, 14 * DAY), (8 * DAY, 2 * DAY), (3600, 900)] {
            let end = of(lifetime);
            assert_eq!(end.lifetime, lifetime);
            let states = [end.at - near - 1, end.at - near, end.at, end.at + 1];
            assert_eq!(states.map(|now| end.is_near(now)), [false, true, true, false], "{lifetime}");
            assert_eq!(states.map(|now| end.has_passed(now)), [false, false, false, true], "{lifetime}");
        }
    }
}
