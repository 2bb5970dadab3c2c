//! TLS to Postgres: what each `sslmode` verifies. *Spec*: libpq, "SSL Support".

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::error::for_operator;
use super::relay::ServerStream;
use super::scram::end_point;
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::certificate_end::{CertificateEnd, RecentEnds};
use crate::postgres_url::{ChannelBinding, SslMode};

const OPERATION: &str = "connect";

/// Written after each handshake, read for the metric. A process has one database.
static ENDS: Mutex<RecentEnds> = Mutex::new(RecentEnds::new());

/// The request for TLS. *Spec*: PostgreSQL, "Message Formats", `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The word for the system's certificates in place of a file. *Spec*: libpq, `sslrootcert`.
const SYSTEM: &str = "system";

/// The files with certificates and a key.
#[derive(Debug)]
pub(super) struct Files {
    root: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// Those of a URL, or else of the environment.
    pub(super) fn of(root: Option<&Path>, client: Option<&(PathBuf, PathBuf)>) -> Self {
        let root = root.map(Path::to_owned).or_else(|| variable("PGSSLROOTCERT").map(PathBuf::from));
        let of_environment = || Some((variable("PGSSLCERT")?.into(), variable("PGSSLKEY")?.into()));
        Self { root, client: client.cloned().or_else(of_environment) }
    }
}

/// The `sslmode` of the environment.
///
/// # Errors
/// It is not one.
pub(super) fn mode_of_environment() -> Result<Option<SslMode>, SinkError> {
    let Some(name) = variable("PGSSLMODE") else { return Ok(None) };
    let unknown = || for_operator(OPERATION, format!("PGSSLMODE is not one of {}", SslMode::NAMES.join(", ")));
    SslMode::from_name(&name).map(Some).ok_or_else(unknown)
}

/// The `channel_binding` of the environment.
///
/// # Errors
/// It is not one.
pub(super) fn binding_of_environment() -> Result<Option<ChannelBinding>, SinkError> {
    let Some(name) = variable("PGCHANNELBINDING") else { return Ok(None) };
    let names = ChannelBinding::NAMES.join(", ");
    let unknown = || for_operator(OPERATION, format!("PGCHANNELBINDING is not one of {names}"));
    ChannelBinding::from_name(&name).map(Some).ok_or_else(unknown)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Adds TLS to `stream` as `mode` demands it. `host` is the name or the address that the certificate is verified for.
///
/// # Errors
/// See [`SinkError`]. Nothing but the request for TLS was sent if the server does not offer it.
pub(super) async fn protect(
    mut stream: TcpStream,
    mode: SslMode,
    host: &str,
    files: &Files,
) -> Result<ServerStream, SinkError> {
    if mode == SslMode::Disable {
        return Ok(unprotected(stream));
    }
    stream.write_all(&SSL_REQUEST).await.map_err(|error| broken(&error))?;
    // One byte, so that nothing that was put in behind it is taken for the server's.
    match stream.read_u8().await.map_err(|error| broken(&error))? {
        b'S' => {}
        b'N' if mode <= SslMode::Prefer => {
            return Ok(unprotected(stream));
        }
        b'N' => {
            let mode = mode.name();
            let message = format!(
                "the server does not offer TLS, and sslmode is {mode} (verify-full unless the URL names another, except \
                 for hosts of this machine): set ssl = on there"
            );
            return Err(for_operator(OPERATION, message));
        }
        _ => {
            return Err(for_operator(
                OPERATION,
                "the server does not speak the protocol of Postgres: is it the right port?",
            ));
        }
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| for_operator(OPERATION, "TLS needs a host name or an IP address"))?;
    let connector = TlsConnector::from(Arc::new(client_config(mode, files)?));
    let stream = connector.connect(name, stream).await.map_err(|error| handshake_error(&error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if let Some(end) = certificate.and_then(|certificate| CertificateEnd::of(certificate)) {
        ENDS.lock().note(end, Instant::now());
    }
    let end_point = certificate.and_then(|certificate| end_point(certificate));
    Ok(ServerStream { stream: Box::new(stream), is_encrypted: true, end_point })
}

fn unprotected(stream: TcpStream) -> ServerStream {
    *ENDS.lock() = RecentEnds::new();
    ServerStream { stream: Box::new(stream), is_encrypted: false, end_point: None }
}

fn broken(error: &io::Error) -> SinkError {
    let message = format!("the connection broke: {error}");
    SinkError { operation: OPERATION, class: ErrorClass::Transient, sqlstate: None, message }
}

/// The end of the certificate that servers presented, if one did; of several recent ones, the earliest.
#[must_use]
pub fn certificate_end() -> Option<CertificateEnd> {
    ENDS.lock().earliest(Instant::now())
}

/// A certificate that is refused stays refused until a person acts; a connection that breaks does not.
fn handshake_error(error: &io::Error) -> SinkError {
    match error.get_ref().and_then(|source| source.downcast_ref::<Error>()) {
        Some(error) => for_operator(OPERATION, format!("TLS: {error}")),
        None => broken(error),
    }
}

fn client_config(mode: SslMode, files: &Files) -> Result<ClientConfig, SinkError> {
    let fault = |error: Error| for_operator(OPERATION, format!("TLS: {error}"));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(fault)?;
    // An authority that is named is there to be used. *Spec*: libpq, `require`.
    let is_verified = mode >= SslMode::VerifyCa || mode == SslMode::Require && files.root.is_some();
    let verifier: Arc<dyn ServerCertVerifier> = if is_verified {
        let roots = Arc::new(roots(files.root.as_deref())?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| for_operator(OPERATION, format!("TLS: {error}")))?;
        if mode == SslMode::VerifyFull { verifier } else { Arc::new(AnyName(verifier)) }
    } else {
        Arc::new(AnyCertificate(provider))
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some((certificates, key)) = &files.client else { return Ok(builder.with_no_client_auth()) };
    let unreadable = |name: &str, error: &dyn std::fmt::Display| for_operator(OPERATION, format!("{name}: {error}"));
    let chain: Result<Vec<_>, _> = read(certificates, "sslcert")?;
    let chain = chain.map_err(|error| unreadable("sslcert", &error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", &error))?;
    builder.with_client_auth_cert(chain, key).map_err(fault)
}

/// The certificates in a file.
fn read(
    path: &Path,
    name: &str,
) -> Result<Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error>, SinkError> {
    let certificates = CertificateDer::pem_file_iter(path);
    let certificates = certificates.map_err(|error| for_operator(OPERATION, format!("{name}: {error}")))?;
    Ok(certificates.collect())
}

/// The authorities: those in the file, or the system's.
fn roots(file: Option<&Path>) -> Result<RootCertStore, SinkError> {
    let fault = |error: &dyn std::fmt::Display| for_operator(OPERATION, format!("sslrootcert: {error}"));
    let mut store = RootCertStore::empty();
    match file.filter(|path| *path != Path::new(SYSTEM)) {
        Some(path) => {
            let certificates = read(path, "sslrootcert")?.map_err(|error| fault(&error))?;
            for certificate in certificates {
                store.add(certificate).map_err(|error| fault(&error))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(fault(
            &"no certificate authority is known: name a file with the server's authority in sslrootcert",
        ));
    }
    Ok(store)
}

/// Accepts a certificate for any name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts any certificate, for the modes that do not verify: also one of X.509 version 1, as Citus makes for itself,
/// which cannot be read here. A signature by an unknown key proves nothing, so it is not verified either.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
