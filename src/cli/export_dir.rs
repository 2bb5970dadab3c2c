//! A directory with an export: numbered files of records, each complete, and a manifest with their SHA-256 sums.
//!
//! The manifest is `manifest.jsonl`: a line about the export, one for each file once it is on the disk, and a last one
//! with the totals. An export that was broken off continues after the last file that the manifest names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::output::json_line;
use crate::audit::query::{Exported, Filter};
use crate::audit::record::{Digest, Timestamp};
use crate::ops::csv::{self, CellText};
use crate::ops::export_line::export_line;
use crate::ops::record_ref::record_ref;

/// The name of the manifest.
pub(super) const MANIFEST: &str = "manifest.jsonl";

/// The layout of the directory, which its manifest names.
const LAYOUT: u32 = 1;

/// Bytes of records, before they are compressed, after which a file is complete. *Chosen*: what is done again after an
/// interruption is little, and an export of a terabyte has some thousands of files.
const FILE_BYTES: usize = 64 << 20;

/// The level of the compression. *Chosen*: the default of zstd, which keeps up with Postgres.
const LEVEL: i32 = 3;

/// Largest line of a manifest, in bytes. *Chosen*: a filter with every member has a few kilobytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// The format of the records. Doc comments on the variants would make clap print the command's help in its long layout,
/// unlike the help of the other commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    // A JSON object per line.
    Jsonl,
    // The columns of `audit_log`; NULL is an empty cell, an empty text is `""`.
    Csv,
}

/// The format of the records, and the text of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// The format.
    pub(super) format: Format,
    /// With CSV: text as recorded, also what a spreadsheet would execute.
    pub(super) raw: bool,
}

/// The first line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The layout of the directory.
    gatepost_export: u32,
    /// The format of the records.
    #[serde(flatten)]
    pub(super) layout: Layout,
    /// The records.
    pub(super) filter: Filter,
    /// When it began.
    begun_at: Timestamp,
}

/// The line of a file in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartLine {
    file: String,
    sha256: Digest,
    bytes: u64,
    records: u64,
    first: String,
    /// The last record: GATEWAY/EPOCH/SEQ.
    last: String,
}

/// The last line of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    complete: bool,
    files: u64,
    records: u64,
}

/// A line after the first one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Part(PartLine),
    End(EndLine),
}

/// A directory that is being written.
pub(super) struct ExportDir {
    path: PathBuf,
    manifest: File,
    header: Header,
    files: u64,
    records: u64,
    /// The file that is not complete yet.
    part: Option<Part>,
    last: Option<String>,
    file_bytes: usize,
}

/// The records of a file.
struct Part {
    compressed: zstd::stream::write::Encoder<'static, Vec<u8>>,
    bytes: usize,
    records: u64,
    first: String,
    last: String,
}

/// A complete export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Files with records.
    pub(super) files: u64,
    /// Records.
    pub(super) records: u64,
    /// The SHA-256 sum of the manifest, which has those of the files.
    pub(super) sha256: Digest,
}

impl Layout {
    /// The first line of each file.
    pub(super) fn header(self) -> String {
        if self.format == Format::Csv { csv::header() } else { String::new() }
    }

    /// The line of a record.
    pub(super) fn line(self, exported: &Exported) -> serde_json::Result<String> {
        let cells = if self.raw { CellText::Exact } else { CellText::SafeInSpreadsheets };
        match self.format {
            Format::Jsonl => export_line(&exported.record, exported.quarantined.as_deref()),
            Format::Csv => Ok(csv::line(&exported.record, cells)),
        }
    }
}

impl ExportDir {
    /// Begins an export in a new or empty directory.
    ///
    /// # Errors
    /// The directory has files, or cannot be made.
    pub(super) fn create(path: &Path, layout: Layout, filter: &Filter) -> anyhow::Result<Self> {
        let cannot = || format!("cannot begin an export in {}", path.display());
        if !path.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(path).with_context(cannot)?;
        }
        let is_empty = fs::read_dir(path).with_context(cannot)?.next().is_none();
        ensure!(
            is_empty,
            "{} has files: name a new directory, or continue the export in it with --resume",
            path.display()
        );
        let header = Header { gatepost_export: LAYOUT, layout, filter: filter.clone(), begun_at: Timestamp::now() };
        let manifest = path.join(MANIFEST);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(manifest).with_context(cannot)?;
        let mut dir = Self::new(path, file, header.clone());
        dir.append(&header)?;
        Ok(dir)
    }

    /// Continues the export in a directory, after the last complete file.
    ///
    /// # Errors
    /// The directory has no export, or a complete one; a file that the manifest names is not there.
    pub(super) fn resume(path: &Path) -> anyhow::Result<Self> {
        let read = ReadDir::open(path)?;
        ensure!(read.end.is_none(), "the export in {} is complete", path.display());
        for part in &read.parts {
            let bytes = fs::metadata(path.join(&part.file)).with_context(|| format!("{} is missing", part.file))?.len();
            ensure!(bytes == part.bytes, "{} has {bytes} bytes; the manifest says {}", part.file, part.bytes);
        }
        let cannot = || format!("cannot continue the export in {}", path.display());
        let file = OpenOptions::new().append(true).open(path.join(MANIFEST)).with_context(cannot)?;
        // What was written of a line when the export was broken off.
        file.set_len(read.complete_bytes).with_context(cannot)?;
        let mut dir = Self::new(path, file, read.header);
        dir.files = read.parts.len() as u64;
        dir.records = read.parts.iter().map(|part| part.records).sum();
        dir.last = read.parts.last().map(|part| part.last.clone());
        Ok(dir)
    }

    fn new(path: &Path, manifest: File, header: Header) -> Self {
        Self {
            path: path.to_owned(),
            manifest,
            header,
            files: 0,
            records: 0,
            part: None,
            last: None,
            file_bytes: FILE_BYTES,
        }
    }

    /// The first line of the manifest.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The last record that is in a complete file.
    pub(super) fn last(&self) -> anyhow::Result<Option<(Uuid, u64, u64)>> {
        self.last.as_deref().map(|text| parse_position(text).map_err(anyhow::Error::msg)).transpose()
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The directory cannot be written; what is complete stays.
    pub(super) fn push(&mut self, exported: &Exported) -> anyhow::Result<()> {
        let at = record_ref(&exported.record);
        if self.part.is_none() {
            let mut compressed = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
            compressed.write_all(self.header.layout.header().as_bytes())?;
            let (first, last) = (at.clone(), at.clone());
            self.part = Some(Part { compressed, bytes: 0, records: 0, first, last });
        }
        let Some(part) = &mut self.part else { return Ok(()) };
        let line = self.header.layout.line(exported)?;
        part.compressed.write_all(line.as_bytes())?;
        part.bytes += line.len();
        part.records += 1;
        part.last = at;
        // I6: at most so many bytes are in memory.
        if part.bytes >= self.file_bytes { self.complete_part() } else { Ok(()) }
    }

    fn complete_part(&mut self) -> anyhow::Result<()> {
        let Some(part) = self.part.take() else { return Ok(()) };
        let bytes = part.compressed.finish()?;
        let ending = if self.header.layout.format == Format::Csv { "csv" } else { "jsonl" };
        let file = format!("records-{:06}.{ending}.zst", self.files + 1);
        let (temporary, name) = (self.path.join(format!("{file}.tmp")), self.path.join(&file));
        let cannot = || format!("cannot write {}", name.display());
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        let mut written = written.with_context(cannot)?;
        written.write_all(&bytes).and_then(|()| written.sync_all()).with_context(cannot)?;
        fs::rename(&temporary, &name).with_context(cannot)?;
        self.sync().with_context(cannot)?;
        let (sha256, length) = (Digest::of(&bytes), bytes.len() as u64);
        let Part { records, first, last, .. } = part;
        self.append(&PartLine { file, sha256, bytes: length, records, first, last })?;
        self.files += 1;
        self.records += records;
        Ok(())
    }

    /// Completes the export.
    ///
    /// # Errors
    /// As for [`ExportDir::push`].
    pub(super) fn finish(mut self) -> anyhow::Result<Summary> {
        self.complete_part()?;
        let (files, records) = (self.files, self.records);
        self.append(&EndLine { complete: true, files, records })?;
        self.sync().with_context(|| format!("cannot write {}", self.path.display()))?;
        let bytes = fs::read(self.path.join(MANIFEST))?;
        Ok(Summary { files, records, sha256: Digest::of(&bytes) })
    }

    fn append(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let written = self.manifest.write_all(json_line(line)?.as_bytes()).and_then(|()| self.manifest.sync_all());
        written.with_context(|| format!("cannot write {}", self.path.join(MANIFEST).display()))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// A directory that is read.
pub(super) struct ReadDir {
    path: PathBuf,
    /// The first line of the manifest.
    pub(super) header: Header,
    parts: Vec<PartLine>,
    end: Option<EndLine>,
    /// Bytes of the manifest up to its last complete line.
    complete_bytes: u64,
    sha256: Digest,
}

impl ReadDir {
    /// Reads the manifest.
    ///
    /// # Errors
    /// There is none, or a line is not one of a manifest.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let manifest = path.join(MANIFEST);
        let cannot = || format!("cannot read the manifest {}", manifest.display());
        let mut file = BufReader::new(File::open(&manifest).with_context(cannot)?);
        let (mut hash, mut complete_bytes) = (Vec::new(), 0);
        let mut header = None;
        let (mut parts, mut end, mut text) = (Vec::new(), None, String::new());
        while (&mut file).take(LINE_BYTES_MAX).read_line(&mut text).with_context(cannot)? > 0 {
            if !text.ends_with('\n') {
                break;
            }
            ensure!(end.is_none(), "the manifest {} continues after its last line", manifest.display());
            let number = parts.len() + 1 + usize::from(header.is_some());
            let not_line = || format!("line {number} of {} is not one of a manifest", manifest.display());
            if header.is_none() {
                header = Some(serde_json::from_str::<Header>(&text).with_context(not_line)?);
            } else {
                match serde_json::from_str(&text).with_context(not_line)? {
                    Line::Part(part) => parts.push(part),
                    Line::End(line) => end = Some(line),
                }
            }
            hash.extend_from_slice(text.as_bytes());
            complete_bytes += text.len() as u64;
            text.clear();
        }
        let Some(header) = header else { bail!("the manifest {} is empty", manifest.display()) };
        let known = header.gatepost_export;
        ensure!(known == LAYOUT, "the export has layout {known}; this version knows {LAYOUT}");
        Ok(Self { path: path.to_owned(), header, parts, end, complete_bytes, sha256: Digest::of(&hash) })
    }

    /// Checks that the export is complete and each file has its sum, and passes each line of each file.
    ///
    /// # Errors
    /// The first of these that is wrong, or the error of `each`.
    pub(super) fn check(&self, mut each: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<Summary> {
        let end = self.end.with_context(|| format!("the export in {} is not complete", self.path.display()))?;
        for part in &self.parts {
            let name = self.path.join(&part.file);
            ensure!(!part.file.contains('/'), "{} is not the name of a file here", part.file);
            let bytes = fs::read(&name).with_context(|| format!("cannot read {}", name.display()))?;
            ensure!(
                Digest::of(&bytes) == part.sha256,
                "{} was changed: its SHA-256 sum is not the one in the manifest",
                name.display()
            );
            let mut lines = BufReader::new(zstd::stream::read::Decoder::new(&bytes[..])?);
            let (mut line, mut records) = (String::new(), 0);
            while lines.read_line(&mut line).with_context(|| format!("cannot read {}", name.display()))? > 0 {
                each(&line)?;
                records += 1;
                line.clear();
            }
            let is_complete = self.header.layout.format == Format::Csv || records == part.records;
            ensure!(is_complete, "{} has {records} records; the manifest says {}", name.display(), part.records);
        }
        let (files, records) = (self.parts.len() as u64, self.parts.iter().map(|part| part.records).sum());
        ensure!(
            end == (EndLine { complete: true, files, records }),
            "the totals in the manifest are not those of its files"
        );
        Ok(Summary { files, records, sha256: self.sha256 })
    }
}

/// Parses GATEWAY/EPOCH/SEQ.
pub(super) fn parse_position(text: &str) -> Result<(Uuid, u64, u64), String> {
    let parse = || {
        let mut parts = text.split('/');
        let position = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(position)
    };
    parse().ok_or_else(|| format!("{text:?} is not GATEWAY/EPOCH/SEQ"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::export_line::parse_export_line;
    use crate::ops::sample;

    #[test]
    fn an_export_that_was_broken_off_continues_after_its_last_complete_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        let layout = Layout { format: Format::Jsonl, raw: false };
        let exported = |seq| Exported { record: sample::record(1, seq, "echo"), quarantined: None };
        let mut export = ExportDir::create(&path, layout, &Filter::default()).unwrap();
        export.file_bytes = export.header.layout.line(&exported(1)).unwrap().len() * 2;
        for seq in 1..=5 {
            export.push(&exported(seq)).unwrap();
        }
        drop(export);
        let mut export = ExportDir::resume(&path).unwrap();
        let (gateway, epoch, last) = export.last().unwrap().unwrap();
        assert_eq!((gateway, epoch, last), (sample::record(1, 1, "").position.gateway_id.0, 1, 4));
        for seq in last + 1..=9 {
            export.push(&exported(seq)).unwrap();
        }
        let summary = export.finish().unwrap();
        assert_eq!((summary.files, summary.records), (3, 9));
        let mut seqs = Vec::new();
        let read = ReadDir::open(&path).unwrap();
        let checked = read.check(|line| {
            seqs.push(parse_export_line(line)?.position.seq.0);
            Ok(())
        });
        assert_eq!(checked.unwrap(), summary);
        assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
        assert!(ExportDir::resume(&path).is_err());
    }
}
