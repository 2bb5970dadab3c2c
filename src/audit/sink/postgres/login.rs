//! The login, while the bytes of a connection are passed on: a password is not sent in clear text over a connection
//! that can be read, and a login with SCRAM is bound to its TLS connection. *Spec*: PostgreSQL, "Message Flow",
//! "Start-up", and "SASL Authentication".

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::scram::{self, Exchange};
use crate::postgres_url::ChannelBinding;

/// Longest message before the login is complete, in bytes. *Chosen*: a thousand times of what servers send.
const MESSAGE_BYTES_MAX: u32 = 1024 * 1024;

/// Type of a message about authentication, and of its answer.
const AUTHENTICATION: u8 = b'R';
const RESPONSE: u8 = b'p';

/// Types of the server's other messages before it has accepted the login: errors, notices, and the version of the
/// protocol.
const BEFORE_LOGIN: [u8; 3] = [ERROR, b'N', b'v'];
const ERROR: u8 = b'E';

const INVALID: &str = "the server does not speak the protocol of Postgres: is it the right port?";

/// Requests of the server.
const ACCEPTED: u32 = 0;
const CLEAR_TEXT_PASSWORD: u32 = 3;
const MD5_PASSWORD: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// The reason for which the relay ended a connection, if it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal(Arc<OnceLock<&'static str>>);

impl Refusal {
    /// The reason.
    pub(super) fn reason(&self) -> Option<&'static str> {
        self.0.get().copied()
    }

    /// Sets the reason, and returns the error that ends the connection.
    fn because(&self, reason: &'static str) -> io::Error {
        self.0.set(reason).ok();
        io::ErrorKind::PermissionDenied.into()
    }
}

/// The conditions of a login.
#[derive(Debug)]
pub(super) struct Login<'a> {
    /// True if the connection cannot be read on the way.
    pub(super) is_encrypted: bool,
    /// The server's end point; `None` if there is none that a login can be bound to.
    pub(super) end_point: Option<Vec<u8>>,
    /// The demand for a bound login.
    pub(super) binding: ChannelBinding,
    /// Gets the reason if the login is refused.
    pub(super) refusal: &'a Refusal,
}

/// A message with a type.
struct Message {
    kind: u8,
    body: Vec<u8>,
}

/// Passes on the messages of the driver and the server until the server has accepted the login.
///
/// # Errors
/// One of them has closed its connection, or the login is refused, see [`Refusal`].
pub(super) async fn log_in(
    driver: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    login: &Login<'_>,
) -> io::Result<()> {
    let required = login.binding == ChannelBinding::Require;
    if required && login.end_point.is_none() {
        return Err(login.refusal.because(if login.is_encrypted {
            "channel_binding is require, and the signature of the server's certificate has no hash algorithm to bind \
             to: use a certificate with an RSA or ECDSA signature there, or sslmode=verify-full without channel_binding"
        } else {
            "channel_binding is require, and the connection has no TLS to bind to: add sslmode=verify-full to the URL"
        }));
    }
    let startup = body(driver, login).await?;
    send(server, None, &startup).await?;
    let mut is_bound = false;
    loop {
        // The driver says nothing until it is asked; if it goes, so does the connection to the server.
        let message = tokio::select! {
            message = Message::read(server, login) => message?,
            _ = driver.read_u8() => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        match message.request() {
            Some(CLEAR_TEXT_PASSWORD) if !login.is_encrypted => {
                return Err(login.refusal.because(
                    "the server asks for the password in clear text over a connection without TLS, and it was not \
                     sent: use scram-sha-256 in pg_hba.conf, or sslmode=verify-full in the URL",
                ));
            }
            Some(SASL) if login.binding != ChannelBinding::Disable && message.offers(scram::MECHANISM) => {
                let Some(end_point) = &login.end_point else {
                    pass_on(driver, server, &message, login).await?;
                    continue;
                };
                let Some(error) = bind(driver, server, end_point, login).await? else {
                    is_bound = true;
                    continue;
                };
                error.write(driver).await?;
            }
            Some(request) if required && !is_bound => {
                return Err(login.refusal.because(if request == ACCEPTED {
                    "channel_binding is require, and the server accepted the login without it: use scram-sha-256 for \
                     this login in pg_hba.conf"
                } else {
                    "channel_binding is require, and the server does not offer it, so no password was sent: use \
                     scram-sha-256 for this login in pg_hba.conf, and connect without a pooler that ends TLS"
                }));
            }
            Some(ACCEPTED) => return message.write(driver).await,
            Some(_) => pass_on(driver, server, &message, login).await?,
            None if BEFORE_LOGIN.contains(&message.kind) => message.write(driver).await?,
            None => return Err(login.refusal.because(INVALID)),
        }
    }
}

/// Passes on a message of the server, and the answer of the driver to it.
async fn pass_on(
    driver: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    message: &Message,
    login: &Login<'_>,
) -> io::Result<()> {
    message.write(driver).await?;
    if matches!(message.request(), Some(CLEAR_TEXT_PASSWORD | MD5_PASSWORD | SASL | SASL_CONTINUE)) {
        Message::read(driver, login).await?.write(server).await?;
    }
    Ok(())
}

/// Logs in with the driver's password, bound to the connection. Returns the server's error if it refuses.
async fn bind(
    driver: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    end_point: &[u8],
    login: &Login<'_>,
) -> io::Result<Option<Message>> {
    // The driver knows the password, wherever it is from, and this socket is within the process.
    let question = Message { kind: AUTHENTICATION, body: CLEAR_TEXT_PASSWORD.to_be_bytes().to_vec() };
    question.write(driver).await?;
    let password = Message::read(driver, login).await?.body;
    let invalid = || login.refusal.because("the password is not a text: UTF-8 without a NUL");
    let password = password.strip_suffix(b"\0").and_then(|password| String::from_utf8(password.to_vec()).ok());
    let password = password.ok_or_else(invalid)?;

    let exchange = Exchange::new(end_point).map_err(|reason| login.refusal.because(reason))?;
    let first = exchange.first_message();
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
    let begin = [scram::MECHANISM.as_bytes(), b"\0", &length, first.as_bytes()].concat();
    send(server, Some(RESPONSE), &begin).await?;
    let server_first = match reply(server, SASL_CONTINUE, login).await? {
        Ok(text) => text,
        Err(error) => return Ok(Some(error)),
    };
    // The server decides how long it takes.
    let proved = tokio::task::spawn_blocking(move || exchange.prove(&password, &server_first)).await;
    let proof = proved.map_err(io::Error::other)?.map_err(|reason| login.refusal.because(reason))?;
    send(server, Some(RESPONSE), proof.message.as_bytes()).await?;
    match reply(server, SASL_FINAL, login).await? {
        Ok(server_final) if proof.is_from_server(&server_final) => Ok(None),
        Ok(_) => Err(login
            .refusal
            .because("the server does not prove that it knows the password of this login: is it the right server?")),
        Err(error) => Ok(Some(error)),
    }
}

/// The text of the server's next message, which is this request, or its error.
async fn reply(
    server: &mut (impl AsyncRead + Unpin),
    request: u32,
    login: &Login<'_>,
) -> io::Result<Result<String, Message>> {
    let message = Message::read(server, login).await?;
    match message.body.split_at_checked(4).filter(|_| message.request() == Some(request)) {
        Some((_, text)) => Ok(Ok(String::from_utf8_lossy(text).into_owned())),
        None if message.kind == ERROR => Ok(Err(message)),
        // The login would not be bound, and the driver must not take it for accepted.
        None => Err(login.refusal.because("the server broke off the login with SCRAM without an error")),
    }
}

impl Message {
    async fn read(stream: &mut (impl AsyncRead + Unpin), login: &Login<'_>) -> io::Result<Self> {
        let kind = stream.read_u8().await?;
        Ok(Self { kind, body: body(stream, login).await? })
    }

    async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        send(stream, Some(self.kind), &self.body).await
    }

    /// The code of a request that concerns authentication.
    fn request(&self) -> Option<u32> {
        self.body.first_chunk().map(|code| u32::from_be_bytes(*code)).filter(|_| self.kind == AUTHENTICATION)
    }

    /// True if the list of mechanisms has this one.
    fn offers(&self, mechanism: &str) -> bool {
        self.body.get(4..).is_some_and(|list| list.split(|byte| *byte == 0).any(|name| name == mechanism.as_bytes()))
    }
}

/// A length, and as many bytes.
async fn body(stream: &mut (impl AsyncRead + Unpin), login: &Login<'_>) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(login.refusal.because(INVALID));
    }
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), kind: Option<u8>, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?.to_be_bytes();
    stream.write_all(&[kind.as_slice(), &length, body].concat()).await?;
    // TLS keeps what it has encrypted until it is told.
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn message(kind: u8, request: u32, rest: &[u8]) -> Vec<u8> {
        let body = [&request.to_be_bytes(), rest].concat();
        [&[kind][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), &body].concat()
    }

    /// The driver sends its start-up message, and its password if it is asked. Returns all that it received.
    async fn drive(mut stream: DuplexStream) -> Vec<u8> {
        stream.write_all(&[0, 0, 0, 8, 0, 3, 0, 0]).await.unwrap();
        let mut all = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            all.push(byte);
            if all == message(AUTHENTICATION, CLEAR_TEXT_PASSWORD, b"") {
                stream.write_all(b"p\0\0\0\x0bsecret\0").await.unwrap();
            }
        }
        all
    }

    /// A server that asks for a bound login, and whose last message is `last`.
    async fn serve(mut stream: DuplexStream, last: Vec<u8>) {
        let mut startup = [0; 8];
        stream.read_exact(&mut startup).await.unwrap();
        stream.write_all(&message(AUTHENTICATION, SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")).await.unwrap();
        let refusal = Refusal::default();
        let login = Login { is_encrypted: true, end_point: None, binding: ChannelBinding::Disable, refusal: &refusal };
        let first = Message::read(&mut stream, &login).await.unwrap().body;
        let nonce = String::from_utf8_lossy(&first).split_once("r=").unwrap().1.to_owned();
        let reply = format!("r={nonce}server,s=AAAA,i=1");
        stream.write_all(&message(AUTHENTICATION, SASL_CONTINUE, reply.as_bytes())).await.unwrap();
        Message::read(&mut stream, &login).await.unwrap();
        stream.write_all(&last).await.unwrap();
        stream.write_all(&message(AUTHENTICATION, ACCEPTED, b"")).await.unwrap();
        // Until the other side ends.
        stream.read_u8().await.ok();
    }

    #[tokio::test]
    async fn server_that_does_not_know_the_password_is_refused() {
        let no_error = message(AUTHENTICATION, ACCEPTED, b"");
        for (last, reason) in [
            (message(AUTHENTICATION, SASL_FINAL, b"v=AAAA"), "does not prove"),
            (no_error, "broke off the login"),
            (b"Z\0\0\0\x05I".to_vec(), "broke off the login"),
        ] {
            for binding in [ChannelBinding::Prefer, ChannelBinding::Require] {
                let ((mut driver, of_driver), (mut server, of_server)) = (duplex(1024), duplex(1024));
                let (driving, serving) = (tokio::spawn(drive(of_driver)), tokio::spawn(serve(of_server, last.clone())));
                let refusal = Refusal::default();
                let login = Login { is_encrypted: true, end_point: Some(vec![1]), binding, refusal: &refusal };
                assert!(log_in(&mut driver, &mut server, &login).await.is_err());
                assert!(refusal.reason().is_some_and(|found| found.contains(reason)), "{:?}", refusal.reason());
                drop((driver, server));
                let received = driving.await.unwrap();
                assert_eq!(received, message(AUTHENTICATION, CLEAR_TEXT_PASSWORD, b""), "nothing else");
                serving.await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn driver_is_not_told_that_it_is_logged_in_before_it_is() {
        let ((mut driver, of_driver), (mut server, mut of_server)) = (duplex(1024), duplex(1024));
        let driving = tokio::spawn(drive(of_driver));
        of_server.write_all(b"Z\0\0\0\x05I").await.unwrap();
        let (refusal, binding) = (Refusal::default(), ChannelBinding::Prefer);
        let login = Login { is_encrypted: true, end_point: None, binding, refusal: &refusal };
        assert!(log_in(&mut driver, &mut server, &login).await.is_err());
        assert_eq!(refusal.reason(), Some(INVALID));
        drop(driver);
        assert_eq!(driving.await.unwrap(), b"");
    }
}
