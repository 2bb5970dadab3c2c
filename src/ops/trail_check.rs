//! A check of the streams in an outbox, for `gatepost audit verify` without Postgres.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use super::protocol::CheckRequest;
use crate::audit::chain::Head;
use crate::audit::outbox::verify::{OutboxFault, OutboxVerification};
use crate::audit::outbox::{OutboxError, Reader};
use crate::audit::record::{AuditRecord, Epoch, RequestId, StreamPosition, Timestamp};
use crate::audit::verify::{
    Checker, Cursor, Expect, Fault, FaultKind, HeadSource, Heads, Options, Origin, Place, Report, Source, Statements,
    StreamId, TrailRecord, Window,
};

/// Most faults that a report lists. *Chosen*: more than a person reads.
pub const FAULTS_MAX: usize = 10_000;

/// Checks the files of an outbox and the streams in them. `vouched`: the live gateway itself reads them. `progress` is
/// called with the number of records read so far, and may end the check. `gatepost outbox verify` and `gatepost audit
/// verify` on a directory both ask this, so that they agree on what is a fault.
///
/// # Errors
/// A file of the outbox cannot be read, for a reason other than damage.
pub fn check_outbox(
    reader: &Reader,
    request: &CheckRequest,
    vouched: bool,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(OutboxVerification, Report), OutboxError> {
    let mut verified = reader.verify(progress)?;
    let mut report = match check_trail(reader, request, vouched, progress) {
        // The file with the fault cannot be read.
        Err(_) if verified.fault.is_some() => {
            let mut report = Report::new(request.findings_max.clamp(1, FAULTS_MAX));
            report.source = Some(Source::new("outbox", Timestamp::now(), request.selection));
            report
        }
        report => report?,
    };
    match &verified.fault {
        Some(fault) => report.add_faults([of_file(&verified, fault)]),
        None => verified.fault = report.faults.first().map(of_stream),
    }
    Ok((verified, report))
}

/// A fault of a file as one of the trail.
fn of_file(verified: &OutboxVerification, fault: &OutboxFault) -> (FaultKind, Place, String) {
    let what = format!("{}: {}; nothing after it was checked", fault.file, fault.what);
    let place = match (verified.gateway_id, fault.epoch, fault.seq) {
        (Some(gateway_id), Some(epoch), Some(seq)) => Place::seqs((gateway_id, epoch), seq, seq),
        (Some(gateway_id), Some(epoch), None) => Place::stream((gateway_id, epoch)),
        (Some(gateway_id), None, _) => Place::gateway(gateway_id),
        (None, ..) => Place::ALL,
    };
    (FaultKind::File, place, what)
}

/// A fault of the trail as one of the outbox.
fn of_stream(fault: &Fault) -> OutboxFault {
    let Place { epoch, first, .. } = fault.place;
    OutboxFault { file: "the trail".to_owned(), epoch, seq: first, what: fault.what.clone() }
}

fn check_trail(
    reader: &Reader,
    request: &CheckRequest,
    vouched: bool,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Report, OutboxError> {
    let stats = reader.stats()?;
    let (mut statements, mut streams) = (Statements::default(), Vec::<StreamId>::new());
    let mut stored = 0;
    let complete = each_record(reader, &mut |record| {
        statements.add(record);
        stored += 1;
        let stream = (record.position.gateway_id, record.position.epoch);
        if streams.last() != Some(&stream) {
            streams.push(stream);
        }
        ControlFlow::Continue(())
    })?;
    let mut heads = Heads::default();
    for head in request.heads.iter().flatten() {
        heads.add(head, HeadSource::File);
    }
    let now = Timestamp::now();
    let options = Options {
        findings_max: request.findings_max.clamp(1, FAULTS_MAX),
        now,
        settle: Duration::from_secs(request.settle_seconds),
        expect: Expect::new(request.heads.is_some(), request.strict),
        vouched,
        replica: false,
        live: Vec::new(),
    };
    let mut checker = Checker::new(Origin::Outbox, options, statements, heads);
    for stream in &streams {
        checker.add_stream(*stream);
    }
    for stream in stats.gateway_id.iter().flat_map(|id| stats.streams.iter().map(|stream| (*id, stream))) {
        // Only the seq: the checker does not compare the hash at the cursor of an outbox.
        let head = Head { seq: stream.1.delivered, ..Head::START };
        checker.add_cursor((stream.0, stream.1.epoch), Cursor { head, begun_at: None, delivered_at: None });
    }
    let is_selected = |stream: StreamId| request.selection.contains(stream);
    if !request.selection.is_all() {
        let windows = streams.iter().filter(|stream| is_selected(**stream)).map(|stream| (*stream, Window::ALL));
        checker.limit_to(windows.collect());
    }
    checker.expect_records(stored);
    checker.begin();
    let mut records = 0;
    // A check that was cancelled has no reader for its report.
    if complete {
        each_record(reader, &mut |record| {
            let position = record.position;
            if is_selected((position.gateway_id, position.epoch)) {
                checker.check(&TrailRecord { position, content: Ok(record.entry.clone()), quarantined: false });
            }
            records += 1;
            if records % 1024 == 0 { progress(records) } else { ControlFlow::Continue(()) }
        })?;
    }
    repeated_ids(reader, &mut checker)?;
    let mut report = checker.finish();
    report.source = Some(Source::new("outbox", now, request.selection));
    Ok(report)
}

/// I2: each call has one record. Looks up the request ids that may be repeated.
fn repeated_ids(reader: &Reader, checker: &mut Checker) -> Result<(), OutboxError> {
    // An outbox with more records than the table takes is only checked for everything else.
    let candidates: BTreeSet<RequestId> =
        checker.repeated_candidates().into_iter().flatten().map(|(_, id)| *id).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let mut places = BTreeMap::<RequestId, Vec<StreamPosition>>::new();
    each_record(reader, &mut |record| {
        let id = record.entry.call.request_id;
        if candidates.contains(&id) {
            places.entry(id).or_default().push(record.position);
        }
        ControlFlow::Continue(())
    })?;
    for (id, places) in places {
        if let [first, .., last] = &places[..] {
            let what = format!(
                "request id {id} has {} records, from {}/{} to {}/{}: a call has one record, so that the others were \
                 made up",
                places.len(),
                first.epoch,
                first.seq,
                last.epoch,
                last.seq
            );
            checker.repeated_id(Place::gateway(first.gateway_id), what);
        }
    }
    Ok(())
}

/// Passes each stored record to `take`, in the order of positions. Returns false if `take` ended it.
fn each_record(reader: &Reader, take: &mut dyn FnMut(&AuditRecord) -> ControlFlow<()>) -> Result<bool, OutboxError> {
    let mut after: Option<Epoch> = None;
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = Head::START;
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.position);
            for record in &records {
                if take(record).is_break() {
                    return Ok(false);
                }
            }
        }
        after = Some(epoch);
    }
    Ok(true)
}
