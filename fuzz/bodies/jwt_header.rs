//! Verifies any `Authorization` header: none is accepted without the secret, and no error contains a part of a token.

use std::fmt::Write;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatepost::auth::{AuthError, Authenticator, Claims, Principal, mint};
use gatepost::config::Config;
use tempfile::NamedTempFile;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The shortest part of a token whose occurrence in an error is not a coincidence, in bytes. *Chosen*: no error
/// message has so many without a space.
const TELLING_BYTES: usize = 40;

struct Gate {
    authenticator: Authenticator,
    /// A valid token.
    good: String,
}

pub fn run(data: &[u8]) {
    static GATE: OnceLock<Gate> = OnceLock::new();
    let gate = GATE.get_or_init(gate);
    let bearer = |token: &[u8]| [b"Bearer ".as_slice(), token].concat();
    refused(gate, data);
    refused(gate, &bearer(data));
    // The attacker's header and body, with the signature of another token.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let encoded = |part: Option<&[u8]>| URL_SAFE_NO_PAD.encode(part.unwrap_or_default());
    let signed = gate.good.rsplit_once('.').unwrap();
    let (header, body) = (encoded(parts.next()), encoded(parts.next()));
    refused(gate, &bearer(format!("{header}.{body}.{}", signed.1).as_bytes()));
    refused(gate, &bearer(format!("{header}.{body}.").as_bytes()));
    // The valid token's body under the attacker's header.
    let good_body = signed.0.split_once('.').unwrap().1;
    refused(gate, &bearer(format!("{header}.{good_body}.{}", signed.1).as_bytes()));
    assert!(authenticate(gate, &bearer(gate.good.as_bytes())).is_ok(), "the valid token is accepted");
}

/// Authenticates without a runtime: the keys are in memory, so the future never waits.
fn authenticate(gate: &Gate, header: &[u8]) -> Result<Principal, AuthError> {
    let authenticated = pin!(gate.authenticator.authenticate(Some(header), None, &|_| false));
    match authenticated.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("authentication waits"),
    }
}

fn refused(gate: &Gate, header: &[u8]) {
    let text = String::from_utf8_lossy(header);
    if text.contains(&gate.good) {
        return;
    }
    let error = match authenticate(gate, header) {
        Ok(principal) => {
            // The same body, so the header decides.
            let own = text.split('.').nth(1).zip(gate.good.split('.').nth(1)).is_some_and(|(one, other)| one == other);
            panic!(
                "{} is accepted without the secret{}",
                principal.subject,
                if own { ", under another header" } else { "" }
            );
        }
        Err(error) => error,
    };
    let mut said = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        write!(said, " {source} {source:?}").unwrap();
        cause = source.source();
    }
    // I8: no error contains a part of a token.
    for part in text.split(|at: char| at == '.' || at.is_whitespace()).filter(|part| part.len() >= TELLING_BYTES) {
        assert!(!said.contains(part), "the error contains a part of the token: {said}");
    }
}

fn gate() -> Gate {
    let secret = NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let config = format!(
        "[[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"fuzz\"\nsecret_file = \"{}\"\n",
        secret.path().display()
    );
    let config = Config::parse(&config, None, []).unwrap();
    let claims = Claims {
        subject: "agent".to_owned(),
        issuer: "fuzz".to_owned(),
        audience: "gatepost".to_owned(),
        role_claim: config.auth.role_claim.clone(),
        roles: vec!["admin".to_owned()],
        scope: None,
        kid: None,
        valid_for: Duration::from_hours(24 * 365),
    };
    Gate { authenticator: Authenticator::from_config(&config.auth).unwrap(), good: mint(SECRET, &claims).unwrap() }
}
