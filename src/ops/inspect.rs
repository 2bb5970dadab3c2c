//! Answers to questions about an outbox, the same for a live gateway and for a dead one's directory.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::protocol::{CheckRequest, Line, PrunedFiles, Question, ScanEnd, StatsAnswer};
use super::record_ref::EpochSeq;
use super::status::PipelineStatus;
use super::trail_check::check_outbox;
use crate::audit::chain::Head;
use crate::audit::outbox::{OutboxError, Reader};
use crate::audit::query::{Filter, RESULT_BYTES_MAX};
use crate::audit::record::{AuditRecord, Digest, Epoch, Seq, Timestamp};

/// Receives the lines of an answer, and may end it.
pub type Emit<'a> = &'a mut dyn FnMut(Line) -> ControlFlow<()>;

/// Answers `question` from `reader`; `live` is the status of the gateway, if it runs. Blocks. It holds locks that calls
/// need only for moments, since its thread has a low priority and may wait long for a processor.
///
/// # Errors
/// A file of the outbox cannot be read. Some lines may have been emitted before.
pub fn answer(
    question: &Question,
    reader: &Reader,
    live: Option<PipelineStatus>,
    emit: Emit<'_>,
) -> Result<(), OutboxError> {
    match question {
        Question::Stats => emit_all([Line::Stats(Box::new(stats(reader, live)?))], emit),
        Question::OutboxHeads => {
            let delivered = live.map(|live| {
                (live.gateway_id, live.epoch, Head { seq: Seq(live.delivered), hash: live.delivered_hash })
            });
            emit_all(reader.heads(Timestamp::now(), delivered)?.into_iter().map(Line::OutboxHead), emit);
        }
        Question::Intents => emit_all(reader.intents()?.into_iter().map(|call| Line::Intent(Box::new(call))), emit),
        Question::Records { filter } => {
            let records = records(reader, filter, emit)?;
            emit_all(records.into_iter().map(|record| Line::Record(Box::new(record))), emit);
        }
        // The admin socket has done it; a dead gateway cannot.
        Question::RecordRead { .. } | Question::Prune { .. } => {}
        Question::Prunable { until } => {
            let cut = reader.prunable(*until)?;
            emit_all(cut.iter().map(|cut| Line::Pruned(PrunedFiles::from(cut))), emit);
        }
        Question::CheckTrail { request } => {
            let progress = &mut |records| emit(Line::progress(records));
            let (_, report) = check_outbox(reader, request, live.is_some(), progress)?;
            emit_all([Line::TrailReport(Box::new(report))], emit);
        }
        Question::Scan { filter, after, limit } => scan(reader, filter, *after, *limit, emit)?,
        Question::Frame { position } => {
            let frame = reader.frame(Epoch(position.epoch), Seq(position.seq))?;
            emit_all(frame.map(|frame| Line::Frame(frame.into())), emit);
        }
        Question::Verify => {
            let request = CheckRequest { findings_max: 1, ..CheckRequest::default() };
            let progress = &mut |records| emit(Line::progress(records));
            let (verified, _) = check_outbox(reader, &request, live.is_some(), progress)?;
            emit_all([Line::Verified(Box::new(verified))], emit);
        }
    }
    Ok(())
}

fn emit_all(lines: impl IntoIterator<Item = Line>, emit: Emit<'_>) {
    for line in lines {
        if emit(line).is_break() {
            break;
        }
    }
}

/// A step of a walk over stored records.
enum Step {
    /// A record that matches.
    Match(Box<AuditRecord>),
    /// So many records were read by now.
    Progress(u64),
}

/// Receives the steps of a walk, and may end it.
type Visit<'a> = &'a mut dyn FnMut(Step) -> ControlFlow<()>;

/// The newest matching records in the outbox, oldest first; with `filter.after` the oldest ones after that position.
fn records(reader: &Reader, filter: &Filter, emit: Emit<'_>) -> Result<VecDeque<AuditRecord>, OutboxError> {
    let (mut found, mut bytes) = (VecDeque::new(), 0);
    let mut visit = |step| {
        let record = match step {
            Step::Progress(records) => return emit(Line::progress(records)),
            Step::Match(record) => *record,
        };
        // I6: a result is bounded by count and by bytes; it has at least one record.
        bytes += record.entry.size_bytes();
        if bytes > RESULT_BYTES_MAX && !found.is_empty() {
            return ControlFlow::Break(());
        }
        if filter.after.is_some() {
            found.push_back(record);
        } else {
            found.push_front(record);
        }
        if found.len() < filter.limit() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match filter.after {
        Some((epoch, seq)) => walk(reader, filter, Some(EpochSeq { epoch, seq }), &mut visit).map(drop)?,
        None => walk_back(reader, filter, &mut visit)?,
    }
    Ok(found)
}

/// Emits all matching records after the position `after`, oldest first, then the end of the scan.
fn scan(
    reader: &Reader,
    filter: &Filter,
    after: Option<EpochSeq>,
    limit: Option<u64>,
    emit: Emit<'_>,
) -> Result<(), OutboxError> {
    let (mut emitted, mut more) = (0, false);
    let mut visit = |step| match step {
        Step::Progress(records) => emit(Line::progress(records)),
        Step::Match(_) if limit.is_some_and(|limit| emitted >= limit) => {
            more = true;
            ControlFlow::Break(())
        }
        Step::Match(record) => {
            emitted += 1;
            emit(Line::Record(record))
        }
    };
    let at = walk(reader, filter, after, &mut visit)?.unwrap_or_default();
    emit_all([Line::ScanEnd(ScanEnd { at, more })], emit);
    Ok(())
}

/// Visits the matching records after the position `after`, oldest first. Returns the position of the last record that
/// was read, whether or not it matched. A record at which `visit` ended the walk does not count as read.
fn walk(
    reader: &Reader,
    filter: &Filter,
    after: Option<EpochSeq>,
    visit: Visit<'_>,
) -> Result<Option<EpochSeq>, OutboxError> {
    let (mut at, mut records_read) = (after, 0);
    // `next_epoch` returns the one after its argument, and the first to read is the epoch of `after` itself.
    let mut before = after.and_then(|after| after.epoch.checked_sub(1)).map(Epoch);
    while let Some(epoch) = reader.next_epoch(before)? {
        let from = after.filter(|after| after.epoch == epoch.0).map_or(Seq::ZERO, |after| Seq(after.seq));
        let mut head = Head { seq: from, hash: Digest::ZERO };
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.position);
            records_read += records.len() as u64;
            for record in records {
                let position = EpochSeq::of(&record);
                if filter.matches(&record) && visit(Step::Match(Box::new(record))).is_break() {
                    return Ok(at);
                }
                at = Some(position);
            }
            if visit(Step::Progress(records_read)).is_break() {
                return Ok(at);
            }
        }
        before = Some(epoch);
    }
    Ok(at)
}

/// Visits the matching records from the newest back. If the filter names one position, only that one is read.
fn walk_back(reader: &Reader, filter: &Filter, visit: Visit<'_>) -> Result<(), OutboxError> {
    let at = |epoch, seq| EpochSeq { epoch, seq };
    let (first, end) = match (filter.epoch, filter.seq) {
        (None, _) => (at(0, 0), at(u64::MAX, u64::MAX)),
        (Some(epoch), None) => (at(epoch, 0), at(epoch, u64::MAX)),
        (Some(epoch), Some(seq)) => (at(epoch, seq), at(epoch, seq.saturating_add(1))),
    };
    let (mut before, mut records_read) = (filter.before.map_or(end, |key| end.min(at(key.epoch, key.seq))), 0);
    while before > first {
        let records = reader.read_before((Epoch(before.epoch), Seq(before.seq)))?;
        let Some(oldest) = records.first() else { break };
        before = EpochSeq::of(oldest);
        records_read += records.len() as u64;
        for record in records.into_iter().rev().filter(|record| filter.matches(record)) {
            if visit(Step::Match(Box::new(record))).is_break() {
                return Ok(());
            }
        }
        if visit(Step::Progress(records_read)).is_break() {
            break;
        }
    }
    Ok(())
}

fn stats(reader: &Reader, live: Option<PipelineStatus>) -> Result<StatsAnswer, OutboxError> {
    let files = reader.stats()?;
    let stored = files.streams.iter().map(|stream| (stream.last.0 + 1).saturating_sub(stream.first.0)).sum();
    Ok(StatsAnswer { files, stored, oldest: oldest(reader)?, live })
}

/// Arrival of the oldest stored record.
fn oldest(reader: &Reader) -> Result<Option<Timestamp>, OutboxError> {
    let Some(epoch) = reader.next_epoch(None)? else { return Ok(None) };
    Ok(reader.read(epoch, Head::START)?.first().map(|record| record.entry.call.timestamp))
}
