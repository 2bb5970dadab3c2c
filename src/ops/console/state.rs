//! The console's settings, and the state that its pages share.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::pending::PendingSignIns;
use super::rate::Rate;
use super::session::Sessions;
use super::sign_in_limits::SignInLimits;
use crate::audit::sink::postgres;
use crate::auth::openid_client::OpenIdClient;
use crate::ops::history::History;
use crate::ops::status::Sources;

/// Questions to the trail that are answered at the same time; others wait. *Chosen*: each may read the whole outbox and
/// has at most one answer in memory.
const QUESTIONS_MAX: usize = 2;

/// Browsers that follow or download the trail at the same time. *Chosen*: each has a connection to Postgres, and a
/// download two pages in memory.
const STREAMS_MAX: usize = 8;

/// The attributes of the cookie: no script reads it, and no other site causes it to be sent.
const COOKIE: &str = "Path=/console; HttpOnly; SameSite=Strict";

/// The same, for a console that browsers reach by https: the cookie is never sent in clear.
const SECURE_COOKIE: &str = "Path=/console; HttpOnly; SameSite=Strict; Secure";

/// The attributes of the cookie of a browser that is at the issuer. It comes back from another site, so `Lax`: with a
/// link or a redirect, and never with a request that a page of another site makes by itself.
const PENDING_COOKIE: &str = "Path=/console/callback; HttpOnly; SameSite=Lax";

/// The same, for a console that browsers reach by https.
const SECURE_PENDING_COOKIE: &str = "Path=/console/callback; HttpOnly; SameSite=Lax; Secure";

/// The console's settings.
#[derive(Debug)]
pub struct Settings {
    /// The parts that the console shows.
    pub sources: Sources,
    /// The sign-in at an issuer, if one is configured.
    pub openid: Option<OpenIdClient>,
    /// The samples of the charts.
    pub history: History,
    /// Address of the listener.
    pub listener: SocketAddr,
    /// True if browsers reach the console by https.
    pub is_behind_tls: bool,
    /// The database that has the trail; `None` if the outbox has it.
    pub postgres: Option<postgres::Options>,
    /// Ends responses that would not end by themselves.
    pub stop: CancellationToken,
}

/// The console. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Console(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) sources: Sources,
    pub(super) postgres: Option<postgres::Options>,
    pub(super) sessions: Sessions,
    pub(super) sign_in_limits: SignInLimits,
    pub(super) openid: Option<OpenIdClient>,
    /// The sign-ins at the issuer that have begun.
    pub(super) pending: PendingSignIns,
    /// The cookie's name. It contains the port, since a browser sends the cookies of a host to all its ports.
    pub(super) cookie: String,
    /// The attributes of the cookie.
    pub(super) cookie_attributes: &'static str,
    /// The name of the cookie of a browser that is at the issuer.
    pub(super) pending_cookie: String,
    /// The attributes of that cookie.
    pub(super) pending_cookie_attributes: &'static str,
    pub(super) history: History,
    pub(super) rate: Rate,
    pub(super) questions: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

impl Console {
    pub(super) fn new(settings: Settings) -> Self {
        let Settings { sources, openid, history, listener, is_behind_tls, postgres, stop } = settings;
        Self(Arc::new(Inner {
            sources,
            postgres,
            sessions: Sessions::default(),
            sign_in_limits: SignInLimits::new(),
            openid,
            pending: PendingSignIns::default(),
            cookie: format!("gatepost_console_{}", listener.port()),
            cookie_attributes: if is_behind_tls { SECURE_COOKIE } else { COOKIE },
            pending_cookie: format!("gatepost_sign_in_{}", listener.port()),
            pending_cookie_attributes: if is_behind_tls { SECURE_PENDING_COOKIE } else { PENDING_COOKIE },
            history,
            rate: Rate::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            stop,
        }))
    }
}

impl Deref for Console {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
