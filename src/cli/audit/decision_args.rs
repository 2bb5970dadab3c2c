//! The arguments of every command that records a decision, and the recording.

use std::path::PathBuf;

use anyhow::Context;

use super::journal::Journal;
use crate::audit::record::{AuditRecord, Entry, Epoch, GatewayId, Seq};
use crate::audit::sink::SinkError;
use crate::audit::sink::postgres::registrar::{Decision, LockedRegistrar};
use crate::cli::output::{json_line, print};
use crate::ops::read_log::os_user;

/// Longest reason, in bytes. *Chosen*: a paragraph.
const REASON_BYTES_MAX: usize = 4096;

/// Arguments of a command that records a decision.
#[derive(Debug, clap::Args)]
pub(super) struct DecisionArgs {
    /// The reason; it is recorded
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// The person who decided [default: the user who runs the command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// File to which the decision is appended: it can be recorded again if the database is restored
    #[arg(long, value_name = "FILE")]
    pub(super) journal: PathBuf,
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        text if text.len() > REASON_BYTES_MAX => Err(format!("it is longer than {REASON_BYTES_MAX} bytes")),
        text => Ok(text.to_owned()),
    }
}

impl DecisionArgs {
    /// The reason.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The person who decided, and the user of the system.
    pub(super) fn author(&self) -> (String, u32) {
        let uid = nix::unistd::getuid().as_raw();
        (self.by.clone().unwrap_or_else(|| os_user(uid).subject), uid)
    }

    /// A decision about records of a gateway.
    pub(super) fn decision(
        &self,
        kind: &str,
        gateway: GatewayId,
        epoch: Option<Epoch>,
        range: Option<(Seq, Seq)>,
    ) -> Decision {
        let (by, uid) = self.author();
        let (first, last) = range.unzip();
        let (kind, reason) = (kind.to_owned(), self.reason.clone());
        Decision { kind, gateway, epoch, first, last, reason, by, uid }
    }
}

/// Appends a decision to the registrar's stream, which is not committed yet, and to the journal.
///
/// # Errors
/// It cannot be recorded: dropping the registrar then undoes it.
pub(super) async fn append(
    registrar: &mut LockedRegistrar<'_>,
    journal: &mut Journal,
    method: &str,
    decision: &Decision,
) -> anyhow::Result<AuditRecord> {
    append_entry(registrar, journal, decision.entry(method)?).await
}

/// The same for a decision with other members.
///
/// # Errors
/// As for [`append`].
pub(super) async fn append_entry(
    registrar: &mut LockedRegistrar<'_>,
    journal: &mut Journal,
    entry: Entry,
) -> anyhow::Result<AuditRecord> {
    let record = registrar.append(entry).await.map_err(with_remedy)?;
    journal.append(std::slice::from_ref(&record))?;
    Ok(record)
}

/// Commits what the journal has.
///
/// # Errors
/// It is not known whether the decisions are recorded. The journal has them.
pub(super) async fn commit_with_journal(registrar: LockedRegistrar<'_>, args: &DecisionArgs) -> anyhow::Result<()> {
    let journal = args.journal.display();
    registrar.commit().await.with_context(|| {
        format!("the journal {journal} has the decision, the database may not: run gatepost audit decisions replay {journal}")
    })
}

/// Commits the decisions and prints them.
///
/// # Errors
/// It is not known whether they are recorded. The journal has them.
pub(super) async fn commit(
    registrar: LockedRegistrar<'_>,
    records: &[AuditRecord],
    args: &DecisionArgs,
    json: bool,
) -> anyhow::Result<()> {
    commit_with_journal(registrar, args).await?;
    for record in records {
        let position = record.position;
        print(&if json {
            json_line(record)?
        } else {
            let method = &record.entry.call.method;
            format!("{method} is recorded as {}/{}, hash {}\n", position.epoch, position.seq, position.hash)
        })?;
    }
    Ok(())
}

/// The error, and what to do about it.
#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
pub(super) fn with_remedy(error: SinkError) -> anyhow::Error {
    let remedy = match error.sqlstate.as_deref() {
        Some("42501") => "; only the owner of the tables records decisions: use that login",
        Some("42P01" | "3F000" | "42883") => "; this database has no Gatepost schema: name the right one",
        _ => "",
    };
    anyhow::anyhow!("{error}{remedy}")
}
