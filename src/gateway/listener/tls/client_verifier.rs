//! Verification of client certificates: in the handshake, and again while their connection is open.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::auth::certificate::Revalidate;
use crate::auth::watched::{WatchedFile, read_bounded};
use crate::file_access::{FileAccess, FileError, FileKind};

/// Largest file of revocation lists, in bytes. *Chosen*: some 400,000 revoked certificates; a public authority's
/// largest lists have a few MiB.
const LISTS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Least time between two verifications of one connection's certificate. *Chosen*: a revocation takes effect soon
/// enough, and busy connections do not pay a signature check for each request.
const REVALIDATION_INTERVAL: Duration = Duration::from_secs(1);

/// Verifies clients' certificates against the authorities, and against their revocation lists if there are any.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    /// The verifier without revocation lists. It answers everything that does not depend on them.
    base: Arc<dyn ClientCertVerifier>,
    revoking: Option<WatchedFile<Arc<dyn ClientCertVerifier>>>,
}

/// The revocation lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListsError {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("{}", .0.reason)]
    File(#[from] FileError),
    #[error("it is larger than {LISTS_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it has no list")]
    Empty,
    #[error("{0}")]
    Rejected(#[from] VerifierBuilderError),
}

impl ClientVerifier {
    /// # Errors
    /// A certificate is not an authority's.
    pub(super) fn new(
        authorities: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let base = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let base = base.allow_unauthenticated().build()?;
        Ok(Self { roots, provider, base, revoking: None })
    }

    /// Reads the revocation lists at `path`, now and whenever the file changes.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn watch_revocation_lists(&mut self, files: FileAccess, path: &Path) -> Result<(), ListsError> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let read = move |file: File| -> Result<Arc<dyn ClientCertVerifier>, ListsError> {
            let pem = read_bounded(file, LISTS_BYTES_MAX)?.ok_or(ListsError::TooLarge)?;
            let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
            let lists = lists.ok().filter(|lists| !lists.is_empty()).ok_or(ListsError::Empty)?;
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
            // An authority's list says nothing of the authority itself: only the client's certificate is looked up. A
            // list that has expired may lack the certificate that was stolen yesterday.
            let builder = builder.with_crls(lists).only_check_end_entity_revocation().enforce_revocation_expiration();
            Ok(builder.allow_unauthenticated().build()?)
        };
        self.revoking = Some(WatchedFile::open(path, files, FileKind::Trusted, read)?);
        Ok(())
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.base.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.base.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.revoking {
            Some(revoking) => revoking.get().verify_client_cert(end_entity, intermediates, now),
            None => self.base.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.base.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.base.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.base.supported_verify_schemes()
    }
}

/// The verifier in force, which is another one when the file of authorities has changed.
pub(super) struct CurrentVerifier(Box<dyn Fn() -> Option<Arc<ClientVerifier>> + Send + Sync>);

impl CurrentVerifier {
    /// The one that `current` returns when it is asked.
    pub(super) fn new(current: impl Fn() -> Option<Arc<ClientVerifier>> + Send + Sync + 'static) -> Self {
        Self(Box::new(current))
    }
}

impl fmt::Debug for CurrentVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentVerifier").finish_non_exhaustive()
    }
}

/// The certificates that a client sent, and what they are verified against.
#[derive(Debug)]
pub(super) struct VerifiedChain {
    pub(super) leaf: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    clients: CurrentVerifier,
    /// The time and result of the last verification.
    verified: Mutex<(Instant, bool)>,
}

impl VerifiedChain {
    /// The chain that the handshake has just verified, leaf first. `None`: it is empty.
    pub(super) fn new(chain: &[CertificateDer<'_>], clients: CurrentVerifier) -> Option<Self> {
        let (leaf, intermediates) = chain.split_first()?;
        Some(Self {
            leaf: leaf.clone().into_owned(),
            intermediates: intermediates.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            clients,
            verified: Mutex::new((Instant::now(), true)),
        })
    }
}

impl Revalidate for VerifiedChain {
    fn is_valid(&self) -> bool {
        let mut verified = self.verified.lock();
        if verified.0.elapsed() >= REVALIDATION_INTERVAL {
            // Without a verifier nothing is verified.
            let is_valid = (self.clients.0)().is_some_and(|clients| {
                clients.verify_client_cert(&self.leaf, &self.intermediates, UnixTime::now()).is_ok()
            });
            *verified = (Instant::now(), is_valid);
        }
        verified.1
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };
    use tokio_rustls::rustls::crypto::aws_lc_rs;

    use super::*;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn certificate(authority: &Authority, serial: u64, last_year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(last_year, 1, 1);
        params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().der().clone()
    }

    /// The authority's list of revoked serial numbers, in PEM.
    fn list(authority: &Issuer<'_, KeyPair>, revoked: &[u64], next_year: i32) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(next_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(authority).unwrap().pem().unwrap()
    }

    fn verifier(authority: &Authority, lists: Option<&Path>) -> Arc<ClientVerifier> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut verifier = ClientVerifier::new(vec![authority.der().clone()], provider).unwrap();
        if let Some(path) = lists {
            verifier.watch_revocation_lists(FileAccess::default(), path).unwrap();
        }
        Arc::new(verifier)
    }

    fn chain(certificate: CertificateDer<'static>, clients: &Arc<ClientVerifier>) -> VerifiedChain {
        {
            let clients = Arc::clone(clients);
            VerifiedChain::new(&[certificate], CurrentVerifier::new(move || Some(Arc::clone(&clients)))).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_revoked_or_expires_is_refused_on_open_connections() {
        let authority = authority();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.crl");
        std::fs::write(&path, list(&authority, &[7], 2100)).unwrap();
        let clients = verifier(&authority, Some(&path));
        let accepts = |der: &CertificateDer<'_>| clients.verify_client_cert(der, &[], UnixTime::now()).is_ok();
        let (one, two) = (certificate(&authority, 1, 2100), certificate(&authority, 7, 2100));
        assert!(accepts(&one) && !accepts(&two), "the handshake refuses what the list has");
        let open = chain(one, &clients);
        tokio::time::advance(2 * REVALIDATION_INTERVAL).await;
        assert!(open.is_valid());
        std::fs::write(&path, list(&authority, &[7, 1], 2100)).unwrap();
        tokio::time::advance(2 * REVALIDATION_INTERVAL).await;
        assert!(!open.is_valid(), "revoked while it was open");
        // A broken file leaves the previous lists in use.
        std::fs::write(&path, "no list").unwrap();
        tokio::time::advance(2 * REVALIDATION_INTERVAL).await;
        assert!(!open.is_valid());
        let expired = chain(certificate(&authority, 2, 2020), &verifier(&authority, None));
        tokio::time::advance(2 * REVALIDATION_INTERVAL).await;
        assert!(!expired.is_valid(), "expired while it was open");
    }

    #[test]
    fn lists_that_say_nothing_about_a_certificate_refuse_it() {
        let (authority, other) = (authority(), self::authority());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.crl");
        let certificate = certificate(&authority, 1, 2100);
        let accepts = |lists: String| {
            std::fs::write(&path, lists).unwrap();
            let clients = verifier(&authority, Some(&path));
            clients.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok()
        };
        assert!(accepts(list(&authority, &[], 2100)));
        assert!(!accepts(list(&authority, &[], 2026)), "the list has expired");
        assert!(!accepts(list(&other, &[], 2100)), "the authority has no list");
        std::fs::write(&path, "").unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut verifier = ClientVerifier::new(vec![authority.der().clone()], provider).unwrap();
        assert!(matches!(verifier.watch_revocation_lists(FileAccess::default(), &path), Err(ListsError::Empty)));
    }
}
