//! Heads of streams from outside the store: the file of `--expect`, and the answer of the live gateway.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::FaultKind;
use super::place::StreamId;
use crate::audit::record::{Digest, Epoch, GatewayId, Seq, Timestamp};

/// The head of a stream at a moment: a line of `gatepost audit heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHead {
    /// The gateway.
    pub gateway: GatewayId,
    /// The epoch.
    pub epoch: Epoch,
    /// The last seq.
    pub seq: Seq,
    /// The hash of that record.
    pub hash: Digest,
    /// When the store was read.
    pub time: Timestamp,
}

/// The source of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadSource {
    /// The file of `--expect`.
    File,
    /// The live gateway.
    Gateway,
    /// A signed checkpoint, with whose root the records agree.
    Checkpoint,
}

/// The heads of one stream. Two sources may name different hashes at one seq.
pub(super) type StreamHeads = BTreeMap<Seq, Vec<ExpectedHead>>;

/// Heads that the trail must contain.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    by_stream: BTreeMap<StreamId, StreamHeads>,
}

/// A head that the trail must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpectedHead {
    pub(super) hash: Digest,
    pub(super) time: Timestamp,
    pub(super) source: HeadSource,
}

impl ExpectedHead {
    /// The kind of the fault if the trail does not contain it, and where it comes from, in words.
    pub(super) fn source(&self) -> (FaultKind, &'static str) {
        match self.source {
            HeadSource::File => (FaultKind::Expected, "the file of --expect"),
            HeadSource::Gateway => (FaultKind::Live, "the live gateway"),
            HeadSource::Checkpoint => (FaultKind::Checkpoint, "a signed checkpoint"),
        }
    }
}

/// A line of a file of heads is not a head.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is not a head: {source}; use the output of gatepost audit heads")]
pub struct HeadsError {
    /// The line, from 1.
    line: usize,
    /// The reason.
    source: serde_json::Error,
}

impl StreamHead {
    /// Reads a file of heads: one JSON object a line.
    ///
    /// # Errors
    /// A line is not a head.
    pub fn from_lines(text: &str) -> Result<Vec<Self>, HeadsError> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(idx, line)| serde_json::from_str(line).map_err(|source| HeadsError { line: idx + 1, source }))
            .collect()
    }
}

impl Heads {
    /// Adds a head. A stream without records has none.
    pub fn add(&mut self, head: &StreamHead, source: HeadSource) {
        if head.seq > Seq::ZERO {
            let expected = ExpectedHead { hash: head.hash, time: head.time, source };
            let at_seq = self.by_stream.entry((head.gateway, head.epoch)).or_default().entry(head.seq).or_default();
            if !at_seq.iter().any(|known| known.hash == head.hash) {
                at_seq.push(expected);
            }
        }
    }

    /// Keeps only the heads in the part of the trail that is checked.
    pub fn retain(&mut self, keep: impl Fn(StreamId, Seq) -> bool) {
        for (stream, heads) in &mut self.by_stream {
            heads.retain(|seq, _| keep(*stream, *seq));
        }
        self.by_stream.retain(|_, heads| !heads.is_empty());
    }

    /// The heads of one stream, taken out.
    pub(super) fn take(&mut self, stream: StreamId) -> StreamHeads {
        self.by_stream.remove(&stream).unwrap_or_default()
    }

    /// Takes out the first stream that `passed` accepts.
    pub(super) fn take_passed(&mut self, passed: impl Fn(&StreamId) -> bool) -> Option<(StreamId, StreamHeads)> {
        let first = self.by_stream.first_entry().filter(|first| passed(first.key()))?;
        Some(first.remove_entry())
    }
}
