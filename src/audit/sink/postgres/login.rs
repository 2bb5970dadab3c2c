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
            _ => pass_on(driver, server, &message, login).await?,
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

/// The text of the server's next message if it is this request, or else the message.
async fn reply(
    server: &mut (impl AsyncRead + Unpin),
    request: u32,
    login: &Login<'_>,
) -> io::Result<Result<String, Message>> {
    let message = Message::read(server, login).await?;
    match message.body.split_at_checked(4).filter(|_| message.request() == Some(request)) {
        Some((_, text)) => Ok(Ok(String::from_utf8_lossy(text).into_owned())),
        None => Ok(Err(message)),
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
        login.refusal.because("the server does not speak the protocol of Postgres: is it the right port?");
        return Err(io::ErrorKind::InvalidData.into());
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
