//! Questions to an outbox: to its live gateway through the admin socket, or to the files of a dead one. The answers are
//! the same.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::output::json_line;
use super::progress::Progress;
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{Reader, lock};
use crate::audit::shipper::ShipperState;
use crate::ops::protocol::{Line, Question, StatsAnswer, UnexpectedLineError};
use crate::ops::trail::{BoxError, OutboxAccess};
use crate::ops::{admin, inspect};

/// Longest wait for the admin socket of a gateway that has the directory. *Derived*: twice the time for which a gateway
/// that starts waits for Postgres.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two attempts to reach it. *Chosen*: shorter than a person notices.
const SOCKET_PAUSE: Duration = Duration::from_millis(50);

/// A client of the outbox in a directory.
#[derive(Clone, Debug)]
pub(super) struct OutboxClient {
    dir: PathBuf,
}

/// A result about an outbox as JSON.
#[derive(Serialize)]
struct InDir<'a, T> {
    dir: String,
    #[serde(flatten)]
    result: &'a T,
}

impl OutboxClient {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A result about the outbox as a line of JSON that names the directory.
    ///
    /// # Errors
    /// As for [`json_line`].
    pub(super) fn json_line(&self, result: &impl Serialize) -> serde_json::Result<String> {
        json_line(&InDir { dir: self.dir.display().to_string(), result })
    }

    /// The live gateway's description of itself, if one has the directory.
    ///
    /// # Errors
    /// The lock of the directory cannot be read.
    pub(super) fn live_gateway(&self) -> anyhow::Result<Option<String>> {
        lock::holder(&self.dir).with_context(|| format!("cannot read the lock of {}", self.dir.display()))
    }

    /// Returns true if the live gateway of the directory delivers to Postgres, or the dead one did: the outbox then has
    /// only a part of the trail.
    ///
    /// # Errors
    /// The gateway does not answer, or the files cannot be read.
    pub(super) async fn has_delivered(&self) -> anyhow::Result<bool> {
        let stats: StatsAnswer = self.one(&Question::Stats).await?;
        Ok(stats.live.map_or(stats.files.has_delivered, |live| live.postgres != ShipperState::StoreOnly))
    }

    /// Passes each line of the answer to `take` as it arrives, without those of progress, which appear on the terminal.
    ///
    /// # Errors
    /// The question cannot be answered to its end. An error of `take` is returned unchanged, since the outbox and its
    /// gateway have not caused it.
    pub(super) async fn each(
        &self,
        question: &Question,
        take: &mut dyn FnMut(Line) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut progress, mut taken) = (Progress::new(), Ok(()));
        let mut emit = |line: Line| {
            if let Line::Progress(line) = line {
                // Without a number the line only says that the answer is not finished.
                line.records.into_iter().for_each(|records| progress.show(records));
                return ControlFlow::Continue(());
            }
            progress.clear();
            match take(line) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    taken = Err(error);
                    ControlFlow::Break(())
                }
            }
        };
        let begun = Instant::now();
        while let Some(gateway) = self.live_gateway()? {
            let socket = self.dir.join(admin::SOCKET_NAME);
            match admin::ask(&self.dir, question, &mut emit).await {
                // The gateway has the directory, and its socket is not open yet or not any more.
                Err(error) if is_closed(&error) && begun.elapsed() < SOCKET_TIMEOUT => {
                    tokio::time::sleep(SOCKET_PAUSE).await;
                }
                answered => {
                    let failed = || format!("cannot ask the live gateway ({gateway}) at {}", socket.display());
                    answered.with_context(failed)?;
                    return taken;
                }
            }
        }
        let reader = Reader::offline(Arc::new(DiskFs), &self.dir)?;
        inspect::answer(question, &reader, None, &mut emit)?;
        taken
    }

    /// All lines of an answer that is short, as values of one type.
    ///
    /// # Errors
    /// As for [`OutboxClient::each`], or the answer has another line.
    pub(super) async fn all<T>(&self, question: &Question) -> anyhow::Result<Vec<T>>
    where
        T: TryFrom<Line, Error = UnexpectedLineError>,
    {
        let mut values = Vec::new();
        self.each(question, &mut |line| {
            values.push(line.try_into()?);
            Ok(())
        })
        .await?;
        Ok(values)
    }

    /// The only line of an answer.
    ///
    /// # Errors
    /// As for [`OutboxClient::all`], or the answer is empty.
    pub(super) async fn one<T>(&self, question: &Question) -> anyhow::Result<T>
    where
        T: TryFrom<Line, Error = UnexpectedLineError>,
    {
        self.all(question).await?.into_iter().next().context("the gateway gave no answer")
    }
}

/// True if the error says that there is no socket, or that no process listens on it.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

impl OutboxAccess for OutboxClient {
    async fn ask(&mut self, question: Question) -> Result<Vec<Line>, BoxError> {
        let mut lines = Vec::new();
        self.each(&question, &mut |line| {
            lines.push(line);
            Ok(())
        })
        .await?;
        Ok(lines)
    }
}
