//! SCRAM-SHA-256 with channel binding, which the driver does not have: the login proves to the server that both
//! have the ends of one TLS connection. *Spec*: RFC 5802, RFC 7677, RFC 5929, and PostgreSQL, "SASL Authentication".

use std::borrow::Cow;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

/// The name of the mechanism. *Spec*: RFC 7677.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256-PLUS";

/// The header of the exchange. *Spec*: RFC 5802, section 7, with the binding of RFC 5929, section 4.
const HEADER: &str = "p=tls-server-end-point,,";

/// Most iterations that a server may ask for. *Chosen*: 244 times of Postgres's default; a second of processor time.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Random bytes of a nonce. *Spec*: libpq uses as many.
const NONCE_BYTES: usize = 18;

const INVALID: &str = "the server's part of the login with SCRAM is not valid";

/// The client's side of a login.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Header and data of the channel binding.
    binding: Vec<u8>,
    /// The first message without the header.
    bare: String,
    nonce: String,
}

/// The second message of the client, and the proof that the server has to send.
pub(super) struct Proof {
    pub(super) message: String,
    /// I8: derived from the password.
    server_key: hmac::Key,
    exchanged: String,
}

impl Exchange {
    /// Begins it over a connection to the server with this end point, see [`end_point`].
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(end_point: &[u8]) -> Result<Self, &'static str> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| "the system has no random numbers")?;
        // The server knows the user by the first message of the connection.
        Ok(Self::with(HEADER, end_point, "", STANDARD.encode(nonce)))
    }

    fn with(header: &str, data: &[u8], user: &str, nonce: String) -> Self {
        Self { binding: [header.as_bytes(), data].concat(), bare: format!("n={user},r={nonce}"), nonce }
    }

    /// The first message.
    pub(super) fn first_message(&self) -> String {
        format!("{HEADER}{}", self.bare)
    }

    /// The second message, which answers the first one of the server. Takes as long as the server's iterations.
    ///
    /// # Errors
    /// The message is not valid, or asks for too many iterations.
    pub(super) fn prove(&self, password: &str, server_first: &str) -> Result<Proof, &'static str> {
        let mut parts = server_first.split(',');
        let mut value = |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(INVALID);
        let (nonce, salt, iterations) = (value("r=")?, value("s=")?, value("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(INVALID);
        }
        let salt = STANDARD.decode(salt).map_err(|_| INVALID)?;
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| INVALID)?;
        if iterations.get() > ITERATIONS_MAX {
            return Err("the server asks for more than 1,000,000 iterations of SCRAM: set the password again there, \
                        with a smaller scram_iterations");
        }
        // As libpq does: a password that cannot be prepared is used as it is.
        let password = stringprep::saslprep(password).unwrap_or(Cow::Borrowed(password));
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let unproven = format!("c={},r={nonce}", STANDARD.encode(&self.binding));
        let exchanged = format!("{},{server_first},{unproven}", self.bare);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, stored_key.as_ref()), exchanged.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, signature)| key ^ signature).collect();
        let server_key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&salted, b"Server Key").as_ref());
        Ok(Proof { message: format!("{unproven},p={}", STANDARD.encode(proof)), server_key, exchanged })
    }
}

impl Proof {
    /// True if the last message of the server proves that it knows the password's verifier.
    pub(super) fn is_from_server(&self, server_final: &str) -> bool {
        let signature = server_final.strip_prefix("v=").and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|it| hmac::verify(&self.server_key, self.exchanged.as_bytes(), &it).is_ok())
    }
}

/// The data that binds a login to a connection to the server with this certificate: its hash, by the algorithm of its
/// signature; SHA-256 for MD5 and SHA-1. `None` if the signature has no such algorithm, as Ed25519. *Spec*: RFC 5929,
/// section 4.1.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let hash = hash_of_signature(&parsed.signature_algorithm)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// The hash algorithm of a signature algorithm. *Spec*: RFC 3279, RFC 4055, RFC 5758.
fn hash_of_signature(algorithm: &AlgorithmIdentifier<'_>) -> Option<&'static digest::Algorithm> {
    match algorithm.algorithm.to_id_string().as_str() {
        // RSA with MD5, SHA-1 and SHA-256; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(&digest::SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&digest::SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&digest::SHA512),
        // RSASSA-PSS has the hash as a parameter.
        "1.2.840.113549.1.1.10" => {
            let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
            match parameters.hash_algorithm_oid().to_id_string().as_str() {
                "2.16.840.1.101.3.4.2.2" => Some(&digest::SHA384),
                "2.16.840.1.101.3.4.2.3" => Some(&digest::SHA512),
                _ => Some(&digest::SHA256),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256, Sha384};

    use super::*;

    /// *Spec*: RFC 7677, section 3.
    #[test]
    fn example_of_the_standard_is_reproduced() {
        let exchange = Exchange::with("n,,", b"", "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = exchange.prove("pencil", server_first).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(proof.message, expected);
        assert!(proof.is_from_server("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        for other in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=", "", "e=other-error"] {
            assert!(!proof.is_from_server(other), "{other}");
        }
    }

    #[test]
    fn server_that_breaks_the_rules_is_refused() {
        let exchange = Exchange::with(HEADER, b"x", "", "nonce".to_owned());
        for server_first in [
            "",
            "r=nonce,s=AAAA,i=4096",
            "r=other,s=AAAA,i=4096",
            "r=nonce+,s=?,i=4096",
            "r=nonce+,s=AAAA,i=0",
            "r=nonce+,s=AAAA,i=-1",
            "r=nonce+,s=AAAA,i=1000001",
            "m=x,r=nonce+,s=AAAA,i=4096",
        ] {
            assert!(exchange.prove("p", server_first).is_err(), "{server_first}");
        }
        assert!(exchange.prove("p", "r=nonce+,s=AAAA,i=1").is_ok());
    }

    #[test]
    fn certificate_is_hashed_as_its_signature_says() {
        let hash = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
            let der = certificate.der().to_vec();
            (end_point(&der), der)
        };
        let (found, der) = hash(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(found.unwrap(), Sha256::digest(&der).to_vec());
        let (found, der) = hash(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(found.unwrap(), Sha384::digest(&der).to_vec());
        for cut in 0..12 {
            assert_eq!(end_point(&der[..cut]), None);
        }
        let (found, _) = hash(&rcgen::PKCS_ED25519);
        assert_eq!(found, None);
    }
}
