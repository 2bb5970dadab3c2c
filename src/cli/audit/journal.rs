//! The journal of decisions: a file outside of the database that has each record of the registrar, as JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::audit::chain::{self, Head};
use crate::audit::record::{AuditRecord, GatewayId};
use crate::audit::sink::postgres::registrar::{EPOCH, LockedRegistrar};
use crate::cli::output::json_lines;

/// An open journal, locked against other commands.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// The registrar whose records it has, and the last one.
    last: Option<(GatewayId, Head)>,
}

impl Journal {
    /// Opens the journal, which is made if it is not there, and checks what it has.
    ///
    /// # Errors
    /// It cannot be read or written, another command uses it, or it has something else than decisions.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot open the journal {}", path.display());
        let file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path);
        let file = file.with_context(cannot)?;
        ensure!(file.try_lock().is_ok(), "another command uses the journal {}", path.display());
        let mut last = None;
        for record in read(path)? {
            last = Some((record.position.gateway_id, Head::after(&record.position)));
        }
        Ok(Self { path: path.to_owned(), file, last })
    }

    /// Checks that the next decision can follow what the journal has.
    ///
    /// # Errors
    /// The journal is that of another database, or has decisions that this one lacks.
    pub(super) fn check(&self, registrar: &LockedRegistrar<'_>) -> anyhow::Result<()> {
        let Some((gateway_id, head)) = self.last else { return Ok(()) };
        self.check_registrar(gateway_id, registrar)?;
        ensure!(
            head.seq <= registrar.head().seq,
            "the journal {} has decisions that the database has lost: run gatepost audit decisions replay {0} first",
            self.path.display()
        );
        Ok(())
    }

    fn check_registrar(&self, gateway_id: GatewayId, registrar: &LockedRegistrar<'_>) -> anyhow::Result<()> {
        let (path, other) = (self.path.display(), registrar.gateway_id());
        ensure!(
            gateway_id == other,
            "the journal {path} is of registrar {gateway_id}, and the registrar of this database is {other}: name \
             another file"
        );
        Ok(())
    }

    /// Appends records, on disk when this returns.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn append(&mut self, records: &[AuditRecord]) -> anyhow::Result<()> {
        let lines = json_lines(records)?;
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_all());
        written.with_context(|| format!("cannot write the journal {}; nothing was recorded", self.path.display()))
    }
}

/// The decisions in a journal.
///
/// # Errors
/// It cannot be read, or a line is not a decision.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<AuditRecord>> {
    let cannot = || format!("cannot read the journal {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(cannot)?);
    let (mut records, mut text): (Vec<AuditRecord>, _) = (Vec::new(), String::new());
    while file.read_line(&mut text).with_context(cannot)? > 0 {
        let line = records.len() + 1;
        let place = || format!("line {line} of the journal {}", path.display());
        if !text.ends_with('\n') {
            bail!("{} is incomplete, so it was never recorded: remove it", place());
        }
        let record: AuditRecord =
            serde_json::from_str(&text).with_context(|| format!("{} is not a decision", place()))?;
        let AuditRecord { position, entry } = &record;
        let is_decision = entry.call.method.starts_with("trail/") && position.epoch == EPOCH;
        ensure!(is_decision && chain::hash_matches(position, entry), "{} is not a decision, or was changed", place());
        records.push(record);
        text.clear();
    }
    Ok(records)
}
