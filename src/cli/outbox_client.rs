//! Questions to an outbox: to its live gateway through the admin socket, or to the files of a dead one. The answers are
//! the same.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::progress::Progress;
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{Reader, lock};
use crate::audit::shipper::ShipperState;
use crate::ops::protocol::{Line, Question, StatsAnswer, UnexpectedLineError};
use crate::ops::trail::{BoxError, OutboxAccess};
use crate::ops::{admin, inspect};

/// A client of the outbox in a directory.
#[derive(Clone, Debug)]
pub(super) struct OutboxClient {
    dir: PathBuf,
}

impl OutboxClient {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The live gateway's description of itself, if one has the directory.
    ///
    /// # Errors
    /// The lock of the directory cannot be read.
    pub(super) fn live_gateway(&self) -> anyhow::Result<Option<String>> {
        lock::holder(&self.dir).with_context(|| format!("cannot read the lock of {}", self.dir.display()))
    }

    /// Returns true if a live gateway has the directory and delivers to Postgres: the outbox then has only what is not
    /// delivered yet.
    ///
    /// # Errors
    /// The gateway does not answer.
    pub(super) async fn delivers(&self) -> anyhow::Result<bool> {
        if self.live_gateway()?.is_none() {
            return Ok(false);
        }
        let stats: StatsAnswer = self.one(&Question::Stats).await?;
        Ok(stats.live.is_some_and(|live| live.postgres != ShipperState::StoreOnly))
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
        if let Some(gateway) = self.live_gateway()? {
            let socket = self.dir.join(admin::SOCKET_NAME);
            let answered = admin::ask(&self.dir, question, &mut emit).await;
            answered.with_context(|| format!("cannot ask the live gateway ({gateway}) at {}", socket.display()))?;
        } else {
            let reader = Reader::offline(Arc::new(DiskFs), &self.dir)?;
            inspect::answer(question, &reader, None, &mut emit)?;
        }
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
