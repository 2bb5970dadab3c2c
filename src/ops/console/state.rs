//! The console's settings, and the state that its pages share.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::rate::Rate;
use super::session::Sessions;
use crate::audit::sink::postgres;
use crate::ops::status::Sources;

/// Questions to the trail that are answered at the same time; others wait. *Chosen*: each may read the whole outbox and
/// has at most one answer in memory.
const QUESTIONS_MAX: usize = 2;

/// The console's settings.
#[derive(Debug)]
pub struct Settings {
    /// The parts that the console shows.
    pub sources: Sources,
    /// The role that a token needs.
    pub role: String,
    /// Address of the listener.
    pub listener: SocketAddr,
    /// The database that has the trail; `None` if the outbox has it.
    pub postgres: Option<postgres::Options>,
}

/// The console. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Console(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) sources: Sources,
    pub(super) role: String,
    pub(super) postgres: Option<postgres::Options>,
    pub(super) sessions: Sessions,
    /// The cookie's name. It contains the port, since a browser sends the cookies of a host to all its ports.
    pub(super) cookie: String,
    pub(super) rate: Rate,
    pub(super) questions: Arc<Semaphore>,
}

impl Console {
    pub(super) fn new(settings: Settings) -> Self {
        let Settings { sources, role, listener, postgres } = settings;
        Self(Arc::new(Inner {
            sources,
            role,
            postgres,
            sessions: Sessions::default(),
            cookie: format!("gatepost_console_{}", listener.port()),
            rate: Rate::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }))
    }
}

impl Deref for Console {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
